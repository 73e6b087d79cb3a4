//! What OpenCTI's own VMRay connector, in Python, loses, repeats or leaves: each with the outcome that is right.

#![allow(clippy::unwrap_used)]

use end_to_end::local::{
    CONNECTOR, OPENCTI_TOKEN, World, estate, file_name, minute, position, samples, submission_id,
};
use serde_json::{Value, json};
use simulators::estate::Part;
use simulators::faults::Fault;

/// Sends one GraphQL call, as the Python library does.
async fn python_library(world: &World, query: &str, variables: Value) {
    let request = reqwest::Client::new().post(format!("{}/graphql", world.opencti.url()));
    let body = json!({"query": query, "variables": variables}).to_string();
    let request = request.bearer_auth(OPENCTI_TOKEN).header("content-type", "application/json").body(body);
    let answer: Value = serde_json::from_str(&request.send().await.unwrap().text().await.unwrap()).unwrap();
    assert_eq!(answer["errors"], Value::Null, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connector_that_the_python_library_registered_is_taken_over() {
    let world = World::new(estate(6)).await.setting("FEED_OVERLAP", "PT0S");
    let everything = json!({"input": {
        "id": CONNECTOR, "name": "VMRay Platform", "type": "EXTERNAL_IMPORT", "scope": ["not-applicable"], "auto": false,
        "auto_update": false, "enrichment_resolution": "none", "only_contextual": false, "playbook_compatible": false,
        "listen_callback_uri": null,
    }});
    let register = "mutation RegisterConnector($input: RegisterConnectorInput) { registerConnector(input: $input) { id } }";
    python_library(&world, register, everything).await;
    let last_run = minute(4).format("%Y-%m-%dT%H:%M:%S").to_string();
    let state = json!({"last_run": last_run, "failed_sample_id": null}).to_string();
    let ping =
        "mutation PingConnector($id: ID!, $state: String) { pingConnector(id: $id, state: $state) { id } }";
    python_library(&world, ping, json!({"id": CONNECTOR, "state": state})).await;

    let findings = world.ask(&["doctor"]).await;
    assert_eq!(findings["healthy"], true, "{findings}");
    let answer = world.ingest_all().await;
    assert_eq!((&answer["window"]["from"], world.arrived()), (&json!(position(4)), samples([4, 5, 6])));
    assert_eq!(world.ingest_all().await["samples"], 0, "the next run goes on from its own position");
}

/// Runs, forgets everything and runs again. How many bundles each run pushed.
async fn repeat(world: &World) -> usize {
    world.ingest_all().await;
    let (first, knowledge) = (world.bundles(), world.knowledge());
    world.forget_state();
    world.ingest_all().await;
    assert_eq!(world.bundles().split_off(first.len()), first);
    assert_eq!(world.knowledge(), knowledge);
    first.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_window_twice_gives_the_same_bytes_and_changes_nothing() {
    let world = World::new(estate(6)).await;
    assert_eq!(repeat(&world).await, 1);
    assert_eq!(world.opencti.platform().knowledge().changes(), 0);
    let several = World::new(estate(6)).await.setting("BUNDLE_MAX_OBJECTS", "40");
    assert!(repeat(&several).await > 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_that_answers_404_holds_nobody_up() {
    let world = World::new(estate(5)).await;
    world.vmray.estate().delete_sample(3);
    let answer = world.ingest_all().await;
    assert_eq!(world.arrived(), samples([1, 2, 4, 5]));
    assert_eq!(answer["quarantined"], 1);
    assert_eq!(answer["position"], position(5));
    let quarantine = world.quarantine().await;
    assert_eq!(quarantine[0]["sample_id"], 3);
    assert_eq!(quarantine[0]["reason"], "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_without_a_verdict_is_skipped_and_holds_nobody_up() {
    let world = World::new(estate(5)).await;
    world.vmray.estate().sample_mut(3)["sample_verdict"] = Value::Null;
    world.vmray.estate().submission_mut(submission_id(4))["submission_verdict"] = Value::Null;
    let answer = world.ingest_all().await;
    assert_eq!(world.arrived(), samples([1, 2, 4, 5]), "the sample's own verdict decides");
    assert_eq!([&answer["skipped"], &answer["quarantined"]], [1, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_whose_lists_of_names_are_null_arrives() {
    let world = World::new(estate(3)).await;
    for list in [
        "sample_threat_names",
        "sample_classifications",
        "sample_child_sample_ids",
        "sample_parent_relations",
    ] {
        world.vmray.estate().sample_mut(2)[list] = Value::Null;
    }
    for name in ["threat_names", "classifications", "filenames"] {
        world.vmray.estate().answer_mut(2, Part::Iocs)["iocs"]["files"][0][name] = Value::Null;
    }
    world.ingest_all().await;
    assert_eq!(world.arrived(), samples([1, 2, 3]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sample_that_failed_is_then_deleted_and_no_other_is_skipped() {
    let world = World::new(estate(2)).await;
    world.vmray.estate().forbid_sample(2, true);
    world.ingest_all().await;
    {
        let mut estate = world.vmray.estate();
        estate.delete_sample(2);
        estate.delete_submission(submission_id(2));
        (3..=6).for_each(|id| end_to_end::local::add(&mut estate, id));
    }
    let answer = world.ingest_all().await;
    assert_eq!(world.arrived(), samples([1, 3, 4, 5, 6]));
    assert_eq!(answer["position"], position(6));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_403_on_the_list_is_not_taken_for_an_empty_list() {
    let world = World::new(estate(3)).await;
    world.vmray.faults().add(Fault::on("GET /rest/submission").once().status(403));
    let failed = world.ingest().await;
    assert_eq!([&failed["status"], &failed["error_kind"]], ["failed", "VmrayError"]);
    assert!(failed.error().contains("403"), "{}", failed.error());
    assert_eq!(world.arrived(), samples([]));
    world.ingest_all().await;
    assert_eq!(world.arrived(), samples([1, 2, 3]));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_403_on_a_sample_or_on_its_vtis_costs_nothing_of_it() {
    for path in ["GET /rest/sample/2", "GET /rest/sample/2/vtis"] {
        let (world, undisturbed) = (World::new(estate(3)).await, World::new(estate(3)).await);
        undisturbed.ingest_all().await;
        world.vmray.faults().add(Fault::on(path).once().status(403));
        let answer = world.ingest_all().await;
        assert_eq!([&answer["samples"], &answer["quarantined"]], [3, 0], "{path}");
        world.assert_same_objects(&undisturbed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_whose_vtis_are_forbidden_for_good_does_not_go_out_without_them() {
    let world = World::new(estate(3)).await;
    world.vmray.faults().add(Fault::on("GET /rest/sample/2/vtis").status(403));
    let answer = world.ingest_all().await;
    assert_eq!(world.arrived(), samples([1, 3]));
    assert_eq!(answer["quarantined"], 1);
    assert!(!world.bundles().concat().contains(&file_name(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn three_503_in_a_row_on_one_call_are_outlasted() {
    let world = World::new(estate(3)).await;
    world.vmray.faults().add(Fault::on("GET /rest/sample/2/iocs").times(3).status(503));
    let answer = world.ingest_all().await;
    assert_eq!(world.arrived(), samples([1, 2, 3]));
    assert_eq!([&answer["samples"], &answer["quarantined"]], [3, 0]);
    assert_eq!(world.vmray_calls("GET /rest/sample/{}/iocs"), 6, "three repeats and nothing else");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_status_that_may_pass_is_tried_again() {
    for status in [408, 409, 423, 500, 502, 503, 504] {
        let world = World::new(estate(2)).await;
        world.vmray.faults().add(Fault::on("GET /rest/sample/2").once().status(status));
        world.vmray.faults().add(Fault::on("GET /rest/submission").once().status(status));
        let answer = world.ingest_all().await;
        assert_eq!([&answer["samples"], &answer["quarantined"]], [2, 0], "{status}");
        assert_eq!(
            world.vmray_calls("GET /rest/sample/{}"),
            3,
            "{status}: at once, not at the end of the run"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_502_on_a_push_is_tried_again_and_nothing_doubles() {
    for handled in [false, true] {
        let (world, undisturbed) = (World::new(estate(3)).await, World::new(estate(3)).await);
        undisturbed.ingest_all().await;
        let push = Fault::on("stixBundlePush").once();
        let fault = if handled { push.status_after_handling(502) } else { push.status(502) };
        world.opencti.faults().add(fault);
        let answer = world.ingest_all().await;
        assert_eq!([&answer["samples"], &answer["bundles"], &answer["quarantined"]], [3, 1, 0]);
        assert_eq!(world.opencti_calls("stixBundlePush"), 2);
        world.assert_same_knowledge(&undisturbed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_come_with_their_colours_inside_the_bundle_and_cost_no_call() {
    let world = World::new(estate(2)).await.setting("VMRAY_THREAT_NAMES_COLOR", "#123456");
    world.ingest_all().await;
    let platform = world.opencti.platform();
    let labels: Vec<_> = platform.knowledge().labels().values().cloned().collect();
    assert!(labels.iter().any(|(value, color)| value.contains("QakBot") && color == "#123456"), "{labels:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_the_middle_it_goes_on_and_no_report_doubles() {
    let undisturbed = World::new(estate(6)).await.setting("BUNDLE_MAX_OBJECTS", "40");
    undisturbed.ingest_all().await;
    let world = World::new(estate(6)).await.setting("BUNDLE_MAX_OBJECTS", "40");
    let (fault, pause) = Fault::on("stixBundlePush").from(2).once().pause();
    world.opencti.faults().add(fault);
    let running = world.ingest_command(&[]).start();
    pause.reached().await;
    running.kill().await;
    let answer = world.ingest_all().await;
    world.assert_same_knowledge(&undisturbed);
    assert!(answer.figure("samples") < 6, "what was delivered before is not delivered again: {answer:?}");
    assert_eq!(answer["position"], position(6));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_by_the_operator_during_a_run_is_followed_by_the_next_run() {
    let world = World::new(estate(6)).await.setting("BUNDLE_MAX_OBJECTS", "40");
    world.opencti.platform().reset_at_push(2);
    world.ingest_all().await;
    let again = world.ingest_all().await;
    assert_eq!(again["samples"], 6, "the reset has emptied the queue, so that all must come again");
    let third = world.ingest_all().await;
    assert_eq!(third["samples"], 0, "it is followed once");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_new_opens_no_work() {
    let world = World::new(estate(2)).await;
    world.ingest_all().await;
    let works = world.opencti.platform().works().len();
    let answer = world.ingest_all().await;
    assert_eq!([&answer["submissions"], &answer["bundles"]], [0, 0]);
    assert_eq!(world.opencti.platform().works().len(), works);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_leaves_no_work_open() {
    let world = World::new(estate(6)).await.setting("BUNDLE_MAX_OBJECTS", "40");
    world.opencti.faults().add(Fault::on("stixBundlePush").from(2).close_after_handling());
    let answer = world.ingest().await;
    assert_eq!([&answer["status"], &answer["error_kind"]], ["failed", "OpenctiError"]);
    let platform = world.opencti.platform();
    assert!(platform.works().len() >= 2);
    assert!(platform.works().iter().all(|work| work.status == "complete"), "{:?}", platform.works());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_offset_of_the_initial_date_counts() {
    let mut world = World::new(estate(6)).await.setting("FEED_OVERLAP", "PT0S");
    world.set("VMRAY_INITIAL_FETCH_DATE", "2025-06-01T12:03:30+02:00");
    let answer = world.ingest_all().await;
    assert_eq!(answer["window"]["from"], "2025-06-01T10:03:30Z");
    assert_eq!(world.arrived(), samples([4, 5, 6]));
}
