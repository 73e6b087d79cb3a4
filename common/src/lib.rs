//! What both functions share.

pub mod config;
pub mod mapping;
pub mod secrets;
pub mod stix;
pub mod store;
pub mod telemetry;
pub mod vmray;
