//! The VMRay REST API: what it answers ([`model`]) and how it is asked ([`client`]).

pub mod client;
mod gate;
pub mod model;
pub mod parameters;
