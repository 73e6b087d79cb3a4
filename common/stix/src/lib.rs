//! STIX 2.1 as OpenCTI takes it: ids, objects, patterns, bundles.
//!
//! Pure: no clock, no network, no randomness. Nothing here reads VMRay's answers, that is `mapping`; of VMRay it knows
//! only that samples have numbers.

pub mod bundle;
mod id;
pub mod ids;
mod label;
mod left_out;
mod mapped;
mod marking;
mod merge;
pub mod object;
pub mod pattern;
mod split;
mod timestamp;
mod write;

use uuid::Uuid;

pub use bundle::{Bundle, BundleLimits, Packer};
pub use id::{InvalidId, ObjectKind, StixId};
pub use label::{Color, InvalidColor, LabelName, LabelSet};
pub use left_out::{LeftOut, LeftOutReason};
pub use mapped::MappedSample;
pub use marking::{TlpMarking, UnknownMarking};
pub use object::{Body, Object};
pub use split::halve;
pub use timestamp::Timestamp;

/// The name of the author of everything.
const VMRAY_NAME: &str = "VMRay";

/// The id of the author of everything. A test holds it against [`ids::identity`].
pub const VMRAY: StixId =
    StixId::new(ObjectKind::Identity, Uuid::from_u128(0xa928b306_6f65_5bb2_9cf6_5344984b0ac9));
