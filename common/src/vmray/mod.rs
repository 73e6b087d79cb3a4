//! The VMRay REST API.

pub mod model;
