//! People and their sessions.

/// Somebody who may log in.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    /// Their name.
    pub name: String,
    /// argon2id in PHC form.
    pub password_hash: String,
    /// When they were added, unix milliseconds.
    pub created_ms: i64,
}

/// A login; the cookie's secret is kept as a hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// SHA-256 of the cookie's secret.
    pub secret_sha256: [u8; 32],
    /// Whose.
    pub user: String,
    /// When it ends, unix milliseconds.
    pub expires_ms: i64,
}
