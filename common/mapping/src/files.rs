//! Files: the sample itself, the files among its IOCs, its parents and children. One file may come from several of
//! these, and VMRay may know other hashes of it each time; whatever shares a hash is one file.

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use crate::iocs;
use crate::mapper::{Found, Mapper, former_id};
use crate::settings::IocType;
use crate::subject::{SAMPLE_DETAILS, Subject};
use crate::text::markdown_list;
use crate::values;
use stix::object::{File, ObservableValue};
use stix::pattern::{self, Md5Spelling};
use stix::{LeftOutReason, StixId};
use vmray::model::{FileIoc, IocCore, Sample, Verdict};

/// The largest size that the platform can store.
const MAX_SIZE: u64 = i32::MAX as u64;

/// Where a version of a file comes from.
#[derive(Clone, Copy)]
enum Origin<'a> {
    Sample,
    Ioc(&'a IocCore),
    /// By its place in the facts.
    Relative(usize),
}

/// A version of a file.
struct Version<'a> {
    origin: Origin<'a>,
    file: File,
    /// ssdeep and import hash: not hashes to the platform, where every hash is an identity.
    ssdeep: Option<&'a str>,
    imphash: Option<&'a str>,
}

/// What the files of a sample became.
#[derive(Default)]
pub(super) struct Files {
    /// The sample, if it is a file that can be identified.
    pub(super) sample: Option<Subject>,
    /// The observables of relatives, by their place in the facts.
    pub(super) relatives: HashMap<usize, StixId>,
}

impl<'a> Mapper<'a> {
    /// Maps all files.
    pub(super) fn files(&mut self) -> Files {
        let mut files = Files::default();
        for group in groups(self.versions()) {
            self.file(group, &mut files);
        }
        files
    }

    fn versions(&mut self) -> Vec<Version<'a>> {
        let facts = self.facts;
        let mut versions = Vec::new();
        if !facts.sample.is_url() {
            let version = self.sample_version(&facts.sample, Origin::Sample);
            versions.extend(self.identified(version, LeftOutReason::SampleWithoutIdentity));
        }
        for (index, relative) in facts.relatives.iter().enumerate() {
            if !relative.sample.is_url() {
                let version = self.sample_version(&relative.sample, Origin::Relative(index));
                versions.extend(self.identified(version, LeftOutReason::RelativeWithoutIdentity));
            }
        }
        if self.settings.ioc_types.contains(&IocType::Files) {
            for ioc in facts.iocs.files.iter().filter(|ioc| iocs::is_wanted(&ioc.core, self.settings)) {
                self.ioc_versions(ioc, &mut versions);
            }
        }
        if self.settings.ioc_types.contains(&IocType::Filenames) {
            for ioc in facts.iocs.filenames.iter().filter(|ioc| iocs::is_wanted(&ioc.core, self.settings)) {
                let file = self.named(ioc.filename.as_deref(), &[]);
                let version = Version { origin: Origin::Ioc(&ioc.core), file, ssdeep: None, imphash: None };
                if let Some(version) = self.identified(version, LeftOutReason::EmptyValue) {
                    versions.push(version);
                    self.count(IocType::Filenames.as_str());
                }
            }
        }
        versions
    }

    fn identified(&mut self, version: Version<'a>, reason: LeftOutReason) -> Option<Version<'a>> {
        if version.file.has_hash() || version.file.name.is_some() {
            Some(version)
        } else {
            self.left_out.add(reason);
            None
        }
    }

    fn sample_version(&mut self, sample: &'a Sample, origin: Origin<'a>) -> Version<'a> {
        let hashes = [sample.md5.as_deref(), sample.sha1.as_deref(), sample.sha256.as_deref()];
        let mut file = self.named(sample.filename.as_deref(), &[]);
        self.hash(&mut file, hashes);
        file.size = self.size(sample.filesize).map(|size| self.dated(size));
        Version { origin, file, ssdeep: sample.ssdeep.as_deref(), imphash: sample.imphash.as_deref() }
    }

    /// One version per entry of the IOC's hashes; without any, one by name.
    fn ioc_versions(&mut self, ioc: &'a FileIoc, versions: &mut Vec<Version<'a>>) {
        let mut named = self.named(ioc.filename.as_deref(), &ioc.filenames);
        let mime_type = ioc.mime_type.as_deref().map(str::trim).filter(|text| !text.is_empty());
        named.mime_type = mime_type.map(|text| self.dated(text.to_owned()));
        if ioc.hashes.len() < 2 {
            // Of several contents it would not be known whose size it is.
            named.size = self.size(ioc.size).map(|size| self.dated(size));
        }
        let before = versions.len();
        for hashes in &ioc.hashes {
            let mut file = named.clone();
            self.hash(&mut file, [hashes.md5.as_deref(), hashes.sha1.as_deref(), hashes.sha256.as_deref()]);
            if file.has_hash() {
                let (ssdeep, imphash) = (hashes.ssdeep.as_deref(), hashes.imphash.as_deref());
                versions.push(Version { origin: Origin::Ioc(&ioc.core), file, ssdeep, imphash });
            }
        }
        if versions.len() == before {
            let version =
                Version { origin: Origin::Ioc(&ioc.core), file: named, ssdeep: None, imphash: None };
            versions.extend(self.identified(version, LeftOutReason::FileWithoutIdentity));
        }
        if versions.len() > before {
            self.count(IocType::Files.as_str());
        }
    }

    fn named(&self, path: Option<&str>, paths: &[String]) -> File {
        let base = |path: &str| values::base_name(path).map(|name| super::text::one_line(name).into_owned());
        let first = path.and_then(base);
        let names: BTreeSet<String> =
            paths.iter().filter_map(|path| base(path)).chain(first.clone()).collect();
        let name = first.or_else(|| names.first().cloned()).map(|name| self.dated(name));
        File { md5: None, sha1: None, sha256: None, name, names, size: None, mime_type: None }
    }

    fn hash(&mut self, file: &mut File, [md5, sha1, sha256]: [Option<&str>; 3]) {
        file.md5 = self.valid(values::hash(md5, 32)).flatten();
        file.sha1 = self.valid(values::hash(sha1, 40)).flatten();
        file.sha256 = self.valid(values::hash(sha256, 64)).flatten();
    }

    fn size(&mut self, size: Option<u64>) -> Option<u32> {
        let size = size?;
        if size > MAX_SIZE {
            self.left_out.add(LeftOutReason::FileSizeTooLarge);
        }
        u32::try_from(size).ok().filter(|_| size <= MAX_SIZE)
    }

    /// Maps all versions of one file.
    fn file(&mut self, group: Vec<Version<'a>>, files: &mut Files) {
        let details = details(&group);
        let iocs: Vec<&'a IocCore> = group.iter().filter_map(|version| version.origin.core()).collect();
        let is_sample = group.iter().any(|version| matches!(version.origin, Origin::Sample));
        let relatives: Vec<usize> = group.iter().filter_map(|version| version.origin.relative()).collect();
        let file = self.united(group);
        let observable = if is_sample {
            self.sample_file(file, &details, &iocs, files)
        } else if iocs.is_empty() {
            self.auxiliary(ObservableValue::File(Box::new(file)))
        } else {
            let context = match iocs[..] {
                [one] => self.shared_context(one),
                _ => Rc::new(self.context(&united_core(&iocs))),
            };
            self.found(file_ioc(file, details), &context).observable
        };
        files.relatives.extend(relatives.into_iter().map(|index| (index, observable)));
    }

    fn sample_file(&mut self, file: File, details: &str, iocs: &[&IocCore], files: &mut Files) -> StixId {
        let core = united_core(iocs);
        let found = file_ioc(file, format!("{SAMPLE_DETAILS} {details}").trim_end().to_owned());
        let (observable, subject) = self.subject(found, &core, !iocs.is_empty());
        files.sample = Some(subject);
        observable
    }

    /// One file of all its versions. The sample's own name comes before what it was called elsewhere.
    fn united(&self, group: Vec<Version<'_>>) -> File {
        let own_name = |version: &Version<'_>| match version.origin {
            Origin::Sample => version.file.name.clone(),
            _ => None,
        };
        let sample_name = group.iter().find_map(own_name);
        let names: BTreeSet<_> = group.iter().filter_map(|version| version.file.name.clone()).collect();
        let mut file = self.named(None, &[]);
        for version in group {
            file.merge(version.file);
        }
        file.name = sample_name.or_else(|| names.into_iter().next());
        file
    }
}

impl<'a> Origin<'a> {
    fn core(self) -> Option<&'a IocCore> {
        match self {
            Origin::Ioc(core) => Some(core),
            Origin::Sample | Origin::Relative(_) => None,
        }
    }

    fn relative(self) -> Option<usize> {
        match self {
            Origin::Relative(index) => Some(index),
            Origin::Sample | Origin::Ioc(_) => None,
        }
    }
}

/// Puts versions together that share a hash, directly or through others.
fn groups(versions: Vec<Version<'_>>) -> Vec<Vec<Version<'_>>> {
    let mut group_of: Vec<usize> = (0..versions.len()).collect();
    let mut first_with: HashMap<&str, usize> = HashMap::new();
    for (index, version) in versions.iter().enumerate() {
        let file = &version.file;
        for hash in [&file.md5, &file.sha1, &file.sha256].into_iter().flatten() {
            match first_with.get(hash.as_str()) {
                Some(&other) => unite(&mut group_of, index, other),
                None => {
                    first_with.insert(hash, index);
                }
            }
        }
    }
    let mut groups: Vec<Vec<Version<'_>>> = versions.iter().map(|_| Vec::new()).collect();
    for (index, version) in versions.into_iter().enumerate() {
        groups[group_of[index]].push(version);
    }
    groups.retain(|group| !group.is_empty());
    groups
}

fn unite(group_of: &mut [usize], a: usize, b: usize) {
    let (a, b) = (group_of[a], group_of[b]);
    for group in group_of {
        if *group == a {
            *group = b;
        }
    }
}

/// What several IOCs say together besides their values.
fn united_core(cores: &[&IocCore]) -> IocCore {
    let texts =
        |of: fn(&IocCore) -> &Vec<String>| cores.iter().flat_map(|core| of(core).iter().cloned()).collect();
    let verdict: Option<Verdict> = cores.iter().filter_map(|core| core.verdict).max();
    IocCore {
        ioc: true,
        verdict,
        analysis_ids: cores.iter().flat_map(|core| core.analysis_ids.iter().copied()).collect(),
        categories: Vec::new(),
        threat_names: texts(|core| &core.threat_names),
        classifications: texts(|core| &core.classifications),
    }
}

/// ssdeep and import hash as text.
fn details(group: &[Version<'_>]) -> String {
    let ssdeep = markdown_list(group.iter().filter_map(|version| version.ssdeep));
    let imphash = markdown_list(group.iter().filter_map(|version| version.imphash));
    let named = [("SSDEEP", ssdeep), ("Imphash", imphash)];
    let known = named.into_iter().filter(|(_, list)| !list.is_empty());
    known.map(|(name, list)| format!("{name}: {list}.")).collect::<Vec<_>>().join(" ")
}

/// The pattern and the name of a file.
fn file_ioc(file: File, details: String) -> Found {
    let hashes = |spelling| {
        pattern::file_hashes(file.md5.as_deref(), file.sha1.as_deref(), file.sha256.as_deref(), spelling)
    };
    let file_name = file.name.as_ref().map_or("", |name| &name.value);
    let pattern = hashes(Md5Spelling::Bare).unwrap_or_else(|| pattern::equals("file:name", file_name));
    let former_id = former_id(hashes(Md5Spelling::Quoted).as_deref(), &pattern);
    let hash = [&file.sha256, &file.sha1, &file.md5].into_iter().flatten().next();
    let name = hash.map_or_else(|| file_name.to_owned(), Clone::clone);
    Found { value: ObservableValue::File(Box::new(file)), pattern, former_id, name, details }
}
