//! Hosts, their entities, and how a new one gets in.

use forewarn_common::block::Entity;
use forewarn_common::id::HostId;

/// A machine with an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Its id for life.
    pub id: HostId,
    /// What people call it.
    pub name: String,
    /// The component that its agent named; empty without one.
    pub component: String,
    /// When it was enrolled, unix milliseconds.
    pub enrolled_ms: i64,
    /// When its last block arrived, by the server's clock; 0 before the first.
    pub seen_ms: i64,
    /// Its clock less the server's at that moment.
    pub skew_ms: i64,
    /// The agent's version at enrolment.
    pub agent_version: String,
}

/// An entity as the site knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownEntity {
    /// Whose host.
    pub host: HostId,
    /// What the agent said of it last.
    pub entity: Entity,
    /// When the server first heard of it, unix milliseconds.
    pub first_ms: i64,
    /// When its record last came, unix milliseconds.
    pub updated_ms: i64,
}

/// A token that lets hosts in; its secret is kept as a hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Hex of 8 random bytes.
    pub id: String,
    /// SHA-256 of the secret.
    pub secret_sha256: [u8; 32],
    /// When it was made, unix milliseconds.
    pub created_ms: i64,
    /// When it ends, unix milliseconds.
    pub expires_ms: i64,
    /// How many hosts it still lets in.
    pub uses_left: i32,
}
