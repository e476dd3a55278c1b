//! The server of Forewarn: stores blocks, forecasts crossings, judges, and tells the chat room.

pub mod model;
pub mod store;
