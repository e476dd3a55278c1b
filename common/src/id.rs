//! Identities: random ones for hosts and epochs, content hashes for layouts and entities. Written as lower-case hex.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use sha2::{Digest, Sha256};

/// A host, drawn at first enrolment and kept for life; not its hostname.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostId(pub [u8; 16]);

/// An entity (host or workload) within the whole site: a hash of host and identity, see [`EntityId::of`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntityId(pub u64);

/// A layout: the hash of its metrics.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LayoutId(pub u64);

/// Why a text is not an id.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("id must be {digits} hexadecimal digits, got {got:?}")]
pub struct ParseIdError {
    digits: usize,
    got: String,
}

impl HostId {
    /// A new random id from the system's generator.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }
}

impl EntityId {
    /// The entity `identity` of `host`: `host`, `compose:project/service/replica` or `container:name`.
    #[must_use]
    pub fn of(host: HostId, identity: &str) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(host.0);
        hasher.update(identity.as_bytes());
        Self(leading_u64(&hasher.finalize()))
    }

    /// The entity that is the host itself.
    #[must_use]
    pub fn of_host(host: HostId) -> Self {
        Self::of(host, "host")
    }
}

impl LayoutId {
    /// The hash of a layout's encoded metrics.
    #[must_use]
    pub fn of(encoded_metrics: &[u8]) -> Self {
        Self(leading_u64(&Sha256::digest(encoded_metrics)))
    }
}

/// A random 64-bit number from the system's generator.
pub fn random_u64() -> Result<u64, getrandom::Error> {
    getrandom::u64()
}

fn leading_u64(digest: &[u8]) -> u64 {
    digest.iter().take(8).fold(0, |acc, byte| (acc << 8) | u64::from(*byte))
}

fn parse_u64(text: &str) -> Result<u64, ParseIdError> {
    let error = || ParseIdError { digits: 16, got: text.chars().take(40).collect() };
    if text.len() != 16 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(error());
    }
    u64::from_str_radix(text, 16).map_err(|_| error())
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for HostId {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 16];
        hex::decode_to_slice(text, &mut bytes)
            .map_err(|_| ParseIdError { digits: 32, got: text.chars().take(40).collect() })?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for EntityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for EntityId {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_u64(text).map(Self)
    }
}

impl fmt::Display for LayoutId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for LayoutId {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_u64(text).map(Self)
    }
}

macro_rules! as_text {
    ($($id:ident),*) => {$(
        impl fmt::Debug for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($id))
            }
        }
        impl Serialize for $id {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $id {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }
        impl schemars::JsonSchema for $id {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($id).into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "pattern": "^[0-9a-f]+$" })
            }
        }
    )*};
}
as_text!(HostId, EntityId, LayoutId);

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_their_text_form() {
        let host = HostId::random().unwrap();
        assert_eq!(host.to_string().parse::<HostId>().unwrap(), host);
        let entity = EntityId::of(host, "container:mysql");
        assert_eq!(entity.to_string().parse::<EntityId>().unwrap(), entity);
        assert_ne!(entity, EntityId::of_host(host));
    }

    #[test]
    fn malformed_ids_are_refused() {
        for text in ["", "xyz", "+123456789abcde1", "0123456789abcdef0"] {
            assert!(text.parse::<EntityId>().is_err(), "{text}");
            assert!(text.parse::<HostId>().is_err(), "{text}");
        }
    }
}
