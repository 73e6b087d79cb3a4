//! Which submissions are new: windows over VMRay's finish times, asked oldest first.
//!
//! VMRay gives at most some 1000 rows of a list and then says `truncated`. So the whole window is asked first (an
//! empty year costs one call), and a truncated answer is thrown away and asked again as two halves, down to one
//! second, which is paged by submission number. Neighbouring windows share their bound second. Nothing says whether a
//! server's ranges hold their ends, so each is asked a second wider on both sides and cut here; a row that comes twice
//! is the caller's to recognise.

use std::collections::HashSet;

use chrono::TimeDelta;
use tokio::time::Instant;
use vmray::client::{VmrayClient, VmrayError, Window};
use vmray::model::{Submission, SubmissionId};

/// The submissions of one window, in portions.
#[derive(Debug)]
pub struct Feed<'a> {
    vmray: &'a VmrayClient,
    /// Still to be asked, the oldest last.
    pending: Vec<Window>,
    malformed: u32,
}

impl<'a> Feed<'a> {
    /// Starts at the beginning of `window`.
    #[must_use]
    pub fn new(vmray: &'a VmrayClient, window: Window) -> Self {
        Self { vmray, pending: vec![window], malformed: 0 }
    }

    /// Rows since the last call that were no submissions.
    pub fn take_malformed(&mut self) -> u32 {
        std::mem::take(&mut self.malformed)
    }

    /// The next submissions by (finish time, number), each once: at least one window's worth, and more until there are
    /// `enough` or it is `late`. `None` when the window is read to its end.
    pub async fn next(
        &mut self,
        enough: usize,
        late: Instant,
    ) -> Result<Option<Vec<Submission>>, VmrayError> {
        let mut rows = Vec::new();
        let mut read_any = false;
        while let Some(window) = self.pending.pop() {
            if let Some(listed) = self.read(window).await? {
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

    /// One window's rows, or `None` when it was too much and its halves are pending instead.
    async fn read(&mut self, window: Window) -> Result<Option<Vec<Submission>>, VmrayError> {
        let listing = self.vmray.submissions(wider(window), None).await?;
        if listing.truncated {
            let Some((older, newer)) = halve(window) else {
                return self.page_by_number(window).await.map(Some);
            };
            self.pending.extend([newer, older]);
            return Ok(None);
        }
        self.malformed += listing.malformed;
        Ok(Some(within(window, listing.rows)))
    }

    /// More rows in one second than VMRay gives at once.
    async fn page_by_number(&mut self, window: Window) -> Result<Vec<Submission>, VmrayError> {
        let mut rows: Vec<Submission> = Vec::new();
        let mut from = SubmissionId(0);
        loop {
            let listing = self.vmray.submissions(wider(window), Some(from)).await?;
            let highest = listing.rows.iter().map(|row| row.id).max();
            self.malformed += listing.malformed;
            rows.extend(listing.rows);
            match highest {
                Some(highest) if listing.truncated && highest >= from => from = SubmissionId(highest.0 + 1),
                _ if !listing.truncated => return Ok(within(window, rows)),
                _ => {
                    return Err(VmrayError::Malformed {
                        what: format!("the submissions finished in {window} from number {from} on"),
                        problem: "it is truncated and yet holds no submission".to_owned(),
                    });
                }
            }
        }
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
