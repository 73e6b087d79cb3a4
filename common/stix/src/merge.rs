//! Two versions of one object become one.
//!
//! Merging is commutative, associative and idempotent, so it does not matter in which order samples arrive: lists are
//! united and sorted, scores and dates grow, and of texts the newest sample's stays ([`Dated`](super::object::Dated)).

use crate::object::{Body, File, Indicator, MalwareAnalysis, Object, ObservableValue, Report};

/// Keeps the greater; of dated values that is the newer.
fn keep_max<T: Ord>(mine: &mut T, other: T) {
    if other > *mine {
        *mine = other;
    }
}

fn unite<T: Ord>(mine: &mut Vec<T>, other: Vec<T>) {
    if *mine != other && !other.is_empty() {
        mine.extend(other);
        mine.sort_unstable();
        mine.dedup();
    }
}

impl Object {
    /// Takes over what another version of the same object knows. Objects with different ids are left alone.
    pub fn merge(&mut self, other: Object) {
        if self.id != other.id {
            return;
        }
        self.size.take();
        match (&mut self.body, other.body) {
            (Body::Label(mine), Body::Label(other)) => {
                // Of spellings and colours the smallest, as in a set of labels.
                mine.name = mine.name.clone().min(other.name);
                mine.color = mine.color.min(other.color);
            }
            (Body::Malware(mine), Body::Malware(other)) => {
                keep_max(&mut mine.name, other.name);
                unite(&mut mine.malware_types, other.malware_types);
            }
            (Body::AttackPattern(mine), Body::AttackPattern(other)) => {
                keep_max(&mut mine.name, other.name);
                unite(&mut mine.phases, other.phases);
            }
            (Body::Observable(mine), Body::Observable(other)) => {
                mine.value.merge(other.value);
                keep_max(&mut mine.score, other.score);
                keep_max(&mut mine.description, other.description);
                mine.labels.merge(&other.labels);
            }
            (Body::Indicator(mine), Body::Indicator(other)) => mine.merge(*other),
            (Body::MalwareAnalysis(mine), Body::MalwareAnalysis(other)) => mine.merge(*other),
            (Body::Report(mine), Body::Report(other)) => mine.merge(*other),
            // The identity is a constant, a country comes from a table, and a relationship is its id and nothing else.
            _ => {}
        }
    }
}

impl ObservableValue {
    fn merge(&mut self, other: ObservableValue) {
        match (self, other) {
            (ObservableValue::File(mine), ObservableValue::File(other)) => mine.merge(*other),
            (
                ObservableValue::Email { display_name: mine, .. },
                ObservableValue::Email { display_name: other, .. },
            ) => keep_max(mine, other),
            // All others are their id and nothing else.
            _ => {}
        }
    }
}

impl File {
    /// Takes over what another version of the same file knows.
    pub fn merge(&mut self, other: File) {
        keep_max(&mut self.md5, other.md5);
        keep_max(&mut self.sha1, other.sha1);
        keep_max(&mut self.sha256, other.sha256);
        keep_max(&mut self.name, other.name);
        keep_max(&mut self.size, other.size);
        keep_max(&mut self.mime_type, other.mime_type);
        self.names.extend(other.names);
    }
}

impl Indicator {
    fn merge(&mut self, other: Indicator) {
        keep_max(&mut self.former_id, other.former_id);
        keep_max(&mut self.valid_from, other.valid_from);
        keep_max(&mut self.score, other.score);
        keep_max(&mut self.description, other.description);
        unite(&mut self.indicator_types, other.indicator_types);
        unite(&mut self.phases, other.phases);
        self.labels.merge(&other.labels);
    }
}

impl MalwareAnalysis {
    fn merge(&mut self, other: MalwareAnalysis) {
        keep_max(&mut self.result, other.result);
        keep_max(&mut self.ended, other.ended);
        keep_max(&mut self.sample, other.sample);
        unite(&mut self.observables, other.observables);
        unite(&mut self.links, other.links);
        self.labels.merge(&other.labels);
    }
}

impl Report {
    fn merge(&mut self, other: Report) {
        keep_max(&mut self.modified, other.modified);
        keep_max(&mut self.description, other.description);
        unite(&mut self.objects, other.objects);
        unite(&mut self.links, other.links);
        self.labels.merge(&other.labels);
    }
}
