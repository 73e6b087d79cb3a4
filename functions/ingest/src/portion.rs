//! The rows of one portion of the feed on their way from listed to settled, and what of it the cursor may pass. No I/O,
//! no clock.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use vmray::model::{Submission, SubmissionId};

use crate::cursor::Cursor;
use crate::handled::Row;

/// When VMRay finished a submission, in the server's own clock. Old servers leave the finish time out.
#[must_use]
pub(crate) fn row_of(submission: &Submission, otherwise: DateTime<Utc>) -> Row {
    Row::new(submission.finish_time.or(submission.created).unwrap_or(otherwise), submission.id)
}

/// The rows of a portion that are of interest: what is not finished comes later with its own finish time.
#[must_use]
pub(crate) fn rows_of(submissions: &mut Vec<Submission>, position: DateTime<Utc>) -> Vec<Row> {
    submissions.retain(|row| row.finished || row.finish_time.is_some());
    let mut rows: Vec<Row> = submissions.iter().map(|submission| row_of(submission, position)).collect();
    rows.sort_unstable();
    rows
}

/// One portion of the feed.
#[derive(Debug, Default)]
pub(crate) struct Portion {
    /// In order, each with whether it is settled.
    rows: Vec<(Row, bool)>,
    /// The first row that is not settled.
    next: usize,
    places: HashMap<SubmissionId, usize>,
}

impl Portion {
    /// Takes the rows of a portion in order. What was handled before, also by a run that died, is settled.
    #[must_use]
    pub(crate) fn new(rows: Vec<Row>, cursor: &mut Cursor) -> Self {
        let rows: Vec<_> = rows.into_iter().map(|row| (row, cursor.handled.contains(row))).collect();
        let places = rows.iter().enumerate().map(|(place, (row, _))| (row.id(), place)).collect();
        let mut portion = Self { rows, next: 0, places };
        portion.pass_settled(cursor);
        portion
    }

    /// Whether a submission belongs to this portion and is not settled.
    #[must_use]
    pub(crate) fn is_open(&self, id: SubmissionId) -> bool {
        self.places.get(&id).is_some_and(|place| !self.rows[*place].1)
    }

    /// A submission was delivered, deliberately skipped, or quarantined. Others are ignored.
    pub(crate) fn settle(&mut self, id: SubmissionId, cursor: &mut Cursor) {
        let Some((row, settled @ false)) = self.places.get(&id).map(|place| &mut self.rows[*place]) else {
            return;
        };
        *settled = true;
        cursor.handled.insert(*row);
        self.pass_settled(cursor);
    }

    /// The last row before the first that is not settled, and how many there are up to it.
    #[must_use]
    pub(crate) fn passed(&self) -> Option<(Row, usize)> {
        self.rows[..self.next].last().map(|(row, _)| (*row, self.next))
    }

    /// The finish time of the first row that is not settled.
    #[must_use]
    pub(crate) fn first_open(&self) -> Option<DateTime<Utc>> {
        self.rows.get(self.next).map(|(row, _)| row.finished())
    }

    /// The position is the finish time of the last row before the first unsettled one.
    fn pass_settled(&mut self, cursor: &mut Cursor) {
        while let Some((row, true)) = self.rows.get(self.next) {
            cursor.position = cursor.position.max(Some(row.finished()));
            self.next += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(second, 0).unwrap()
    }

    fn row(id: u64, second: i64) -> Row {
        Row::new(at(second), SubmissionId(id))
    }

    fn ids(portion: &Portion, rows: &[Row]) -> Vec<u64> {
        rows.iter().map(|row| row.id()).filter(|id| portion.is_open(*id)).map(|id| id.0).collect()
    }

    #[test]
    fn the_position_waits_for_the_first_unsettled_row() {
        let mut cursor = Cursor::beginning_at(at(1000));
        let mut portion = Portion::new(vec![row(1, 1010), row(2, 1020), row(3, 1030)], &mut cursor);
        portion.settle(SubmissionId(1), &mut cursor);
        portion.settle(SubmissionId(3), &mut cursor);
        assert_eq!((cursor.position, portion.first_open()), (Some(at(1010)), Some(at(1020))));
        portion.settle(SubmissionId(2), &mut cursor);
        assert_eq!((cursor.position, portion.first_open()), (Some(at(1030)), None));
    }

    #[test]
    fn what_is_handled_beyond_the_position_is_not_read_again() {
        let mut cursor = Cursor::beginning_at(at(1000));
        let rows = vec![row(1, 1010), row(2, 1020)];
        Portion::new(rows.clone(), &mut cursor).settle(SubmissionId(2), &mut cursor);
        let mut second = Portion::new(rows.clone(), &mut cursor);
        assert_eq!(ids(&second, &rows), [1]);
        second.settle(SubmissionId(1), &mut cursor);
        assert_eq!(cursor.position, Some(at(1020)), "the position passes what was handled before");
    }

    #[test]
    fn a_submission_that_finishes_again_is_new() {
        let mut cursor = Cursor::beginning_at(at(1000));
        Portion::new(vec![row(1, 1010)], &mut cursor).settle(SubmissionId(1), &mut cursor);
        let again = [row(1, 1015)];
        assert_eq!(ids(&Portion::new(again.to_vec(), &mut cursor), &again), [1]);
    }

    proptest! {
        #[test]
        fn no_order_of_settling_passes_an_unsettled_row(
            seconds in proptest::collection::vec(1001_i64..1100, 1..40),
            order in proptest::collection::vec(any::<proptest::sample::Index>(), 0..60),
        ) {
            let mut rows: Vec<_> = (1_u64..).zip(&seconds).map(|(id, second)| row(id, *second)).collect();
            rows.sort_unstable();
            let mut cursor = Cursor::beginning_at(at(1000));
            let mut portion = Portion::new(rows.clone(), &mut cursor);
            let mut settled = BTreeSet::new();
            let mut last = cursor.position;
            for pick in order {
                let chosen = &rows[pick.index(rows.len())];
                portion.settle(chosen.id(), &mut cursor);
                settled.insert(chosen.id());
                prop_assert!(cursor.position >= last);
                last = cursor.position;
                for unsettled in rows.iter().filter(|row| !settled.contains(&row.id())) {
                    prop_assert!(Some(unsettled.finished()) >= last, "passed {:?}", unsettled);
                    prop_assert!(Some(unsettled.finished()) >= portion.first_open());
                }
            }
            // A new run from here sees exactly what is not settled.
            let next = Portion::new(rows.clone(), &mut cursor);
            let open: BTreeSet<_> = rows.iter().map(|row| row.id()).filter(|id| next.is_open(*id)).collect();
            let expected: BTreeSet<_> = rows.iter().map(|row| row.id()).filter(|id| !settled.contains(id)).collect();
            prop_assert_eq!(open, expected);
        }
    }
}
