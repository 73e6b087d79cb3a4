//! Small versioned documents with compare-and-set.
//!
//! A document is a JSON object under a two-part key, with a version that grows by one at each write. A writer says
//! which version it has read; somebody who was faster makes it fail with [`StoreError::Conflict`]. That is all the
//! locking there is: cursors, leases, claims and ledgers are rules that stand above it.
//!
//! Two implementations keep the same promises and pass the same tests: [`dynamodb`] for the functions, [`sqlite`] for
//! one machine. What they have in common, the checks before a write included, is in this file.
//!
//! What a caller must know:
//! - Reads see every write that was answered before they began.
//! - Numbers keep their value, not their spelling: `1.0` may come back as `1`.
//! - `ttl` only asks for removal, some time later. Until then an expired document is read and conflicts like any
//!   other: readers ask [`Document::has_expired`].
//! - Versions start at 1, again after a delete.
#![cfg_attr(
    not(any(feature = "aws", feature = "sqlite")),
    expect(dead_code, reason = "what both implementations share is unused without any")
)]

use std::fmt;

use async_trait::async_trait;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

#[cfg(feature = "aws")]
pub mod dynamodb;
#[cfg(feature = "sqlite")]
pub mod sqlite;

/// Names that the store itself uses beside a body's members; a body must not have them at its top level.
pub const RESERVED: [&str; 5] = ["pk", "sk", "version", "ttl", "write_id"];

/// The longest body, as JSON text in bytes. DynamoDB takes items of 409,600 bytes; the rest is for the keys and our own
/// attributes.
pub const MAX_BODY_BYTES: usize = 400_000;

/// DynamoDB's limits for the two parts of a key, in bytes.
const MAX_PK_BYTES: usize = 2048;
const MAX_SK_BYTES: usize = 1024;

/// Where a document is: `pk` groups documents that are queried together, `sk` orders them (by bytes) in the group.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The group, 1 to 2048 bytes.
    pub pk: String,
    /// The place in the group, 1 to 1024 bytes.
    pub sk: String,
}

impl Key {
    /// The key `pk`/`sk`. Lengths are checked when it is used.
    pub fn new(pk: impl Into<String>, sk: impl Into<String>) -> Self {
        Self { pk: pk.into(), sk: sk.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pk, self.sk)
    }
}

/// A stored document as it was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Where it is.
    pub key: Key,
    /// Give it back as [`Expected::Version`] to replace exactly what was read.
    pub version: u64,
    /// When it may be removed, in epoch seconds; `None`: never.
    pub ttl: Option<i64>,
    /// A JSON object.
    pub body: Value,
}

impl Document {
    /// The body as a `T`. Fails with [`StoreError::Malformed`] when it has another shape.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, StoreError> {
        T::deserialize(&self.body).map_err(|source| StoreError::Malformed { key: self.key.clone(), source })
    }

    /// Whether its `ttl` has passed at `now` (epoch seconds), although it has not been removed yet.
    #[must_use]
    pub fn has_expired(&self, now: i64) -> bool {
        self.ttl.is_some_and(|ttl| ttl <= now)
    }
}

/// A document to be created by [`Store::put_new_many`].
#[derive(Debug, Clone, PartialEq)]
pub struct NewDocument {
    /// Where it shall be.
    pub key: Key,
    /// A JSON object without the [`RESERVED`] names, and without empty names at any depth.
    pub body: Value,
    /// When it may be removed, in epoch seconds.
    pub ttl: Option<i64>,
}

/// What a write expects to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Nothing under this key.
    New,
    /// The document in this version.
    Version(u64),
}

impl Expected {
    /// The version that a write with this expectation stores.
    fn next(self) -> u64 {
        match self {
            Self::New => 1,
            Self::Version(version) => version + 1,
        }
    }
}

/// A part of one `pk` group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span<'a> {
    /// Every `sk` that starts with this; the empty prefix is the whole group.
    Prefix(&'a str),
    /// Every `sk` from the first to the last, both included.
    Range {
        /// The lowest `sk`.
        from: &'a str,
        /// The highest `sk`.
        to: &'a str,
    },
}

impl<'a> Span<'a> {
    /// No `sk` of the span is lower.
    fn first(self) -> &'a str {
        match self {
            Self::Prefix(prefix) => prefix,
            Self::Range { from, .. } => from,
        }
    }
}

/// A stretch of documents in ascending `sk`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Page {
    /// At most as many as were asked for.
    pub documents: Vec<Document>,
    /// Give it as `after` to go on; `None`: nothing follows.
    pub next: Option<String>,
}

impl Page {
    /// Makes a page of `limit` documents out of up to one more, which only says that more follow.
    fn cut(mut documents: Vec<Document>, limit: usize) -> Self {
        let more = documents.len() > limit;
        documents.truncate(limit);
        let next = documents.last().filter(|_| more).map(|last| last.key.sk.clone());
        Self { documents, next }
    }
}

/// What went wrong. Only [`Conflict`](Self::Conflict) is part of normal work.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Somebody else has written since the caller read: read again and decide anew.
    #[error("document {key} was not what this write expected: it is now {}", .current.as_ref().map_or("absent".to_owned(), |c| format!("at version {}", c.version)))]
    Conflict {
        /// The document that was to be written.
        key: Key,
        /// What is there now; `None`: nothing.
        current: Option<Box<Document>>,
    },
    /// The document is not of the shape that this version of the program reads.
    #[error(
        "document {key} cannot be read by this version of VMRay Bridge ({source}); was it edited by hand or written by a newer version?"
    )]
    Malformed {
        /// The document.
        key: Key,
        /// What does not fit.
        source: serde_json::Error,
    },
    /// The caller asked for something that no store takes; a fault of the program.
    #[error("document {key} cannot be stored: {problem}")]
    Invalid {
        /// The document.
        key: Key,
        /// Which rule it breaks.
        problem: String,
    },
    /// The body is longer than [`MAX_BODY_BYTES`].
    #[error("document {key} is too large to be stored: {bytes} bytes, and the limit is {MAX_BODY_BYTES}")]
    TooLarge {
        /// The document.
        key: Key,
        /// Its length as JSON text.
        bytes: usize,
    },
    /// The store did not do it: unreachable, refused, out of time. Whether a write took place is unknown.
    #[error("could not {doing} in {place}: {reason}")]
    Unavailable {
        /// What was tried.
        doing: &'static str,
        /// The table or the file.
        place: String,
        /// What the store said, and what can be done about it.
        reason: String,
    },
}

/// Turns a document's struct into a body. Fails with [`StoreError::Invalid`] when it does not become a JSON object.
pub fn to_body<T: Serialize>(key: &Key, value: &T) -> Result<Value, StoreError> {
    serde_json::to_value(value)
        .map_err(|error| StoreError::Invalid { key: key.clone(), problem: error.to_string() })
}

/// Small versioned documents with compare-and-set.
#[async_trait]
pub trait Store: Send + Sync {
    /// The document under `key`, strongly consistent; `None`: there is none.
    async fn get(&self, key: &Key) -> Result<Option<Document>, StoreError>;

    /// The documents under any number of keys, in the order of `keys`, each once; absent ones are left out.
    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Document>, StoreError>;

    /// Writes the whole document if what is there is as `expected`, and says its new version.
    ///
    /// `body` is like [`NewDocument::body`]; `ttl` is in epoch seconds, and `None` takes an earlier
    /// one away. Fails with [`StoreError::Conflict`] when something else is there.
    async fn put(
        &self,
        key: &Key,
        body: Value,
        ttl: Option<i64>,
        expected: Expected,
    ) -> Result<u64, StoreError>;

    /// Creates those of `documents` that are not there yet: `true` at an index means created, `false` was there.
    ///
    /// Not one transaction: after an error some may have been created, and the call can simply be repeated. Of one key
    /// given twice exactly one is `true`.
    async fn put_new_many(&self, documents: Vec<NewDocument>) -> Result<Vec<bool>, StoreError>;

    /// Removes the document if it is in version `expected`. An absent one is removed already: `Ok`.
    async fn delete(&self, key: &Key, expected: u64) -> Result<(), StoreError>;

    /// The first `limit` (at least 1) documents of `span` in the group `pk`, behind the `sk` `after`, by ascending `sk`.
    async fn query(
        &self,
        pk: &str,
        span: Span<'_>,
        limit: usize,
        after: Option<&str>,
    ) -> Result<Page, StoreError>;

    /// [`query`](Self::query) for every `sk` that starts with `sk_prefix`.
    async fn query_prefix(
        &self,
        pk: &str,
        sk_prefix: &str,
        limit: usize,
        after: Option<&str>,
    ) -> Result<Page, StoreError> {
        self.query(pk, Span::Prefix(sk_prefix), limit, after).await
    }

    /// [`query`](Self::query) for every `sk` from `from` to `to`, both included.
    async fn query_range(
        &self,
        pk: &str,
        from: &str,
        to: &str,
        limit: usize,
        after: Option<&str>,
    ) -> Result<Page, StoreError> {
        self.query(pk, Span::Range { from, to }, limit, after).await
    }
}

/// Refuses a key that DynamoDB would refuse, on every store.
fn check_key(key: &Key) -> Result<(), StoreError> {
    let invalid = |problem: String| Err(StoreError::Invalid { key: key.clone(), problem });
    for (name, part, limit) in [("pk", &key.pk, MAX_PK_BYTES), ("sk", &key.sk, MAX_SK_BYTES)] {
        if part.is_empty() {
            return invalid(format!("its {name} is empty"));
        }
        if part.len() > limit {
            return invalid(format!("its {name} has {} bytes, and the limit is {limit}", part.len()));
        }
    }
    Ok(())
}

/// Refuses what no store takes, and returns the body as JSON text.
fn check_write(key: &Key, body: &Value) -> Result<String, StoreError> {
    check_key(key)?;
    let invalid = |problem: String| Err(StoreError::Invalid { key: key.clone(), problem });
    let Some(members) = body.as_object() else {
        return invalid("its body is not a JSON object".to_owned());
    };
    if let Some(name) = RESERVED.iter().find(|name| members.contains_key(**name)) {
        return invalid(format!("its body has a member `{name}`, a name that the store uses itself"));
    }
    if has_empty_name(body) {
        return invalid("its body has a member with an empty name".to_owned());
    }
    let text = body.to_string();
    if text.len() > MAX_BODY_BYTES {
        return Err(StoreError::TooLarge { key: key.clone(), bytes: text.len() });
    }
    Ok(text)
}

/// Whether a member at any depth has an empty name, which DynamoDB refuses.
fn has_empty_name(value: &Value) -> bool {
    match value {
        Value::Object(members) => {
            members.iter().any(|(name, value)| name.is_empty() || has_empty_name(value))
        }
        Value::Array(items) => items.iter().any(has_empty_name),
        _ => false,
    }
}
