//! Releases of the platform, in their order.

/// A release such as 6.9.0 or 7.260817.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(u32, u32, u32);

impl Version {
    /// Variables are refused in the words of graphql-js 17, and names of one letter are taken. 6.9.0 does neither; the release
    /// that changed it is not known.
    pub(super) const GRAPHQL_17: Self = Self(7, 0, 0);
    /// A work is complete when at least what is expected was processed; before, when exactly that was.
    pub(super) const COMPLETE_BEYOND: Self = Self(7, 0, 0);
    /// Labels and external references are added whatever the confidence; before, only by what is as sure as what is stored.
    pub(super) const ADDS_WHATEVER_THE_CONFIDENCE: Self = Self(7, 0, 0);
    /// `STIX` pattern properties lose their needless quotes.
    pub(super) const UNQUOTED_PATTERNS: Self = Self(7, 260_506, 0);
    /// `x_mitre_id` is lower-cased in ids.
    pub(super) const LOWER_CASE_MITRE: Self = Self(7, 260_529, 0);
    /// An existing label is left as it is.
    pub(super) const KEPT_LABELS: Self = Self(7, 260_807, 0);
    /// Accounts have a capability for tokens, with the new management of tokens.
    pub(super) const TOKEN_CAPABILITY: Self = Self(7, 260_224, 0);
    /// The platform splits a bundle and counts its objects while it takes the push; before, a worker does it later. The builds
    /// after this release call themselves so.
    pub(super) const SPLIT_AT_PUSH: Self = Self(7, 260_817, 0);

    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.').map(str::parse);
        match (parts.next(), parts.next(), parts.next()) {
            (Some(Ok(major)), Some(Ok(minor)), Some(Ok(patch))) => Some(Self(major, minor, patch)),
            _ => None,
        }
    }
}
