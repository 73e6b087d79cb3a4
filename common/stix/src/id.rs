//! Identifiers: `type--uuid`, as a small value that can be copied.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};
use strum::{EnumString, IntoStaticStr};
use uuid::Uuid;

/// The types of object that can be referred to. In the order of their names, so that ids sort as their texts do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, EnumString, IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
pub enum ObjectKind {
    AttackPattern,
    DomainName,
    EmailAddr,
    File,
    Identity,
    Indicator,
    Ipv4Addr,
    Ipv6Addr,
    Label,
    Location,
    Malware,
    MalwareAnalysis,
    MarkingDefinition,
    Mutex,
    Process,
    Relationship,
    Report,
    Url,
    WindowsRegistryKey,
}

impl ObjectKind {
    /// The value of the `type` property.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Whether it is a STIX cyber-observable object.
    #[must_use]
    pub fn is_observable(self) -> bool {
        matches!(
            self,
            ObjectKind::DomainName
                | ObjectKind::EmailAddr
                | ObjectKind::File
                | ObjectKind::Ipv4Addr
                | ObjectKind::Ipv6Addr
                | ObjectKind::Mutex
                | ObjectKind::Process
                | ObjectKind::Url
                | ObjectKind::WindowsRegistryKey
        )
    }
}

/// The id of an object. Which ids there are is decided in [`crate::standard_id`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StixId {
    kind: ObjectKind,
    uuid: Uuid,
}

/// The text is no id of a type that this product knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a STIX id: {0:?}")]
pub struct InvalidId(pub String);

impl StixId {
    pub(super) const fn new(kind: ObjectKind, uuid: Uuid) -> Self {
        Self { kind, uuid }
    }

    #[must_use]
    pub fn kind(&self) -> ObjectKind {
        self.kind
    }

    /// Lends its text without allocating: ids are most of what a bundle consists of.
    pub(super) fn with_str<R>(&self, f: impl FnOnce(&str) -> R) -> R {
        const UUID: usize = uuid::fmt::Hyphenated::LENGTH;
        let mut buffer = [b'-'; 22 + UUID];
        let kind = self.kind.as_str().as_bytes();
        let (prefix, rest) = buffer.split_at_mut(kind.len() + 2);
        prefix[..kind.len()].copy_from_slice(kind);
        self.uuid.hyphenated().encode_lower(&mut rest[..UUID]);
        let length = kind.len() + 2 + UUID;
        // ASCII by construction, so the empty text is never used.
        f(std::str::from_utf8(&buffer[..length]).unwrap_or_default())
    }
}

impl fmt::Display for StixId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_str(|text| f.pad(text))
    }
}

impl FromStr for StixId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidId(text.to_owned());
        let (kind, uuid) = text.split_once("--").ok_or_else(invalid)?;
        let kind = kind.parse().map_err(|_| invalid())?;
        let uuid = Uuid::try_parse(uuid).map_err(|_| invalid())?;
        Ok(Self { kind, uuid })
    }
}

impl Serialize for StixId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.with_str(|text| serializer.serialize_str(text))
    }
}
