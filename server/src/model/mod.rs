//! The nouns of the server: what store, watch, notify and http talk about. Plain data, no behaviour that needs a
//! room of its own, no rows, no JSON of the API.

pub mod channel;
pub mod forecast;
pub mod host;
pub mod incident;
pub mod rule;
pub mod series;
pub mod server;
pub mod trained;
pub mod user;
