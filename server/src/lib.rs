//! The rooms of the server.

pub mod forecast;
pub mod model;
pub mod replay;
pub mod series;
