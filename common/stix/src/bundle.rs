//! Bundles: samples packed together until the limits, objects of one id merged, written once.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::id::{ObjectKind, StixId};
use crate::mapped::MappedSample;
use crate::object::Object;
use crate::standard_id;
use crate::timestamp::Timestamp;

/// How large a bundle may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BundleLimits {
    /// Objects: each costs the platform a message.
    pub max_objects: usize,
    pub max_bytes: usize,
}

impl Default for BundleLimits {
    fn default() -> Self {
        Self { max_objects: 2000, max_bytes: 4 * 1024 * 1024 }
    }
}

/// What the JSON of a bundle has around its objects, generously.
pub(super) const ENVELOPE: usize = 128;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// What OpenCTI is given.
    pub json: String,
    pub object_count: usize,
    /// Their ids, in the order of the bundle.
    pub ids: Vec<StixId>,
}

impl Bundle {
    /// Merges samples into one bundle. The order of the samples does not matter.
    ///
    /// `select` is given each merged object with the time of the newest analysis that it is from, may change it, and says
    /// whether it is in the bundle.
    #[must_use]
    pub fn merge(
        samples: &[MappedSample],
        mut select: impl FnMut(&mut Cow<'_, Object>, Timestamp) -> bool,
    ) -> Bundle {
        let mut objects: BTreeMap<_, (Cow<'_, Object>, Timestamp)> = BTreeMap::new();
        for sample in samples {
            for object in &sample.objects {
                objects
                    .entry(object.order())
                    .and_modify(|(known, analysed)| {
                        merge_cow(known, object);
                        *analysed = sample.analysed.max(*analysed);
                    })
                    .or_insert((Cow::Borrowed(object), sample.analysed));
            }
        }
        let selected = objects
            .into_values()
            .filter_map(|(mut object, analysed)| select(&mut object, analysed).then_some(object));
        Self::write(&selected.collect::<Vec<_>>())
    }

    fn write(objects: &[Cow<'_, Object>]) -> Bundle {
        let ids: Vec<StixId> = objects.iter().map(|object| object.id()).collect();
        let mut json = Vec::with_capacity(ENVELOPE + objects.len() * 700);
        // Neither can fail: the sink is memory, and all keys are texts.
        let _ = serde_json::to_writer(&mut json, &Written { id: bundle_id(&ids), objects });
        let json = String::from_utf8(json).unwrap_or_default();
        Bundle { json, object_count: ids.len(), ids }
    }

    /// The labels it brings, which need not be brought again in the same run: objects name them by text, not by id.
    pub fn label_ids(&self) -> impl Iterator<Item = StixId> + '_ {
        self.ids.iter().copied().filter(|id| id.kind() == ObjectKind::Label)
    }
}

/// Selects every object of a bundle.
#[must_use]
pub fn everything(_: &mut Cow<'_, Object>, _: Timestamp) -> bool {
    true
}

fn merge_cow(known: &mut Cow<'_, Object>, other: &Object) {
    // Most repeated objects are exactly repeated (countries, relationships, the identity).
    if **known != *other {
        known.to_mut().merge(other.clone());
    }
}

/// A bundle's id follows from what is in it.
fn bundle_id(ids: &[StixId]) -> String {
    let mut content = String::with_capacity(ids.len() * 50);
    for id in ids {
        id.with_str(|text| content.push_str(text));
        content.push(' ');
    }
    format!("bundle--{}", standard_id::uuid_of(&content))
}

struct Written<'a> {
    id: String,
    objects: &'a [Cow<'a, Object>],
}

impl Serialize for Written<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("type", "bundle")?;
        map.serialize_entry("id", &self.id)?;
        map.serialize_entry("objects", self.objects)?;
        map.end()
    }
}

/// How many bytes an object takes in a bundle, its comma included.
pub(super) fn size_of(object: &Object) -> usize {
    object.size() + 1
}

/// Groups samples into bundles.
#[derive(Debug)]
pub struct Packer {
    limits: BundleLimits,
    group: Vec<MappedSample>,
    /// The ids in the group, each with the most bytes it can have once merged.
    ids: HashMap<StixId, usize>,
    bytes: usize,
}

impl Packer {
    #[must_use]
    pub fn new(limits: BundleLimits) -> Self {
        Self { limits, group: Vec::new(), ids: HashMap::new(), bytes: ENVELOPE }
    }

    /// Adds a sample. Hands out the group so far when the sample would take it over a limit; the sample then
    /// starts the next group. A sample over the limits by itself should be [split](MappedSample::split) first, else
    /// it makes a group that is over them.
    pub fn add(&mut self, sample: MappedSample) -> Option<Vec<MappedSample>> {
        let sizes: Vec<_> = sample.objects.iter().map(|object| (object.id(), size_of(object))).collect();
        let full = !self.group.is_empty() && !self.fits(&sizes);
        let group = if full { self.finish() } else { None };
        for (id, size) in sizes {
            let known = self.ids.get(&id).copied();
            let merged = merged_size(id, known, size);
            self.bytes += merged - known.unwrap_or(0);
            self.ids.insert(id, merged);
        }
        self.group.push(sample);
        group
    }

    fn fits(&self, sizes: &[(StixId, usize)]) -> bool {
        let (mut objects, mut bytes) = (self.ids.len(), self.bytes);
        for (id, size) in sizes {
            let known = self.ids.get(id).copied();
            objects += usize::from(known.is_none());
            bytes += merged_size(*id, known, *size) - known.unwrap_or(0);
        }
        objects <= self.limits.max_objects && bytes <= self.limits.max_bytes
    }

    /// Hands out what is left.
    pub fn finish(&mut self) -> Option<Vec<MappedSample>> {
        self.ids.clear();
        self.bytes = ENVELOPE;
        let group = std::mem::take(&mut self.group);
        (!group.is_empty()).then_some(group)
    }
}

/// The most that two versions of an object can take once merged.
fn merged_size(id: StixId, known: Option<usize>, size: usize) -> usize {
    match (known, id.kind()) {
        (None, _) => size,
        // These are the same in every sample, give or take the spelling of a name.
        (Some(known), ObjectKind::Relationship | ObjectKind::Identity | ObjectKind::Label) => known.max(size),
        (Some(known), _) => known + size,
    }
}
