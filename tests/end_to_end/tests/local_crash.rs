//! The process killed at any request, two at once, and the operator's polite end.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use end_to_end::local::{World, estate, position, samples};
use simulators::faults::{Fault, Faults};

const SAMPLES: u64 = 6;

/// In quarantine from the first run on.
const POISON: u64 = 3;

/// Several bundles, a sample for the quarantine, and requests in about the same order each time.
async fn small_world() -> World {
    let world = World::new(estate(SAMPLES)).await;
    world.vmray.estate().forbid_sample(POISON, true);
    world.setting("BUNDLE_MAX_OBJECTS", "40").setting("INGEST_CONCURRENCY", "2")
}

fn good() -> BTreeSet<u64> {
    samples((1..=SAMPLES).filter(|id| *id != POISON))
}

#[derive(Clone, Copy, Debug)]
enum Server {
    Vmray,
    Opencti,
}

impl Server {
    fn faults(self, world: &World) -> Faults {
        match self {
            Self::Vmray => world.vmray.faults(),
            Self::Opencti => world.opencti.faults(),
        }
    }
}

/// Runs again after a crash; everything is as if nothing had happened.
async fn assert_recovers(world: &World, undisturbed: &World, what: &str) {
    let answer = world.ingest_all().await;
    assert_eq!(answer["position"], position(SAMPLES), "{what}");
    assert_eq!(answer["quarantined"], 1, "{what}");
    assert_eq!(world.arrived(), good(), "{what}");
    world.assert_same_knowledge(undisturbed);
    assert!(repeated_bundles(world) <= 1, "{what}: more than one bundle came twice");
    assert_eq!(world.ingest_all().await["submissions"], 0, "{what}");
}

/// How many bundles were pushed more often than once.
fn repeated_bundles(world: &World) -> usize {
    let bundles = world.bundles();
    bundles.len() - bundles.iter().collect::<BTreeSet<_>>().len()
}

async fn kill_before_it_is_handled(server: Server, request: u64, undisturbed: &World) {
    let world = small_world().await;
    let (fault, pause) = Fault::at_request(request).pause();
    server.faults(&world).add(fault);
    let running = world.ingest_command(&[]).start();
    pause.reached().await;
    running.kill().await;
    assert_recovers(&world, undisturbed, &format!("killed at request {request} of {server:?}")).await;
}

/// The server handles the request; whoever sent it is gone before the answer.
async fn kill_before_the_answer(request: u64, undisturbed: &World) {
    let world = small_world().await;
    let pid = Arc::new(AtomicU32::new(0));
    let killed = Arc::clone(&pid);
    world.opencti.faults().add(Fault::at_request(request).call(move || kill(&killed)));
    let running = world.ingest_command(&[]).start();
    pid.store(running.pid(), Ordering::SeqCst);
    assert_eq!(running.end_by_signal().await, Some(9));
    assert_recovers(&world, undisturbed, &format!("killed during request {request} of OpenCTI")).await;
}

fn kill(pid: &AtomicU32) {
    let number = loop {
        match pid.load(Ordering::SeqCst) {
            0 => std::thread::yield_now(), // not told yet
            number => break number,
        }
    };
    let killed = std::process::Command::new("kill").args(["-9", &number.to_string()]).status();
    assert!(killed.unwrap().success());
}

async fn undisturbed() -> (World, u64, u64) {
    let world = small_world().await;
    world.ingest_all().await;
    assert!(world.bundles().len() > 2, "a crash between bundles is what this is about");
    let (vmray, opencti) = world.requests();
    (world, vmray, opencti)
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_request_to_vmray_the_next_run_makes_it_whole() {
    let (world, vmray, _) = undisturbed().await;
    for request in 1..=vmray {
        kill_before_it_is_handled(Server::Vmray, request, &world).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_request_to_opencti_the_next_run_makes_it_whole() {
    let (world, _, opencti) = undisturbed().await;
    for request in 1..=opencti {
        kill_before_it_is_handled(Server::Opencti, request, &world).await;
        kill_before_the_answer(request, &world).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_again_and_again_at_its_second_bundle_it_gets_on() {
    let world = small_world().await;
    let mut arrived = 0;
    for _ in 0..2 {
        let (fault, pause) = Fault::on("stixBundlePush").from(2).once().pause();
        world.opencti.faults().add(fault);
        let running = world.ingest_command(&[]).start();
        pause.reached().await;
        running.kill().await;
        world.heal();
        assert!(world.arrived().len() > arrived, "its first bundle was another one than the run's before");
        arrived = world.arrived().len();
    }
    world.ingest_all().await;
    assert_eq!(world.arrived(), good());
    assert_eq!(repeated_bundles(&world), 0);
    world.assert_holds_what_a_clean_run_gives().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_runs_at_once_one_is_busy_and_calls_nobody() {
    let world = World::new(estate(3)).await;
    let (fault, pause) = Fault::on("GET /rest/submission").once().pause();
    world.vmray.faults().add(fault);
    let first = world.ingest_command(&[]).start();
    pause.reached().await;
    let before = world.requests();
    for arguments in [&[][..], &["--from", "2025-06-01"]] {
        let second = world.ingest_with(arguments).await;
        assert_eq!(second["status"], "busy");
        assert_eq!([&second["calls"]["vmray"], &second["calls"]["opencti"]], [0, 0]);
    }
    let reset = world.bridge(&["cursor", "reset"]).run().await;
    assert_eq!(reset.code, 1, "{reset:?}");
    assert!(reset.stderr.contains("a run is going on"), "{reset:?}");
    assert_eq!(world.requests(), before);
    pause.release();
    assert_eq!(first.end().await.answer()["samples"], 3);
    assert_eq!(world.arrived(), samples([1, 2, 3]));
    world.assert_holds_what_a_clean_run_gives().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_run_leaves_no_lock() {
    let world = World::new(estate(2)).await;
    let (fault, pause) = Fault::on("stixBundlePush").once().pause();
    world.opencti.faults().add(fault);
    let running = world.ingest_command(&[]).start();
    pause.reached().await;
    running.kill().await;
    assert_eq!(world.ingest_all().await["samples"], 2);
    world.assert_holds_what_a_clean_run_gives().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn run_after_run_until_it_is_told_to_end() {
    let world = World::new(estate(2)).await;
    let (fault, pause) = Fault::on("registerConnector").from(2).once().pause();
    world.opencti.faults().add(fault);
    let running = world.ingest_command(&["--every", "PT1S"]).start();
    pause.reached().await; // the second run begins
    let told = std::process::Command::new("kill").arg(running.pid().to_string()).status();
    assert!(told.unwrap().success());
    let run = running.end().await;
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(run.stdout.lines().count(), 1, "one line for each run: {run:?}");
    assert_eq!(world.arrived(), samples([1, 2]));
}
