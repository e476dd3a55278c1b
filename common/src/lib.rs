//! What agent and server must agree on: the block, the wire types, the metric catalogue, the limits and the clock.
//!
//! Nothing here does I/O but reading the clock, and nothing here knows either end: no sockets, no files,
//! no database, no settings.

pub mod block;
pub mod clock;
pub mod id;
pub mod keyword;
pub mod limit;
pub mod metric;
pub mod wire;
