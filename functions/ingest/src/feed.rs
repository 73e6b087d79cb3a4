//! Which submissions are new: windows over VMRay's finish times, asked oldest first.
//!
//! VMRay gives at most some 1000 rows of a list and then says `truncated`. So the whole window is asked first (an
//! empty year costs one call), and a truncated answer is thrown away and asked again in two parts, down to one
//! second, which is paged by submission number. Neighbouring windows share their bound second. Nothing says whether a
//! server's ranges hold their ends, so each is asked a second wider on both sides and cut here; a row that comes twice
//! is the caller's to recognise.
//!
//! The first cut is at the position. When even what lies before it is too much for one list, what is new comes first, and
//! in a second that is paged what lies behind the last known row: looking again for late rows must not use up the time
//! of every run.

use std::collections::HashSet;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;
use vmray::client::{VmrayClient, VmrayError, Window};
use vmray::model::{Submission, SubmissionId};

use crate::handled::Row;

/// The submissions of one window, in portions.
#[derive(Debug)]
pub(crate) struct Feed<'a> {
    vmray: &'a VmrayClient,
    position: DateTime<Utc>,
    /// A row near the end of what is known.
    known: Option<Row>,
    /// The next one last.
    unread: Vec<Unread>,
    malformed: u32,
}

/// A part of the window that was not listed yet.
#[derive(Clone, Copy, Debug)]
struct Unread {
    window: Window,
    /// Only submissions from this number on: a second with more rows than VMRay gives at once.
    from: Option<SubmissionId>,
}

impl<'a> Feed<'a> {
    /// Lists `window`; up to `position` the rows are expected to be known, and in its second up to `known`.
    #[must_use]
    pub(crate) fn new(
        vmray: &'a VmrayClient,
        window: Window,
        position: DateTime<Utc>,
        known: Option<Row>,
    ) -> Self {
        Self { vmray, position, known, unread: vec![Unread { window, from: None }], malformed: 0 }
    }

    /// Up to where the rows are expected to be known.
    #[must_use]
    pub(crate) fn position(&self) -> DateTime<Utc> {
        self.position
    }

    /// Rows since the last call that were no submissions.
    pub(crate) fn take_malformed(&mut self) -> u32 {
        std::mem::take(&mut self.malformed)
    }

    /// The oldest finish time that was not listed yet.
    #[must_use]
    pub(crate) fn unread_from(&self) -> Option<DateTime<Utc>> {
        self.unread.iter().map(|unread| unread.window.from).min()
    }

    /// The next submissions by (finish time, number), each once: at least one list's worth, and more until there are
    /// `enough` or it is `late`. `None` when the window is read to its end.
    pub(crate) async fn next(
        &mut self,
        enough: usize,
        late: Instant,
    ) -> Result<Option<Vec<Submission>>, VmrayError> {
        let mut rows = Vec::new();
        let mut read_any = false;
        while let Some(unread) = self.unread.last().copied() {
            let listed = match self.read(unread).await {
                Err(VmrayError::OutOfTime { .. }) if !rows.is_empty() => break,
                listed => listed?,
            };
            if let Some(listed) = listed {
                rows.extend(listed);
                read_any = true;
                if rows.len() >= enough || (Instant::now() >= late && !rows.is_empty()) {
                    break;
                }
            }
        }
        let mut seen = HashSet::with_capacity(rows.len());
        rows.retain(|row: &Submission| seen.insert(row.id));
        rows.sort_by_key(|row| (row.finish_time, row.id));
        Ok(read_any.then_some(rows))
    }

    /// The rows of the part that is next, or `None` when it was too much and is to be read in parts.
    async fn read(&mut self, Unread { window, from }: Unread) -> Result<Option<Vec<Submission>>, VmrayError> {
        let listing = self.vmray.submissions(wider(window), from).await?;
        if !listing.truncated {
            self.unread.pop();
        } else if from.is_none() {
            self.cut(window);
            return Ok(None);
        } else {
            let highest = listing.rows.iter().map(|row| row.id).max();
            let next =
                highest.filter(|highest| Some(*highest) >= from).ok_or_else(|| nothing_listed(window))?;
            self.unread.pop();
            self.unread.push(Unread { window, from: Some(SubmissionId(next.0 + 1)) });
        }
        self.malformed += listing.malformed;
        Ok(Some(within(window, listing.rows)))
    }

    /// Replaces the part that is next by smaller ones.
    fn cut(&mut self, window: Window) {
        self.unread.pop();
        let all = |window| Unread { window, from: None };
        if window.from < self.position && self.position < window.to {
            let known = Window { from: window.from, to: self.position };
            let new = Window { from: self.position, to: window.to };
            self.unread.extend([all(new), all(known)]);
            return;
        }
        match halve(window) {
            // Behind everything new.
            Some((older, newer)) if window.to == self.position => {
                self.unread.splice(0..0, [all(newer), all(older)]);
            }
            Some((older, newer)) => self.unread.extend([all(newer), all(older)]),
            None => {
                let by_number = |from| Unread { window, from: Some(from) };
                self.unread.push(by_number(SubmissionId(0)));
                let within = |row: &Row| (window.from..=window.to).contains(&row.finished());
                self.unread.extend(self.known.take().filter(within).map(|row| by_number(row.id())));
            }
        }
    }
}

fn nothing_listed(window: Window) -> VmrayError {
    VmrayError::Malformed {
        what: format!("the submissions finished in {window} by number"),
        problem: "it is truncated and yet holds no further submission".to_owned(),
    }
}

/// What is asked so that the ends are in the answer whatever a range means.
fn wider(window: Window) -> Window {
    let second = TimeDelta::seconds(1);
    Window { from: window.from - second, to: window.to + second }
}

/// The rows of the window itself.
fn within(window: Window, mut rows: Vec<Submission>) -> Vec<Submission> {
    rows.retain(|row| row.finish_time.is_none_or(|time| (window.from..=window.to).contains(&time)));
    rows
}

/// Two windows that share their bound second; `None` for a single second.
fn halve(window: Window) -> Option<(Window, Window)> {
    let seconds = (window.to - window.from).num_seconds();
    if seconds <= 1 {
        return None;
    }
    let middle = window.from + TimeDelta::seconds(seconds / 2);
    Some((Window { from: window.from, to: middle }, Window { from: middle, to: window.to }))
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn halves_cover_the_window_and_end_at_one_second(start in 0_i64..2_000_000_000, length in 0_i64..100_000_000) {
            let at = |seconds| DateTime::<Utc>::from_timestamp(seconds, 0).unwrap();
            let mut window = Window { from: at(start), to: at(start + length) };
            let mut steps = 0;
            while let Some((older, newer)) = halve(window) {
                prop_assert_eq!(older.from, window.from);
                prop_assert_eq!(older.to, newer.from);
                prop_assert_eq!(newer.to, window.to);
                prop_assert!(older.to > older.from && newer.to > newer.from);
                window = if steps % 2 == 0 { older } else { newer };
                steps += 1;
                prop_assert!(steps < 64);
            }
            prop_assert!((window.to - window.from).num_seconds() <= 1);
        }
    }
}
