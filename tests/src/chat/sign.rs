//! The signatures of DingTalk and Feishu, written from their public descriptions and independent of
//! the product's own: DingTalk signs `{ms}\n{secret}` with the secret; Feishu signs nothing with
//! the key `{seconds}\n{secret}`. Both are HMAC-SHA256 in Base64.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;

/// The DingTalk signature before URL encoding.
#[must_use]
pub fn dingtalk(secret: &str, timestamp_ms: i64) -> String {
    hmac_base64(secret, &format!("{timestamp_ms}\n{secret}"))
}

/// The Feishu signature.
#[must_use]
pub fn feishu(secret: &str, timestamp_s: i64) -> String {
    hmac_base64(&format!("{timestamp_s}\n{secret}"), "")
}

fn hmac_base64(key: &str, message: &str) -> String {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key.as_bytes()) else {
        return String::new(); // HMAC takes a key of any length
    };
    mac.update(message.as_bytes());
    STANDARD.encode(mac.finalize().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_vectors_hold() {
        assert_eq!(dingtalk("this is secret", 1_700_000_000_000), "sSFWELbV2YwjdDQhWZwTcWlX5BWUx5J6TPpsZmuPii0=");
        assert_eq!(feishu("this is secret", 1_700_000_000), "OfGzRzoUICBOoc8wVra1e4A1hPfbZ9zqXozA8CWVUuY=");
    }
}
