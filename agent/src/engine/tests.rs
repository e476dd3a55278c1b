//! Promises of the engine room.
