//! The parsers of what comes from outside, for fuzz targets and benches; nothing of the product may use this.

pub use crate::tailer::probe::Scanner;

/// Reads a text in every way in which texts of the kernel and the engine are read.
pub fn read_texts(text: &[u8]) {
    std::hint::black_box(crate::sampler::read_every_way(text));
    std::hint::black_box(crate::engine::read_every_way(text));
}

/// Reads a page as an endpoint in the Prometheus text format gives it, three times over.
pub fn scrape(page: &[u8]) {
    std::hint::black_box(crate::scrape::read_every_way(page));
}

/// Reads settings. `true` when they would be used.
#[must_use]
pub fn read_settings(text: &str) -> bool {
    crate::settings::Settings::of_text(text).is_ok()
}

/// Follows the log at `path` in its format (0 plain, 1 json-file, 2 CRI) from its start to its end: lines and hits.
///
/// # Errors
/// A rule cannot be used.
pub fn follow(
    path: &std::path::Path,
    format: u8,
    rules: &[forewarn_common::keyword::KeywordRule],
) -> Result<(u64, u64), String> {
    crate::tailer::follow_all(path, format, rules)
}
