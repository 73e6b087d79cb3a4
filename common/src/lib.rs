//! What both functions of VMRay Bridge share: the mapping, and the clients and stores it stands between.
//!
//! `mapping`, `stix` and `vmray::model` are pure: no network, clock or environment. Nothing in here knows a function.

pub mod config;
pub mod http;
pub mod mapping;
pub mod secrets;
pub mod stix;
pub mod store;
pub mod telemetry;
pub mod vmray;
