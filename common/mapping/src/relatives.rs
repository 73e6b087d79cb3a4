//! Parents and children of the sample: linked whether or not they are in the same run.

use std::collections::HashMap;

use crate::RelativeRole;
use crate::mapper::Mapper;
use crate::subject::Subject;
use crate::values;
use stix::object::{ObservableValue, RelationshipKind};
use stix::{LeftOutReason, ObjectKind, StixId};

impl Mapper<'_> {
    /// Links the relatives; those that are files are mapped already. Returns the parents.
    pub(super) fn relatives(
        &mut self,
        subject: Option<&Subject>,
        files: &HashMap<usize, StixId>,
    ) -> Vec<StixId> {
        let mut parents = Vec::new();
        for (index, relative) in self.facts.relatives.iter().enumerate() {
            let observable = match files.get(&index) {
                Some(file) => Some(*file),
                None if relative.sample.is_url() => self.relative_url(relative.sample.url.as_deref()),
                // Counted when the files were mapped.
                None => None,
            };
            let (Some(observable), Some(subject)) = (observable, subject) else { continue };
            let (parent, child) = match relative.role {
                RelativeRole::Parent => (observable, subject.observable),
                RelativeRole::Child => (subject.observable, observable),
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

    fn relative_url(&mut self, url: Option<&str>) -> Option<StixId> {
        let url = self.valid(values::non_empty(url).map_err(|_| LeftOutReason::RelativeWithoutIdentity))?;
        Some(self.auxiliary(ObservableValue::Url(url.to_owned())))
    }
}
