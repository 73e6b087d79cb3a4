//! `doctor`: a line for each thing that must work, and what to do when it does not.

#![allow(clippy::unwrap_used)]

use end_to_end::local::{CONNECTOR, World, estate};
use serde_json::{Value, json};
use simulators::faults::Fault;
use simulators::opencti::OpenctiOptions;
use simulators::vmray::{ServerProfile, VmrayOptions};

/// What doctor finds, and its exit code.
async fn examine(world: &World) -> (i32, Vec<Value>) {
    let run = world.bridge(&["doctor", "--json"]).run().await;
    let answer = run.json();
    assert_eq!(answer["healthy"], run.code == 0, "{run:?}");
    (run.code, answer["findings"].as_array().unwrap().clone())
}

/// Doctor fails, and for this check and no other it says something with all of these words.
async fn assert_finds(world: &World, check: &str, words: &[&str]) {
    let (code, findings) = examine(world).await;
    assert_eq!(code, 1, "{findings:?}");
    let failed: Vec<_> = findings.iter().filter(|finding| finding["health"] == "failed").collect();
    assert!(failed.iter().all(|finding| finding["check"] == check), "{check}: {failed:?}");
    let message = failed[0]["message"].as_str().unwrap();
    assert!(words.iter().all(|word| message.contains(word)), "{words:?} in {message}");
}

async fn opencti(opencti: OpenctiOptions) -> World {
    World::with(VmrayOptions { estate: estate(1), ..VmrayOptions::default() }, opencti).await
}

#[tokio::test(flavor = "multi_thread")]
async fn all_is_well_and_nothing_is_changed() {
    let world = World::new(estate(2)).await;
    let (code, findings) = examine(&world).await;
    assert_eq!(code, 0, "{findings:?}");
    assert!(findings.iter().all(|finding| finding["health"] == "ok"), "{findings:?}");
    let checks: Vec<_> = findings.iter().map(|finding| finding["check"].as_str().unwrap()).collect();
    for check in [
        "settings",
        "state",
        "keys",
        "VMRay",
        "VMRay version",
        "VMRay quota",
        "OpenCTI",
        "OpenCTI version",
        "OpenCTI account",
        "confidence",
        "marking",
    ] {
        assert!(checks.contains(&check), "{check} in {checks:?}");
    }
    assert!(world.opencti.platform().connector(CONNECTOR).is_none(), "it registers nothing");
    world.ingest_all().await;
    let people = world.bridge(&["doctor"]).run().await;
    assert!(people.stdout.contains("position 2025-06-01 10:02:00"), "{people:?}");
    assert!(people.stdout.lines().all(|line| line.starts_with("ok ")), "{people:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_wrong_setting_has_its_line() {
    let world = World::new(estate(1)).await;
    let doctor = world.bridge(&["doctor", "--json"]);
    let run =
        doctor.set("VMRAY_CONFIDENCE", "101").set("OPENCTI_URL", "ftp://x").unset("CONNECTOR_ID").run().await;
    assert_eq!(run.code, 1);
    let findings = run.json()["findings"].to_string();
    for name in ["VMRAY_CONFIDENCE", "OPENCTI_URL", "CONNECTOR_ID"] {
        assert_eq!(findings.matches(&format!("{name}: ")).count(), 1, "{findings}");
    }
    assert_eq!(world.requests(), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_key_is_named() {
    let world = World::new(estate(1)).await;
    let run = world.bridge(&["doctor", "--json"]).unset("VMRAY_API_KEY").run().await;
    assert_eq!(run.code, 1);
    assert!(run.stdout.contains("VMRAY_API_KEY"), "{run:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn vmray_that_is_down_forbids_or_is_no_api_is_told() {
    let world = World::new(estate(1)).await;
    for (fault, word) in [
        (Fault::any().close(), "does not answer"),
        (Fault::any().status(403), "403"),
        (Fault::any().html(), "VMRAY_SERVER"),
    ] {
        world.vmray.faults().add(fault);
        assert_finds(&world, "VMRay", &[word]).await;
        world.heal();
    }
    world.vmray.set_api_keys(&["another"]);
    assert_finds(&world, "VMRay", &["refuses the API key", "IP addresses"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_sees_no_version_and_no_quota_is_good_enough() {
    let vmray = VmrayOptions { estate: estate(1), profile: ServerProfile::Old, ..VmrayOptions::default() };
    let world = World::with(vmray, OpenctiOptions::default()).await;
    world.vmray.faults().add(Fault::on("GET /rest/api_key/quota").status(404));
    let (code, findings) = examine(&world).await;
    assert_eq!(code, 0);
    assert!(findings.iter().all(|finding| finding["health"] == "ok"), "{findings:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn opencti_that_is_down_refuses_or_is_no_api_is_told() {
    let world = World::new(estate(1)).await;
    for (fault, word) in [
        (Fault::any().close(), "does not answer"),
        (Fault::any().html(), "OPENCTI_URL"),
        (Fault::any().graphql_error("You must be logged in", "AUTH_REQUIRED", 401), "refuses the token"),
    ] {
        world.opencti.faults().add(fault);
        assert_finds(&world, "OpenCTI", &[word]).await;
        world.heal();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_opencti_that_is_too_old_is_told() {
    let old = opencti(OpenctiOptions { version: "6.8.9".to_owned(), ..OpenctiOptions::default() }).await;
    assert_finds(&old, "OpenCTI version", &["6.8.9", "6.9"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_missing_right_has_its_line() {
    let all = ["CONNECTORAPI", "MODULES", "KNOWLEDGE_KNUPDATE", "SETTINGS_SETLABELS"];
    let world = World::new(estate(1)).await;
    for missing in all {
        let rest: Vec<_> = all.into_iter().filter(|name| *name != missing).collect();
        world.opencti.platform().set_capabilities(&rest);
        assert_finds(&world, "OpenCTI account", &[missing, "group Connectors"]).await;
    }
    world.opencti.platform().set_capabilities(&["BYPASS"]);
    assert_eq!(examine(&world).await.0, 0, "an administrator may do everything");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_marking_is_told() {
    let markings = vec!["TLP:GREEN".to_owned()];
    let world = opencti(OpenctiOptions { allowed_markings: markings, ..OpenctiOptions::default() }).await;
    assert_finds(&world, "marking", &["TLP:AMBER", "VMRAY_DEFAULT_TLP"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_without_a_confidence_level_is_told() {
    let world = World::new(estate(1)).await;
    let me = json!({"data": {"me": {"name": "vmray", "capabilities": [{"name": "BYPASS"}],
        "effective_confidence_level": null, "allowed_marking": []}}});
    world.opencti.faults().add(Fault::on("me").body(200, "application/json", &me.to_string()));
    assert_finds(&world, "confidence", &["maximum confidence level"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_file_that_is_none_is_told() {
    let world = World::new(estate(1)).await;
    std::fs::write(world.state_file(), "somebody's letter").unwrap();
    assert_finds(&world, "state", &["state.sqlite"]).await;
}
