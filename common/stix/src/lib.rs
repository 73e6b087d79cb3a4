//! STIX 2.1 as OpenCTI takes it: ids, objects, patterns, bundles.
//!
//! Pure: no clock, no network, no randomness. Nothing here reads VMRay's answers, that is `mapping`; of VMRay it knows
//! only that samples have numbers.

mod author;
pub mod bundle;
mod content;
mod id;
mod label;
mod left_out;
mod mapped;
mod marking;
mod merge;
pub mod object;
pub mod pattern;
mod split;
pub mod standard_id;
mod timestamp;
mod write;

pub use author::VMRAY;
pub use bundle::{Bundle, BundleLimits, Packer, everything};
pub use content::Content;
pub use id::{InvalidId, ObjectKind, StixId};
pub use label::{Color, InvalidColor, LabelName, LabelSet};
pub use left_out::{LeftOut, LeftOutReason};
pub use mapped::MappedSample;
pub use marking::{TlpMarking, UnknownMarking};
pub use object::{Body, Object};
pub use split::halve;
pub use timestamp::Timestamp;
