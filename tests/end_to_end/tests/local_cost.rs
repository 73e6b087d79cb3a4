//! What a run costs both servers.

#![allow(clippy::unwrap_used)]

use end_to_end::local::{Answer, World, add, estate, samples};
use simulators::estate::{Estate, EstateSpec, SampleSpec, SubmissionSpec, Verdict, time};

const SUBMISSIONS: u64 = 80;
const MALICIOUS: u64 = 40;
const SUSPICIOUS: u64 = 12;

fn generated() -> Estate {
    Estate::generate(EstateSpec {
        submissions: SUBMISSIONS.try_into().unwrap(),
        malicious: MALICIOUS.try_into().unwrap(),
        suspicious: SUSPICIOUS.try_into().unwrap(),
        first_finish: time("2025-06-01T10:00:00"),
        last_finish: time("2025-06-21T10:00:00"),
        ..EstateSpec::default()
    })
}

fn calls(answer: &Answer, server: &str) -> u64 {
    answer["calls"][server].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_keeps_to_its_budget_of_calls_and_objects() {
    let world = World::new(generated()).await.setting("BUNDLE_MAX_OBJECTS", "600");
    let answer = world.ingest_all().await;
    assert_eq!([&answer["samples"], &answer["skipped"]], [MALICIOUS, SUBMISSIONS - MALICIOUS]);
    // Every relative of the estate has a submission of its own, so that none costs a call more.
    let budget = 1 + (MALICIOUS + SUSPICIOUS) + 3 * MALICIOUS;
    assert!(calls(&answer, "vmray") <= budget, "{} of {budget}", calls(&answer, "vmray"));
    let bundles = answer.figure("bundles");
    assert!(bundles > 3, "{answer:?}");
    assert!(calls(&answer, "opencti") <= 10 + bundles, "{answer:?}");
    assert_eq!(
        (calls(&answer, "vmray"), calls(&answer, "opencti")),
        world.requests(),
        "the answer counts right"
    );
    let platform = world.opencti.platform();
    let knowledge = platform.knowledge();
    assert_eq!(answer.figure("objects"), knowledge.pushed(), "the answer counts right");
    #[expect(clippy::cast_precision_loss, reason = "some thousand objects")]
    let repeats = knowledge.pushed() as f64 / knowledge.distinct() as f64;
    assert!(repeats <= 1.15, "{repeats}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_with_nothing_new_costs_at_most_eight_calls_and_opens_no_work() {
    let world = World::new(generated()).await;
    world.ingest_all().await;
    let works = world.opencti.platform().works().len();
    let answer = world.ingest_all().await;
    assert!(calls(&answer, "vmray") + calls(&answer, "opencti") <= 8, "{answer:?}");
    assert_eq!(world.opencti.platform().works().len(), works);
}

#[tokio::test(flavor = "multi_thread")]
async fn clean_submissions_cost_nothing_but_their_row() {
    let mut estate = Estate::new();
    for id in 1..=50 {
        estate.add_sample(SampleSpec { verdict: Some(Verdict::Clean), ..SampleSpec::file(id, "clean.exe") });
        let finished = end_to_end::local::minute(id);
        estate.add_submission(SubmissionSpec::finished(1000 + id, id, finished).verdict(Verdict::Clean));
    }
    let world = World::new(estate).await;
    let answer = world.ingest_all().await;
    assert_eq!([&answer["skipped"], &answer["bundles"], &answer["calls"]["vmray"]], [50, 0, 1]);
    assert_eq!(world.opencti_calls("stixBundlePush"), 0, "no bundle, no call");
}

#[tokio::test(flavor = "multi_thread")]
async fn relatives_that_are_not_clean_cost_one_call_each_and_clean_ones_none() {
    let mut family = estate(1);
    let child = |id, verdict| SampleSpec { verdict: Some(verdict), ..SampleSpec::file(id, "child.exe") };
    family.add_sample(SampleSpec { children: vec![101, 102, 103], ..end_to_end::local::sample(1) });
    family.add_sample(child(101, Verdict::Malicious));
    family.add_sample(child(102, Verdict::Clean));
    family.add_sample(child(103, Verdict::Suspicious));
    let world = World::new(family).await;
    let answer = world.ingest_all().await;
    assert_eq!(calls(&answer, "vmray"), 1 + 1 + 3 + 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn suspicious_samples_are_ingested_where_they_are_asked_for() {
    let world = World::new(generated()).await.setting("VMRAY_SAMPLE_VERDICT", "malicious,suspicious");
    let answer = world.ingest_all().await;
    assert_eq!(answer["samples"], MALICIOUS + SUSPICIOUS);
    assert_eq!(world.arrived().len() as u64, MALICIOUS + SUSPICIOUS);
}

#[tokio::test(flavor = "multi_thread")]
async fn bundles_are_packed_and_not_one_for_each_sample() {
    let world = World::new(estate(30)).await;
    let answer = world.ingest_all().await;
    assert_eq!(answer["bundles"], 1);
    add(&mut world.vmray.estate(), 31);
    assert_eq!(world.ingest_all().await["bundles"], 1);
    assert_eq!(world.arrived(), samples(1..=31));
}
