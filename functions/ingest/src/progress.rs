//! Which submissions are behind us: the watermark, and the set of those done beyond or near it. No I/O, no clock.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use vmray::model::{Submission, SubmissionId};

/// Most submissions that are remembered. The oldest are forgotten first; reading one again is harmless, because it
/// gives the same objects.
pub const MOST_REMEMBERED: usize = 20_000;

/// When VMRay finished a submission, in the server's own clock. Old servers leave the finish time out.
fn finished(row: &Submission, otherwise: DateTime<Utc>) -> DateTime<Utc> {
    row.finish_time.or(row.created).unwrap_or(otherwise)
}

/// Submissions that need not be read again, by (finish time in epoch seconds, number). Stored as one line of text,
/// `seconds:number` and then the differences, so that 20,000 fit into one document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Done(BTreeSet<(i64, u64)>);

impl Done {
    fn insert(&mut self, finished: DateTime<Utc>, id: SubmissionId) {
        self.0.insert((finished.timestamp(), id.0));
    }

    fn contains(&self, finished: DateTime<Utc>, id: SubmissionId) -> bool {
        self.0.contains(&(finished.timestamp(), id.0))
    }

    /// Forgets what no window will show again, and the oldest beyond [`MOST_REMEMBERED`].
    fn forget_before(&mut self, oldest: DateTime<Utc>) {
        self.0 = self.0.split_off(&(oldest.timestamp(), 0));
        while self.0.len() > MOST_REMEMBERED {
            self.0.pop_first();
        }
    }

    /// How many are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Done> for String {
    fn from(done: Done) -> Self {
        let mut text = Self::new();
        let (mut last_second, mut last_id) = (0, 0);
        for (second, id) in done.0 {
            if !text.is_empty() {
                text.push(' ');
            }
            let id_step = i128::from(id) - i128::from(last_id);
            // Writing to a String cannot fail.
            let _ = write!(text, "{}:{id_step}", second - last_second);
            (last_second, last_id) = (second, id);
        }
        text
    }
}

/// The text is no set of submissions.
#[derive(Debug, thiserror::Error)]
#[error("`done` is not a list of submissions: {0:?}")]
pub struct NotDone(String);

impl TryFrom<String> for Done {
    type Error = NotDone;

    fn try_from(text: String) -> Result<Self, NotDone> {
        let mut done = BTreeSet::new();
        let (mut second, mut id) = (0_i64, 0_u64);
        for step in text.split_whitespace() {
            let next = step.split_once(':').and_then(|(seconds, ids)| {
                let second = second.checked_add(seconds.parse().ok()?)?;
                let id = i128::from(id).checked_add(ids.parse().ok()?)?;
                Some((second, u64::try_from(id).ok()?))
            });
            (second, id) = next.ok_or_else(|| NotDone(step.to_owned()))?;
            done.insert((second, id));
        }
        Ok(Self(done))
    }
}

/// The rows of one portion of the feed on their way from listed to settled.
#[derive(Debug)]
pub struct Progress {
    position: DateTime<Utc>,
    overlap: TimeDelta,
    done: Done,
    rows: Vec<(DateTime<Utc>, SubmissionId, bool)>,
    /// The first row that is not settled.
    next: usize,
    places: HashMap<SubmissionId, usize>,
}

impl Progress {
    /// Starts at what the cursor holds.
    #[must_use]
    pub fn new(position: DateTime<Utc>, overlap: TimeDelta, done: Done) -> Self {
        Self { position, overlap, done, rows: Vec::new(), next: 0, places: HashMap::new() }
    }

    /// Takes the next portion of the feed, and hands back what of it is new. What is not finished is left out: it will
    /// come with its own finish time. What was done before, also by a run that died, is behind us here as well.
    pub fn begin(&mut self, mut rows: Vec<Submission>) -> Vec<Submission> {
        let position = self.position;
        rows.retain(|row| row.finished || row.finish_time.is_some());
        let done = |row: &Submission| self.done.contains(finished(row, position), row.id);
        let mut places: Vec<_> =
            rows.iter().map(|row| (finished(row, position), row.id, done(row))).collect();
        rows.retain(|row| !done(row));
        places.sort_unstable();
        self.places = places.iter().enumerate().map(|(place, row)| (row.1, place)).collect();
        self.rows = places;
        self.next = 0;
        self.pass_settled();
        rows
    }

    /// A submission was delivered, deliberately skipped, or quarantined. Others are ignored.
    pub fn settle(&mut self, id: SubmissionId) {
        let Some(row) = self.places.get(&id).and_then(|place| self.rows.get_mut(*place)) else { return };
        row.2 = true;
        self.done.insert(row.0, row.1);
        self.pass_settled();
    }

    fn pass_settled(&mut self) {
        while let Some((finished, _, true)) = self.rows.get(self.next) {
            self.position = self.position.max(*finished);
            self.next += 1;
        }
    }

    /// Whether one of these belongs to this portion and is not settled.
    #[must_use]
    pub fn is_open(&self, submissions: &[Submission]) -> bool {
        let row = |submission: &Submission| self.rows.get(*self.places.get(&submission.id)?);
        submissions.iter().filter_map(row).any(|(_, _, settled)| !settled)
    }

    /// Where the cursor may stand: the finish time of the last row before the first unsettled one.
    #[must_use]
    pub fn position(&self) -> DateTime<Utc> {
        self.position
    }

    /// What the cursor has to remember besides the position.
    pub fn done(&mut self) -> &Done {
        self.done.forget_before(self.position - self.overlap);
        &self.done
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(second, 0).unwrap()
    }

    fn row(id: u64, second: i64) -> Submission {
        serde_json::from_value(serde_json::json!({
            "submission_id": id, "submission_sample_id": id, "submission_finished": true,
            "submission_finish_time": at(second).to_rfc3339(),
        }))
        .unwrap()
    }

    fn progress() -> Progress {
        Progress::new(at(1000), TimeDelta::seconds(100), Done::default())
    }

    #[test]
    fn the_position_waits_for_the_first_unsettled_row() {
        let mut progress = progress();
        progress.begin(vec![row(3, 1030), row(1, 1010), row(2, 1020)]);
        progress.settle(SubmissionId(1));
        progress.settle(SubmissionId(3));
        assert_eq!(progress.position(), at(1010));
        progress.settle(SubmissionId(2));
        assert_eq!(progress.position(), at(1030));
    }

    #[test]
    fn what_is_done_beyond_the_position_is_not_read_again() {
        let mut first = progress();
        first.begin(vec![row(1, 1010), row(2, 1020)]);
        first.settle(SubmissionId(2));
        let mut second = Progress::new(first.position(), TimeDelta::seconds(100), first.done().clone());
        let new = second.begin(vec![row(1, 1010), row(2, 1020)]);
        assert_eq!(new.iter().map(|row| row.id.0).collect::<Vec<_>>(), [1]);
        second.settle(SubmissionId(1));
        assert_eq!(second.position(), at(1020), "the position passes what was done before");
    }

    #[test]
    fn a_submission_that_finishes_again_is_new() {
        let mut progress = progress();
        progress.begin(vec![row(1, 1010)]);
        progress.settle(SubmissionId(1));
        assert_eq!(progress.begin(vec![row(1, 1015)]).len(), 1);
    }

    #[test]
    fn twenty_thousand_fit_into_a_document() {
        let mut done = Done::default();
        for n in 0..30_000_u64 {
            done.insert(
                at(1_760_000_000 + i64::try_from(n % 900).unwrap()),
                SubmissionId(91_000_000 + n * 7),
            );
        }
        done.forget_before(at(0));
        assert_eq!(done.len(), MOST_REMEMBERED);
        let text = String::from(done);
        assert!(text.len() < 300_000, "{} bytes", text.len());
    }

    proptest! {
        #[test]
        fn done_survives_its_text(rows in proptest::collection::btree_set((0_i64..4_000_000_000, any::<u64>()), 0..200)) {
            let done = Done(rows);
            prop_assert_eq!(Done::try_from(String::from(done.clone())).unwrap(), done);
        }

        #[test]
        fn no_order_of_settling_passes_an_unsettled_row(
            seconds in proptest::collection::vec(1001_i64..1100, 1..40),
            order in proptest::collection::vec(any::<proptest::sample::Index>(), 0..60),
        ) {
            let rows: Vec<_> = (1_u64..).zip(&seconds).map(|(id, second)| row(id, *second)).collect();
            let mut progress = progress();
            progress.begin(rows.clone());
            let mut settled = BTreeSet::new();
            let mut last = progress.position();
            for pick in order {
                let chosen = &rows[pick.index(rows.len())];
                progress.settle(chosen.id);
                settled.insert(chosen.id);
                prop_assert!(progress.position() >= last);
                last = progress.position();
                for unsettled in rows.iter().filter(|row| !settled.contains(&row.id)) {
                    prop_assert!(unsettled.finish_time.unwrap() >= last, "passed {:?}", unsettled.id);
                }
            }
            // A new run from here sees exactly what is not settled.
            let mut next = Progress::new(progress.position(), TimeDelta::seconds(100), progress.done().clone());
            let again: BTreeSet<_> = next.begin(rows.clone()).iter().map(|row| row.id).collect();
            let expected: BTreeSet<_> = rows.iter().map(|row| row.id).filter(|id| !settled.contains(id)).collect();
            prop_assert_eq!(again, expected);
        }
    }
}
