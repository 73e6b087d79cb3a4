//! Parents and children of the sample: linked whether or not they are in the same run.

use std::collections::HashMap;

use crate::RelativeRole;
use crate::mapper::Mapper;
use crate::subject::Subject;
use stix::object::{ObservableValue, RelationshipKind};
use stix::{ObjectKind, StixId};
use vmray::model::Sample;

impl Mapper<'_> {
    /// Links the relatives; those that are files are mapped already. Returns the parents.
    pub(super) fn relatives(&mut self, subject: &Subject, files: &HashMap<usize, StixId>) -> Vec<StixId> {
        let mut parents = Vec::new();
        for (index, relative) in self.facts.relatives.iter().enumerate() {
            let observable = match files.get(&index) {
                Some(file) => Some(*file),
                None if relative.sample.is_url() => self.relative_url(&relative.sample),
                // Counted when the files were mapped.
                None => None,
            };
            let (Some(observable), Some(sample)) = (observable, subject.observable) else { continue };
            let (parent, child) = match relative.role {
                RelativeRole::Parent => (observable, sample),
                RelativeRole::Child => (sample, observable),
            };
            if relative.role == RelativeRole::Parent {
                parents.push(observable);
            }
            let files = parent.kind() == ObjectKind::File && child.kind() == ObjectKind::File;
            let kind = if files { RelationshipKind::Drops } else { RelationshipKind::RelatedTo };
            self.relate(kind, parent, child);
        }
        parents
    }

    fn relative_url(&mut self, sample: &Sample) -> Option<StixId> {
        Some(self.auxiliary(ObservableValue::Url(sample.url.clone()?)))
    }
}
