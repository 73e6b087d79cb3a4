//! What finished before the fresh part, newest day first: which day is next, what is left of it, and when it will be
//! done. No I/O, no clock.
//!
//! A new deployment begins one day ago, so that today's threats arrive first. What lies between the initial date and
//! there is its history. It is worked off in days of UTC, backwards; within a day the oldest submission comes first, and
//! the cursor holds the last one that is handled with all before it.

use chrono::{DateTime, NaiveTime, SubsecRound, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use vmray::client::Window;
use vmray::model::Submission;

use crate::handled::Row;

/// How much of the past is fresh when ingest begins.
const FRESH: TimeDelta = TimeDelta::days(1);

/// Days that the pace is taken from, the last one first.
const PACE_OF_DAYS: i64 = 7;

/// In which order a beginning takes what VMRay has already (`HISTORY`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HistoryOrder {
    /// The last day at once, then the days before it, backwards.
    NewestFirst,
    /// Everything from the initial date on, in one.
    OldestFirst,
    /// The last day only.
    LastDay,
}

/// Where ingest begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beginning {
    /// Of the fresh part.
    pub start: DateTime<Utc>,
    /// What comes after it.
    pub history: Option<History>,
}

impl Beginning {
    /// Of a new deployment, and after a reset.
    #[must_use]
    pub fn new(order: HistoryOrder, initial: DateTime<Utc>, now: DateTime<Utc>) -> Self {
        let yesterday = (now - FRESH).trunc_subsecs(0);
        match order {
            HistoryOrder::OldestFirst => Self { start: initial, history: None },
            HistoryOrder::LastDay => Self { start: initial.max(yesterday), history: None },
            HistoryOrder::NewestFirst => {
                Self { start: initial.max(yesterday), history: History::between(initial, yesterday, now) }
            }
        }
    }
}

/// History that is not done yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// Nothing that finished before this is ingested.
    from: DateTime<Utc>,
    /// What finished from here on is done.
    down_to: DateTime<Utc>,
    /// Of the day before that the last row that is handled with all before it.
    #[serde(default)]
    passed: Option<Row>,
    /// When the day under way was begun, by our clock.
    day_begun: DateTime<Utc>,
    /// What a day has taken lately, from one to the next, times between runs included.
    #[serde(default)]
    pace_ms: Option<i64>,
}

/// How far history is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct HistoryLeft {
    /// Where it ends.
    pub from: DateTime<Utc>,
    /// What finished from here on is done.
    pub down_to: DateTime<Utc>,
    /// Days between the two, the last one begun counted whole.
    pub days_left: u64,
    /// By the pace of the last days; `None` before the first is done.
    pub done_at: Option<DateTime<Utc>>,
}

/// The part of history that is next: a day of UTC, or what belongs to history of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Day {
    /// Belongs to it.
    from: DateTime<Utc>,
    /// Does not.
    to: DateTime<Utc>,
    passed: Option<Row>,
}

impl History {
    /// What finished from `from` on and before `to`; `None` when that is no time at all.
    #[must_use]
    pub fn between(from: DateTime<Utc>, to: DateTime<Utc>, now: DateTime<Utc>) -> Option<Self> {
        let history = Self { from, down_to: to, passed: None, day_begun: now, pace_ms: None };
        (from < to).then_some(history)
    }

    /// What is left of it before `time`: what comes after is the fresh part's.
    #[must_use]
    pub fn before(self, time: DateTime<Utc>) -> Option<Self> {
        let cut = Self { down_to: time, passed: None, ..self };
        let left = if time < self.down_to { cut } else { self };
        (left.from < left.down_to).then_some(left)
    }

    /// The next day.
    #[must_use]
    pub(crate) fn day(&self) -> Day {
        let last_second = self.down_to - TimeDelta::seconds(1);
        let midnight = last_second.date_naive().and_time(NaiveTime::MIN).and_utc();
        Day { from: midnight.max(self.from), to: self.down_to, passed: self.passed }
    }

    /// All rows of the next day up to this one are handled.
    pub(crate) fn pass(&mut self, row: Row) {
        if row.finished() < self.down_to {
            self.passed = self.passed.max(Some(row));
        }
    }

    /// The next day is done. What is left.
    #[must_use]
    pub(crate) fn without_day(self, now: DateTime<Utc>) -> Option<Self> {
        let took = (now - self.day_begun).num_milliseconds().max(0);
        let pace = self.pace_ms.map_or(took, |pace| (pace * (PACE_OF_DAYS - 1) + took) / PACE_OF_DAYS);
        let down_to = self.day().from;
        let left = Self { down_to, passed: None, day_begun: now, pace_ms: Some(pace), ..self };
        (left.from < left.down_to).then_some(left)
    }

    /// What there is to say of it.
    #[must_use]
    pub fn left(&self, now: DateTime<Utc>) -> HistoryLeft {
        let seconds = (self.down_to - self.from).num_seconds().max(1);
        let days = (seconds + 86_399) / 86_400;
        let rest = self.pace_ms.and_then(|pace| TimeDelta::try_milliseconds(pace.checked_mul(days)?));
        HistoryLeft {
            from: self.from,
            down_to: self.down_to,
            days_left: days.unsigned_abs(),
            done_at: rest.and_then(|rest| now.checked_add_signed(rest)).map(|time| time.trunc_subsecs(0)),
        }
    }
}

impl Day {
    /// When it begins.
    #[must_use]
    pub(crate) fn from(&self) -> DateTime<Utc> {
        self.from
    }

    /// What is asked of VMRay: what is left of it, and its end, which is the next day's.
    #[must_use]
    pub(crate) fn window(&self) -> Window {
        let from = self.passed.map_or(self.from, |row| row.finished().max(self.from));
        Window { from, to: self.to }
    }

    /// Whether a row of that window is still to be handled. One without a finish time was listed for the window, but
    /// nothing says at which place: it comes again rather than not at all.
    #[must_use]
    pub(crate) fn holds(&self, submission: &Submission) -> bool {
        submission.finish_time.is_none_or(|finished| {
            let row = Row::new(finished, submission.id);
            self.from <= finished && finished < self.to && Some(row) > self.passed
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vmray::model::SubmissionId;

    use super::*;

    fn time(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_760_000_000 + second, 0).unwrap()
    }

    fn submission(id: u64, finished: DateTime<Utc>) -> Submission {
        let row = serde_json::json!({
            "submission_id": id, "submission_finished": true,
            "submission_finish_time": finished.format("%Y-%m-%dT%H:%M:%S").to_string(),
        });
        serde_json::from_value(row).unwrap()
    }

    fn all_days(from: DateTime<Utc>, to: DateTime<Utc>) -> Vec<Day> {
        let first = History::between(from, to, to);
        std::iter::successors(first, |history| history.without_day(to)).map(|history| history.day()).collect()
    }

    #[test]
    fn a_beginning_has_the_last_day_first_and_the_rest_as_it_is_asked_for() {
        let (initial, now) = (time("2026-01-01T00:00:00Z"), time("2026-03-05T12:00:00.5Z"));
        let yesterday = time("2026-03-04T12:00:00Z");
        let begin = |order| Beginning::new(order, initial, now);
        assert_eq!(begin(HistoryOrder::OldestFirst), Beginning { start: initial, history: None });
        assert_eq!(begin(HistoryOrder::LastDay), Beginning { start: yesterday, history: None });
        let newest_first = begin(HistoryOrder::NewestFirst);
        assert_eq!(newest_first.start, yesterday);
        let left = newest_first.history.unwrap().left(now);
        assert_eq!((left.from, left.down_to, left.days_left), (initial, yesterday, 63));
    }

    #[test]
    fn an_initial_date_of_the_last_day_has_no_history() {
        let now = time("2026-03-05T12:00:00Z");
        for initial in ["2026-03-04T12:00:00Z", "2026-03-05T00:00:00Z", "2026-03-06T00:00:00Z"] {
            let initial = time(initial);
            let expected = Beginning { start: initial, history: None };
            assert_eq!(Beginning::new(HistoryOrder::NewestFirst, initial, now), expected);
        }
    }

    #[test]
    fn days_are_those_of_utc_and_the_newest_is_first() {
        let days = all_days(time("2026-03-01T18:00:00Z"), time("2026-03-03T06:00:00Z"));
        let bounds: Vec<_> = days.iter().map(|day| (day.from, day.to)).collect();
        let [one, two, three, four] =
            ["2026-03-01T18:00:00Z", "2026-03-02T00:00:00Z", "2026-03-03T00:00:00Z", "2026-03-03T06:00:00Z"]
                .map(time);
        assert_eq!(bounds, [(three, four), (two, three), (one, two)]);
    }

    #[test]
    fn a_day_goes_on_behind_the_last_row_that_it_has_passed() {
        let mut history = History::between(at(0), at(5000), at(0)).unwrap();
        history.pass(Row::new(at(100), SubmissionId(7)));
        history.pass(Row::new(at(90), SubmissionId(9)));
        let day = history.day();
        assert_eq!(day.window().from, at(100));
        assert!(!day.holds(&submission(7, at(100))) && !day.holds(&submission(8, at(99))));
        assert!(day.holds(&submission(8, at(100))) && day.holds(&submission(1, at(101))));
    }

    #[test]
    fn the_pace_of_the_last_days_says_when_it_is_done() {
        let mut history = History::between(at(0), at(20 * 86_400), at(0)).unwrap();
        assert_eq!(history.left(at(0)).done_at, None);
        for day in 1..=3 {
            history = history.without_day(at(day * 60)).unwrap();
        }
        let left = history.left(at(180));
        assert_eq!(left.done_at, Some(at(180 + 60 * left.days_left.cast_signed())));
        history = history.without_day(at(180 + 130)).unwrap();
        let slower = history.left(at(310));
        assert_eq!(slower.done_at, Some(at(310 + 70 * slower.days_left.cast_signed())));
    }

    #[test]
    fn what_an_operator_makes_fresh_is_no_history_any_more() {
        let history = History::between(at(0), at(1000), at(0)).unwrap();
        assert_eq!(history.before(at(2000)), Some(history));
        assert_eq!(history.before(at(500)), History::between(at(0), at(500), at(0)));
        assert_eq!(history.before(at(0)), None);
    }

    #[test]
    fn what_was_stored_is_read_again() {
        let mut history = History::between(at(0), at(1_000_000), at(0)).unwrap().without_day(at(9)).unwrap();
        history.pass(Row::new(at(100), SubmissionId(7)));
        let stored = serde_json::to_string(&history).unwrap();
        assert_eq!(serde_json::from_str::<History>(&stored).unwrap(), history);
    }

    proptest! {
        #[test]
        fn every_submission_of_the_span_is_of_exactly_one_day_and_listed_with_it(
            from in 0_i64..400_000,
            length in 1_i64..900_000,
            seconds in proptest::collection::vec(-100_i64..1_000_000, 0..50),
        ) {
            let to = from + length;
            let days = all_days(at(from), at(to));
            let midnights = days.iter().flat_map(|day| [day.from, day.to]).map(|time| (time - at(0)).num_seconds());
            let bounds = midnights.flat_map(|second| [second - 1, second, second + 1]);
            for second in bounds.chain(seconds.iter().copied()).chain([from, to - 1, to]) {
                let submission = submission(1, at(second));
                let holding: Vec<_> = days.iter().filter(|day| day.holds(&submission)).collect();
                prop_assert_eq!(holding.len(), usize::from((from..to).contains(&second)), "{}", second);
                for day in holding {
                    let window = day.window();
                    prop_assert!((window.from..=window.to).contains(&at(second)));
                }
            }
            for (newer, older) in days.iter().zip(&days[1..]) {
                prop_assert_eq!(newer.from, older.to);
            }
        }

        #[test]
        fn what_is_left_goes_down_to_nothing(length in 1_i64..3_000_000) {
            let mut history = History::between(at(0), at(length), at(0));
            let mut last = u64::MAX;
            while let Some(now) = history {
                let left = now.left(at(0)).days_left;
                prop_assert!(left <= last && left > 0);
                last = left;
                history = now.without_day(at(0));
            }
            prop_assert_eq!(last, 1);
        }
    }
}
