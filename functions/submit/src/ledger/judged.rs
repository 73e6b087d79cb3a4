//! The inputs of a chunk as their batch sees them: each with its entry, and what is told of it.

use std::collections::HashMap;

use store::StoreError;

use super::batch::Item;
use super::outcome::{Counts, Outcome, Perspective};
use super::{Ledger, Refresh, Versioned};

/// Inputs, and the entries that they point at.
#[derive(Debug)]
pub struct Judged<'i, 'b> {
    items: Vec<&'i Item>,
    /// By key.
    pub entries: HashMap<String, Versioned>,
    /// How the batch sees them.
    pub perspective: Perspective<'b>,
    /// When VMRay was last asked for their verdicts.
    pub refresh: Option<Refresh>,
}

impl Ledger {
    /// Inputs of a batch with what the ledger knows of them.
    pub async fn judged<'i, 'b>(
        &self,
        items: impl IntoIterator<Item = &'i Item>,
        perspective: Perspective<'b>,
        refresh: Option<Refresh>,
    ) -> Result<Judged<'i, 'b>, StoreError> {
        let items: Vec<_> = items.into_iter().collect();
        let entries = self.entries(items.iter().filter_map(|item| item.key()), perspective.now).await?;
        Ok(Judged { items, entries, perspective, refresh })
    }
}

impl<'i> Judged<'i, '_> {
    /// Each input, and what is told of it.
    pub fn outcomes(&self) -> impl Iterator<Item = (&'i Item, Outcome<'_>)> {
        self.items.iter().map(|item| (*item, self.outcome(item)))
    }

    fn outcome<'e>(&'e self, item: &'e Item) -> Outcome<'e> {
        let entry = item.key().and_then(|key| self.entries.get(key)).map(|entry| &entry.value);
        self.perspective.outcome(item, entry, self.refresh.as_ref())
    }

    /// How many stand where.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        self.outcomes().for_each(|(_, outcome)| counts.add(outcome.status));
        counts
    }

    /// The inputs of which something is left to send.
    #[must_use]
    pub fn unsent(&self) -> Vec<&'i Item> {
        let unsent = self.outcomes().filter(|(_, outcome)| outcome.status.is_unsent());
        unsent.map(|(item, _)| item).collect()
    }

    /// Whether there are any.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        self.outcomes().any(|(_, outcome)| outcome.status.is_unsent())
    }
}
