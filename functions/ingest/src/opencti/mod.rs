//! `OpenCTI`'s GraphQL API, as far as an external import connector over HTTPS needs it.

pub mod client;
pub mod connector;
pub mod delivery;
pub mod feedback;
pub mod queue;
