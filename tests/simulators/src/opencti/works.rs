//! Works: what the platform tells about a push, and when it is done.

use serde_json::{Value, json};

use super::checks::Refusal;
use super::version::Version;

/// The platform keeps no more errors of one work.
const MAX_ERRORS: usize = 100;
/// The platform shows no more works of one connector.
const SHOWN: usize = 20;

/// One work.
#[derive(Clone, Debug)]
pub struct Work {
    /// `work_<connector>_<time>`
    pub id: String,
    /// The connector it belongs to.
    pub connector_id: String,
    /// Its name.
    pub name: String,
    /// `wait`, `progress` or `complete`.
    pub status: String,
    /// When it was made.
    pub timestamp: String,
    /// Errors: message and source.
    pub errors: Vec<(String, String)>,
    /// Objects expected, once that is known.
    pub expected: Option<usize>,
    /// Objects imported or refused, once there is one.
    pub processed: Option<usize>,
    processed_time: Option<String>,
    completed_time: Option<String>,
    multipart: bool,
}

impl Work {
    pub(super) fn new(connector_id: &str, name: String, multipart: bool, now: String) -> Self {
        Self {
            id: format!("work_{connector_id}_{now}"),
            connector_id: connector_id.to_owned(),
            name,
            status: "progress".to_owned(),
            timestamp: now,
            errors: Vec::new(),
            expected: None,
            processed: None,
            processed_time: None,
            completed_time: None,
            multipart,
        }
    }

    pub(super) fn expect(&mut self, count: usize) {
        self.expected = Some(self.expected.unwrap_or(0) + count);
    }

    /// A worker has imported an object, or was refused it.
    pub(super) fn report(&mut self, refused: Option<(&Refusal, &Value)>, version: Version, now: String) {
        self.processed = Some(self.processed.unwrap_or(0) + 1);
        if let Some((refusal, object)) = refused
            && self.errors.len() < MAX_ERRORS
        {
            self.errors.push((refusal.text(), as_worker_prints(object.clone(), version).to_string()));
        }
        if self.is_done(version) && (!self.multipart || self.processed_time.is_some()) {
            self.complete(now);
        }
    }

    pub(super) fn end(&mut self, message: &str, in_error: bool, version: Version, now: String) {
        self.processed_time = Some(now.clone());
        if in_error {
            self.errors.push((message.to_owned(), "Connector".to_owned()));
        }
        if self.expected.is_none() || self.is_done(version) {
            self.complete(now);
        }
    }

    /// Whether everything expected was processed. 6.9.0 compares with "not told", which nothing equals.
    fn is_done(&self, version: Version) -> bool {
        let processed = self.processed.unwrap_or(0);
        if version >= Version::COMPLETE_BEYOND {
            processed >= self.expected.unwrap_or(0)
        } else {
            self.expected == Some(processed)
        }
    }

    pub(super) fn complete(&mut self, now: String) {
        "complete".clone_into(&mut self.status);
        self.completed_time = Some(now);
    }

    pub(super) fn json(&self) -> Value {
        let error = |(message, source): &(String, String)| json!({"timestamp": self.timestamp, "message": message, "source": source});
        let errors: Vec<Value> = self.errors.iter().map(error).collect();
        json!({
            "id": self.id, "name": self.name, "status": self.status, "timestamp": self.timestamp,
            "event_source_id": self.connector_id, "received_time": self.timestamp, "errors": errors,
            "messages": [], "processed_time": self.processed_time, "completed_time": self.completed_time,
            "tracking": {"import_expected_number": self.expected, "import_processed_number": self.processed},
        })
    }
}

/// A refused object as it stands on the work: with what the worker adds before it sends it.
fn as_worker_prints(mut object: Value, version: Version) -> Value {
    object["nb_deps"] = json!(1);
    if object["type"] == "relationship" {
        for name in
            ["x_opencti_stix_ids", "x_opencti_granted_refs", "x_opencti_workflow_id", "x_opencti_modified_at"]
        {
            object[name] = Value::Null;
        }
        if version >= Version::SPLIT_AT_PUSH {
            object["opencti_upsert_operations"] = Value::Null;
        }
    }
    object
}

/// All works, oldest first.
#[derive(Debug, Default)]
pub(super) struct Works(Vec<Work>);

impl Works {
    pub(super) fn all(&self) -> &[Work] {
        &self.0
    }

    pub(super) fn add(&mut self, work: Work) -> &Work {
        self.0.push(work);
        &self.0[self.0.len() - 1]
    }

    pub(super) fn get(&self, id: &str) -> Option<&Work> {
        // Nearly always one of the last.
        self.0.iter().rev().find(|work| work.id == id)
    }

    pub(super) fn get_mut(&mut self, id: &str) -> Option<&mut Work> {
        self.0.iter_mut().rev().find(|work| work.id == id)
    }

    pub(super) fn delete(&mut self, id: &str) {
        self.0.retain(|work| work.id != id);
    }

    /// What the platform shows of a connector's works: the newest, in that order.
    pub(super) fn shown(&self, connector_id: &str) -> Vec<Value> {
        let works = self.0.iter().rev().filter(|work| work.connector_id == connector_id);
        works.take(SHOWN).map(Work::json).collect()
    }
}
