//! Many samples that fail one after the other: told from a server that fails for all of them, and passed.

#![allow(clippy::unwrap_used)]

use std::ops::RangeInclusive;

use end_to_end::local::{Answer, World, add, estate, file_name, minute, position, sample, samples};
use serde_json::{Value, json};
use simulators::estate::{Estate, SampleSpec, SubmissionSpec};
use simulators::faults::Fault;

/// Samples that are not shared with the key's user stand between good ones.
async fn world_with_block(before: u64, block: u64, behind: u64) -> World {
    let world = World::new(estate(before + block + behind)).await;
    (before + 1..=before + block).for_each(|id| world.vmray.estate().forbid_sample(id, true));
    world
}

/// Runs until one handles everything, at most three times.
async fn within_three_runs(world: &World) -> Answer {
    for _ in 0..2 {
        let answer = world.ingest().await;
        if answer["status"] == "done" {
            return answer;
        }
    }
    world.ingest_all().await
}

async fn quarantined(world: &World) -> Vec<u64> {
    world.quarantine().await.iter().map(|entry| entry["sample_id"].as_u64().unwrap()).collect()
}

async fn assert_passed(before: u64, block: u64, behind: u64) {
    let what = format!("{before} good ones, {block} that fail, {behind} good ones");
    let world = world_with_block(before, block, behind).await;
    let answer = within_three_runs(&world).await;
    let failing: RangeInclusive<u64> = before + 1..=before + block;
    let all = 1..=before + block + behind;
    assert_eq!(world.arrived(), samples(all.filter(|id| !failing.contains(id))), "{what}");
    assert_eq!(quarantined(&world).await, failing.collect::<Vec<_>>(), "{what}");
    assert_eq!(answer["position"], position(before + block + behind), "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_of_50_or_300_samples_that_fail_is_passed() {
    assert_passed(100, 50, 100).await;
    assert_passed(100, 300, 100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_of_1100_samples_that_fail_is_passed() {
    assert_passed(100, 1_100, 100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_at_the_start_of_a_fresh_installation_is_passed() {
    assert_passed(0, 300, 100).await;
    assert_passed(0, 40, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_of_the_newest_samples_is_passed() {
    assert_passed(100, 300, 0).await;
    assert_passed(1, 40, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_hundred_failing_samples_among_five_hundred_hold_up_none_of_the_others() {
    let world = World::new(estate(500)).await;
    let fails = |id: &u64| id % 5 < 3;
    (1..=500).filter(fails).for_each(|id| world.vmray.estate().forbid_sample(id, true));
    within_three_runs(&world).await;
    assert_eq!(world.arrived(), samples((1..=500).filter(|id| !fails(id))));
    assert_eq!(quarantined(&world).await.len(), 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_costs_few_readings_of_other_samples() {
    let world = world_with_block(20, 300, 20).await;
    within_three_runs(&world).await;
    let own = 40 * 4 + 300 * 2 + 1;
    let calls = world.vmray.requests().len();
    assert!(calls <= own + 60, "{calls} requests, of which {own} are for the samples themselves");
}

#[tokio::test(flavor = "multi_thread")]
async fn samples_read_before_that_are_deleted_meanwhile_do_not_hold_up_a_block() {
    let world = World::new(estate(3)).await;
    world.ingest_all().await;
    (1..=3).for_each(|id| world.vmray.estate().delete_sample(id));
    (4..=60).for_each(|id| add(&mut world.vmray.estate(), id));
    (4..=50).for_each(|id| world.vmray.estate().forbid_sample(id, true));
    within_three_runs(&world).await;
    assert_eq!(world.arrived(), samples((1..=3).chain(51..=60)));
}

#[tokio::test(flavor = "multi_thread")]
async fn samples_read_before_that_fail_now_themselves_do_not_hold_up_a_block() {
    let world = World::new(estate(3)).await;
    world.ingest_all().await;
    (4..=60).for_each(|id| add(&mut world.vmray.estate(), id));
    (1..=50).for_each(|id| world.vmray.estate().forbid_sample(id, true));
    within_three_runs(&world).await;
    assert_eq!(world.arrived(), samples((1..=3).chain(51..=60)));
}

/// After a history, VMRay fails for everything in this way: the run stops, and nothing of it goes to quarantine.
async fn assert_stopped(new: RangeInclusive<u64>, fault: Fault) {
    let what = format!("{new:?} {fault:?}");
    let world = World::new(estate(10)).await;
    world.ingest_all().await;
    new.clone().for_each(|id| add(&mut world.vmray.estate(), id));
    world.vmray.faults().add(fault);
    for _ in 0..3 {
        let answer = world.ingest().await;
        assert_eq!([&answer["status"], &answer["error_kind"]], ["failed", "SystemicFailure"], "{what}");
        assert_eq!(answer["position"], position(10), "{what}");
        assert_eq!(world.quarantine().await, Vec::<Value>::new(), "{what}");
    }
    world.heal();
    world.ingest_all().await;
    assert_eq!(world.arrived(), samples((1..=10).chain(new)), "{what}");
    world.assert_holds_what_a_clean_run_gives().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_fails_for_everything_stops_every_run_however_few_samples_are_new() {
    for new in [11..=11, 11..=13, 11..=80] {
        assert_stopped(new.clone(), Fault::on("GET /rest/sample/*").status(403)).await;
        assert_stopped(new.clone(), Fault::on("GET /rest/sample/*/iocs").status(500)).await;
        assert_stopped(new, Fault::on("GET /rest/sample/*/mitre_attack").html()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_fails_for_a_fresh_installation_stops_it() {
    let world = World::new(estate(40)).await;
    world.vmray.faults().add(Fault::on("GET /rest/sample/*/vtis").status(403));
    for _ in 0..3 {
        let answer = world.ingest().await;
        assert_eq!([&answer["status"], &answer["error_kind"]], ["failed", "SystemicFailure"]);
        assert_eq!(world.quarantine().await, Vec::<Value>::new());
    }
    world.heal();
    world.ingest_all().await;
    assert_eq!(world.arrived(), samples(1..=40));
    world.assert_holds_what_a_clean_run_gives().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn samples_in_quarantine_are_not_given_up_because_of_a_server_that_fails_for_everything() {
    let world = world_with_block(3, 1, 0).await.setting("QUARANTINE_MAX_ATTEMPTS", "3");
    world.ingest_all().await;
    world.vmray.faults().add(Fault::on("GET /rest/sample/*").status(403));
    assert_eq!(world.ingest().await["status"], "failed");
    let entry = world.quarantine().await.remove(0);
    assert_eq!([&entry["attempts"], &entry["given_up"]], [&json!(2), &json!(false)]);
}

/// A sample that the platform is to refuse.
fn add_refused(estate: &mut Estate, id: u64) {
    estate.add_sample(SampleSpec { ..SampleSpec::file(id, &format!("refused-{id}.exe")) });
    estate.add_submission(SubmissionSpec::finished(1000 + id, id, minute(id)));
}

fn refuse(world: &World, containing: &str) {
    let fault = Fault::on("stixBundlePush").containing(containing);
    world.opencti.faults().add(fault.graphql_error("Something is wrong with it", "FUNCTIONAL_ERROR", 400));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_of_samples_that_opencti_refuses_is_passed() {
    for (before, block, behind) in [(20, 60, 20), (0, 60, 20), (20, 60, 0), (0, 60, 0)] {
        let mut estate = estate(before + block + behind);
        (before + 1..=before + block).for_each(|id| add_refused(&mut estate, id));
        let world = World::new(estate).await;
        refuse(&world, "refused-");
        within_three_runs(&world).await;
        let refused = before + 1..=before + block;
        let good = (1..=before + block + behind).filter(|id| !refused.contains(id));
        assert_eq!(world.arrived(), samples(good), "{before} {block} {behind}");
        assert_eq!(quarantined(&world).await, refused.collect::<Vec<_>>(), "{before} {block} {behind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_that_refuses_everything_stops_the_run_however_few_samples_are_new() {
    for count in [1, 2, 30] {
        let world = World::new(estate(count)).await;
        refuse(&world, "bundle");
        for _ in 0..2 {
            let answer = world.ingest().await;
            assert_eq!([&answer["status"], &answer["error_kind"]], ["failed", "SystemicFailure"], "{count}");
            assert_eq!(world.quarantine().await, Vec::<Value>::new(), "{count}");
        }
        world.heal();
        world.ingest_all().await;
        assert_eq!(world.arrived(), samples(1..=count));
        world.assert_holds_what_a_clean_run_gives().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proof_that_opencti_works_changes_nothing_there() {
    let mut estate = estate(1);
    estate.add_sample(SampleSpec { ..sample(2) });
    add_refused(&mut estate, 2);
    let world = World::new(estate).await;
    refuse(&world, "refused-");
    world.ingest_all().await;
    let undisturbed = World::new(end_to_end::local::estate(1)).await;
    undisturbed.ingest_all().await;
    world.assert_same_knowledge(&undisturbed);
    assert!(world.bundles().concat().contains(&file_name(1)));
}
