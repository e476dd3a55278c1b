//! The server's rooms: what arrives is stored, forecast, judged and told.

pub mod model;
pub mod notify;
pub mod seal;
pub mod watch;
