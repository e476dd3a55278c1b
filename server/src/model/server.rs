//! The servers of a site, as they see each other.

/// A server that works on the site's database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Drawn when its process started.
    pub id: String,
    /// When that was, by its own clock, unix milliseconds.
    pub started_ms: i64,
    /// Counts up while it lives.
    pub beat: i64,
    /// Where its agents' port answers, `address:port`; empty when not known.
    pub address: String,
}
