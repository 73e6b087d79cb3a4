//! Which submissions near or beyond the position are handled. Pure.
//!
//! Rows, by finish time and number, are cut into segments. The last one stands in the cursor document. The others are
//! small documents beside it, and the cursor lists where each begins, how many rows it has, and a digest of them. When a
//! run lists again what is handled, the rows of a segment add up to its digest, and it need not be read. Only a segment
//! in whose range something else is listed is read, and only segments that have changed are written.
//!
//! There are at most `MOST_SEGMENTS`. When one more is needed the oldest is forgotten, and the *floor* rises to where
//! the next one begins: what lies below the floor counts as handled, so that nothing is delivered twice.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use vmray::model::SubmissionId;

/// Rows of one segment: some 10 KB.
const MOST_ROWS: usize = 1_000;

/// Segments. One that is cut in the middle leaves two halves, so that at least half as many rows as could be are
/// remembered: 128,000.
const MOST_SEGMENTS: usize = 256;

/// A submission at its finish time (epoch seconds): one that finishes again is another row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Row(i64, u64);

impl Row {
    /// A submission that finished then.
    #[must_use]
    pub fn new(finished: DateTime<Utc>, id: SubmissionId) -> Self {
        Self(finished.timestamp(), id.0)
    }

    /// The submission's number.
    #[must_use]
    pub fn id(self) -> SubmissionId {
        SubmissionId(self.1)
    }

    /// When it finished.
    #[must_use]
    pub fn finished(self) -> DateTime<Utc> {
        DateTime::from_timestamp(self.0, 0).unwrap_or(DateTime::UNIX_EPOCH)
    }
}

/// Rows in ascending order as one line of text: `seconds:number`, each as the difference to the one before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct RowList(Vec<Row>);

impl From<Vec<Row>> for RowList {
    fn from(mut rows: Vec<Row>) -> Self {
        rows.sort_unstable();
        rows.dedup();
        Self(rows)
    }
}

/// The text is no list of rows.
#[derive(Debug, thiserror::Error)]
#[error("not a list of submissions: {0:?}")]
pub struct NotARowList(String);

impl From<RowList> for String {
    fn from(rows: RowList) -> Self {
        let mut text = Self::with_capacity(rows.0.len() * 8);
        let (mut second, mut id) = (0, 0);
        for row in rows.0 {
            if !text.is_empty() {
                text.push(' ');
            }
            // Writing to a String cannot fail.
            let _ = write!(text, "{}:{}", row.0 - second, i128::from(row.1) - i128::from(id));
            (second, id) = (row.0, row.1);
        }
        text
    }
}

impl TryFrom<String> for RowList {
    type Error = NotARowList;

    fn try_from(text: String) -> Result<Self, NotARowList> {
        let mut rows = Vec::new();
        let (mut second, mut id) = (0_i64, 0_u64);
        for step in text.split_whitespace() {
            let next = step.split_once(':').and_then(|(seconds, ids)| {
                let second = second.checked_add(seconds.parse().ok()?)?;
                let id = i128::from(id).checked_add(ids.parse().ok()?)?;
                Some((second, u64::try_from(id).ok()?))
            });
            (second, id) = next.ok_or_else(|| NotARowList(step.to_owned()))?;
            rows.push(Row(second, id));
        }
        Ok(rows.into())
    }
}

/// How many rows there are and a digest of them, which does not depend on their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    count: u32,
    digest: u64,
}

impl Tally {
    fn of(rows: &[Row]) -> Self {
        let mut tally = Self::default();
        for row in rows {
            tally.add(*row);
        }
        tally
    }

    fn add(&mut self, row: Row) {
        self.count += 1;
        self.digest = self.digest.wrapping_add(mixed(mixed(row.0.cast_unsigned()).wrapping_add(row.1)));
    }
}

/// The last step of the generator `SplitMix64`: every bit of the result depends on every bit of `n`.
fn mixed(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    n ^ (n >> 31)
}

/// Rows from one row on, up to where the next segment begins. The first one also holds what lies before it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct HandledSegment {
    number: u32,
    from: Row,
    tally: Tally,
    content: SegmentRows,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum SegmentRows {
    /// In its document, which was not read.
    Stored,
    Known {
        rows: Vec<Row>,
        /// Of the document; `None`: not written yet under this number.
        version: Option<u64>,
        changed: bool,
    },
}

impl HandledSegment {
    fn is_known(&self) -> bool {
        self.content != SegmentRows::Stored
    }
}

/// A segment's document, as it is or as it is to be.
#[derive(Debug, PartialEq, Eq)]
pub struct StoredSegment {
    /// Which segment.
    pub number: u32,
    /// What is there now; `None`: nothing, or what a forgotten segment has left.
    pub version: Option<u64>,
    /// Its rows.
    pub rows: RowList,
}

/// The submissions that are handled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "HandledList", from = "HandledList")]
pub struct Handled {
    /// What lies below counts as handled.
    floor: Option<Row>,
    /// By where they begin.
    segments: Vec<HandledSegment>,
    /// Numbers that the stored list names. Their documents are not given to another segment before that list is
    /// replaced, so that a run that dies in between loses nothing.
    listed: BTreeSet<u32>,
}

/// What the cursor document holds.
#[derive(Serialize, Deserialize)]
struct HandledList {
    #[serde(default)]
    floor: Option<Row>,
    /// Of each segment but the last its number, its first row, its count and its digest.
    #[serde(default)]
    segments: Vec<(u32, Row, u32, u64)>,
    /// The last segment.
    #[serde(default)]
    newest: RowList,
}

impl From<Handled> for HandledList {
    fn from(mut handled: Handled) -> Self {
        let newest = match handled.segments.pop_if(|segment| segment.is_known()).map(|newest| newest.content)
        {
            Some(SegmentRows::Known { rows, .. }) => RowList(rows),
            _ => RowList::default(),
        };
        let entry = |segment: HandledSegment| {
            let Tally { count, digest } = segment.tally;
            (segment.number, segment.from, count, digest)
        };
        Self { floor: handled.floor, segments: handled.segments.into_iter().map(entry).collect(), newest }
    }
}

impl From<HandledList> for Handled {
    fn from(listing: HandledList) -> Self {
        let segment = |(number, from, count, digest)| HandledSegment {
            number,
            from,
            tally: Tally { count, digest },
            content: SegmentRows::Stored,
        };
        let mut segments: Vec<HandledSegment> = listing.segments.into_iter().map(segment).collect();
        segments.sort_by_key(|segment| segment.from);
        let listed = segments.iter().map(|segment| segment.number).collect();
        let mut handled = Self { floor: listing.floor, segments, listed };
        handled.add_segment(handled.segments.len(), listing.newest.0);
        handled.list_saved();
        handled
    }
}

impl From<RowList> for Handled {
    fn from(rows: RowList) -> Self {
        let mut handled = Self::default();
        rows.0.into_iter().for_each(|row| handled.insert(row));
        handled
    }
}

impl Handled {
    /// How many rows are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.segments.iter().map(|segment| segment.tally.count as usize).sum()
    }

    /// Whether no row is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A row near the end of what is remembered.
    #[must_use]
    pub fn near_end(&self) -> Option<Row> {
        self.segments.last().map(|segment| segment.from)
    }

    /// Forgets every row; their documents are used again.
    pub fn clear(&mut self) {
        self.segments.clear();
        self.floor = None;
    }

    /// The segments to read before [`contains`](Self::contains) is asked for these rows, which are in ascending order:
    /// those in whose range other rows are listed than they have.
    #[must_use]
    pub fn unknown(&self, listed: &[Row]) -> Vec<u32> {
        let mut rest = listed;
        let mut unknown = Vec::new();
        for (place, segment) in self.segments.iter().enumerate() {
            let next = self.segments.get(place + 1).map(|next| next.from);
            let end = next.map_or(rest.len(), |next| rest.partition_point(|row| *row < next));
            let (own, behind) = rest.split_at(end);
            rest = behind;
            if segment.content == SegmentRows::Stored && !own.is_empty() && Tally::of(own) != segment.tally {
                unknown.push(segment.number);
            }
        }
        unknown
    }

    /// Takes in a segment's document. Its rows may be more than were listed, by a run that died before it could list
    /// them, or belong to the next segment by now.
    pub fn learn(&mut self, StoredSegment { number, version, rows }: StoredSegment) {
        let Some(place) = self.segments.iter().position(|segment| segment.number == number) else { return };
        let next = self.segments.get(place + 1).map(|next| next.from);
        let mut rows = rows.0;
        rows.retain(|row| next.is_none_or(|next| *row < next));
        if place > 0 {
            let from = self.segments[place].from;
            rows.retain(|row| *row >= from);
        }
        let segment = &mut self.segments[place];
        segment.tally = Tally::of(&rows);
        segment.content = SegmentRows::Known { rows, version, changed: false };
    }

    /// Whether a row is handled, once what [`unknown`](Self::unknown) names for it was learned.
    #[must_use]
    pub fn contains(&self, row: Row) -> bool {
        if self.floor.is_some_and(|floor| row < floor) {
            return true;
        }
        match self.place_of(row).map(|place| &self.segments[place].content) {
            None => false,
            Some(SegmentRows::Stored) => true,
            Some(SegmentRows::Known { rows, .. }) => rows.binary_search(&row).is_ok(),
        }
    }

    /// Adds a row that [`contains`](Self::contains) has just denied.
    pub fn insert(&mut self, row: Row) {
        if self.floor.is_some_and(|floor| row < floor) {
            return;
        }
        let Some(place) = self.place_of(row) else {
            return self.add_segment(0, vec![row]);
        };
        let segment = &mut self.segments[place];
        // A segment that was not read has all the rows that were listed in its range.
        let SegmentRows::Known { rows, changed, .. } = &mut segment.content else { return };
        let Err(at) = rows.binary_search(&row) else { return };
        rows.insert(at, row);
        segment.tally.add(row);
        *changed = true;
        if rows.len() > MOST_ROWS {
            self.split(place);
        }
    }

    /// Cuts a segment that has become too long. Its document stays as it is until the list no longer names it.
    fn split(&mut self, place: usize) {
        let HandledSegment { content: SegmentRows::Known { mut rows, .. }, .. } = self.segments.remove(place)
        else {
            return;
        };
        let is_last = place == self.segments.len();
        // Rows mostly come in order: then the full segment need not be touched again.
        let upper = rows.split_off(if is_last { MOST_ROWS } else { MOST_ROWS / 2 });
        self.add_segment(place, rows);
        self.add_segment(place + 1, upper);
        if self.segments.len() > MOST_SEGMENTS {
            self.segments.remove(0);
            self.floor = self.segments.first().map(|segment| segment.from);
        }
    }

    /// Forgets what finished before `oldest`, as far as that costs no further writing.
    pub fn forget_before(&mut self, oldest: DateTime<Utc>) {
        let oldest = Row(oldest.timestamp(), 0);
        let over = self.segments.partition_point(|segment| segment.from <= oldest).saturating_sub(1);
        self.segments.drain(..over);
        self.floor = self.floor.filter(|floor| *floor > oldest);
        let is_only = self.segments.len() == 1;
        let Some(first) = self.segments.first_mut() else { return };
        if let SegmentRows::Known { rows, changed, .. } = &mut first.content
            && (*changed || is_only)
        {
            rows.retain(|row| *row >= oldest);
            first.tally = Tally::of(rows);
        }
    }

    /// The documents to write before the cursor is.
    #[must_use]
    pub fn unsaved(&self) -> Vec<StoredSegment> {
        let unsaved = |segment: &HandledSegment| match &segment.content {
            SegmentRows::Known { rows, version, changed: true } => {
                Some(StoredSegment { number: segment.number, version: *version, rows: RowList(rows.clone()) })
            }
            _ => None,
        };
        self.beside_the_cursor().iter().filter_map(unsaved).collect()
    }

    /// Whether anything is to be written.
    #[must_use]
    pub fn has_unsaved(&self) -> bool {
        let changed =
            |segment: &HandledSegment| matches!(segment.content, SegmentRows::Known { changed: true, .. });
        self.segments.iter().any(changed)
    }

    /// A segment's document was written.
    pub fn saved(&mut self, number: u32, written: u64) {
        let segment = self.segments.iter_mut().find(|segment| segment.number == number);
        if let Some(SegmentRows::Known { version, changed, .. }) = segment.map(|segment| &mut segment.content)
        {
            *version = Some(written);
            *changed = false;
        }
    }

    /// The cursor was written.
    pub fn list_saved(&mut self) {
        self.listed = self.beside_the_cursor().iter().map(|segment| segment.number).collect();
        let newest = self.segments.last_mut().map(|segment| &mut segment.content);
        if let Some(SegmentRows::Known { changed, .. }) = newest {
            *changed = false;
        }
    }

    fn beside_the_cursor(&self) -> &[HandledSegment] {
        match self.segments.split_last() {
            Some((newest, others)) if newest.is_known() => others,
            _ => &self.segments,
        }
    }

    fn place_of(&self, row: Row) -> Option<usize> {
        let behind = self.segments.partition_point(|segment| segment.from <= row);
        (!self.segments.is_empty()).then(|| behind.saturating_sub(1))
    }

    fn add_segment(&mut self, place: usize, rows: Vec<Row>) {
        let Some(from) = rows.first().copied() else { return };
        let used = |number: &u32| {
            self.listed.contains(number) || self.segments.iter().any(|segment| segment.number == *number)
        };
        let number = (0..u32::MAX).find(|number| !used(number)).unwrap_or(u32::MAX);
        let tally = Tally::of(&rows);
        let content = SegmentRows::Known { rows, version: None, changed: true };
        self.segments.insert(place, HandledSegment { number, from, tally, content });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rows(range: std::ops::Range<i64>) -> impl Iterator<Item = Row> {
        range.map(|n| Row(n, 9_000_000_000_000_000 + n.cast_unsigned()))
    }

    /// What is stored of it, as the next run has it: the list, and the documents.
    fn stored(
        handled: &mut Handled,
        documents: &mut std::collections::BTreeMap<u32, (u64, RowList)>,
    ) -> Handled {
        for StoredSegment { number, version, rows } in handled.unsaved() {
            let next = version.unwrap_or(0) + 1;
            documents.insert(number, (next, rows));
            handled.saved(number, next);
        }
        handled.list_saved();
        serde_json::from_value(serde_json::to_value(&*handled).unwrap()).unwrap()
    }

    #[test]
    fn beyond_the_bound_the_oldest_count_as_handled_and_the_list_stays_small() {
        let mut handled = Handled::default();
        rows(0..300_000).for_each(|row| handled.insert(row));
        assert!(handled.len() <= MOST_SEGMENTS * MOST_ROWS);
        assert!(rows(0..300_000).all(|row| handled.contains(row)), "nothing comes twice");
        assert!(!handled.contains(Row(300_000, 1)));
        let list = serde_json::to_string(&handled).unwrap();
        assert!(list.len() < 20_000, "{} bytes", list.len());
    }

    #[test]
    fn thirty_thousand_rows_of_one_second_are_remembered() {
        let mut handled = Handled::default();
        let rows: Vec<Row> = (0..30_000).map(|id| Row(1_760_000_000, 9_000_000_000_000_000 + id)).collect();
        for row in &rows {
            handled.insert(*row);
        }
        assert_eq!(handled.len(), 30_000);
        let next = stored(&mut handled, &mut std::collections::BTreeMap::new());
        assert_eq!(next.unknown(&rows), [0; 0]);
        assert!(rows.iter().all(|row| next.contains(*row)));
    }

    #[test]
    fn rows_that_come_in_the_wrong_order_leave_segments_at_least_half_full() {
        let mut handled = Handled::default();
        rows(0..128_000).collect::<Vec<_>>().into_iter().rev().for_each(|row| handled.insert(row));
        assert_eq!(handled.len(), 128_000, "nothing is forgotten");
    }

    proptest! {
        #[test]
        fn rows_survive_their_text(rows in proptest::collection::vec((0_i64..4_000_000_000, any::<u64>()), 0..200)) {
            let rows = RowList::from(rows.into_iter().map(|(second, id)| Row(second, id)).collect::<Vec<_>>());
            prop_assert_eq!(RowList::try_from(String::from(rows.clone())).unwrap(), rows);
        }

        #[test]
        fn whatever_is_listed_in_whichever_order_each_row_is_new_once(
            runs in proptest::collection::vec(proptest::collection::vec((0_i64..50, 0_u64..400), 0..1500), 1..6),
        ) {
            let mut documents = std::collections::BTreeMap::new();
            let mut handled = Handled::default();
            let mut known = BTreeSet::new();
            for run in runs {
                let listed: Vec<Row> = run.into_iter().map(|(second, id)| Row(second, id)).collect::<BTreeSet<_>>().into_iter().collect();
                for number in handled.unknown(&listed) {
                    let (version, rows): (u64, RowList) = documents.get(&number).cloned().unwrap();
                    handled.learn(StoredSegment { number, version: Some(version), rows });
                }
                for row in listed {
                    prop_assert_eq!(handled.contains(row), !known.insert(row), "{:?}", row);
                    if !handled.contains(row) {
                        handled.insert(row);
                    }
                }
                handled = stored(&mut handled, &mut documents);
                prop_assert_eq!(handled.len(), known.len());
            }
        }
    }
}
