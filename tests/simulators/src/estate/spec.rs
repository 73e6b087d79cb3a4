//! The facts of a sample and of a submission, from which VMRay's answers are made.

use chrono::NaiveDateTime;
use md5::{Digest as _, Md5};
use serde_json::{Value, json};
use sha1::Sha1;
use sha2::Sha256;

/// VMRay's verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// `malicious`
    Malicious,
    /// `suspicious`
    Suspicious,
    /// `clean`
    Clean,
    /// `not_available`
    NotAvailable,
}

impl Verdict {
    /// The word on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Malicious => "malicious",
            Self::Suspicious => "suspicious",
            Self::Clean => "clean",
            Self::NotAvailable => "not_available",
        }
    }

    pub(crate) fn severity(self) -> &'static str {
        match self {
            Self::Malicious => "malicious",
            Self::Suspicious => "suspicious",
            Self::Clean => "not_suspicious",
            Self::NotAvailable => "unknown",
        }
    }

    pub(crate) fn score(self) -> Option<u64> {
        match self {
            Self::Malicious => Some(100),
            Self::Suspicious => Some(60),
            Self::Clean => Some(0),
            Self::NotAvailable => None,
        }
    }
}

/// A time such as `2026-11-20T03:14:05`.
///
/// # Panics
///
/// When the text is no such time: tests write it by hand.
#[must_use]
#[expect(clippy::panic, reason = "a typing error in a test should say so at once")]
pub fn time(text: &str) -> NaiveDateTime {
    match text.parse() {
        Ok(time) => time,
        Err(error) => panic!("{text}: {error}"),
    }
}

/// The times of the API have seconds and no zone.
pub(crate) fn written(time: NaiveDateTime) -> String {
    time.format("%Y-%m-%dT%H:%M:%S").to_string()
}

/// The hashes of some content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hashes {
    /// 32 hexadecimal digits.
    pub md5: String,
    /// 40 hexadecimal digits.
    pub sha1: String,
    /// 64 hexadecimal digits.
    pub sha256: String,
}

impl Hashes {
    /// The real hashes of some text.
    #[must_use]
    pub fn of(content: &str) -> Self {
        Self {
            md5: hex(&Md5::digest(content)),
            sha1: hex(&Sha1::digest(content)),
            sha256: hex(&Sha256::digest(content)),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What was analysed.
#[derive(Clone, Debug)]
pub enum Subject {
    /// A file with this name; its content only makes the hashes.
    File {
        /// The file's name.
        name: String,
        /// VMRay's `sample_type`.
        sample_type: String,
        /// What the hashes are made of.
        content: String,
    },
    /// A URL; a URL sample's hashes are those of the URL.
    Url(String),
}

/// A VTI: a behaviour that VMRay recognised.
#[derive(Clone, Debug)]
pub struct Vti {
    /// For example `Persistence`.
    pub category: String,
    /// For example `Installs system startup script or application`.
    pub operation: String,
    /// 1 to 5.
    pub score: u64,
    /// The analyses that saw it; those of the sample when empty.
    pub analysis_ids: Vec<u64>,
}

impl Vti {
    /// A VTI that all of the sample's analyses saw.
    #[must_use]
    pub fn new(category: &str, operation: &str, score: u64) -> Self {
        Self {
            category: category.to_owned(),
            operation: operation.to_owned(),
            score,
            analysis_ids: Vec::new(),
        }
    }
}

/// A MITRE ATT&CK technique.
#[derive(Clone, Debug)]
pub struct Technique {
    /// For example `T1055.012`.
    pub id: String,
    /// For example `Process Hollowing`.
    pub name: String,
    /// Tactics in title case, for example `Privilege Escalation`.
    pub tactics: Vec<String>,
    /// The analyses that saw it; those of the sample when empty.
    pub analysis_ids: Vec<u64>,
}

impl Technique {
    /// A technique that all of the sample's analyses saw.
    #[must_use]
    pub fn new(id: &str, name: &str, tactics: &[&str]) -> Self {
        Self {
            id: id.to_owned(),
            name: name.to_owned(),
            tactics: tactics.iter().map(|&tactic| tactic.to_owned()).collect(),
            analysis_ids: Vec::new(),
        }
    }
}

/// One IOC as VMRay answers it: a complete entry whose fields can be changed.
#[derive(Clone, Debug)]
pub struct Ioc {
    /// The list it stands in: `files`, `domains` and so on.
    pub list: &'static str,
    /// The entry.
    pub fields: Value,
}

impl Ioc {
    fn new(list: &'static str, ioc_type: &str, fields: Value) -> Self {
        let mut entry = json!({
            "id": 0, "version": 3, "ioc": true, "ioc_type": ioc_type, "type": format!("{ioc_type}_artifact"),
            "severity": "malicious", "numeric_severity": 4, "verdict": "malicious",
            "verdict_reason_code": null, "verdict_reason_description": "",
        });
        merge(&mut entry, fields);
        Self { list, fields: entry }
    }

    /// Adds what all but network IOCs have.
    fn on_host(self) -> Self {
        self.with("vtis", json!([]))
            .with("relations", json!([]))
            .with("threat_names", json!([]))
            .with("classifications", json!([]))
    }

    /// Adds the processes that an IOC comes from. `[""]` is what VMRay says of a first process.
    fn with_parents(self) -> Self {
        self.with("parent_processes", json!([""]))
            .with("parent_processes_ids", json!([]))
            .with("parent_processes_names", json!([]))
    }

    /// Sets any field.
    #[must_use]
    pub fn with(mut self, field: &str, value: Value) -> Self {
        self.fields[field] = value;
        self
    }

    /// Sets the verdict and the severities that go with it.
    #[must_use]
    pub fn verdict(self, verdict: Verdict) -> Self {
        let number = match verdict {
            Verdict::Malicious => 4,
            Verdict::Suspicious => 3,
            Verdict::Clean | Verdict::NotAvailable => 0,
        };
        self.with("verdict", json!(verdict.name()))
            .with("severity", json!(verdict.severity()))
            .with("numeric_severity", json!(number))
    }

    /// Sets the threat names.
    #[must_use]
    pub fn threat_names(self, names: &[&str]) -> Self {
        self.with("threat_names", json!(names))
    }

    /// A file with the hashes of some content.
    #[must_use]
    pub fn file(path: &str, content: &str) -> Self {
        let hashes = Hashes::of(content);
        let entry = json!([{"imp_hash": null, "md5_hash": hashes.md5, "sha1_hash": hashes.sha1,
            "sha256_hash": hashes.sha256, "ssdeep_hash": "3:AB:C"}]);
        Self::file_without_hashes(path).with("hashes", entry)
    }

    /// A file of which only the name is known.
    #[must_use]
    pub fn file_without_hashes(path: &str) -> Self {
        let fields = json!({
            "filename": path, "norm_filename": path, "filenames": [path], "file_size": 258_048,
            "mime_type": "application/vnd.microsoft.portable-executable", "hashes": [],
            "categories": ["Dropped File"], "operations": ["Create", "Write"], "parent_files": [], "resource_url": [],
        });
        Self::new("files", "file", fields).on_host().with_parents()
    }

    /// A memory dump: a file IOC that is none.
    #[must_use]
    pub fn memory_dump(content: &str) -> Self {
        Self::file("", content)
            .with("filename", Value::Null)
            .with("norm_filename", Value::Null)
            .with("filenames", json!([]))
            .with("categories", json!(["Memory Dump"]))
            .with("operations", json!([]))
    }

    /// A file name alone.
    #[must_use]
    pub fn filename(path: &str) -> Self {
        let fields = json!({"filename": path, "categories": [], "operations": ["Write"]});
        Self::new("filenames", "filename", fields).on_host().with_parents()
    }

    /// A process by its command line.
    #[must_use]
    pub fn process(command_line: &str) -> Self {
        let fields = json!({
            "cmd_line": command_line, "image_names": ["c:\\windows\\syswow64\\cmd.exe"],
            "process_names": ["cmd.exe"], "process_ids": [115],
        });
        Self::new("processes", "process", fields).on_host().with_parents()
    }

    /// A domain and the addresses it resolved to. Countries are lists here.
    #[must_use]
    pub fn domain(domain: &str, addresses: &[&str]) -> Self {
        let fields = json!({
            "domain": domain, "original_domains": [domain], "ip_addresses": addresses, "protocols": ["DNS", "HTTPS"],
            "countries": ["Netherlands"], "country_codes": ["NL"], "sources": ["Embedded in File"],
        });
        Self::new("domains", "domain", fields).with_parents()
    }

    /// A URL and the addresses behind it. Countries are lists here.
    #[must_use]
    pub fn url(url: &str, addresses: &[&str]) -> Self {
        let fields = json!({
            "url": url, "original_urls": [url], "categories": ["Contacted URL"], "methods": ["GET"],
            "user_agents": [], "referrers": [], "content_types": ["text/html"], "ip_addresses": addresses,
            "countries": ["Netherlands"], "country_codes": ["NL"], "parent_files": [], "sources": [],
        });
        Self::new("urls", "url", fields).with_parents()
    }

    /// An IP address. `country` and `country_code` are single here.
    #[must_use]
    pub fn ip(address: &str, domains: &[&str]) -> Self {
        let fields = json!({
            "ip_address": address, "domains": domains, "protocols": ["HTTP", "TCP"], "country": "Netherlands",
            "country_code": "NL", "sources": [],
        });
        Self::new("ips", "ip", fields).with_parents()
    }

    /// Puts a network IOC into a country, with singular or plural keys as its list has them.
    #[must_use]
    pub fn country(self, name: &str, code: &str) -> Self {
        if self.list == "ips" {
            self.with("country", json!(name)).with("country_code", json!(code))
        } else {
            self.with("countries", json!([name])).with("country_codes", json!([code]))
        }
    }

    /// A mutex.
    #[must_use]
    pub fn mutex(name: &str) -> Self {
        let fields = json!({"mutex_name": name, "operations": ["Access", "Create"]});
        Self::new("mutexes", "mutex", fields).on_host().with_parents()
    }

    /// A registry key.
    #[must_use]
    pub fn registry(key: &str) -> Self {
        let fields = json!({"reg_key_name": key, "reg_key_value_types": ["REG_SZ"], "operations": ["Create", "Write"]});
        Self::new("registry", "registry", fields).on_host().with_parents()
    }

    /// An email by its sender.
    #[must_use]
    pub fn email(sender: &str, subject: &str, recipients: &[&str]) -> Self {
        let fields = json!({
            "sender": sender, "subject": subject, "recipients": recipients, "nr_links": 1, "nr_attachments": 0,
            "attachment_types": ["text/plain"], "hashes": [],
        });
        Self::new("emails", "email", fields).on_host()
    }

    /// An email address; `sender` and `recipient` are booleans here.
    #[must_use]
    pub fn email_address(address: &str) -> Self {
        let fields =
            json!({"email_address": address, "sender": true, "recipient": false, "subjects": ["Invoice"]});
        Self::new("email_addresses", "email_address", fields).on_host()
    }
}

/// Puts the members of one object into another.
pub(crate) fn merge(into: &mut Value, from: Value) {
    if let Value::Object(members) = from {
        for (name, value) in members {
            into[name] = value;
        }
    }
}

/// Everything that VMRay knows of one sample. Write the fields that matter, take the rest from [`SampleSpec::file`] or
/// [`SampleSpec::url`].
#[derive(Clone, Debug)]
pub struct SampleSpec {
    /// VMRay's number.
    pub id: u64,
    /// What was analysed.
    pub subject: Subject,
    /// The sample's verdict; `None` is a null.
    pub verdict: Option<Verdict>,
    /// When VMRay first saw it.
    pub created: NaiveDateTime,
    /// Its IOCs, of any type.
    pub iocs: Vec<Ioc>,
    /// Its VTIs.
    pub vtis: Vec<Vti>,
    /// Its techniques.
    pub techniques: Vec<Technique>,
    /// Families and anti-virus signatures.
    pub threat_names: Vec<String>,
    /// For example `Ransomware`.
    pub classifications: Vec<String>,
    /// The numbers of its children.
    pub children: Vec<u64>,
    /// The numbers of its parents.
    pub parents: Vec<u64>,
}

impl SampleSpec {
    /// A malicious file without IOCs.
    #[must_use]
    pub fn file(id: u64, name: &str) -> Self {
        let content = format!("sample {id}");
        let sample_type = "Windows Exe (x86-32)".to_owned();
        Self::new(id, Subject::File { name: name.to_owned(), sample_type, content })
    }

    /// A malicious URL without IOCs.
    #[must_use]
    pub fn url(id: u64, url: &str) -> Self {
        Self::new(id, Subject::Url(url.to_owned()))
    }

    fn new(id: u64, subject: Subject) -> Self {
        Self {
            id,
            subject,
            verdict: Some(Verdict::Malicious),
            created: time("2026-11-20T03:04:05"),
            iocs: Vec::new(),
            vtis: Vec::new(),
            techniques: Vec::new(),
            threat_names: Vec::new(),
            classifications: Vec::new(),
            children: Vec::new(),
            parents: Vec::new(),
        }
    }

    /// The hashes that the sample is found by.
    #[must_use]
    pub fn hashes(&self) -> Hashes {
        match &self.subject {
            Subject::File { content, .. } => Hashes::of(content),
            Subject::Url(url) => Hashes::of(url),
        }
    }

    /// The numbers of the sample's two analyses.
    #[must_use]
    pub fn analysis_ids(&self) -> Vec<u64> {
        vec![self.id * 10 + 1, self.id * 10 + 2]
    }

    pub(crate) fn file_name(&self) -> &str {
        match &self.subject {
            Subject::File { name, .. } => name,
            Subject::Url(_) => "sample.url",
        }
    }

    pub(crate) fn submitted_name(&self) -> &str {
        match &self.subject {
            Subject::File { name, .. } => name,
            Subject::Url(url) => url,
        }
    }

    pub(crate) fn submitted_url(&self) -> Option<&str> {
        match &self.subject {
            Subject::File { .. } => None,
            Subject::Url(url) => Some(url),
        }
    }
}

/// One submission of a sample.
#[derive(Clone, Debug)]
pub struct SubmissionSpec {
    /// VMRay's number.
    pub id: u64,
    /// The sample that was submitted.
    pub sample_id: u64,
    /// The submission's verdict; `None` is a null.
    pub verdict: Option<Verdict>,
    /// When it was submitted.
    pub created: NaiveDateTime,
    /// When it was finished; `None` while in progress.
    pub finished: Option<NaiveDateTime>,
    /// The submission that this one is a child of.
    pub parent: Option<u64>,
}

impl SubmissionSpec {
    /// A malicious submission that finished then, five minutes after it was made.
    #[must_use]
    pub fn finished(id: u64, sample_id: u64, finished: NaiveDateTime) -> Self {
        Self {
            id,
            sample_id,
            verdict: Some(Verdict::Malicious),
            created: finished - chrono::TimeDelta::minutes(5),
            finished: Some(finished),
            parent: None,
        }
    }

    /// The same with another verdict.
    #[must_use]
    pub fn verdict(mut self, verdict: Verdict) -> Self {
        self.verdict = Some(verdict);
        self
    }
}
