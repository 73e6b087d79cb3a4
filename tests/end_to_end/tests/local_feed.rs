//! Which submissions are new: windows, long lists, late rows, and servers whose clock is wrong.

#![allow(clippy::unwrap_used)]

use chrono::{NaiveDateTime, TimeDelta, Timelike, Utc};
use end_to_end::local::{World, add, add_at, estate, minute, position, samples, submission_id};
use serde_json::{Value, json};
use simulators::estate::{Estate, SampleSpec, SubmissionSpec, Verdict};
use simulators::faults::Fault;
use simulators::opencti::OpenctiOptions;
use simulators::vmray::{RangeBounds, ServerProfile, VmrayOptions};

/// A sample of which nothing is to be read.
const CLEAN: u64 = 900_000;

/// Adds clean submissions of one sample that finished at these times.
fn add_clean(estate: &mut Estate, times: impl IntoIterator<Item = NaiveDateTime>) {
    estate.add_sample(SampleSpec { verdict: Some(Verdict::Clean), ..SampleSpec::file(CLEAN, "clean.exe") });
    for (id, finished) in (10_000..).zip(times) {
        estate.add_submission(SubmissionSpec::finished(id, CLEAN, finished).verdict(Verdict::Clean));
    }
}

fn each_second(count: i64) -> impl Iterator<Item = NaiveDateTime> {
    (0..count).map(|n| minute(0) + TimeDelta::seconds(n))
}

/// A server that gives at most 200 rows of a list, 50 at a time.
async fn small_world(estate: Estate, bounds: RangeBounds) -> World {
    let vmray = VmrayOptions {
        estate,
        bounds,
        api_items_per_request: 50,
        max_api_items: 200,
        ..VmrayOptions::default()
    };
    World::with(vmray, OpenctiOptions::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_year_costs_one_list_call() {
    let world = World::new(Estate::new()).await.setting("VMRAY_INITIAL_FETCH_DATE", "2024-06-01");
    let answer = world.ingest_all().await;
    assert_eq!(answer["calls"]["vmray"], 1);
    assert_eq!(answer["submissions"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_rows_than_the_server_gives_at_once_all_arrive() {
    let mut estate = Estate::new();
    add_clean(&mut estate, each_second(1_400));
    for (id, second) in [(1, 0), (2, 999), (3, 1_000), (4, 1_399)] {
        add_at(&mut estate, id, minute(0) + TimeDelta::seconds(second));
    }
    let world = World::new(estate).await;
    let answer = world.ingest_all().await;
    assert_eq!(answer["submissions"], 1_404);
    assert_eq!(answer["skipped"], 1_400);
    assert_eq!(world.arrived(), samples([1, 2, 3, 4]));
    let lists = world.vmray_calls("GET /rest/submission") + world.vmray_calls("GET /rest/continuation/{}");
    assert!(lists < 100, "a truncated answer is not read to its end: {lists}");
    assert_eq!(world.ingest_all().await["submissions"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_rows_in_one_second_than_the_server_gives_at_once_all_arrive() {
    let mut estate = Estate::new();
    add_clean(&mut estate, std::iter::repeat_n(minute(5), 1_100));
    add_at(&mut estate, 1, minute(5)); // the lowest number of that second
    estate.add_sample(end_to_end::local::sample(2));
    estate.add_submission(SubmissionSpec::finished(99_999, 2, minute(5))); // the highest
    add(&mut estate, 8); // after it
    let world = World::new(estate).await;
    // The window only spares the simulator the halving down to a second.
    let answer = world.ingest_with(&["--from", "2025-06-01T10:04:57Z", "--to", "2025-06-01T10:09:00Z"]).await;
    assert_eq!(answer["submissions"], 1_103);
    assert_eq!(world.arrived(), samples([1, 2, 8]));
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_ends_of_a_range_mean_nothing_is_lost_and_nothing_comes_twice() {
    for bounds in [RangeBounds::Inclusive, RangeBounds::HalfOpen, RangeBounds::Exclusive] {
        let mut estate = Estate::new();
        add_clean(&mut estate, each_second(400));
        (1..=3).for_each(|id| add(&mut estate, id));
        let world = small_world(estate, bounds).await.setting("FEED_OVERLAP", "PT0S");
        let answer = world.ingest_all().await;
        assert_eq!(answer["submissions"], 403, "{bounds:?}");
        add_at(&mut world.vmray.estate(), 4, minute(0) + TimeDelta::seconds(399));
        let second = world.ingest_all().await;
        assert_eq!(second["submissions"], 1, "{bounds:?}: one more in the second of the position");
        assert_eq!(world.ingest_all().await["submissions"], 0, "{bounds:?}");
        assert_eq!(world.arrived(), samples([1, 2, 3, 4]), "{bounds:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_rows_in_one_second_than_given_at_once_arrive_where_ranges_leave_out_their_ends() {
    let mut estate = Estate::new();
    add_clean(&mut estate, std::iter::repeat_n(minute(5), 400));
    add(&mut estate, 5);
    let world = small_world(estate, RangeBounds::Exclusive).await;
    assert_eq!(world.ingest_all().await["submissions"], 401);
    assert_eq!(world.arrived(), samples([5]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_overlap_finds_rows_that_appear_late_and_repeats_none() {
    let world = World::new(estate(20)).await;
    world.ingest_all().await;
    add_at(&mut world.vmray.estate(), 50, minute(20) - TimeDelta::minutes(14));
    let reads = world.vmray_calls("GET /rest/sample/{}");
    let answer = world.ingest_all().await;
    assert_eq!(answer["submissions"], 1);
    assert_eq!(world.vmray_calls("GET /rest/sample/{}") - reads, 1);
    assert!(world.arrived().contains(&50));
    assert_eq!(answer["position"], position(20), "a late row does not move the position back");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_overlap_is_as_long_as_it_is_set() {
    let world = World::new(estate(60)).await.setting("FEED_OVERLAP", "PT45M");
    world.ingest_all().await;
    add_at(&mut world.vmray.estate(), 80, minute(60) - TimeDelta::minutes(44));
    assert_eq!(world.ingest_all().await["submissions"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_breaks_off_between_its_pages_is_asked_again_from_its_start() {
    let broken = [
        Fault::on("GET /rest/continuation/*").from(2).once().status(503),
        Fault::on("GET /rest/continuation/*").once().close_after_handling(),
        Fault::on("GET /rest/continuation/*").from(3).once().status(404),
        Fault::on("GET /rest/continuation/*").once().truncate(200),
        Fault::on("GET /rest/continuation/*").once().throttle(0),
    ];
    for fault in broken {
        let mut estate = Estate::new();
        add_clean(&mut estate, each_second(450));
        (1..=8).for_each(|id| add(&mut estate, id));
        let world = World::new(estate).await;
        let what = format!("{fault:?}");
        world.vmray.faults().add(fault);
        let answer = world.ingest_all().await;
        assert_eq!(answer["submissions"], 458, "{what}");
        assert_eq!(world.arrived().len(), 8, "{what}");
        assert_eq!(world.vmray_calls("GET /rest/submission"), 2, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_changes_while_it_is_read_loses_nothing() {
    let mut estate = Estate::new();
    add_clean(&mut estate, each_second(600));
    (1..=12).for_each(|id| add(&mut estate, id));
    let world = std::sync::Arc::new(small_world(estate, RangeBounds::Inclusive).await);
    let changed = std::sync::Arc::downgrade(&world);
    let change = move || {
        let Some(world) = changed.upgrade() else { return };
        let mut estate = world.vmray.estate();
        estate.delete_submission(submission_id(3));
        add_at(&mut estate, 40, minute(4)); // finished before what was read already
        add(&mut estate, 15); // and after it
    };
    world.vmray.faults().add(Fault::on("GET /rest/continuation/*").from(2).once().call(change));
    world.ingest_all().await;
    world.ingest_all().await;
    let expected = samples((1..=12).chain([15, 40]).filter(|id| *id != 3));
    assert!(world.arrived().is_superset(&expected), "{:?}", world.arrived());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submission_in_progress_comes_when_it_is_finished() {
    let world = World::new(estate(3)).await;
    let running = SubmissionSpec { finished: None, ..SubmissionSpec::finished(1009, 9, minute(2)) };
    {
        let mut estate = world.vmray.estate();
        estate.add_sample(end_to_end::local::sample(9));
        estate.add_submission(running);
    }
    world.ingest_all().await;
    assert_eq!(world.arrived(), samples([1, 2, 3]));
    world.vmray.estate().add_submission(SubmissionSpec::finished(1009, 9, minute(4)));
    assert_eq!(world.ingest_all().await["samples"], 1);
    assert_eq!(world.arrived(), samples([1, 2, 3, 9]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_no_submission_is_counted_and_holds_nobody_up() {
    let world = World::new(estate(3)).await;
    world.vmray.estate().submission_mut(submission_id(2))["submission_id"] = json!("two");
    world.vmray.estate().submission_mut(submission_id(3))["submission_sample_id"] = Value::Null;
    let answer = world.ingest_all().await;
    assert_eq!(world.arrived(), samples([1]));
    assert_eq!(answer["left_out"], json!({"malformed_row": 1, "submission_without_sample": 1}));
}

#[tokio::test(flavor = "multi_thread")]
async fn several_submissions_of_one_sample_cost_one_reading_and_make_one_report() {
    let world = World::new(estate(2)).await;
    for n in 0..5 {
        world.vmray.estate().add_submission(SubmissionSpec::finished(2000 + n, 2, minute(3 + n)));
    }
    let answer = world.ingest_all().await;
    assert_eq!([&answer["submissions"], &answer["samples"]], [7, 2]);
    assert_eq!(world.vmray_calls("GET /rest/sample/{}"), 2);
    assert_eq!(world.opencti.platform().knowledge().of_type("malware-analysis").count(), 7);
    assert_eq!(world.opencti.platform().knowledge().of_type("report").count(), 2);
}

/// The whole second that it is now.
fn now() -> NaiveDateTime {
    Utc::now().naive_utc().with_nanosecond(0).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_clock_is_wrong_by_hours_loses_nothing() {
    for hours in [-13, -1, 1, 13, 23] {
        let offset = TimeDelta::hours(hours);
        let vmray = VmrayOptions { estate: estate(3), clock_offset: offset, ..VmrayOptions::default() };
        let world = World::with(vmray, OpenctiOptions::default()).await;
        let world = world.setting("VMRAY_INITIAL_FETCH_DATE", "2025-05-01");
        let mut expected = samples([1, 2, 3]);
        assert_eq!(world.ingest_all().await["samples"], 3, "{hours}");
        for id in 11..=13 {
            // The simulator adds the offset itself.
            add_at(&mut world.vmray.estate(), id, now());
            let answer = world.ingest_all().await;
            expected.insert(id);
            assert_eq!(world.arrived(), expected, "{hours}: {answer:?}");
            assert_eq!(answer["samples"], 1, "{hours}: nothing is repeated");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_finds_nothing_does_not_move_the_position_to_our_clock() {
    let world = World::new(estate(3)).await;
    world.ingest_all().await;
    for _ in 0..2 {
        assert_eq!(world.ingest_all().await["position"], position(3));
    }
    add(&mut world.vmray.estate(), 4);
    assert_eq!(world.ingest_all().await["samples"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_server_is_read_as_well() {
    let vmray = VmrayOptions { estate: estate(4), profile: ServerProfile::Old, ..VmrayOptions::default() };
    let world = World::with(vmray, OpenctiOptions::default()).await;
    let answer = world.ingest_all().await;
    assert_eq!(world.arrived(), samples([1, 2, 3, 4]));
    assert_eq!(answer["quarantined"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn any_page_size_and_any_maximum_of_the_server_will_do() {
    for (page, most) in [(1, 7), (10, 30), (50, 100)] {
        let mut estate = Estate::new();
        add_clean(&mut estate, each_second(100));
        (1..=4).for_each(|id| add(&mut estate, id));
        let vmray = VmrayOptions {
            estate,
            api_items_per_request: page,
            max_api_items: most,
            ..VmrayOptions::default()
        };
        let world = World::with(vmray, OpenctiOptions::default()).await;
        assert_eq!(world.ingest_all().await["submissions"], 104, "{page} of {most}");
        assert_eq!(world.arrived().len(), 4);
    }
}
