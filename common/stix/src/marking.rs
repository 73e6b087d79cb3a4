//! The Traffic Light Protocol: who may see an object.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

use crate::id::{ObjectKind, StixId};

/// A TLP marking. Its id is the same in every OpenCTI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum TlpMarking {
    /// Everyone. Formerly WHITE.
    Clear,
    /// The community.
    Green,
    /// The organization and its clients.
    #[default]
    Amber,
    /// The organization only.
    AmberStrict,
    /// The recipients only.
    Red,
}

/// The text names no TLP marking.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a TLP marking (CLEAR, WHITE, GREEN, AMBER, AMBER+STRICT, RED): {0:?}")]
pub struct UnknownMarking(pub String);

impl TlpMarking {
    /// The id of its definition.
    #[must_use]
    pub const fn id(self) -> StixId {
        let uuid = match self {
            TlpMarking::Clear => 0x613f2e26_407d_48c7_9eca_b8e91df99dc9,
            TlpMarking::Green => 0x34098fce_860f_48ae_8e50_ebd3cc5e41da,
            TlpMarking::Amber => 0xf88d31f6_486f_44da_b317_01333bde0b82,
            TlpMarking::AmberStrict => 0x826578e1_40ad_459f_bc73_ede076f81f37,
            TlpMarking::Red => 0x5e57c739_391a_4eb3_b6be_7d15ca92d5ed,
        };
        StixId::new(ObjectKind::MarkingDefinition, Uuid::from_u128(uuid))
    }

    /// As people write it, `TLP:AMBER`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            TlpMarking::Clear => "TLP:CLEAR",
            TlpMarking::Green => "TLP:GREEN",
            TlpMarking::Amber => "TLP:AMBER",
            TlpMarking::AmberStrict => "TLP:AMBER+STRICT",
            TlpMarking::Red => "TLP:RED",
        }
    }
}

impl fmt::Display for TlpMarking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for TlpMarking {
    type Err = UnknownMarking;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let upper = text.trim().to_ascii_uppercase();
        match upper.strip_prefix("TLP:").unwrap_or(&upper).trim() {
            "CLEAR" | "WHITE" => Ok(TlpMarking::Clear),
            "GREEN" => Ok(TlpMarking::Green),
            "AMBER" => Ok(TlpMarking::Amber),
            "AMBER+STRICT" => Ok(TlpMarking::AmberStrict),
            "RED" => Ok(TlpMarking::Red),
            _ => Err(UnknownMarking(text.to_owned())),
        }
    }
}
