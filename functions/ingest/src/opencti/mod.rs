//! `OpenCTI`'s GraphQL API, as far as an external import connector over HTTPS needs it.

pub mod back_pressure;
pub mod client;
pub mod connector;
pub mod feedback;
pub mod push;
