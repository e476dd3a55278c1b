//! Who is asking: agents by their key, people by their session. Secrets are compared as hashes.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use argon2::Argon2;
use argon2::password_hash::rand_core::OsRng;
use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use forewarn_common::id::HostId;
use forewarn_common::wire::EnrollToken;
use http::{HeaderMap, header};
use sha2::{Digest, Sha256};

use crate::model::host::Token;

/// Name of the session cookie.
pub const COOKIE: &str = "forewarn_session";
/// How long a session lives.
pub const SESSION_MS: i64 = 12 * 3_600_000;
/// Failed logins of one address within [`LOGIN_WINDOW_MS`] before it must wait.
const LOGIN_FAILURES_MAX: usize = 10;
/// See [`LOGIN_FAILURES_MAX`].
const LOGIN_WINDOW_MS: i64 = 5 * 60_000;
/// Addresses remembered for that; the oldest are forgotten first.
const LOGIN_ADDRESSES_MAX: usize = 4096;

/// A hash that no known password has, so that unknown names cost the same time. It is written out because making one
/// takes 19 MiB, which the server would keep from its start on.
pub const DECOY_HASH: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$bm8gcGFzc3dvcmQgaGVyZQ$q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA";

/// SHA-256 of a secret.
#[must_use]
pub fn hash_secret(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

/// 256 random bits as hex.
///
/// # Errors
/// The system's generator fails.
pub fn new_secret() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    Ok(hex::encode(bytes))
}

/// An enrolment token that pins the CA, and its record for the store.
///
/// # Errors
/// The system's generator fails.
pub fn new_token(
    ca_sha256: &str,
    uses: u32,
    ttl_ms: i64,
    now_ms: i64,
) -> Result<(EnrollToken, Token), getrandom::Error> {
    let token = EnrollToken { secret: new_secret()?, ca_sha256: ca_sha256.to_owned() };
    let record = Token {
        id: format!("{:016x}", forewarn_common::id::random_u64()?),
        secret_sha256: hash_secret(&token.secret),
        created_ms: now_ms,
        expires_ms: now_ms + ttl_ms,
        uses_left: i32::try_from(uses).unwrap_or(i32::MAX),
    };
    Ok((token, record))
}

/// `Authorization: Bearer <host>:<key>`.
#[must_use]
pub fn agent_credentials(headers: &HeaderMap) -> Option<(HostId, [u8; 32])> {
    let text = headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")?;
    let (host, key) = text.split_once(':')?;
    Some((host.parse().ok()?, hash_secret(key)))
}

/// The session's secret from the cookie, hashed.
#[must_use]
pub fn session_cookie(headers: &HeaderMap) -> Option<[u8; 32]> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == COOKIE).map(|(_, secret)| hash_secret(secret))
}

/// argon2id with its default cost, in PHC form.
///
/// # Errors
/// The password is longer than argon2 takes.
pub fn hash_password(password: &str) -> Result<String, argon2::password_hash::Error> {
    Ok(Argon2::default().hash_password(password.as_bytes(), &SaltString::generate(&mut OsRng))?.to_string())
}

/// Whether the password is the hashed one. Costs some 20 ms: call it where blocking is allowed.
#[must_use]
pub fn is_password(password: &str, hash: &str) -> bool {
    PasswordHash::new(hash).is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
}

/// Slows down guessing: remembers failed logins by address, bounded.
#[derive(Default)]
pub struct LoginGuard(Mutex<HashMap<IpAddr, Vec<i64>>>);

impl LoginGuard {
    /// Seconds to wait before this address may try again; `None` when it may try now.
    #[must_use]
    pub fn wait_s(&self, address: IpAddr, now_ms: i64) -> Option<u64> {
        let failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let recent: Vec<i64> =
            failures.get(&address)?.iter().copied().filter(|at| now_ms - at < LOGIN_WINDOW_MS).collect();
        let first = *recent.first().filter(|_| recent.len() >= LOGIN_FAILURES_MAX)?;
        Some(((first + LOGIN_WINDOW_MS - now_ms) / 1000).max(1) as u64)
    }

    /// Remembers a failure.
    pub fn failed(&self, address: IpAddr, now_ms: i64) {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() >= LOGIN_ADDRESSES_MAX {
            failures.retain(|_, at| at.last().is_some_and(|last| now_ms - last < LOGIN_WINDOW_MS));
        }
        if failures.len() < LOGIN_ADDRESSES_MAX || failures.contains_key(&address) {
            let own = failures.entry(address).or_default();
            own.retain(|at| now_ms - at < LOGIN_WINDOW_MS);
            own.push(now_ms);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn ten_failures_make_an_address_wait_until_the_window_has_passed() {
        let guard = LoginGuard::default();
        let address = IpAddr::from([10, 0, 0, 1]);
        for second in 0..10 {
            assert_eq!(guard.wait_s(address, second * 1000), None);
            guard.failed(address, second * 1000);
        }
        assert_eq!(guard.wait_s(address, 10_000), Some(290));
        assert_eq!(guard.wait_s(IpAddr::from([10, 0, 0, 2]), 10_000), None);
        assert_eq!(guard.wait_s(address, LOGIN_WINDOW_MS), None);
    }

    #[test]
    fn the_decoy_costs_what_a_real_hash_costs() {
        let (decoy, real) = (PasswordHash::new(DECOY_HASH).unwrap(), hash_password("a").unwrap());
        let real = PasswordHash::new(&real).unwrap();
        assert_eq!((decoy.algorithm, decoy.version, &decoy.params), (real.algorithm, real.version, &real.params));
        assert_eq!(decoy.hash.map(|hash| hash.len()), real.hash.map(|hash| hash.len()));
        assert!(!is_password("a", DECOY_HASH));
    }

    #[test]
    fn only_the_right_password_and_the_right_cookie_are_taken() {
        let hash = hash_password("correct horse").unwrap();
        assert!(is_password("correct horse", &hash) && !is_password("wrong", &hash) && !is_password("x", "not a hash"));
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, "a=b; forewarn_session=s3cret; c=d".parse().unwrap());
        assert_eq!(session_cookie(&headers), Some(hash_secret("s3cret")));
        headers.insert(header::COOKIE, "forewarn_sessionx=s3cret".parse().unwrap());
        assert_eq!(session_cookie(&headers), None);
    }
}
