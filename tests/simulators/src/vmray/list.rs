//! Lists: order, limits, continuations.

use std::cmp::Ordering;

use chrono::NaiveDateTime;
use serde_json::{Value, json};

use super::answers;
use super::options::ServerProfile;
use super::platform::{Continuation, Vmray};
use super::query::{Filter, METADATA, Query};
use super::submit::MetadataFilter;
use crate::server::{Answer, lock};

impl Vmray {
    /// A list of submissions. The finish time is looked at first, since only few rows are then made.
    pub(super) fn submissions(&self, mut query: Query) -> Result<Answer, Answer> {
        if self.options.profile == ServerProfile::Old {
            query.last_id = None;
        }
        self.read_metadata_filter(&mut query)?;
        let rows = self.matching_submissions(&query)?;
        if query.count {
            return Ok(answers::ok(&json!({"count": rows.len()})));
        }
        Ok(self.page(rows, query.limit))
    }

    /// Makes of the filter by metadata what this server makes of it.
    fn read_metadata_filter(&self, query: &mut Query) -> Result<(), Answer> {
        let at = query.filters.iter().position(|(name, _)| name == METADATA);
        match (at, self.options.submit.metadata_filter) {
            (None, _) => {}
            (Some(_), MetadataFilter::Unsupported) => {
                return Err(answers::error(400, &format!("Unknown parameter {METADATA}")));
            }
            (Some(at), MetadataFilter::Ignored) => _ = query.filters.remove(at),
            (Some(at), MetadataFilter::Exact) => {
                if let (_, Filter::Equal(text)) = query.filters.remove(at) {
                    query.metadata = Some(text);
                }
            }
        }
        Ok(())
    }

    fn matching_submissions(&self, query: &Query) -> Result<Vec<Value>, Answer> {
        let hidden = lock(&self.desk).hidden();
        let estate = lock(&self.estate);
        let offset = self.options.clock_offset;
        let mut ids: Vec<_> =
            estate.finish_times().map(|(id, time)| (id, time.map(|time| time + offset))).collect();
        ids.retain(|(id, _)| !hidden.contains(id));
        if let Some(metadata) = &query.metadata {
            ids.retain(|&(id, _)| estate.metadata_of(id) == Some(metadata));
        }
        if let Some(last) = query.last_id {
            // The feed of finished submissions in the order in which they finished.
            ids.retain(|(_, time)| time.is_some());
            ids.sort_by_key(|&(id, time)| (time, id));
            let after = ids.iter().find(|(id, _)| *id == last).copied();
            ids.retain(|&(id, time)| match after {
                Some((last, at)) => (time, id) > (at, last),
                None => id > last,
            });
        } else {
            ids.retain(|&(id, _)| {
                query.min_id.is_none_or(|min| id >= min) && query.max_id.is_none_or(|max| id <= max)
            });
        }
        if query.descending {
            ids.reverse();
        }
        ids.retain(|&(_, time)| self.finish_time_fits(query, time));
        let others: Vec<_> =
            query.filters.iter().filter(|(name, filter)| !by_finish_time(name, filter)).collect();
        // Without other filters nothing beyond what is asked for and the server's limit has to be made; one more shows that there is more.
        let all_fit = others.is_empty() && query.search.is_none();
        let asked_for = query.limit.unwrap_or(usize::MAX).min(self.options.max_api_items + 1);
        let most = if all_fit && !query.count { asked_for } else { usize::MAX };
        let mut rows = Vec::new();
        for (id, _) in ids.into_iter().take(most) {
            let Some(mut row) = estate.submission(id) else { continue };
            answers::shift_times(&mut row, offset);
            if self.fits(&row, &others)? && query.finds(&estate, &row) {
                rows.push(self.of_profile(row));
            }
        }
        Ok(rows)
    }

    fn finish_time_fits(&self, query: &Query, time: Option<NaiveDateTime>) -> bool {
        query.filters.iter().all(|(name, filter)| match filter {
            Filter::Range(from, to) if by_finish_time(name, filter) => {
                time.is_some_and(|time| self.options.bounds.holds(*from, time, *to))
            }
            _ => true,
        })
    }

    fn fits(&self, row: &Value, filters: &[&(String, Filter)]) -> Result<bool, Answer> {
        for (name, filter) in filters {
            let Some(member) = row.get(name) else {
                return Err(answers::error(400, &format!("Unknown parameter {name}")));
            };
            let fits = match filter {
                Filter::Equal(wanted) => is_equal(member, wanted),
                Filter::Range(from, to) => member
                    .as_str()
                    .and_then(|text| text.parse().ok())
                    .is_some_and(|time| self.options.bounds.holds(*from, time, *to)),
            };
            if !fits {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The row as this release of the server knows it.
    pub(super) fn of_profile(&self, mut row: Value) -> Value {
        if self.options.profile == ServerProfile::Old {
            answers::make_old(&mut row);
        }
        row
    }

    /// The first chunk of a list. What is over the limit of items is lost, and said to be.
    pub(super) fn page(&self, mut rows: Vec<Value>, limit: Option<usize>) -> Answer {
        rows.truncate(limit.unwrap_or(usize::MAX));
        let truncated = rows.len() > self.options.max_api_items;
        rows.truncate(self.options.max_api_items);
        self.chunk(Continuation { rows, truncated })
    }

    fn chunk(&self, mut list: Continuation) -> Answer {
        let rest = match list.rows.len().cmp(&self.options.api_items_per_request) {
            Ordering::Greater => list.rows.split_off(self.options.api_items_per_request),
            _ => Vec::new(),
        };
        let (data, truncated) = (Value::Array(list.rows), list.truncated);
        let id = (!rest.is_empty()).then(|| self.keep(Continuation { rows: rest, truncated }));
        Answer::json(
            200,
            &json!({"result": "ok", "data": data, "continuation_id": id, "truncated": truncated}),
        )
    }

    fn keep(&self, list: Continuation) -> u64 {
        let mut continuations = lock(&self.continuations);
        continuations.last_id += 1;
        let id = 40_000 + continuations.last_id;
        continuations.waiting.insert(id, list);
        id
    }

    /// The next chunk, once: the number is used up by asking.
    pub(super) fn continuation(&self, id: u64) -> Result<Answer, Answer> {
        let list = lock(&self.continuations).waiting.remove(&id).ok_or_else(answers::no_such_element)?;
        Ok(self.chunk(list))
    }
}

fn by_finish_time(name: &str, filter: &Filter) -> bool {
    name == "submission_finish_time" && matches!(filter, Filter::Range(..))
}

/// Of a list, one of its members.
fn is_equal(value: &Value, wanted: &str) -> bool {
    match value {
        Value::Array(members) => members.iter().any(|member| is_equal(member, wanted)),
        Value::String(text) => text.eq_ignore_ascii_case(wanted),
        other => other.to_string().eq_ignore_ascii_case(wanted),
    }
}
