//! Many submissions inside the overlap, or in one second: what is handled stands in several documents.

#![allow(clippy::unwrap_used)]

use chrono::{NaiveDateTime, TimeDelta};
use end_to_end::local::{World, add_at, minute, samples};
use simulators::estate::{Estate, SampleSpec, SubmissionSpec, Verdict};

/// A sample of which nothing is to be read.
const CLEAN: u64 = 900_000;

/// Numbers of 16 digits.
const FIRST_NUMBER: u64 = 9_100_000_000_000_000;

fn add_clean(estate: &mut Estate, times: impl IntoIterator<Item = NaiveDateTime>) {
    estate.add_sample(SampleSpec { verdict: Some(Verdict::Clean), ..SampleSpec::file(CLEAN, "clean.exe") });
    for (id, finished) in (FIRST_NUMBER..).step_by(7).zip(times) {
        estate.add_submission(SubmissionSpec::finished(id, CLEAN, finished).verdict(Verdict::Clean));
    }
}

fn after(seconds: u32) -> NaiveDateTime {
    minute(0) + TimeDelta::seconds(seconds.into())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_rows_inside_the_overlap_none_comes_twice_and_a_late_one_comes_once() {
    let mut estate = Estate::new();
    add_clean(&mut estate, (0..3_500).map(|n| after(n * 140)));
    (1..=5_u32).for_each(|id| add_at(&mut estate, id.into(), after(id * 90_000)));
    let world = World::new(estate).await.setting("FEED_OVERLAP", "P7D");
    assert_eq!(world.ingest_all().await["submissions"], 3_505);
    let pushes = world.opencti.platform().pushes();
    for _ in 0..2 {
        assert_eq!(world.ingest_all().await["submissions"], 0);
    }
    add_at(&mut world.vmray.estate(), 6, after(31));
    let answer = world.ingest_all().await;
    assert_eq!([&answer["submissions"], &answer["samples"]], [1, 1]);
    assert_eq!(world.ingest_all().await["submissions"], 0);
    assert_eq!(world.opencti.platform().pushes(), pushes + 1);
    assert_eq!(world.arrived(), samples(1..=6));
    assert_eq!(world.ask(&["cursor", "show"]).await["remembered"], 3_506);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_rows_in_one_second_none_comes_twice_and_all_come() {
    let mut estate = Estate::new();
    add_clean(&mut estate, std::iter::repeat_n(minute(5), 2_500));
    add_at(&mut estate, 1, minute(5)); // the lowest number of that second
    estate.add_sample(end_to_end::local::sample(2));
    estate.add_submission(SubmissionSpec::finished(FIRST_NUMBER + 1_000_000, 2, minute(5))); // the highest
    let world = World::new(estate).await.setting("VMRAY_INITIAL_FETCH_DATE", "2025-06-01T10:04:58Z");
    assert_eq!(world.ingest_all().await["submissions"], 2_502);
    assert_eq!(world.arrived(), samples([1, 2]));
    add_at(&mut world.vmray.estate(), 3, minute(5));
    assert_eq!(world.ingest_all().await["submissions"], 1);
    assert_eq!(world.ingest_all().await["submissions"], 0);
    assert_eq!(world.arrived(), samples([1, 2, 3]));
}
