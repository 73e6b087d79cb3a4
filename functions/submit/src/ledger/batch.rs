//! A batch: what one call has asked for. It never changes, but for its state of being stopped or retried.

use std::collections::HashSet;
use std::ops::Range;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Number;

use crate::options::Options;
use crate::url::Wrapper;

/// Inputs in one chunk: what one message of the queue is about, and one look at VMRay's list.
pub const CHUNK_ITEMS: usize = 100;

/// The largest chunk, as far below a document's limit as JSON's escapes need: one input may have a URL of 8 KiB.
const CHUNK_BYTES: usize = 180_000;

/// A caller's name for an input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum InputId {
    Number(Number),
    Text(String),
}

/// What a call has asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    pub caller: String,
    /// When it was accepted.
    pub created_at: DateTime<Utc>,
    /// How VMRay shall analyse.
    pub options: Options,
    /// Inputs in each chunk.
    pub chunk_sizes: Vec<u32>,
}

impl Header {
    #[must_use]
    pub fn total(&self) -> usize {
        self.chunk_sizes.iter().map(|size| *size as usize).sum()
    }

    /// The places of the inputs of a chunk in the whole.
    #[must_use]
    pub fn places(&self, chunk: usize) -> Range<usize> {
        let before: usize = self.chunk_sizes.iter().take(chunk).map(|size| *size as usize).sum();
        before..before + self.chunk_sizes.get(chunk).map_or(0, |size| *size as usize)
    }
}

/// Some of a batch's inputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Chunk {
    /// In the order in which they came.
    pub items: Vec<Item>,
}

/// One input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// The caller's own name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<InputId>,
    /// What the caller sent, where it is not the URL itself; without its secrets, where it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// A link that opens something: only the answer to the call itself can show it.
    #[serde(skip)]
    pub unstored_input: Option<String>,
    /// Who had wrapped the link that the caller sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unwrapped_from: Option<Wrapper>,
    /// What is to become of it.
    #[serde(flatten)]
    pub fate: Fate,
}

/// What is to become of an input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "fate", rename_all = "snake_case")]
pub enum Fate {
    /// It is sent, or its ledger entry answers.
    Send {
        /// The URL as it is sent.
        url: String,
        /// Its ledger entry.
        key: String,
        /// Whether an earlier input of the batch is the same.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        duplicate: bool,
    },
    /// It may not be sent.
    Refuse {
        /// A stable word for the reason.
        code: String,
    },
}

impl Chunk {
    /// Ledger key and URL of each URL that may be sent, once.
    pub fn urls(&self) -> impl Iterator<Item = (&str, &str)> {
        let urls = self.items.iter().filter_map(|item| match &item.fate {
            // The first of those that are the same may be in another chunk.
            Fate::Send { url, key, .. } => Some((key.as_str(), url.as_str())),
            Fate::Refuse { .. } => None,
        });
        let mut seen = HashSet::new();
        urls.filter(move |(key, _)| seen.insert(*key))
    }
}

impl Item {
    /// Its ledger entry, if it has one.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        match &self.fate {
            Fate::Send { key, .. } => Some(key),
            Fate::Refuse { .. } => None,
        }
    }

    fn bytes(&self) -> usize {
        let url = match &self.fate {
            Fate::Send { url, .. } => url.len(),
            Fate::Refuse { .. } => 0,
        };
        200 + url + self.input.as_ref().map_or(0, String::len)
    }
}

/// What happens to a batch after it was accepted.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct BatchState {
    /// Why nothing more is sent: VMRay's words about the quota.
    pub stopped: Option<String>,
    /// When a caller last asked for what had failed again.
    pub retried_at: Option<DateTime<Utc>>,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retries: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
pub(super) fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// Cuts inputs into chunks that fit into documents.
#[must_use]
pub fn into_chunks(items: Vec<Item>) -> Vec<Chunk> {
    let mut chunks: Vec<Chunk> = Vec::new();
    let mut bytes = 0;
    for item in items {
        bytes += item.bytes();
        match chunks.last_mut() {
            Some(chunk) if chunk.items.len() < CHUNK_ITEMS && bytes <= CHUNK_BYTES => chunk.items.push(item),
            _ => {
                bytes = item.bytes();
                chunks.push(Chunk { items: vec![item] });
            }
        }
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(url_bytes: usize) -> Item {
        let url = "x".repeat(url_bytes);
        Item {
            id: None,
            input: None,
            unstored_input: None,
            unwrapped_from: None,
            fate: Fate::Send { url, key: "k".to_owned(), duplicate: false },
        }
    }

    #[test]
    fn chunks_are_of_a_hundred_and_fewer_when_urls_are_long() {
        let sizes = |items| into_chunks(items).iter().map(|chunk| chunk.items.len()).collect::<Vec<_>>();
        assert_eq!(sizes((0..250).map(|_| item(30)).collect()), [100, 100, 50]);
        assert_eq!(sizes((0..30).map(|_| item(8192)).collect()), [21, 9]);
        assert_eq!(sizes(Vec::new()), [0; 0]);
    }

    #[test]
    fn a_header_knows_which_inputs_a_chunk_holds() {
        let header = Header {
            caller: "soar".to_owned(),
            created_at: DateTime::UNIX_EPOCH,
            options: Options::default(),
            chunk_sizes: vec![100, 50],
        };
        assert_eq!((header.total(), header.places(1), header.places(2)), (150, 100..150, 150..150));
    }

    #[test]
    fn an_item_survives_being_stored() {
        for item in [
            item(3),
            Item {
                id: None,
                input: Some("x".to_owned()),
                unstored_input: None,
                unwrapped_from: None,
                fate: Fate::Refuse { code: "y".to_owned() },
            },
        ] {
            let stored = serde_json::to_value(&item).unwrap();
            assert_eq!(serde_json::from_value::<Item>(stored).unwrap(), item);
        }
    }
}
