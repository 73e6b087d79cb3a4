//! The labels of a sample: which there are, in which spelling, in which colour.

use std::collections::HashMap;

use crate::settings::{LabelKind, MappingSettings};
use stix::object::{Body, Label};
use stix::{Color, LabelName};

/// All labels of a sample. They are noted first, so that every object names a label by the same spelling.
pub(super) struct LabelBook<'a> {
    settings: &'a MappingSettings,
    by_key: HashMap<String, (LabelName, Color)>,
}

impl<'a> LabelBook<'a> {
    pub(super) fn new(settings: &'a MappingSettings) -> Self {
        Self { settings, by_key: HashMap::new() }
    }

    /// Takes note of a label. Kinds that are switched off are not labels.
    pub(super) fn note(&mut self, kind: LabelKind, text: &str) {
        if !self.settings.labels.contains(&kind) {
            return;
        }
        let Some(name) = LabelName::new(text) else { return };
        let color = self.settings.label_style.of(kind);
        match self.by_key.get_mut(name.key()) {
            // Of two spellings or colours the smaller, whichever came first.
            Some((known, known_color)) => {
                if name < *known {
                    *known = name;
                }
                *known_color = color.min(*known_color);
            }
            None => {
                self.by_key.insert(name.key().to_owned(), (name, color));
            }
        }
    }

    /// The label of a text, if that kind is switched on.
    pub(super) fn get(&self, kind: LabelKind, text: &str) -> Option<LabelName> {
        if !self.settings.labels.contains(&kind) {
            return None;
        }
        let name = LabelName::new(text)?;
        Some(self.by_key.get(name.key()).map_or(name, |(known, _)| known.clone()))
    }

    /// The object of a label.
    pub(super) fn object(&self, name: &LabelName) -> Option<Body> {
        let (name, color) = self.by_key.get(name.key())?;
        Some(Body::Label(Label { name: name.clone(), color: *color }))
    }
}
