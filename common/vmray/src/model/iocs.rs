//! The indicators of compromise of a sample: ten lists.

use serde::{Deserialize, Deserializer};

use super::entries::Entries;
use super::lenient;
use super::verdict::{Verdict, VerdictField};

/// All IOCs of a sample. Entries that could not be read are counted, not lost in silence.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Iocs {
    pub files: Vec<FileIoc>,
    /// File names without a file.
    pub filenames: Vec<FilenameIoc>,
    pub processes: Vec<ProcessIoc>,
    pub domains: Vec<DomainIoc>,
    pub urls: Vec<UrlIoc>,
    pub ips: Vec<IpIoc>,
    pub mutexes: Vec<MutexIoc>,
    /// Registry keys.
    pub registry: Vec<RegistryIoc>,
    pub emails: Vec<EmailIoc>,
    pub email_addresses: Vec<EmailAddressIoc>,
    /// How many entries could not be read.
    pub malformed: u32,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct IocCore {
    /// Whether VMRay takes it for an indicator, not just an artifact. Absent is no.
    pub ioc: bool,
    /// VMRay's verdict on it.
    pub verdict: Option<Verdict>,
    /// The analyses that found it.
    pub analysis_ids: Vec<u64>,
    /// Such as `Dropped File` or `Contacted URL`.
    pub categories: Vec<String>,
    pub threat_names: Vec<String>,
    pub classifications: Vec<String>,
}

/// The hashes of one file.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct FileHashes {
    #[serde(default, rename = "md5_hash", deserialize_with = "lenient::text")]
    pub md5: Option<String>,
    #[serde(default, rename = "sha1_hash", deserialize_with = "lenient::text")]
    pub sha1: Option<String>,
    #[serde(default, rename = "sha256_hash", deserialize_with = "lenient::text")]
    pub sha256: Option<String>,
    #[serde(default, rename = "ssdeep_hash", deserialize_with = "lenient::text")]
    pub ssdeep: Option<String>,
    #[serde(default, rename = "imp_hash", deserialize_with = "lenient::text")]
    pub imphash: Option<String>,
}

/// A file; VMRay puts files of one name and different content into one entry.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FileIoc {
    pub core: IocCore,
    pub filename: Option<String>,
    pub filenames: Vec<String>,
    pub size: Option<u64>,
    pub mime_type: Option<String>,
    /// One entry per content.
    pub hashes: Vec<FileHashes>,
    /// What was done to it, such as `Create`.
    pub operations: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct FilenameIoc {
    pub core: IocCore,
    pub filename: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct ProcessIoc {
    pub core: IocCore,
    pub cmd_line: Option<String>,
    /// The names of its images.
    pub process_names: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct DomainIoc {
    pub core: IocCore,
    pub domain: Option<String>,
    /// How it was written where it was found.
    pub original_domains: Vec<String>,
    /// What it resolved to.
    pub ip_addresses: Vec<String>,
    /// Such as `HTTPS`.
    pub protocols: Vec<String>,
    /// Names of the countries of its addresses.
    pub countries: Vec<String>,
    /// The same as ISO codes, in the same order.
    pub country_codes: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct UrlIoc {
    pub core: IocCore,
    pub url: Option<String>,
    /// How it was written where it was found.
    pub original_urls: Vec<String>,
    /// What its host resolved to.
    pub ip_addresses: Vec<String>,
    pub methods: Vec<String>,
    /// Names of the countries of its addresses.
    pub countries: Vec<String>,
    /// The same as ISO codes, in the same order.
    pub country_codes: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct IpIoc {
    pub core: IocCore,
    pub ip_address: Option<String>,
    /// The domains that resolved to it.
    pub domains: Vec<String>,
    /// Such as `HTTP`.
    pub protocols: Vec<String>,
    /// Names of its countries: VMRay sends one, in a field of its own; lists are read too.
    pub countries: Vec<String>,
    /// The same as ISO codes, in the same order.
    pub country_codes: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct MutexIoc {
    pub core: IocCore,
    pub name: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct RegistryIoc {
    pub core: IocCore,
    pub key: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct EmailIoc {
    pub core: IocCore,
    /// Who sent it, perhaps with a display name.
    pub sender: Option<String>,
    pub subject: Option<String>,
    /// Who got it.
    pub recipients: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct EmailAddressIoc {
    pub core: IocCore,
    /// The address, perhaps with a display name.
    pub email_address: Option<String>,
    /// Subjects of the e-mails it was found in.
    pub subjects: Vec<String>,
}

impl<'de> Deserialize<'de> for Iocs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        lenient::object::<D, WireIocs>(deserializer).map(Self::from)
    }
}

#[derive(Deserialize)]
struct WireIocs {
    #[serde(default)]
    files: Entries<WireIoc>,
    #[serde(default)]
    filenames: Entries<WireIoc>,
    #[serde(default)]
    processes: Entries<WireIoc>,
    #[serde(default)]
    domains: Entries<WireIoc>,
    #[serde(default)]
    urls: Entries<WireIoc>,
    #[serde(default)]
    ips: Entries<WireIoc>,
    #[serde(default)]
    mutexes: Entries<WireIoc>,
    #[serde(default)]
    registry: Entries<WireIoc>,
    #[serde(default)]
    emails: Entries<WireIoc>,
    #[serde(default)]
    email_addresses: Entries<WireIoc>,
}

fn take<T: From<WireIoc>>(entries: Entries<WireIoc>, malformed: &mut u32) -> Vec<T> {
    *malformed += entries.malformed;
    entries.items.into_iter().map(T::from).collect()
}

impl From<WireIocs> for Iocs {
    fn from(wire: WireIocs) -> Self {
        let mut malformed = wire.files.items.iter().map(|file| file.hashes.malformed).sum();
        Self {
            files: take(wire.files, &mut malformed),
            filenames: take(wire.filenames, &mut malformed),
            processes: take(wire.processes, &mut malformed),
            domains: take(wire.domains, &mut malformed),
            urls: take(wire.urls, &mut malformed),
            ips: take(wire.ips, &mut malformed),
            mutexes: take(wire.mutexes, &mut malformed),
            registry: take(wire.registry, &mut malformed),
            emails: take(wire.emails, &mut malformed),
            email_addresses: take(wire.email_addresses, &mut malformed),
            malformed,
        }
    }
}

/// One entry of any of the ten lists, as sent.
#[derive(Default, Deserialize)]
#[serde(default)]
struct WireIoc {
    #[serde(deserialize_with = "lenient::boolean")]
    ioc: Option<bool>,
    verdict: VerdictField,
    #[serde(deserialize_with = "lenient::text")]
    severity: Option<String>,
    #[serde(deserialize_with = "lenient::numbers")]
    analysis_ids: Vec<u64>,
    #[serde(deserialize_with = "lenient::texts")]
    categories: Vec<String>,
    #[serde(deserialize_with = "lenient::texts")]
    threat_names: Vec<String>,
    #[serde(deserialize_with = "lenient::texts")]
    classifications: Vec<String>,
    // Files, file names.
    #[serde(deserialize_with = "lenient::text")]
    filename: Option<String>,
    #[serde(deserialize_with = "lenient::texts")]
    filenames: Vec<String>,
    #[serde(deserialize_with = "lenient::number")]
    file_size: Option<u64>,
    #[serde(deserialize_with = "lenient::text")]
    mime_type: Option<String>,
    hashes: Entries<FileHashes>,
    #[serde(deserialize_with = "lenient::texts")]
    operations: Vec<String>,
    // Processes.
    #[serde(deserialize_with = "lenient::text")]
    cmd_line: Option<String>,
    #[serde(deserialize_with = "lenient::texts")]
    process_names: Vec<String>,
    // Network.
    #[serde(deserialize_with = "lenient::text")]
    domain: Option<String>,
    #[serde(deserialize_with = "lenient::texts")]
    original_domains: Vec<String>,
    #[serde(deserialize_with = "lenient::texts")]
    domains: Vec<String>,
    #[serde(deserialize_with = "lenient::text")]
    url: Option<String>,
    #[serde(deserialize_with = "lenient::texts")]
    original_urls: Vec<String>,
    #[serde(deserialize_with = "lenient::text")]
    ip_address: Option<String>,
    #[serde(deserialize_with = "lenient::texts")]
    ip_addresses: Vec<String>,
    #[serde(deserialize_with = "lenient::texts")]
    protocols: Vec<String>,
    #[serde(deserialize_with = "lenient::texts")]
    methods: Vec<String>,
    #[serde(deserialize_with = "lenient::text")]
    country: Option<String>,
    #[serde(deserialize_with = "lenient::text")]
    country_code: Option<String>,
    #[serde(deserialize_with = "lenient::texts_in_place")]
    countries: Vec<String>,
    #[serde(deserialize_with = "lenient::texts_in_place")]
    country_codes: Vec<String>,
    // The rest.
    #[serde(deserialize_with = "lenient::text")]
    mutex_name: Option<String>,
    #[serde(deserialize_with = "lenient::text")]
    reg_key_name: Option<String>,
    /// A text in e-mails, a flag in e-mail addresses (read as no text).
    #[serde(deserialize_with = "lenient::text")]
    sender: Option<String>,
    #[serde(deserialize_with = "lenient::text")]
    subject: Option<String>,
    #[serde(deserialize_with = "lenient::texts")]
    recipients: Vec<String>,
    #[serde(deserialize_with = "lenient::text")]
    email_address: Option<String>,
    #[serde(deserialize_with = "lenient::texts")]
    subjects: Vec<String>,
}

impl WireIoc {
    fn core(&mut self) -> IocCore {
        let verdict = std::mem::take(&mut self.verdict);
        IocCore {
            ioc: self.ioc.unwrap_or(false),
            verdict: verdict.or_severity(self.severity.as_deref(), None),
            analysis_ids: std::mem::take(&mut self.analysis_ids),
            categories: std::mem::take(&mut self.categories),
            threat_names: std::mem::take(&mut self.threat_names),
            classifications: std::mem::take(&mut self.classifications),
        }
    }
}

impl From<WireIoc> for FileIoc {
    fn from(mut wire: WireIoc) -> Self {
        Self {
            core: wire.core(),
            filename: wire.filename,
            filenames: wire.filenames,
            size: wire.file_size,
            mime_type: wire.mime_type,
            hashes: wire.hashes.items,
            operations: wire.operations,
        }
    }
}

impl From<WireIoc> for FilenameIoc {
    fn from(mut wire: WireIoc) -> Self {
        Self { core: wire.core(), filename: wire.filename }
    }
}

impl From<WireIoc> for ProcessIoc {
    fn from(mut wire: WireIoc) -> Self {
        Self { core: wire.core(), cmd_line: wire.cmd_line, process_names: wire.process_names }
    }
}

impl From<WireIoc> for DomainIoc {
    fn from(mut wire: WireIoc) -> Self {
        Self {
            core: wire.core(),
            domain: wire.domain,
            original_domains: wire.original_domains,
            ip_addresses: wire.ip_addresses,
            protocols: wire.protocols,
            countries: wire.countries,
            country_codes: wire.country_codes,
        }
    }
}

impl From<WireIoc> for UrlIoc {
    fn from(mut wire: WireIoc) -> Self {
        Self {
            core: wire.core(),
            url: wire.url,
            original_urls: wire.original_urls,
            ip_addresses: wire.ip_addresses,
            methods: wire.methods,
            countries: wire.countries,
            country_codes: wire.country_codes,
        }
    }
}

impl From<WireIoc> for IpIoc {
    fn from(mut wire: WireIoc) -> Self {
        let what_all_have = wire.core();
        // One country in fields of its own is the rule; the lists are what other types have.
        let (countries, country_codes) = match (wire.country, wire.country_code) {
            (None, None) => (wire.countries, wire.country_codes),
            (country, code) => (country.into_iter().collect(), code.into_iter().collect()),
        };
        Self {
            core: what_all_have,
            ip_address: wire.ip_address,
            domains: wire.domains,
            protocols: wire.protocols,
            countries,
            country_codes,
        }
    }
}

impl From<WireIoc> for MutexIoc {
    fn from(mut wire: WireIoc) -> Self {
        Self { core: wire.core(), name: wire.mutex_name }
    }
}

impl From<WireIoc> for RegistryIoc {
    fn from(mut wire: WireIoc) -> Self {
        Self { core: wire.core(), key: wire.reg_key_name }
    }
}

impl From<WireIoc> for EmailIoc {
    fn from(mut wire: WireIoc) -> Self {
        Self { core: wire.core(), sender: wire.sender, subject: wire.subject, recipients: wire.recipients }
    }
}

impl From<WireIoc> for EmailAddressIoc {
    fn from(mut wire: WireIoc) -> Self {
        Self { core: wire.core(), email_address: wire.email_address, subjects: wire.subjects }
    }
}
