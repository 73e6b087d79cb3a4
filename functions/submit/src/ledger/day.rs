//! What a caller has used of its daily limit. Pure; [`Ledger`](super::Ledger) reads and writes it.
//!
//! A call that sends URLs books them first, in one conditional write, under the number of its batch. So:
//!
//! 1. The call's record names its batch and its time. Of two identical calls one writes the record, and the other carries
//!    out the batch that it finds there, never one of its own. So does the repeat of a call that died.
//! 2. The batch's new URLs are booked, on the day of the record. What is booked under this number is not booked again.
//! 3. Only then the batch comes into being, with its header; nothing is sent for a batch without one. A `retry` is booked
//!    in the same way before the batch's state says that it has begun.
//! 4. When nothing of a chunk is left to send, its booking is settled: URLs that this batch did not send, because VMRay's
//!    quota refused them or because another batch sent them, are given back. A settled booking is forgotten.
//!
//! A process that is held up between 1 and 2 may come when its booking is settled and forgotten. So it looks for the header
//! after it has read the day and before it writes it: a booking is only settled after the header was written, and settling
//! changes the day. Either the header is there, or the day has changed since it was read and the write fails.
//!
//! Given back is only what can no longer be sent: a worker that sends less than was booked first writes into the URL's
//! entry that it will not be sent, and another worker that wants to claim the entry finds that.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Chunks whose bookings are kept open: far below what a document holds. Beyond, bookings of batches that have begun are
/// final as they are.
pub const MOST_OPEN: usize = 2000;

/// URLs by the number of their chunk.
pub type ByChunk = BTreeMap<usize, u64>;

/// A caller's day.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Day {
    /// All URLs that count, those of open bookings among them.
    pub urls: u64,
    /// Bookings that are not settled, by batch and round.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    open: BTreeMap<String, ByChunk>,
}

/// What became of a booking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Booked {
    /// The URLs count; the batch may begin.
    Now,
    /// The batch has begun, and was booked before.
    Before,
    /// They would be too many: so many are used.
    OverLimit {
        /// URLs that count already.
        used: u64,
    },
}

/// What a booking stands under: the call is round 0 of its batch, each retry one more.
#[must_use]
pub fn booking(batch: &str, round: u32) -> String {
    if round == 0 { batch.to_owned() } else { format!("{batch}~{round}") }
}

/// The batch and the round of a booking.
pub(super) fn batch_and_round(booking: &str) -> (&str, u32) {
    match booking.split_once('~') {
        Some((batch, round)) => (batch, round.parse().unwrap_or(u32::MAX)),
        None => (booking, 0),
    }
}

impl Day {
    /// Whether a booking is open.
    #[must_use]
    pub fn holds(&self, booking: &str) -> bool {
        self.open.contains_key(booking)
    }

    /// Books URLs; `false`: they were. `Err`: they would be more than `most`, and so many are used.
    pub fn book(&mut self, booking: &str, urls: &ByChunk, most: u64) -> Result<bool, u64> {
        let booked = self.open.get(booking);
        // Two looks at the same call may differ by what has become known in between: the larger one counts.
        let more = |(chunk, urls): (&usize, &u64)| {
            urls.saturating_sub(booked.and_then(|booked| booked.get(chunk)).copied().unwrap_or(0))
        };
        let added: u64 = urls.iter().map(more).sum();
        if added == 0 {
            return Ok(false);
        }
        if self.urls.saturating_add(added) > most {
            return Err(self.urls);
        }
        self.urls += added;
        let booked = self.open.entry(booking.to_owned()).or_default();
        for (chunk, urls) in urls.iter().filter(|(_, urls)| **urls > 0) {
            let counted = booked.entry(*chunk).or_default();
            *counted = (*counted).max(*urls);
        }
        Ok(true)
    }

    /// Ends the bookings of a batch for a chunk. `used` says how many URLs a round has sent, if it has begun; the others are
    /// given back. `false`: nothing was open.
    pub fn settle(&mut self, batch: &str, chunk: usize, used: impl Fn(u32) -> Option<u64>) -> bool {
        let mut settled = false;
        for (booking, chunks) in &mut self.open {
            let (of, round) = batch_and_round(booking);
            if of == batch
                && let Some(used) = used(round)
                && let Some(booked) = chunks.remove(&chunk)
            {
                self.urls = self.urls.saturating_sub(booked.saturating_sub(used));
                settled = true;
            }
        }
        self.open.retain(|_, chunks| !chunks.is_empty());
        settled
    }

    /// Whether the chunks of these URLs can be kept open, too.
    pub(super) fn has_room_for(&self, urls: &ByChunk) -> bool {
        self.open.values().map(BTreeMap::len).sum::<usize>() + urls.len() <= MOST_OPEN
    }

    /// The chunks of a batch for which a booking is open.
    pub(super) fn open_chunks(&self, batch: &str) -> impl Iterator<Item = usize> {
        let of_batch = move |booking: &&String| batch_and_round(booking).0 == batch;
        self.open
            .iter()
            .filter(move |(booking, _)| of_batch(booking))
            .flat_map(|(_, chunks)| chunks.keys().copied())
    }

    /// The open bookings.
    pub(super) fn bookings(&self) -> impl Iterator<Item = &str> {
        self.open.keys().map(String::as_str)
    }

    /// Leaves a booking as it is for good.
    pub(super) fn close(&mut self, booking: &str) {
        self.open.remove(booking);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: u64 = 10;

    fn urls(counts: &[u64]) -> ByChunk {
        counts.iter().copied().enumerate().collect()
    }

    #[test]
    fn a_booking_counts_once_however_often_it_is_made() {
        let mut day = Day::default();
        assert_eq!(day.book("a", &urls(&[4, 2]), MOST), Ok(true));
        assert_eq!(day.book("a", &urls(&[4, 2]), MOST), Ok(false));
        assert_eq!(day.book("b", &urls(&[5]), MOST), Err(6));
        assert_eq!(day.book("b", &urls(&[4]), MOST), Ok(true));
        assert_eq!(day.urls, MOST);
    }

    #[test]
    fn a_repeat_that_finds_more_to_send_books_the_difference_if_it_fits() {
        let mut day = Day::default();
        assert_eq!(day.book("a", &urls(&[4, 2]), MOST), Ok(true));
        assert_eq!(day.book("a", &urls(&[3, 5]), MOST), Ok(true));
        assert_eq!(day.urls, 9);
        assert_eq!(day.book("a", &urls(&[9, 5]), MOST), Err(9));
    }

    #[test]
    fn what_a_chunk_did_not_send_is_given_back_once() {
        let mut day = Day::default();
        assert_eq!(day.book("a", &urls(&[4, 2]), MOST), Ok(true));
        assert!(day.settle("a", 0, |_| Some(1)));
        assert!(!day.settle("a", 0, |_| Some(0)), "it is settled");
        assert_eq!((day.urls, day.holds("a")), (3, true));
        assert!(day.settle("a", 1, |_| Some(5)), "no more is given back than was booked");
        assert_eq!((day.urls, day.holds("a")), (3, false));
    }

    #[test]
    fn rounds_of_a_batch_are_settled_each_for_itself() {
        let mut day = Day::default();
        for round in 0..2 {
            assert_eq!(day.book(&booking("a", round), &urls(&[3]), MOST), Ok(true));
        }
        assert!(day.settle("a", 0, |round| (round == 0).then_some(1)));
        assert_eq!((day.urls, day.holds(&booking("a", 1))), (4, true), "the second has not begun");
        assert!(day.settle("a", 0, |_| Some(0)));
        assert_eq!(day, Day { urls: 1, ..Day::default() });
    }

    #[test]
    fn a_day_of_an_earlier_version_is_read() {
        let day: Day = serde_json::from_str(r#"{"urls": 7}"#).unwrap();
        assert_eq!(day, Day { urls: 7, open: BTreeMap::new() });
    }
}
