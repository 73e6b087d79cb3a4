//! What waits for the platform's workers, and what the broker says about it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::Value;

use super::options::Statistics;

/// One message for a worker.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) connector_id: String,
    pub(super) work_id: String,
    pub(super) content: Content,
    pub(super) bytes: usize,
}

#[derive(Debug)]
pub(super) enum Content {
    /// A whole bundle, which a worker splits.
    Bundle(Vec<Value>),
    Object(Value),
}

/// The queues of all connectors, in the order of the pushes.
#[derive(Debug)]
pub(super) struct Queue {
    messages: VecDeque<Message>,
    /// The broker's statistics as they were collected last: messages and bytes by connector. `None`: they are always right.
    collected: Option<BTreeMap<String, (u64, u64)>>,
}

impl Queue {
    pub(super) fn new(statistics: Statistics) -> Self {
        Self {
            messages: VecDeque::new(),
            collected: (statistics == Statistics::Collected).then(BTreeMap::new),
        }
    }

    pub(super) fn add(&mut self, message: Message) {
        self.messages.push_back(message);
    }

    pub(super) fn next(&mut self) -> Option<Message> {
        self.messages.pop_front()
    }

    /// Throws a connector's messages away; gives the works that they belonged to.
    pub(super) fn purge(&mut self, connector_id: &str) -> BTreeSet<String> {
        let (purged, kept) = std::mem::take(&mut self.messages)
            .into_iter()
            .partition(|message| message.connector_id == connector_id);
        self.messages = kept;
        let purged: VecDeque<Message> = purged;
        purged.into_iter().map(|message| message.work_id).collect()
    }

    /// How many objects wait, in whole bundles too.
    pub(super) fn objects(&self) -> usize {
        let objects = |message: &Message| match &message.content {
            Content::Bundle(objects) => objects.len(),
            Content::Object(_) => 1,
        };
        self.messages.iter().map(objects).sum()
    }

    /// Messages and bytes, as the broker tells.
    pub(super) fn size(&self, connector_id: &str) -> (u64, u64) {
        match &self.collected {
            Some(collected) => collected.get(connector_id).copied().unwrap_or_default(),
            None => self.sizes().get(connector_id).copied().unwrap_or_default(),
        }
    }

    /// Brings statistics that lag behind up to date.
    pub(super) fn collect(&mut self) {
        if self.collected.is_some() {
            self.collected = Some(self.sizes());
        }
    }

    fn sizes(&self) -> BTreeMap<String, (u64, u64)> {
        let mut sizes: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for message in &self.messages {
            let size = sizes.entry(message.connector_id.clone()).or_default();
            *size = (size.0 + 1, size.1 + message.bytes as u64);
        }
        sizes
    }
}
