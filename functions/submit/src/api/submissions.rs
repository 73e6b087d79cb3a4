//! Submitting a collection, asking for it, retrying it.

use std::time::Duration;

use runtime::http::Deadline;
use serde::Serialize;
use tokio::time::Instant;

use super::answer::{BatchAnswer, ResultPage, look_again, patience};
use super::body::{self, BodyLimits, RequestBody};
use super::http::{Request, Response};
use super::keyring::Keyed;
use super::options;
use super::problem::{Problem, ProblemKind};
use super::{CallFailure, MOST_BODY_BYTES, MOST_BODY_DEPTH, parameters};
use crate::calls::accept::Call;
use crate::calls::{Ask, Caller};
use crate::ledger::Batch;
use crate::ledger::outcome::Counts;
use crate::options::Options;
use crate::service::Submit;

/// What is kept of a request for its answer.
const TIME_TO_ANSWER: Duration = Duration::from_secs(3);

/// Several batches, for pollers.
#[derive(Serialize)]
struct BatchesAnswer<'a> {
    done: bool,
    errors: bool,
    pending_ids: Vec<&'a str>,
    unknown_ids: Vec<&'a str>,
    batches: Vec<BatchAnswer<'a>>,
}

impl Submit {
    /// Reads the body of a call, and checks its options.
    pub(super) fn read_call(
        &self,
        request: &Request,
        caller: &Caller,
    ) -> Result<(RequestBody, Options), Problem> {
        if let Some(encoding) = request.header("content-encoding")
            && !encoding.trim().is_empty()
            && !encoding.trim().eq_ignore_ascii_case("identity")
        {
            let detail =
                "compressed bodies are not read; send it as it is, in several calls if it is too large";
            return Err(Problem::new(ProblemKind::UnsupportedMediaType, detail));
        }
        let limits = BodyLimits {
            max_urls: caller.urls_per_request(&self.settings.limits),
            max_bytes: MOST_BODY_BYTES,
            max_depth: MOST_BODY_DEPTH,
        };
        let body = body::parse(request.header("content-type"), &request.body, limits)?;
        let allow_shareable = self.settings.defaults.allow_shareable;
        let options = options::read(&body.options, &self.settings.defaults.options, allow_shareable)
            .map_err(Problem::invalid_options)?;
        Ok((body, options))
    }

    pub(super) async fn post_submissions(
        &self,
        request: &Request,
        keyed: &Keyed,
        caller: &Caller,
        deadline: Deadline,
    ) -> Result<Response, CallFailure> {
        let wait = parameters::wait(request)?;
        let idempotency_key = parameters::idempotency_key(request)?;
        let until = Instant::now() + wait;
        let (body, options) = self.read_call(request, caller)?;
        let RequestBody { inputs, options: given_options } = body;
        let call = Call { inputs, options, given_options, idempotency_key };
        let mut batch = self.calls.accept(&keyed.gate, caller, call).await?;
        let something_was_unsent = self.wait_until_sent(&mut batch, until, deadline).await?;
        // What was only just sent has no verdict: it is not worth the wait for VMRay's list.
        let ask = if something_was_unsent { Ask::NoOne } else { Ask::VmrayUntil(patience(deadline)) };
        Ok(self.answer(&batch, ResultPage::FIRST, patience(deadline), ask).await?.response())
    }

    /// Waits until nothing is left to send; `false`: nothing was. The quota is asked for meanwhile.
    async fn wait_until_sent(
        &self,
        batch: &mut Batch,
        until: Instant,
        deadline: Deadline,
    ) -> Result<bool, CallFailure> {
        let until = until.min(Instant::now() + deadline.remaining().saturating_sub(TIME_TO_ANSWER));
        let waiting = self.calls.wait_until_sent(batch, until);
        let (waited, _) = tokio::join!(waiting, self.vmray.quota(patience(deadline)));
        let waited = waited?;
        batch.state = waited.state;
        Ok(waited.something_was_unsent)
    }

    /// The batch, if it is this caller's.
    async fn batch_of(&self, caller: &Caller, id: &str) -> Result<Option<Batch>, CallFailure> {
        if !parameters::is_batch_id(id) {
            return Ok(None);
        }
        Ok(self.calls.batch_of(caller, id).await?)
    }

    async fn known_batch(&self, caller: &Caller, id: &str) -> Result<Batch, CallFailure> {
        let no_such =
            || Problem::new(ProblemKind::NoSuchBatch, "it never was, is over its retention, or is not yours");
        self.batch_of(caller, id).await?.ok_or_else(|| no_such().into())
    }

    pub(super) async fn get_submission(
        &self,
        request: &Request,
        caller: &Caller,
        id: &str,
        deadline: Deadline,
    ) -> Result<Response, CallFailure> {
        let selection = parameters::selection(request, false)?;
        let batch = self.known_batch(caller, id).await?;
        Ok(self
            .answer(&batch, selection.page, patience(deadline), Ask::VmrayUntil(patience(deadline)))
            .await?
            .response())
    }

    pub(super) async fn get_submissions(
        &self,
        request: &Request,
        caller: &Caller,
        deadline: Deadline,
    ) -> Result<Response, CallFailure> {
        let selection = parameters::selection(request, true)?;
        let ids = selection.ids.ok_or_else(|| {
            Problem::new(ProblemKind::InvalidParameter, "`ids` is missing: a list of batches with commas")
        })?;
        let mut batches = Vec::new();
        let mut unknown_ids = Vec::new();
        for id in &ids {
            match self.batch_of(caller, id).await? {
                Some(batch) => batches.push(batch),
                None => unknown_ids.push(id.as_str()),
            }
        }
        // Together they fit into one answer as one batch does: the later ones get what the first leave.
        let mut page = selection.page;
        let patience = patience(deadline);
        let mut answers = Vec::with_capacity(batches.len());
        for batch in &batches {
            let answer = self.answer(batch, page, patience, Ask::VmrayUntil(patience)).await?;
            page = page.after(&answer);
            answers.push(answer);
        }
        Ok(several(answers, unknown_ids))
    }

    /// Queues what ended without a verdict again.
    pub(super) async fn retry(
        &self,
        request: &Request,
        caller: &Caller,
        id: &str,
        deadline: Deadline,
    ) -> Result<Response, CallFailure> {
        let until = Instant::now() + parameters::wait(request)?;
        let mut batch = self.known_batch(caller, id).await?;
        let ask = if self.calls.retry(caller, &mut batch).await? {
            self.wait_until_sent(&mut batch, until, deadline).await?;
            Ask::NoOne
        } else {
            Ask::VmrayUntil(patience(deadline))
        };
        Ok(self.answer(&batch, ResultPage::FIRST, patience(deadline), ask).await?.response())
    }
}

/// The answer about several batches.
fn several(answers: Vec<BatchAnswer<'_>>, unknown_ids: Vec<&str>) -> Response {
    let done = answers.iter().all(|answer| answer.done);
    let mut counts = Counts::default();
    for answer in &answers {
        counts.merge(answer.counts);
    }
    let body = BatchesAnswer {
        done,
        errors: counts.errors() || !unknown_ids.is_empty(),
        pending_ids: answers.iter().flat_map(|answer| answer.pending_ids.clone()).collect(),
        unknown_ids,
        batches: answers,
    };
    if done {
        Response::json(200, &body)
    } else {
        Response::json(202, &body).with("retry-after", look_again(&counts).to_string())
    }
}
