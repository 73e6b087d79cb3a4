//! VMRay's REST API, as far as the product uses it.
//!
//! Facts it stands on: keys go as `Authorization: api_key KEY`; answers come in an envelope whose `result` must be
//! `ok` even when the status is 200; a long list goes on under a continuation id that works exactly once; a list over
//! the server's maximum is cut and says `truncated`; dates have no zone and mean UTC; 403 and 404 concern one
//! sample, 429 carries `Retry-After`.

mod error;
mod read;
mod submit;

pub use crate::throttle::Throttle;
pub use error::VmrayError;
pub use read::{Listing, Quota, SystemInfo, VmrayClient, VmrayPolicy, Window};
pub use submit::{Accepted, FoundSubmission, SubmitError, SubmitParameters, SubmitTurn};
