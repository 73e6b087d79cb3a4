//! What both functions share.

pub mod config;
pub mod secrets;
pub mod store;
pub mod telemetry;
