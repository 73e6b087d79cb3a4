//! `submit`: takes collections of URLs, sends each to VMRay once, and answers with the verdicts.

pub mod api;
pub mod url;
