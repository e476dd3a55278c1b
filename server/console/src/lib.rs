//! The built web console as bytes, by path. Knows nothing of HTTP, the API or the server.
//!
//! A debug build reads `web/dist` from the source tree when asked, so that a rebuilt console shows without a rebuilt
//! server; a release build carries it (`build.rs` refuses one without).

use std::borrow::Cow;
use std::fmt::Write as _;

use rust_embed::RustEmbed;

/// The path of the page that every address of the console begins with.
pub const INDEX: &str = "index.html";
/// Bundled files lie here under names that change with their content.
const HASHED_FOLDER: &str = "assets/";
/// Bytes of a file's SHA-256 that its entity tag shows.
const ETAG_BYTES: usize = 16;
/// Shown by a debug build whose console has not been built.
const NOT_BUILT: &str = "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Forewarn</title></head>\
    <body><h1>Forewarn</h1><p>The server runs, but its console is not built. Run <code>make console</code>, then reload.</p>\
    <p>服务器正在运行，但控制台尚未构建。请执行 <code>make console</code> 后刷新页面。</p></body></html>\n";

#[derive(RustEmbed)]
#[folder = "web/dist"]
#[allow_missing = true]
struct Dist;

/// A file of the console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asset {
    /// Its content.
    pub bytes: Cow<'static, [u8]>,
    /// Its `Content-Type`.
    pub content_type: &'static str,
    /// Its `ETag`, with the quotes.
    pub etag: String,
    /// Whether its name changes with its content, so that it may be kept for good.
    pub immutable: bool,
}

/// The file at `path`, without a leading slash; `None` when the console has none there.
#[must_use]
pub fn asset(path: &str) -> Option<Asset> {
    let Some(file) = Dist::get(path) else {
        return (path == INDEX).then(not_built);
    };
    let mut etag = String::from("\"");
    for byte in &file.metadata.sha256_hash()[..ETAG_BYTES] {
        let _ = write!(etag, "{byte:02x}");
    }
    etag.push('"');
    Some(Asset { bytes: file.data, content_type: content_type(path), etag, immutable: path.starts_with(HASHED_FOLDER) })
}

fn not_built() -> Asset {
    Asset {
        bytes: Cow::Borrowed(NOT_BUILT.as_bytes()),
        content_type: content_type(INDEX),
        etag: "\"not-built\"".to_owned(),
        immutable: false,
    }
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map(|(_, extension)| extension) {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("ico") => "image/x-icon",
        Some("json" | "map") => "application/json",
        Some("woff2") => "font/woff2",
        Some("txt") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_console_has_a_first_page() {
        let index = asset(INDEX).unwrap();
        assert_eq!(index.content_type, "text/html; charset=utf-8");
        assert!(index.bytes.starts_with(b"<!doctype html>"));
        assert!(!index.immutable);
        assert_eq!(index.etag, asset(INDEX).unwrap().etag);
    }

    #[test]
    fn everything_that_the_first_page_loads_is_there() {
        let index = asset(INDEX).unwrap();
        let text = std::str::from_utf8(&index.bytes).unwrap();
        let loads = text.split('"').filter(|part| part.starts_with("/assets/"));
        for path in loads {
            let file = asset(&path[1..]).unwrap();
            assert!(file.immutable, "{path}");
            assert_ne!(file.content_type, "application/octet-stream", "{path}");
            assert_ne!(file.etag, index.etag, "{path}");
        }
    }

    #[test]
    fn nothing_outside_the_console_is_given_out() {
        for path in ["", "/", "/index.html", "../Cargo.toml", "assets/../../../Cargo.toml", "assets", "no-such-file.js"]
        {
            assert_eq!(asset(path), None, "{path}");
        }
    }

    #[test]
    fn an_unbuilt_console_says_how_to_build_it() {
        let page = not_built();
        assert!(std::str::from_utf8(&page.bytes).unwrap().contains("make console"));
    }
}
