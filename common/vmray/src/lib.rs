//! The VMRay REST API: what it answers ([`model`], pure) and how it is asked (`client`, with the feature of that name).

#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "client")]
mod gate;
pub mod model;
pub mod parameters;
#[cfg(feature = "client")]
mod settings;

#[cfg(feature = "client")]
pub use settings::{SETTINGS, VmraySettings};
