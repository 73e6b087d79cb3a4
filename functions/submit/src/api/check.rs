//! What a call would do, without doing it.

use chrono::Utc;
use runtime::http::Deadline;
use serde::Serialize;
use serde_json::value::RawValue;

use super::answer::{ResultPage, ResultRow, joined, patience};
use super::http::{Request, Response};
use super::keyring::Keyed;
use super::{CallFailure, parameters};
use crate::calls::Caller;
use crate::ledger::batch::{BatchState, Header, into_chunks};
use crate::ledger::outcome::{Outcome, Source, Status};
use crate::quota::KeyQuota;
use crate::service::Submit;

/// What would become of one input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Sent to VMRay.
    Submit,
    /// Answered by what is known.
    Reuse,
    /// Answered as an earlier input of the call.
    Duplicate,
    /// Not sent.
    Refuse,
}

impl Action {
    pub const ALL: [Self; 4] = [Self::Submit, Self::Reuse, Self::Duplicate, Self::Refuse];
}

#[derive(Debug, Default, Serialize)]
struct CheckCounts {
    total: usize,
    submit: usize,
    reuse: usize,
    duplicate: usize,
    refuse: usize,
}

#[derive(Serialize)]
struct CheckAnswer {
    counts: CheckCounts,
    quota: Option<KeyQuota>,
    /// The caller's own: URLs sent today.
    today: Today,
    /// Whether all that would be sent fits into both.
    fits: bool,
    /// Results at the end that would have made the answer too large.
    omitted: usize,
    results: Option<Box<RawValue>>,
}

#[derive(Serialize)]
struct Today {
    limit: u64,
    used: u64,
    remaining: u64,
}

impl Submit {
    pub(super) async fn check(
        &self,
        request: &Request,
        keyed: &Keyed,
        caller: &Caller,
        deadline: Deadline,
    ) -> Result<Response, CallFailure> {
        let patience = patience(deadline);
        parameters::wait(request)?;
        let (body, options) = self.read_call(request, caller)?;
        let items = self.calls.items(&keyed.gate, caller, body.inputs, &options);
        let now = Utc::now();
        let header =
            Header { caller: caller.name.clone(), created_at: now, options, chunk_sizes: Vec::new() };
        let state = BatchState::default();
        let mut counts = CheckCounts::default();
        let mut rows = Vec::with_capacity(items.len());
        for chunk in into_chunks(items) {
            for (item, outcome) in self.calls.foresee(&header, &state, &chunk).await?.outcomes() {
                let action = action(&outcome);
                let row = ResultRow::new(counts.total, item, &outcome);
                rows.push((counts.total, with_action(&row, action).to_string()));
                counts.add(action);
            }
        }
        let (quota, today) = tokio::join!(self.vmray.quota(patience), self.calls.today(caller, now));
        let (limit, used) = today?;
        let today = Today { limit, used, remaining: limit.saturating_sub(used) };
        let to_send = counts.submit as u64;
        let quota_left = quota.and_then(|quota| quota.remaining);
        let fits = to_send <= today.remaining && quota_left.is_none_or(|left| to_send <= left);
        let (results, next) = joined(rows, ResultPage::FIRST, counts.total);
        let omitted = next.map_or(0, |next| counts.total - next);
        let answer = CheckAnswer { counts, quota, today, fits, omitted, results };
        Ok(Response::json(200, &answer))
    }
}

fn action(outcome: &Outcome<'_>) -> Action {
    match (outcome.status, outcome.source) {
        (Status::Refused, _) => Action::Refuse,
        (_, Some(Source::Duplicate)) => Action::Duplicate,
        _ if outcome.is_new() => Action::Submit,
        _ => Action::Reuse,
    }
}

/// The row as in other answers, the action besides; a status would say that something is under way.
fn with_action(row: &ResultRow<'_>, action: Action) -> serde_json::Value {
    let mut value = serde_json::to_value(row).unwrap_or_default();
    if let Some(members) = value.as_object_mut() {
        if matches!(action, Action::Submit) {
            members.remove("status");
            members.remove("source");
        }
        members.insert("action".to_owned(), serde_json::to_value(action).unwrap_or_default());
    }
    value
}

impl CheckCounts {
    fn add(&mut self, action: Action) {
        self.total += 1;
        *match action {
            Action::Submit => &mut self.submit,
            Action::Reuse => &mut self.reuse,
            Action::Duplicate => &mut self.duplicate,
            Action::Refuse => &mut self.refuse,
        } += 1;
    }
}
