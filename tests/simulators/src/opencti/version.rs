//! Releases of the platform, in their order.

/// A release such as 6.9.0 or 7.260817.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(u32, u32, u32);

impl Version {
    /// `STIX` pattern properties lose their needless quotes.
    pub(super) const UNQUOTED_PATTERNS: Self = Self(7, 260_506, 0);
    /// `x_mitre_id` is lower-cased in ids.
    pub(super) const LOWER_CASE_MITRE: Self = Self(7, 260_529, 0);
    /// An existing label is left as it is.
    pub(super) const KEPT_LABELS: Self = Self(7, 260_807, 0);

    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.').map(str::parse);
        match (parts.next(), parts.next(), parts.next()) {
            (Some(Ok(major)), Some(Ok(minor)), Some(Ok(patch))) => Some(Self(major, minor, patch)),
            _ => None,
        }
    }
}
