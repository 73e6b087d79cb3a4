//! Estates from a seed. Values come partly from pools that all samples share, as malware in the field shares servers,
//! techniques and families.

use chrono::{NaiveDateTime, TimeDelta};
use serde_json::json;

use super::random::Random;
use super::spec::{Ioc, SampleSpec, Subject, SubmissionSpec, Technique, Verdict, Vti, time};

/// What an estate is to look like.
#[derive(Clone, Debug)]
pub struct EstateSpec {
    /// Two estates with one seed are the same.
    pub seed: u64,
    /// How many submissions, each of a sample of its own.
    pub submissions: usize,
    /// How many of them are malicious.
    pub malicious: usize,
    /// How many are suspicious; the rest is clean.
    pub suspicious: usize,
    /// IOC entries of each sample that is not clean, those that a client must leave out included.
    pub iocs_per_sample: usize,
    /// When the first submission finished.
    pub first_finish: NaiveDateTime,
    /// When the last one did.
    pub last_finish: NaiveDateTime,
    /// Further submissions of samples that were submitted before.
    pub resubmissions: usize,
}

impl Default for EstateSpec {
    /// The estate of the benchmarks: 200 submissions, 120 malicious, 32 suspicious, a month.
    fn default() -> Self {
        Self {
            seed: 1,
            submissions: 200,
            malicious: 120,
            suspicious: 32,
            iocs_per_sample: 30,
            first_finish: time("2026-10-20T08:00:00"),
            last_finish: time("2026-11-20T08:00:00"),
            resubmissions: 0,
        }
    }
}

const FAMILIES: [&str; 19] = [
    "QakBot",
    "XWorm_v5",
    "Ursnif (Gozi)",
    "Agent Tesla",
    "Emotet",
    "Remcos",
    "AsyncRAT",
    "Lumma Stealer",
    "RedLine",
    "FormBook",
    "Snake Keylogger",
    "IcedID",
    "Pikabot",
    "DarkGate",
    "LockBit 3",
    "Vidar",
    "njRAT",
    "GuLoader",
    "Cobalt Strike",
];

const SIGNATURES: [&str; 4] = [
    "Gen:Variant.Ulise.379246",
    "Mal/Generic-S",
    "Trojan.GenericKD.4711",
    "Generic.Malware.SB!p2p!u.810B24F5",
];

const CLASSIFICATIONS: [&str; 6] =
    ["Spyware", "Ransomware", "Downloader", "Backdoor", "Phishing", "Keylogger"];

const COUNTRIES: [(&str, &str); 20] = [
    ("Netherlands", "NL"),
    ("United States", "US"),
    ("Germany", "DE"),
    ("Russian Federation", "RU"),
    ("China", "CN"),
    ("France", "FR"),
    ("United Kingdom", "GB"),
    ("Canada", "CA"),
    ("Brazil", "BR"),
    ("India", "IN"),
    ("Japan", "JP"),
    ("Viet Nam", "VN"),
    ("Turkey", "TR"),
    ("Ukraine", "UA"),
    ("Poland", "PL"),
    ("Romania", "RO"),
    ("Bulgaria", "BG"),
    ("Moldova, Republic of", "MD"),
    ("Côte d'Ivoire", "CI"),
    ("Singapore", "SG"),
];

const VTIS: [(&str, &str, u64); 20] = [
    ("Antivirus", "Malicious content was detected by heuristic scan", 4),
    ("Reputation", "Malicious file detected via reputation", 4),
    ("Reputation", "Known malicious file", 4),
    ("Persistence", "Installs system startup script or application", 1),
    ("System Modification", "Modifies operating system directory", 1),
    ("System Modification", "Disables a crucial system tool", 4),
    ("Hide Tracks", "Deletes file after execution", 2),
    ("Hide Tracks", "Creates process with hidden window", 1),
    ("Mutex", "Creates mutex", 1),
    ("Obfuscation", "Resolves API functions dynamically", 1),
    ("Obfuscation", "The binary file was created with a packer", 1),
    ("Defense Evasion", "Accesses volumes directly", 1),
    ("Defense Evasion", "Tries to detect \"forensic\" tools", 3),
    ("Execution", "Drops PE file", 1),
    ("Discovery", "Checks external IP address", 1),
    ("Network Connection", "Performs DNS request", 1),
    ("Network Connection", "Connects to remote host", 1),
    ("YARA", "Malicious content matched by YARA rules", 5),
    ("YARA", "Suspicious content matched by YARA rules", 2),
    ("Injection", "Writes into the memory of another process", 4),
];

const TECHNIQUES: [(&str, &str, &[&str]); 20] = [
    ("T1055", "Process Injection", &["Defense Evasion", "Privilege Escalation"]),
    ("T1055.012", "Process Hollowing", &["Defense Evasion", "Privilege Escalation"]),
    ("T1547.001", "Registry Run Keys / Startup Folder", &["Persistence", "Privilege Escalation"]),
    ("T1059", "Command and Scripting Interpreter", &["Execution"]),
    ("T1059.001", "PowerShell", &["Execution"]),
    ("T1059.003", "Windows Command Shell", &["Execution"]),
    ("T1027", "Obfuscated Files or Information", &["Defense Evasion"]),
    ("T1027.002", "Software Packing", &["Defense Evasion"]),
    ("T1071.001", "Web Protocols", &["Command and Control"]),
    ("T1105", "Ingress Tool Transfer", &["Command and Control"]),
    ("T1082", "System Information Discovery", &["Discovery"]),
    ("T1083", "File and Directory Discovery", &["Discovery"]),
    ("T1112", "Modify Registry", &["Defense Evasion"]),
    ("T1070.004", "File Deletion", &["Defense Evasion"]),
    ("T1566.001", "Spearphishing Attachment", &["Initial Access"]),
    ("T1204.002", "Malicious File", &["Execution"]),
    ("T1056.001", "Keylogging", &["Collection", "Credential Access"]),
    ("T1041", "Exfiltration Over C2 Channel", &["Exfiltration"]),
    ("T1486", "Data Encrypted for Impact", &["Impact"]),
    ("T1060", "Registry Run Keys / Start Folder", &["Persistence"]), // retired in ATT&CK, still on old servers
];

/// The kinds of IOC in the order in which a sample gets them.
const CYCLE: [Kind; 30] = [
    Kind::File,
    Kind::Domain,
    Kind::Url,
    Kind::Process,
    Kind::Ip,
    Kind::Mutex,
    Kind::Registry,
    Kind::Email,
    Kind::FileName,
    Kind::EmailAddress,
    Kind::MemoryDump,
    Kind::Filtered,
    Kind::File,
    Kind::Domain,
    Kind::Url,
    Kind::Process,
    Kind::Ip,
    Kind::HashlessFile,
    Kind::Url,
    Kind::Registry,
    Kind::FileWithManyHashes,
    Kind::Domain,
    Kind::Url,
    Kind::Process,
    Kind::Mutex,
    Kind::File,
    Kind::Filtered,
    Kind::MemoryDump,
    Kind::Ip,
    Kind::FileName,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    File,
    HashlessFile,
    FileWithManyHashes,
    MemoryDump,
    FileName,
    Process,
    Domain,
    Url,
    Ip,
    Mutex,
    Registry,
    Email,
    EmailAddress,
    /// Clean, without verdict, or not an IOC: to be left out.
    Filtered,
}

/// Network values that several samples share, in percent.
const SHARED: usize = 15;
const SHARED_POOL: usize = 40;
/// Neighbouring entries speak of one server: its domain, its address, URLs on it.
const IOCS_PER_SERVER: usize = 6;

#[derive(Debug)]
pub(super) struct Generator {
    spec: EstateSpec,
    verdicts: Vec<Verdict>,
}

impl Generator {
    pub(super) fn new(spec: EstateSpec) -> Self {
        let verdict = |at: usize| {
            if at < spec.malicious {
                Verdict::Malicious
            } else if at < spec.malicious + spec.suspicious {
                Verdict::Suspicious
            } else {
                Verdict::Clean
            }
        };
        let mut verdicts: Vec<Verdict> = (0..spec.submissions).map(verdict).collect();
        Random::new(spec.seed, 1).shuffle(&mut verdicts);
        Self { spec, verdicts }
    }

    pub(super) fn samples(&self) -> usize {
        self.spec.submissions
    }

    pub(super) fn sample_id(index: usize) -> u64 {
        7_000_000 + index as u64
    }

    pub(super) fn verdict(&self, index: usize) -> Verdict {
        self.verdicts[index]
    }

    /// The first submission of every sample, then the further ones.
    pub(super) fn submissions(&self) -> impl Iterator<Item = SubmissionSpec> {
        let total = self.spec.submissions + self.spec.resubmissions;
        (0..total).map(move |position| {
            let index = position % self.spec.submissions.max(1);
            let finished = self.finish(position, total);
            let parent = (position < self.spec.submissions && self.is_child(index))
                .then(|| Self::submission_id(position - 1));
            SubmissionSpec {
                verdict: Some(self.verdict(index)),
                parent,
                ..SubmissionSpec::finished(Self::submission_id(position), Self::sample_id(index), finished)
            }
        })
    }

    fn submission_id(position: usize) -> u64 {
        9_100_000 + position as u64
    }

    /// Spread evenly; now and then a later submission finishes before an earlier one, as in the field.
    fn finish(&self, position: usize, total: usize) -> NaiveDateTime {
        let inner = position > 0 && position + 2 < total;
        let place = match position % 8 {
            4 if inner => position + 1,
            5 if inner && position + 1 < total => position - 1,
            _ => position,
        };
        let span = (self.spec.last_finish - self.spec.first_finish).num_seconds();
        let steps = i64::try_from(total.saturating_sub(1).max(1)).unwrap_or(i64::MAX);
        let place = i64::try_from(place).unwrap_or(i64::MAX);
        self.spec.first_finish + TimeDelta::seconds(span.saturating_mul(place) / steps)
    }

    /// Every twelfth sample fell out of the one before it.
    fn is_child(&self, index: usize) -> bool {
        index % 12 == 5 && index < self.spec.submissions
    }

    /// The n-th sample without what was found in it: cheap, and all that a list of submissions needs.
    pub(super) fn outline(&self, index: usize) -> SampleSpec {
        let id = Self::sample_id(index);
        let mut sample = self.subject(index, id);
        sample.verdict = Some(self.verdict(index));
        sample.created = self.finish(index, self.spec.submissions) - TimeDelta::minutes(6);
        if self.is_child(index) {
            sample.parents.push(id - 1);
        }
        if self.is_child(index + 1) {
            sample.children.push(id + 1);
        }
        sample
    }

    /// The n-th sample, the same whenever it is asked for.
    pub(super) fn sample(&self, index: usize) -> SampleSpec {
        let mut sample = self.outline(index);
        if sample.verdict != Some(Verdict::Clean) {
            let mut random = Random::new(self.spec.seed, 1000 + index as u64);
            findings(&mut sample, &mut random);
            let facts = Facts { seed: self.spec.seed, sample: sample.clone() };
            sample.iocs = (0..self.spec.iocs_per_sample).map(|n| facts.ioc(n, &mut random)).collect();
        }
        sample
    }

    fn subject(&self, index: usize, id: u64) -> SampleSpec {
        if index % 4 == 3 {
            return SampleSpec::url(id, &format!("http://login-{index}.example.test/verify?id={id}"));
        }
        let names = ["invoice", "Rechnung März", "scan (1)", "update", "出荷通知"];
        let name = format!("{}_{index}.exe", names[index % names.len()]);
        let mut sample = SampleSpec::file(id, &name);
        if let Subject::File { content, .. } = &mut sample.subject {
            *content = format!("estate {} sample {index}", self.spec.seed);
        }
        sample
    }
}

/// Names, VTIs and techniques of a sample. Each of its two analyses sees its own part of them.
fn findings(sample: &mut SampleSpec, random: &mut Random) {
    let analyses = sample.analysis_ids();
    let seen = |random: &mut Random| match random.below(3) {
        0 => vec![analyses[0]],
        1 => vec![analyses[1]],
        _ => analyses.clone(),
    };
    for name in random.choose(&FAMILIES, 1).into_iter().chain(random.choose(&SIGNATURES, 1)) {
        sample.threat_names.push((*name).to_owned());
    }
    for name in random.choose(&CLASSIFICATIONS, 1) {
        sample.classifications.push((*name).to_owned());
    }
    for (category, operation, score) in random.choose(&VTIS, 6) {
        let analysis_ids = seen(random);
        sample.vtis.push(Vti { analysis_ids, ..Vti::new(category, operation, *score) });
    }
    for (id, name, tactics) in random.choose(&TECHNIQUES, 5) {
        let analysis_ids = seen(random);
        sample.techniques.push(Technique { analysis_ids, ..Technique::new(id, name, tactics) });
    }
}

/// What IOCs of a sample are made from.
struct Facts {
    seed: u64,
    sample: SampleSpec,
}

impl Facts {
    fn ioc(&self, n: usize, random: &mut Random) -> Ioc {
        let unique = format!("{}-{}-{n}", self.seed, self.sample.id);
        let kind = CYCLE[n % CYCLE.len()];
        let ioc = match kind {
            Kind::File
            | Kind::HashlessFile
            | Kind::FileWithManyHashes
            | Kind::MemoryDump
            | Kind::FileName => file(kind, &unique, n),
            Kind::Process => process(&unique, n),
            Kind::Domain | Kind::Url | Kind::Ip => self.network(kind, n, random),
            Kind::Mutex => Ioc::mutex(&format!("Global\\Mutex_Nö_{unique} (<b>Test</b>)")),
            Kind::Registry => Ioc::registry(&format!(
                "HKEY_CURRENT_USER\\Software\\Microsoft\\Windows\\CurrentVersion\\Run\\{unique}"
            )),
            Kind::Email => {
                let sender = format!("\"Billing, Dept.\" <billing-{unique}@mail.example.test>");
                Ioc::email(&sender, "Invoice *overdue* & <b>final</b>", &["bob@customer.test"])
            }
            Kind::EmailAddress => Ioc::email_address(&format!("alice-{unique}@mail.example.test")),
            Kind::Filtered => return self.filtered(&unique, n),
        };
        self.finish(ioc, random)
    }

    /// Threat names for what is on the host, verdicts, analyses.
    fn finish(&self, ioc: Ioc, random: &mut Random) -> Ioc {
        let analyses = self.sample.analysis_ids();
        let seen = if random.percent(50) { analyses } else { vec![*random.pick(&analyses)] };
        let ioc = ioc.with("analysis_ids", json!(seen));
        let verdict = if self.sample.verdict == Some(Verdict::Malicious) && !random.percent(20) {
            Verdict::Malicious
        } else {
            Verdict::Suspicious
        };
        let ioc = ioc.verdict(verdict);
        let named = ["files", "processes", "mutexes", "registry", "emails"].contains(&ioc.list);
        if named && random.percent(75) {
            return ioc
                .with("threat_names", json!(self.sample.threat_names))
                .with("classifications", json!(self.sample.classifications));
        }
        ioc
    }

    fn network(&self, kind: Kind, n: usize, random: &mut Random) -> Ioc {
        let shared = random.percent(SHARED);
        let number = if shared {
            random.below(SHARED_POOL)
        } else {
            1000 + usize::try_from(self.sample.id % 1_000_000).unwrap_or(0) * 100 + n / IOCS_PER_SERVER
        };
        // The same value is in the same country wherever it is seen.
        let (country, code) = COUNTRIES[number % COUNTRIES.len()];
        let (domain, address) = (format!("c2-{number}.example.net"), address(number));
        let ioc = match kind {
            Kind::Domain => Ioc::domain(&domain, &[&address]),
            Kind::Ip => Ioc::ip(&address, &[&domain]),
            _ => {
                let url = format!("http://{domain}:8080/Gate.php?id={number}-{n}&q=ü#x");
                let original = format!("http://{domain}/gate.php?id={number}");
                let ioc = Ioc::url(&url, &[&address]);
                if n.is_multiple_of(2) { ioc.with("original_urls", json!([url, original])) } else { ioc }
            }
        };
        ioc.country(country, code)
    }

    /// Entries that are there and must not be taken.
    fn filtered(&self, unique: &str, n: usize) -> Ioc {
        let domain = Ioc::domain(&format!("cdn-{unique}.example.org"), &[]);
        // Each of the three is about as frequent.
        match (self.sample.id + n as u64) % 3 {
            0 => domain.verdict(Verdict::Clean),
            1 => domain.with("verdict", json!(null)).with("severity", json!(null)),
            _ => domain.verdict(Verdict::Malicious).with("ioc", json!(false)),
        }
    }
}

fn file(kind: Kind, unique: &str, n: usize) -> Ioc {
    let path = format!("C:\\Users\\u\\AppData\\Local\\Temp\\drop_{unique}.exe");
    match kind {
        Kind::MemoryDump => Ioc::memory_dump(unique).with("verdict", json!(null)),
        Kind::HashlessFile => Ioc::file_without_hashes(&path),
        Kind::FileName => Ioc::filename(&path),
        Kind::FileWithManyHashes => {
            let (one, two) = (Ioc::file(&path, unique), Ioc::file(&path, &format!("{unique}, patched")));
            let hashes = json!([one.fields["hashes"][0], two.fields["hashes"][0]]);
            one.with("hashes", hashes)
        }
        _ if n == 0 => Ioc::file(&path, unique).with("filename", json!(null)).with("mime_type", json!(null)),
        _ => Ioc::file(&path, unique),
    }
}

fn process(unique: &str, n: usize) -> Ioc {
    // Command lines that end in a space are common.
    let tail = if n.is_multiple_of(2) { " " } else { "" };
    Ioc::process(&format!("\"C:\\Windows\\system32\\cmd.exe\" /c start \"\" 'drop_{unique}.exe'{tail}"))
        .with("parent_processes", json!(["\"C:\\Windows\\explorer.exe\" "]))
}

/// Every number has its address in the range for benchmarks (198.18.0.0/15), then in 10.0.0.0/8.
fn address(number: usize) -> String {
    if number < 1 << 16 {
        return format!("198.18.{}.{}", number >> 8, number & 255);
    }
    format!("10.{}.{}.{}", (number >> 16) & 255, (number >> 8) & 255, number & 255)
}
