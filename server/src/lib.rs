//! The server: stores blocks, forecasts when thresholds will be crossed, judges, and tells the chat room.
//!
//! `ARCHITECTURE.md` has the rooms and which way imports point.

pub mod adopted;
pub mod forecast;
pub mod http;
pub mod intake;
pub mod judge;
pub mod model;
pub mod notify;
pub mod operate;
pub mod outbox;
pub mod replay;
pub mod schedule;
pub mod seal;
pub mod series;
pub mod settings;
pub mod share;
pub mod site;
pub mod store;
pub mod telemetry;
pub mod training;
pub mod vigil;
pub mod watch;
