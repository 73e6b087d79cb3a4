//! The server behind the socket: what it holds, each part under a lock of its own.
//!
//! Who needs both locks takes the desk's before the estate's.

use std::collections::HashMap;
use std::sync::Mutex;

use serde_json::Value;

use super::desk::Desk;
use super::options::VmrayOptions;
use super::submit::Ending;
use crate::estate::Estate;
use crate::server::lock;

/// What is left of a list, to be fetched once.
pub(super) struct Continuation {
    pub(super) rows: Vec<Value>,
    pub(super) truncated: bool,
}

#[derive(Default)]
pub(super) struct Continuations {
    pub(super) last_id: u64,
    pub(super) waiting: HashMap<u64, Continuation>,
}

pub(crate) struct Vmray {
    pub(super) options: VmrayOptions,
    pub(super) estate: Mutex<Estate>,
    pub(super) desk: Mutex<Desk>,
    pub(super) keys: Mutex<Vec<String>>,
    pub(super) continuations: Mutex<Continuations>,
}

impl Vmray {
    pub(super) fn new(mut options: VmrayOptions) -> Self {
        Self {
            estate: Mutex::new(std::mem::take(&mut options.estate)),
            desk: Mutex::new(Desk::new(options.submit.quota_limit)),
            keys: Mutex::new(options.api_keys.clone()),
            options,
            continuations: Mutex::default(),
        }
    }

    /// Does what is due by now. Called before anything is looked at.
    pub(super) fn settle(&self) {
        let mut desk = lock(&self.desk);
        desk.settle(&mut lock(&self.estate));
    }

    pub(super) fn finish(&self, url: Option<&str>, ending: Option<Ending>) -> usize {
        let mut desk = lock(&self.desk);
        desk.finish(&mut lock(&self.estate), url, ending)
    }
}
