//! Where all shapes end: the inputs found so far, and what was wrong on the way.

use serde_json::Map;

use super::{BodyError, Id, Input, RequestBody, Value};
use crate::api::fault::Faults;

/// More than any product's id, even a STIX id or a URL used as one.
const ID_CHARS: usize = 256;

/// Collects inputs, up to what one call may bring.
pub(super) struct Intake {
    inputs: Vec<Input>,
    pub(super) faults: Faults,
    max: usize,
}

/// One more input than allowed came: nothing further needs to be read.
#[derive(Debug)]
pub(super) struct Full;

impl Intake {
    pub(super) fn new(max: usize) -> Self {
        Self { inputs: Vec::new(), faults: Faults::default(), max }
    }

    pub(super) fn url(&mut self, id: Option<Id>, url: String) -> Result<(), Full> {
        self.push(Input { id, value: Value::Url(url) })
    }

    pub(super) fn not_a_url(&mut self, id: Option<Id>, what: String) -> Result<(), Full> {
        self.push(Input { id, value: Value::NotAUrl(what) })
    }

    fn push(&mut self, input: Input) -> Result<(), Full> {
        if self.inputs.len() == self.max {
            return Err(Full);
        }
        // A call with a fault is refused as a whole: no need to keep what else it brings.
        if self.faults.is_empty() {
            self.inputs.push(input);
        }
        Ok(())
    }

    /// The body, if nothing was wrong. `place` is where the inputs should have stood.
    pub(super) fn finish(
        mut self,
        place: &str,
        options: Map<String, serde_json::Value>,
    ) -> Result<RequestBody, BodyError> {
        if self.inputs.is_empty() && self.faults.is_empty() {
            self.faults.push(place, "there is no URL in it, nor anything else that could be answered");
        }
        if self.faults.is_empty() {
            Ok(RequestBody { inputs: self.inputs, options })
        } else {
            Err(BodyError::Wrong(self.faults.into_vec()))
        }
    }
}

/// An id of a length that ids have.
pub(super) fn text_id(text: String) -> Result<Id, &'static str> {
    if text.chars().count() > ID_CHARS {
        Err("too long; expected at most 256 characters")
    } else {
        Ok(Id::Text(text))
    }
}
