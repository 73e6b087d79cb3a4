//! OpenCTI as it should not be: refusing, full, down, behind a small proxy, without rights, without the marking.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use end_to_end::local::{
    CONNECTOR, OPENCTI_TOKEN, World, estate, file_name, position, sample, samples, submission_id, workers,
};
use serde_json::{Value, json};
use simulators::estate::{Estate, Ioc, SampleSpec, SubmissionSpec};
use simulators::faults::{Fault, FaultMatcher};
use simulators::opencti::{OpenctiOptions, Workers};
use simulators::vmray::VmrayOptions;

async fn world_of(estate: Estate, opencti: OpenctiOptions) -> World {
    World::with(VmrayOptions { estate, ..VmrayOptions::default() }, opencti).await
}

fn push() -> FaultMatcher {
    Fault::on("stixBundlePush")
}

fn refused(matcher: FaultMatcher) -> Fault {
    matcher.graphql_error("Something is wrong with it", "FUNCTIONAL_ERROR", 400)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_that_opencti_refuses_for_good_is_quarantined_and_the_rest_arrives() {
    let world = World::new(estate(7)).await;
    world.opencti.faults().add(refused(push().containing(&file_name(4))));
    let answer = world.ingest_all().await;
    assert_eq!(world.arrived(), samples([1, 2, 3, 5, 6, 7]));
    assert_eq!([&answer["samples"], &answer["quarantined"]], [6, 1]);
    assert_eq!(answer["position"], position(7));
    assert_eq!(world.quarantine().await[0]["reason"], "push_refused");
    world.heal();
    assert_eq!(world.ingest_all().await["samples"], 1);
    assert_eq!(world.arrived(), samples(1..=7));
    world.assert_holds_what_a_clean_run_gives().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_is_refused_once_is_pushed_again_sample_by_sample() {
    let world = World::new(estate(4)).await;
    world.opencti.faults().add(refused(push().once()));
    let answer = world.ingest_all().await;
    assert_eq!([&answer["samples"], &answer["quarantined"], &answer["bundles"]], [4, 0, 4]);
    assert_eq!(world.opencti_calls("stixBundlePush"), 5);
    world.assert_holds_what_a_clean_run_gives().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn opencti_refusing_everything_stops_the_run_and_quarantines_nothing() {
    let world = World::new(estate(12)).await;
    world.opencti.faults().add(refused(push()));
    for _ in 0..2 {
        let answer = world.ingest().await;
        assert_eq!([&answer["status"], &answer["error_kind"]], ["failed", "SystemicFailure"]);
        assert!(answer.error().contains("Something is wrong with it"), "{}", answer.error());
        assert_eq!(answer["quarantined"], 0);
    }
    assert_eq!(world.arrived(), samples([]));
    world.heal();
    world.ingest_all().await;
    assert_eq!(world.arrived(), samples(1..=12));
    world.assert_holds_what_a_clean_run_gives().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_failure_of_any_call_is_outlasted() {
    let bodies = ["<html>Gateway</html>", "{}"];
    let calls = ["registerConnector", "pingConnector", "markingDefinition", "connector", "stixBundlePush"];
    for (n, status) in [408, 429, 500, 502, 503, 504].into_iter().enumerate() {
        let world = World::new(estate(2)).await;
        for call in calls {
            world.opencti.faults().add(Fault::on(call).once().body(status, "text/html", bodies[n % 2]));
            world.opencti.faults().add(Fault::on(call).from(2).once().close_after_handling());
        }
        let answer = world.ingest_all().await;
        assert_eq!([&answer["samples"], &answer["quarantined"]], [2, 0], "{status}");
        assert!(world.opencti.faults().hits().iter().all(|hits| *hits == 1), "every fault has happened");
        world.assert_holds_what_a_clean_run_gives().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throttled_push_is_tried_again() {
    let world = World::new(estate(2)).await;
    world.opencti.faults().add(push().once().throttle(0));
    assert_eq!(world.ingest_all().await["samples"], 2);
    assert_eq!(world.opencti_calls("stixBundlePush"), 2);
    world.assert_holds_what_a_clean_run_gives().await;
}

async fn assert_outlasts(fault: impl Fn(FaultMatcher) -> Fault, settings: &[(&str, &str)]) {
    let mut world = World::new(estate(3)).await;
    for (name, value) in settings {
        world.set(name, value);
    }
    for matcher in [Fault::any(), push()] {
        world.opencti.faults().add(fault(matcher));
        let answer = world.ingest().await;
        assert_eq!(answer["status"], "failed", "{answer:?}");
        assert_eq!([&answer["quarantined"], &answer["samples"]], [0, 0], "{answer:?}");
        world.heal();
    }
    world.ingest_all().await;
    assert_eq!(world.arrived(), samples([1, 2, 3]));
    world.assert_holds_what_a_clean_run_gives().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn opencti_that_does_not_answer_fails_the_run_and_loses_nothing() {
    assert_outlasts(FaultMatcher::close, &[]).await;
    assert_outlasts(FaultMatcher::hang, &[("OPENCTI_TIMEOUT_MS", "50")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn opencti_down_is_noticed_before_vmray_is_asked() {
    let world = World::new(estate(3)).await;
    world.opencti.faults().add(Fault::any().status(503));
    assert_eq!(world.ingest().await["error_kind"], "OpenctiError");
    assert_eq!(world.vmray.requests().len(), 0);
}

/// An OpenCTI that answers, and fails at every push.
#[tokio::test(flavor = "multi_thread")]
async fn a_platform_that_fails_at_every_push_stops_the_run_and_quarantines_nothing() {
    for fault in [push().status(503), push().html(), push().graphql_error("no", "INTERNAL_SERVER_ERROR", 500)]
    {
        let world = World::new(estate(6)).await;
        world.opencti.faults().add(fault);
        let answer = world.ingest().await;
        assert_eq!([&answer["status"], &answer["error_kind"]], ["failed", "SystemicFailure"], "{answer:?}");
        assert_eq!(answer["quarantined"], 0);
        world.heal();
        world.ingest_all().await;
        assert_eq!(world.arrived(), samples(1..=6));
        world.assert_holds_what_a_clean_run_gives().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_page_instead_of_the_api_is_explained() {
    let world = World::new(estate(1)).await;
    world.opencti.faults().add(Fault::any().html());
    let answer = world.ingest().await;
    assert!(answer.error().contains("OPENCTI_URL"), "{}", answer.error());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_token_fails_the_run_and_says_where_the_token_comes_from() {
    let world = World::new(estate(1)).await;
    let answer = world.ingest_command(&[]).set("OPENCTI_TOKEN", "another").run().await.answer();
    assert_eq!([&answer["status"], &answer["error_kind"]], ["failed", "OpenctiUnauthorized"]);
    assert!(answer.error().contains("the token from the environment"), "{}", answer.error());
    assert_eq!(world.opencti.requests().len(), 1, "a wrong token is not tried again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_revoked_in_mid_run_fails_the_run_and_loses_nothing() {
    let world = Arc::new(World::new(estate(6)).await.setting("BUNDLE_MAX_OBJECTS", "40"));
    let of = Arc::downgrade(&world);
    let revoke = move || of.upgrade().unwrap().opencti.platform().set_tokens(&["another"]);
    world.opencti.faults().add(push().from(2).once().call(revoke));
    let answer = world.ingest().await;
    assert_eq!([&answer["status"], &answer["error_kind"]], ["failed", "OpenctiUnauthorized"]);
    let delivered = answer.figure("samples");
    assert!((1..6).contains(&delivered), "{answer:?}");
    world.opencti.platform().set_tokens(&[OPENCTI_TOKEN]);
    assert_eq!(world.ingest_all().await.figure("samples"), 6 - delivered);
    assert_eq!(world.arrived(), samples(1..=6));
    world.assert_holds_what_a_clean_run_gives().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_without_rights_fails_the_run_and_says_which_group_it_needs() {
    let world = World::new(estate(1)).await;
    world.opencti.platform().set_capabilities(&["MODULES", "KNOWLEDGE_KNUPDATE"]);
    let answer = world.ingest().await;
    assert_eq!([&answer["status"], &answer["error_kind"]], ["failed", "OpenctiError"]);
    assert!(answer.error().contains("group Connectors"), "{}", answer.error());
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_lost_in_mid_run_stop_the_run_and_quarantine_nothing() {
    let world = World::new(estate(6)).await.setting("BUNDLE_MAX_OBJECTS", "40");
    world.opencti.faults().add(push().from(2).graphql_error(
        "You are not allowed to do this.",
        "FORBIDDEN_ACCESS",
        403,
    ));
    let answer = world.ingest().await;
    assert_eq!([&answer["status"], &answer["error_kind"]], ["failed", "OpenctiError"]);
    assert_eq!(answer["quarantined"], 0);
    world.heal();
    world.ingest_all().await;
    assert_eq!(world.arrived(), samples(1..=6));
    world.assert_holds_what_a_clean_run_gives().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_may_not_see_queue_and_works_is_good_enough_to_import() {
    let world = World::new(estate(2)).await;
    world.opencti.platform().set_capabilities(&["CONNECTORAPI", "KNOWLEDGE_KNUPDATE"]);
    assert_eq!(world.ingest_all().await["samples"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_marking_nothing_is_sent() {
    let all = OpenctiOptions::default();
    let without: Vec<String> = all.markings.iter().filter(|name| *name != "TLP:AMBER").cloned().collect();
    for opencti in [
        OpenctiOptions { markings: without.clone(), ..all.clone() },
        OpenctiOptions { allowed_markings: without, ..all },
    ] {
        let world = world_of(estate(2), opencti).await;
        let answer = world.ingest().await;
        assert_eq!([&answer["status"], &answer["error_kind"]], ["failed", "MarkingMissing"]);
        assert!(answer.error().contains("TLP:AMBER"), "{}", answer.error());
        assert_eq!(world.opencti_calls("stixBundlePush"), 0);
        assert_eq!(world.vmray.requests().len(), 0);
        let green = world.ingest_command(&[]).set("VMRAY_DEFAULT_TLP", "TLP:GREEN").run().await.answer();
        assert_eq!([&green["status"], &green["samples"]], [&json!("done"), &json!(2)]);
    }
}

const FULL: Option<(u64, u64)> = Some((10_000, 600_000_000));

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_fetched_for_a_platform_whose_queue_is_full() {
    let world = World::new(estate(3)).await;
    world.opencti.platform().set_queue(FULL);
    let answer = world.ingest().await;
    assert_eq!([&answer["status"], &answer["samples"]], [&json!("buffering"), &json!(0)]);
    assert_eq!(world.vmray.requests().len(), 0);
    assert_eq!(world.opencti.platform().connector(CONNECTOR).unwrap().info["buffering"], true);
    world.opencti.platform().set_queue(Some((10, 499_000_000)));
    assert_eq!(world.ingest_all().await["samples"], 3);
    assert_eq!(world.opencti.platform().connector(CONNECTOR).unwrap().info["buffering"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_fills_up_in_mid_run_ends_it_and_the_next_run_goes_on() {
    let world =
        World::new(estate(9)).await.setting("BUNDLE_MAX_OBJECTS", "40").setting("QUEUE_RECHECK_MS", "1");
    let world = Arc::new(world);
    let of = Arc::downgrade(&world);
    let fill = move || of.upgrade().unwrap().opencti.platform().set_queue(FULL);
    world.opencti.faults().add(push().from(2).once().call(fill));
    let answer = world.ingest().await;
    assert_eq!([&answer["status"], &answer["bundles"]], [&json!("buffering"), &json!(2)]);
    let delivered = answer.figure("samples");
    assert_eq!(world.arrived(), samples(1..=delivered));
    assert_eq!(answer["position"], position(delivered));
    world.opencti.platform().set_queue(None);
    assert_eq!(world.ingest_all().await.figure("samples"), 9 - delivered);
    assert_eq!(world.arrived(), samples(1..=9));
    world.assert_holds_what_a_clean_run_gives().await;
}

/// The size of the largest push of these samples as one bundle, without compression.
async fn size_of_one_push(estate: Estate) -> usize {
    let world = World::new(estate).await.setting("OPENCTI_COMPRESSION", "off");
    world.ingest_all().await;
    let pushes = world.opencti.requests();
    pushes
        .iter()
        .filter(|request| request.label == "stixBundlePush")
        .map(|request| request.body.len())
        .max()
        .unwrap()
}

/// How many requests a proxy or the platform called too large.
fn too_large(world: &World) -> usize {
    world.opencti.requests().iter().filter(|request| matches!(request.status, Some(413 | 500))).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_too_large_for_a_proxy_or_the_platform_is_halved_at_once_without_retries() {
    let limit = size_of_one_push(estate(8)).await * 7 / 10;
    for opencti in [
        OpenctiOptions { proxy_limit_bytes: Some(limit), ..OpenctiOptions::default() },
        OpenctiOptions { max_body_bytes: limit, ..OpenctiOptions::default() },
    ] {
        let world = world_of(estate(8), opencti).await.setting("OPENCTI_COMPRESSION", "off");
        let answer = world.ingest_all().await;
        assert_eq!([&answer["samples"], &answer["quarantined"], &answer["bundles"]], [8, 0, 2]);
        assert_eq!(too_large(&world), 1, "asking again would not make it smaller");
        world.assert_holds_what_a_clean_run_gives().await;
    }
}

/// One sample with many findings.
fn large() -> Estate {
    let mut estate = estate(3);
    let iocs = (0..120).map(|n| Ioc::mutex(&format!("Global\\mutex {n}"))).collect();
    estate.add_sample(SampleSpec { iocs, ..sample(2) });
    estate
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_larger_than_a_bundle_is_split_and_the_platform_unites_it() {
    let undisturbed = World::new(large()).await;
    undisturbed.ingest_all().await;
    let world = World::new(large()).await.setting("BUNDLE_MAX_OBJECTS", "60");
    let answer = world.ingest_all().await;
    assert_eq!([&answer["samples"], &answer["quarantined"]], [3, 0]);
    assert!(answer.figure("bundles") > 4, "{answer:?}");
    for bundle in world.opencti.platform().bundles() {
        assert!(bundle.objects().len() <= 60, "{}", bundle.objects().len());
    }
    world.assert_same_objects(&undisturbed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_too_large_for_a_proxy_alone_goes_in_parts() {
    let undisturbed = World::new(large()).await;
    undisturbed.ingest_all().await;
    let limit = size_of_one_push(large()).await / 3;
    let opencti = OpenctiOptions { proxy_limit_bytes: Some(limit), ..OpenctiOptions::default() };
    let world = world_of(large(), opencti).await.setting("OPENCTI_COMPRESSION", "off");
    let answer = world.ingest_all().await;
    assert_eq!([&answer["samples"], &answer["quarantined"]], [3, 0]);
    world.assert_same_objects(&undisturbed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_that_no_proxy_lets_through_is_quarantined_as_too_large() {
    let limit = size_of_one_push(estate(1)).await;
    let mut estate = estate(3);
    let command = format!("cmd.exe /c echo {}", "x".repeat(limit * 2));
    estate.add_sample(SampleSpec { iocs: vec![Ioc::process(&command)], ..sample(2) });
    let opencti = OpenctiOptions { proxy_limit_bytes: Some(limit * 3 / 2), ..OpenctiOptions::default() };
    let world = world_of(estate, opencti).await.setting("OPENCTI_COMPRESSION", "off");
    let answer = world.ingest_all().await;
    assert!(world.arrived().is_superset(&samples([1, 3])), "{answer:?}");
    assert_eq!([&answer["samples"], &answer["quarantined"]], [2, 1]);
    assert_eq!(world.quarantine().await[0]["reason"], "too_large");
}

#[tokio::test(flavor = "multi_thread")]
async fn compression_can_be_switched_off() {
    for (compression, encoding) in [("gzip", Some("gzip".to_owned())), ("off", None)] {
        let world = World::new(estate(1)).await.setting("OPENCTI_COMPRESSION", compression);
        world.ingest_all().await;
        assert!(
            world.opencti.requests().iter().all(|request| request.content_encoding == encoding),
            "{compression}"
        );
    }
}

/// The connector's works as the platform lists them.
fn works(errors: &[(&str, usize)]) -> String {
    let work = |(n, (message, count)): (usize, &(&str, usize))| {
        let message = format!("{{'name': 'FUNCTIONAL_ERROR', 'error_message': '{message}'}}");
        let error = json!({"message": message, "source": "{\"id\": \"domain-name--x\"}"});
        json!({"id": format!("work-{n}"), "status": "complete", "timestamp": "2025-06-01T00:00:00Z",
               "errors": vec![error; *count]})
    };
    let works: Vec<Value> = errors.iter().enumerate().map(work).collect();
    json!({"data": {"connector": {"id": CONNECTOR, "works": works}}}).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_platforms_workers_refused_is_reported_once() {
    let world = World::new(estate(1)).await;
    let list = |errors: &[(&str, usize)]| {
        world.heal();
        let works = works(errors);
        world.opencti.faults().add(Fault::on("connector").containing("ConnectorWorks").body(
            200,
            "application/json",
            &works,
        ));
    };
    let (syntax, missing) = ("Observable is not correctly formatted", "Element not found");
    list(&[(syntax, 2)]);
    assert_eq!(world.ingest_all().await["rejected"], json!({syntax: 2}));
    assert_eq!(world.ingest_all().await["rejected"], json!({}));
    list(&[(syntax, 3), (missing, 1)]);
    assert_eq!(world.ingest_all().await["rejected"], json!({syntax: 1, missing: 1}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_that_purges_the_queue_loses_nothing() {
    let world = world_of(estate(4), workers(Workers::Held)).await;
    world.ingest_all().await;
    world.opencti.platform().operator_reset(CONNECTOR);
    world.opencti.platform().import_all();
    assert_eq!(world.arrived(), samples([]), "the queue was purged");
    world.ingest_all().await;
    world.opencti.platform().import_all();
    assert_eq!(world.arrived(), samples(1..=4));
    world.assert_holds_what_a_clean_run_gives().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connector_deleted_by_an_operator_registers_again_and_loses_nothing() {
    let world = World::new(estate(3)).await;
    world.ingest_all().await;
    world.opencti.platform().delete_connector(CONNECTOR);
    world.vmray.estate().add_submission(SubmissionSpec::finished(
        submission_id(9),
        3,
        end_to_end::local::minute(9),
    ));
    world.ingest_all().await;
    assert!(world.opencti.platform().connector(CONNECTOR).is_some());
    assert_eq!(world.position().await, position(9));
    world.assert_holds_what_a_clean_run_gives().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_that_shows_an_old_state_is_not_believed() {
    let world = World::new(estate(3)).await;
    world.ingest_all().await;
    world.opencti.platform().stale_echo(CONNECTOR, 2);
    let answer = world.ingest_all().await;
    assert_eq!([&answer["submissions"], &answer["samples"]], [0, 0]);
    world.assert_holds_what_a_clean_run_gives().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_platform_takes_everything() {
    let opencti = OpenctiOptions { version: "6.9.0".to_owned(), ..OpenctiOptions::default() };
    let world = world_of(estate(3), opencti).await.may_mismatch_ids();
    assert_eq!(world.ingest_all().await["samples"], 3);
    assert_eq!(world.arrived(), samples([1, 2, 3]));
}
