//! What an operator may choose about the mapping.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use stix::{Color, TlpMarking};
use vmray::model::Verdict;

/// Verdicts that pass. Unknown verdicts never do.
pub type VerdictSet = BTreeSet<Verdict>;

/// The choices. The default is the product's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappingSettings {
    /// Which samples are taken; asked by the caller, before it fetches the rest.
    pub sample_verdicts: VerdictSet,
    /// Which IOCs are taken, and whether the sample gets an indicator of its own.
    pub iocs_verdicts: VerdictSet,
    /// Which types of IOC are taken.
    pub ioc_types: BTreeSet<IocType>,
    /// Which labels are made.
    pub labels: BTreeSet<LabelKind>,
    /// How the labels look.
    pub label_style: LabelStyle,
    /// Who may see VMRay's objects.
    pub marking: TlpMarking,
    /// 0 to 100; none leaves it to the platform.
    pub confidence: Option<u8>,
}

impl Default for MappingSettings {
    fn default() -> Self {
        Self {
            sample_verdicts: VerdictSet::from([Verdict::Malicious]),
            iocs_verdicts: VerdictSet::from([Verdict::Malicious]),
            // File names alone match too much that is harmless.
            ioc_types: IocType::ALL.into_iter().filter(|kind| *kind != IocType::Filenames).collect(),
            labels: LabelKind::ALL.into_iter().collect(),
            label_style: LabelStyle::default(),
            marking: TlpMarking::default(),
            confidence: None,
        }
    }
}

/// The colours of the labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LabelStyle {
    /// Of threat names.
    pub threat_names: Color,
    /// Of classifications.
    pub classifications: Color,
    /// Of threat indicators.
    pub vti: Color,
    /// Of techniques.
    pub mitre: Color,
}

impl Default for LabelStyle {
    fn default() -> Self {
        Self {
            threat_names: Color::rgb(0xd6, 0x09, 0x04),
            classifications: Color::rgb(0xfa, 0x56, 0x0a),
            vti: Color::rgb(0x40, 0xf5, 0xef),
            mitre: Color::rgb(0xa9, 0xf7, 0x23),
        }
    }
}

impl LabelStyle {
    /// The colour of one kind.
    #[must_use]
    pub fn of(&self, kind: LabelKind) -> Color {
        match kind {
            LabelKind::ThreatNames => self.threat_names,
            LabelKind::Classifications => self.classifications,
            LabelKind::Vti => self.vti,
            LabelKind::Mitre => self.mitre,
        }
    }
}

/// The text is none of the names that may stand there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is none of {known}")]
pub struct UnknownName {
    /// What was given.
    pub given: String,
    /// What could have been.
    pub known: String,
}

macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $name {
            /// All of them.
            pub const ALL: [$name; [$($text),+].len()] = [$($name::$variant),+];

            /// Its name in the settings.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text,)+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = UnknownName;

            fn from_str(text: &str) -> Result<Self, UnknownName> {
                let text = text.trim();
                Self::ALL.into_iter().find(|known| known.as_str().eq_ignore_ascii_case(text)).ok_or_else(|| UnknownName {
                    given: text.to_owned(),
                    known: [$($text),+].join(", "),
                })
            }
        }
    };
}

named! {
    /// The types of IOC, by VMRay's names of their lists.
    IocType {
        /// Files.
        Files = "files",
        /// File names without a file.
        Filenames = "filenames",
        /// Processes.
        Processes = "processes",
        /// Domains.
        Domains = "domains",
        /// URLs.
        Urls = "urls",
        /// Mutexes.
        Mutexes = "mutexes",
        /// Registry keys.
        Registry = "registry",
        /// IP addresses.
        Ips = "ips",
        /// E-mails, by their senders.
        Emails = "emails",
        /// E-mail addresses.
        EmailAddresses = "email_addresses",
    }
}

named! {
    /// The kinds of label.
    LabelKind {
        /// Names of threats.
        ThreatNames = "threat_names",
        /// Classifications.
        Classifications = "classifications",
        /// VMRay's threat indicators.
        Vti = "vti",
        /// MITRE ATT&CK techniques.
        Mitre = "mitre",
    }
}
