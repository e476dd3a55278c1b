//! Secrets that must be reversible (robot tokens, the CA's key) are kept sealed: encrypted and authenticated under a
//! site key that lives outside the database, in a file that only the server may read.
//!
//! A sealed value is a version byte, a random nonce, and the ciphertext with its tag. Its purpose is authenticated with
//! it: a value sealed for one column cannot be put into another.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use sha2::{Digest, Sha256};

/// Length of the site key.
pub const KEY_BYTES: usize = 32;
/// Name of its file in the data directory.
pub const KEY_FILE: &str = "site.key";
const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;
/// XChaCha20-Poly1305: its nonce is long enough to be drawn at random for ever.
const VERSION: u8 = 1;

/// Why a secret cannot be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The key file cannot be read or written.
    #[error("site key {path} cannot be used: {error}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// Others than the owner could read the key.
    #[error("site key {path} has mode {mode:03o}: others could read it; run chmod 600 on it")]
    Open {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is not a key.
    #[error("site key {path} is not 64 hexadecimal digits; restore it from the backup")]
    Malformed {
        /// Which file.
        path: PathBuf,
    },
    /// The system has no random numbers.
    #[error("the system's random generator failed: {0}")]
    Random(getrandom::Error),
    /// The value was sealed under another key or for another purpose, or was damaged.
    #[error("a sealed secret does not open: is this the site key that it was sealed with?")]
    DoesNotOpen,
    /// The cipher refused, because the text is far too long.
    #[error("the text is too long to be sealed")]
    TooLong,
}

/// Seals and opens with the site key. Has no `Debug`: the key is never printed.
pub struct Seal {
    cipher: XChaCha20Poly1305,
    fingerprint: String,
}

impl Seal {
    /// With a key that is already at hand.
    #[must_use]
    pub fn new(key: &[u8; KEY_BYTES]) -> Self {
        let named = Sha256::new().chain_update(b"forewarn site key").chain_update(key).finalize();
        Self { cipher: XChaCha20Poly1305::new(key.into()), fingerprint: hex::encode(&named[..6]) }
    }

    /// A name for the key that tells nothing of it: backups say by it which key they need.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        self.fingerprint.clone()
    }

    /// Reads the key file, or draws a key and creates the file (mode 0600) when there is none.
    ///
    /// # Errors
    /// The file cannot be read or made, others could read it, or it is not a key.
    pub fn open_or_create(path: &Path) -> Result<Self, SealError> {
        match read_key(path) {
            Err(SealError::File { error, .. }) if error.kind() == ErrorKind::NotFound => {
                create_key(path)?;
                // Read back, also when another server of the site was first.
                Ok(Self::new(&read_key(path)?))
            }
            key => Ok(Self::new(&key?)),
        }
    }

    /// Seals `plain` for `purpose`.
    ///
    /// # Errors
    /// There are no random numbers, or the text is far too long.
    pub fn seal(&self, purpose: &str, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).map_err(SealError::Random)?;
        let payload = Payload { msg: plain, aad: purpose.as_bytes() };
        let sealed = self.cipher.encrypt(XNonce::from_slice(&nonce), payload).map_err(|_| SealError::TooLong)?;
        Ok([&[VERSION][..], &nonce, &sealed].concat())
    }

    /// Opens what [`Self::seal`] sealed for the same purpose.
    ///
    /// # Errors
    /// Another key, another purpose, or damage; which of them cannot be told.
    pub fn open(&self, purpose: &str, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let (version, rest) = sealed.split_first().ok_or(SealError::DoesNotOpen)?;
        if *version != VERSION || rest.len() < NONCE_BYTES + TAG_BYTES {
            return Err(SealError::DoesNotOpen);
        }
        let (nonce, text) = rest.split_at(NONCE_BYTES);
        let payload = Payload { msg: text, aad: purpose.as_bytes() };
        self.cipher.decrypt(XNonce::from_slice(nonce), payload).map_err(|_| SealError::DoesNotOpen)
    }

    /// Opens a sealed text.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_text(&self, purpose: &str, sealed: &[u8]) -> Result<String, SealError> {
        String::from_utf8(self.open(purpose, sealed)?).map_err(|_| SealError::DoesNotOpen)
    }
}

fn read_key(path: &Path) -> Result<[u8; KEY_BYTES], SealError> {
    let failed = |error| SealError::File { path: path.to_owned(), error };
    let file = fs::File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(SealError::Open { path: path.to_owned(), mode });
    }
    let mut text = String::new();
    // One byte more than a key and its line end: enough to see that it is too long.
    let bytes_max = (2 * KEY_BYTES + 3) as u64;
    let malformed = || SealError::Malformed { path: path.to_owned() };
    file.take(bytes_max).read_to_string(&mut text).map_err(|error| match error.kind() {
        ErrorKind::InvalidData => malformed(),
        _ => failed(error),
    })?;
    let mut key = [0; KEY_BYTES];
    hex::decode_to_slice(text.trim(), &mut key).map_err(|_| malformed())?;
    Ok(key)
}

fn create_key(path: &Path) -> Result<(), SealError> {
    let failed = |error| SealError::File { path: path.to_owned(), error };
    let mut key = [0; KEY_BYTES];
    let mut suffix = [0; 8];
    getrandom::fill(&mut key).and_then(|()| getrandom::fill(&mut suffix)).map_err(SealError::Random)?;
    // Written whole and synced under another name, then linked: a crash leaves no half key, a race has one winner.
    let draft = path.with_extension(format!("draft-{}", hex::encode(suffix)));
    let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft).and_then(|mut file| {
        file.write_all(format!("{}\n", hex::encode(key)).as_bytes())?;
        file.sync_all()
    });
    let linked = written.and_then(|()| match fs::hard_link(&draft, path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    });
    // The draft holds a key: it goes in any case, and its removal tells nothing more than the link did.
    let removed = fs::remove_file(&draft);
    linked.map_err(failed)?;
    removed.map_err(failed)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_new_key_is_made_once_readable_by_nobody_else_and_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(KEY_FILE);
        let sealed = Seal::open_or_create(&path).unwrap().seal("channel", b"token").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no draft is left behind");
        let again = Seal::open_or_create(&path).unwrap();
        assert_eq!(again.open_text("channel", &sealed).unwrap(), "token");
    }

    #[test]
    fn a_key_that_others_could_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(KEY_FILE);
        Seal::open_or_create(&path).unwrap();
        for mode in [0o640, 0o604, 0o660] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = Seal::open_or_create(&path).err().unwrap();
            assert!(matches!(error, SealError::Open { .. }), "{mode:o}");
            assert!(error.to_string().contains("chmod 600"));
        }
    }

    #[test]
    fn a_file_that_is_no_key_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(KEY_FILE);
        for text in [&b""[..], b"short", &[0xff; 64], &[b'a'; 65], &[b'a'; 4096]] {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            assert!(matches!(Seal::open_or_create(&path), Err(SealError::Malformed { .. })), "{}", text.len());
            assert_eq!(fs::read(&path).unwrap(), text);
        }
    }

    #[test]
    fn an_unwritable_folder_is_an_error_that_names_the_file() {
        let error = Seal::open_or_create(Path::new("/proc/none/site.key")).err().unwrap();
        assert!(error.to_string().contains("/proc/none/site.key"), "{error}");
    }

    #[test]
    fn another_key_or_purpose_does_not_open() {
        let (one, other) = (Seal::new(&[1; 32]), Seal::new(&[2; 32]));
        let sealed = one.seal("channel url", b"https://robot").unwrap();
        assert_eq!(one.open("channel url", &sealed).unwrap(), b"https://robot");
        assert!(other.open("channel url", &sealed).is_err());
        assert!(one.open("channel secret", &sealed).is_err());
        assert_ne!(sealed, one.seal("channel url", b"https://robot").unwrap(), "never the same twice");
    }

    proptest! {
        #[test]
        fn every_text_survives_and_every_flipped_bit_is_noticed(
            plain in proptest::collection::vec(any::<u8>(), 0..200), place in any::<prop::sample::Index>(), bit in 0u8..8,
        ) {
            let seal = Seal::new(&[7; 32]);
            let mut sealed = seal.seal("p", &plain).unwrap();
            prop_assert_eq!(seal.open("p", &sealed).unwrap(), plain);
            let index = place.index(sealed.len());
            sealed[index] ^= 1u8 << bit;
            prop_assert!(seal.open("p", &sealed).is_err());
        }

        #[test]
        fn garbage_never_opens(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(Seal::new(&[7; 32]).open("p", &bytes).is_err());
        }
    }
}
