//! The author of everything that is not shared with other sources.

use uuid::Uuid;

use crate::id::{ObjectKind, StixId};

pub(super) const VMRAY_NAME: &str = "VMRay";

/// The author's id. A test holds it against [`crate::standard_id::identity`].
pub const VMRAY: StixId =
    StixId::new(ObjectKind::Identity, Uuid::from_u128(0xa928b306_6f65_5bb2_9cf6_5344984b0ac9));
