//! What both functions share.

pub mod mapping;
pub mod stix;
pub mod vmray;
