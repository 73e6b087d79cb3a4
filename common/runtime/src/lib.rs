//! What a process needs around its work: settings, keys, HTTP, AWS configuration, logs and metrics. It knows neither
//! VMRay nor STIX, and no function.

#[cfg(feature = "aws")]
pub mod aws;
pub mod http;
pub mod secrets;
pub mod settings;
pub mod telemetry;
