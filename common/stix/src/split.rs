//! Samples that are too large for one bundle are cut into parts, each complete in itself: the author, the report and the
//! analyses with only the references that the part can keep (the platform unites them), and relationships with both ends.

use std::collections::{BTreeSet, HashMap};

use crate::bundle::{BundleLimits, ENVELOPE, size_of};
use crate::id::StixId;
use crate::left_out::LeftOut;
use crate::mapped::MappedSample;
use crate::object::{Body, Object};

/// What a reference takes in a report or analysis: the longest id, quotes and comma.
const REFERENCE: usize = 64;

impl MappedSample {
    /// Cuts a sample into parts within the limits. One that is within them stays whole.
    ///
    /// A part always holds the report and at least one more object with what it refers to, even where that alone
    /// is over the limits.
    #[must_use]
    pub fn split(self, limits: &BundleLimits) -> Vec<MappedSample> {
        let bytes: usize = ENVELOPE + self.objects.iter().map(size_of).sum::<usize>();
        if self.objects.len() <= limits.max_objects && bytes <= limits.max_bytes {
            return vec![self];
        }
        let cutter = Cutter::new(&self.objects);
        let parts = cutter.cut(limits);
        let mut left_out = self.left_out.clone();
        let parts = parts.iter().map(|part| MappedSample {
            sample_id: self.sample_id,
            analysed: self.analysed,
            objects: cutter.part(part),
            // Counted once, with the first part.
            left_out: std::mem::take(&mut left_out),
        });
        parts.collect()
    }
}

/// Cuts a sample into two smaller ones; gives it back if it cannot be made smaller.
pub fn halve(sample: MappedSample) -> Result<(MappedSample, MappedSample), MappedSample> {
    let cutter = Cutter::new(&sample.objects);
    let limits = BundleLimits { max_objects: usize::MAX, max_bytes: cutter.half() };
    let mut parts = cutter.cut(&limits).into_iter();
    let (Some(first), rest) = (parts.next(), parts.flatten().collect::<BTreeSet<_>>()) else {
        return Err(sample);
    };
    let (first, rest) = (cutter.part(&first), cutter.part(&rest));
    let whole = sample.objects.len();
    if first.len() >= whole || rest.len() >= whole || rest.is_empty() {
        return Err(sample);
    }
    let rest = MappedSample { objects: rest, left_out: LeftOut::default(), ..sample };
    Ok((MappedSample { objects: first, ..sample }, rest))
}

/// Places of objects in the sample.
type Part = BTreeSet<usize>;

struct Cutter<'a> {
    objects: &'a [Object],
    place: HashMap<StixId, usize>,
    /// Bytes of each object; of those in every part, without their references.
    sizes: Vec<usize>,
    /// In every part: author, report, analyses, the sample's observable.
    base: Part,
    /// How many objects may refer to one that is not in every part.
    referrers: usize,
}

impl<'a> Cutter<'a> {
    fn new(objects: &'a [Object]) -> Self {
        let place: HashMap<_, _> =
            objects.iter().enumerate().map(|(index, object)| (object.id(), index)).collect();
        let mut base = Part::new();
        let mut referrers = 0;
        for (index, object) in objects.iter().enumerate() {
            match object.body() {
                Body::Identity => {
                    base.insert(index);
                }
                Body::Report(_) | Body::MalwareAnalysis(_) => {
                    base.insert(index);
                    referrers += 1;
                }
                _ => {}
            }
            if let Body::MalwareAnalysis(analysis) = object.body() {
                base.extend(analysis.sample.and_then(|sample| place.get(&sample).copied()));
            }
        }
        let sizes = objects.iter().map(|object| size_of(&object.with_refs(|_| false))).collect();
        Self { objects, place, sizes, base, referrers }
    }

    fn cost(&self, index: usize) -> usize {
        self.sizes[index] + self.referrers * REFERENCE
    }

    fn cost_of(&self, part: &Part) -> usize {
        part.iter().map(|index| self.cost(*index)).sum()
    }

    /// A size under which the objects that are not in every part come in two halves.
    fn half(&self) -> usize {
        let base = self.cost_of(&self.base);
        let all: usize = (0..self.objects.len()).map(|index| self.cost(index)).sum();
        ENVELOPE + base + (all - base).div_ceil(2)
    }

    /// Distributes all objects over parts, in an order in which neighbours have much in common.
    fn cut(&self, limits: &BundleLimits) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut part = self.base.clone();
        let mut bytes = ENVELOPE + self.cost_of(&part);
        let mut placed = self.base.clone();
        for index in self.sequence() {
            if placed.contains(&index) {
                continue;
            }
            let mut needed = self.with_ends(index);
            needed.retain(|index| !part.contains(index));
            let over = part.len() + needed.len() > limits.max_objects
                || bytes + self.cost_of(&needed) > limits.max_bytes;
            if over && part.len() > self.base.len() {
                parts.push(std::mem::replace(&mut part, self.base.clone()));
                bytes = ENVELOPE + self.cost_of(&part);
                needed = self.with_ends(index);
                needed.retain(|index| !part.contains(index));
            }
            bytes += self.cost_of(&needed);
            placed.extend(&needed);
            part.extend(needed);
        }
        parts.push(part);
        parts
    }

    /// Labels first, because they should be there before others name them; then relationships by where they start;
    /// then whatever no relationship brought along.
    fn sequence(&self) -> Vec<usize> {
        let key = |index: &usize| match self.objects[*index].body() {
            Body::Label(_) => (0, None),
            Body::Relationship(relationship) => (1, Some((relationship.source(), relationship.target()))),
            _ => (2, None),
        };
        let mut all: Vec<_> = (0..self.objects.len()).collect();
        all.sort_by_key(key);
        all
    }

    /// An object and, of a relationship, its ends.
    fn with_ends(&self, index: usize) -> Part {
        let refs = match self.objects[index].body() {
            Body::Relationship(_) => self.objects[index].refs(),
            _ => Vec::new(),
        };
        refs.iter().filter_map(|id| self.place.get(id).copied()).chain([index]).collect()
    }

    /// The objects of a part.
    fn part(&self, part: &Part) -> Vec<Object> {
        let holds = |id: &StixId| self.place.get(id).is_some_and(|index| part.contains(index));
        part.iter().map(|index| self.objects[*index].with_refs(holds)).collect()
    }
}
