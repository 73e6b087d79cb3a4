//! What both functions share.

pub mod http;
