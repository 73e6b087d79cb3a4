//! Keys in Secrets Manager: kept, read again, rotated, wrong.

use end_to_end::ingest::{
    MINUTES, NEXT_OPENCTI_TOKEN, NEXT_VMRAY_KEY, OPENCTI_TOKEN, VMRAY_KEY, World, estate, schedule, secret,
};
use serde_json::{Value, json};
use simulators::faults::Fault;

/// A certificate of nobody, good for being parsed.
const CERTIFICATE: &str = include_str!("ca.pem");

#[tokio::test]
async fn the_secret_is_read_once_for_many_warm_invocations() {
    let world = World::new(estate(2)).await;
    let lambda = world.lambda().await;
    for event in [schedule(), schedule(), json!({"heartbeat": true}), schedule()] {
        let _ = lambda.invoke(event, MINUTES).await.answer();
    }
    assert_eq!(world.aws.secret_readings(), 1);
}

#[tokio::test]
async fn a_vmray_key_that_is_rotated_in_mid_run_is_picked_up() {
    let world = World::new(estate(8)).await;
    let (fault, pause) = Fault::on("GET /rest/sample/1/iocs").once().pause();
    world.vmray.faults().add(fault);
    let lambda = world.lambda().await;
    let running = lambda.send(schedule(), MINUTES);
    pause.reached().await;
    world.aws.rotate_secret(&secret(NEXT_VMRAY_KEY, OPENCTI_TOKEN)).await;
    world.vmray.set_api_keys(&[NEXT_VMRAY_KEY]);
    pause.release();
    let answer = running.outcome().await.answer();
    assert_eq!((&answer["status"], &answer["samples"]), (&json!("done"), &json!(8)), "{answer}");
    assert_eq!(world.aws.secret_readings(), 2, "many refused requests cause one reading");
    assert_eq!(lambda.invoke(schedule(), MINUTES).await.answer()["status"], "done");
    assert_eq!(world.aws.secret_readings(), 2, "and the new key is kept");
}

#[tokio::test]
async fn an_opencti_token_that_is_rotated_in_mid_run_is_picked_up() {
    let mut world = World::new(estate(4)).await;
    world.one_sample_per_bundle();
    let (fault, pause) = Fault::on("stixBundlePush").from(2).once().pause();
    world.opencti.faults().add(fault);
    let lambda = world.lambda().await;
    let running = lambda.send(schedule(), MINUTES);
    pause.reached().await;
    world.aws.rotate_secret(&secret(VMRAY_KEY, NEXT_OPENCTI_TOKEN)).await;
    world.opencti.platform().set_tokens(&[NEXT_OPENCTI_TOKEN]);
    pause.release();
    let answer = running.outcome().await.answer();
    assert_eq!((&answer["status"], &answer["samples"]), (&json!("done"), &json!(4)), "{answer}");
    assert_eq!(world.aws.secret_readings(), 2);
}

#[tokio::test]
async fn a_wrong_vmray_key_is_told_by_the_secrets_name_and_costs_one_more_reading() {
    let world = World::new(estate(2)).await;
    world.vmray.set_api_keys(&["another"]);
    let lambda = world.lambda().await;
    for _ in 0..2 {
        let (kind, message) = lambda.invoke(schedule(), MINUTES).await.error();
        assert_eq!(kind, "VmrayUnauthorized", "{message}");
        assert!(message.contains(world.aws.secret_arn()), "{message}");
    }
    assert_eq!(world.aws.secret_readings(), 2, "at the start and after the first 401");
    let cursor = world.aws.cursor().await.unwrap();
    assert_eq!(cursor["lease"], Value::Null, "the next run need not wait: {cursor}");
}

#[tokio::test]
async fn a_wrong_opencti_token_is_told_by_the_secrets_name() {
    let world = World::new(estate(2)).await;
    world.opencti.platform().set_tokens(&["another"]);
    let (kind, message) = world.lambda().await.invoke(schedule(), MINUTES).await.error();
    assert_eq!(kind, "OpenctiUnauthorized", "{message}");
    assert!(message.contains(world.aws.secret_arn()), "{message}");
    assert_eq!(world.vmray_calls(), 0, "nothing is read that cannot be delivered");
    assert_eq!(world.aws.secret_readings(), 2);
}

#[tokio::test]
async fn a_secret_that_is_no_set_of_keys_is_explained_without_its_content() {
    let cases = [
        (json!("just-a-text"), "not a JSON object"),
        (json!({"vmray_api_key": VMRAY_KEY}), "opencti_token"),
        (json!({"opencti_token": OPENCTI_TOKEN, "vmray_api_key": " "}), "vmray_api_key"),
        (json!({"opencti_token": OPENCTI_TOKEN, "vmray_api_key": 5}), "vmray_api_key"),
    ];
    for (content, named) in cases {
        let world = World::new(estate(1)).await;
        world.aws.rotate_secret(&content).await;
        let (kind, message) = world.lambda().await.invoke(schedule(), MINUTES).await.error();
        assert_eq!(kind, "SecretsError", "{message}");
        assert!(message.contains(named) && message.contains(world.aws.secret_arn()), "{named}: {message}");
        assert!(!message.contains("just-a-text"), "{message}");
        assert_eq!((world.vmray_calls(), world.opencti_calls()), (0, 0));
    }
}

#[tokio::test]
async fn a_heartbeat_needs_no_key_of_vmray() {
    let world = World::new(estate(1)).await;
    world.aws.rotate_secret(&secret("", OPENCTI_TOKEN)).await;
    assert_eq!(world.run(json!({"heartbeat": true})).await["status"], "heartbeat");
}

#[tokio::test]
async fn a_key_that_is_filled_in_is_used_at_once() {
    let world = World::new(estate(1)).await;
    world.aws.rotate_secret(&json!({"vmray_api_key": VMRAY_KEY, "opencti_token": ""})).await;
    let lambda = world.lambda().await;
    let (kind, message) = lambda.invoke(schedule(), MINUTES).await.error();
    assert_eq!(kind, "SecretsError", "{message}");
    world.aws.rotate_secret(&secret(VMRAY_KEY, OPENCTI_TOKEN)).await;
    assert_eq!(lambda.invoke(schedule(), MINUTES).await.answer()["samples"], 1);
}

#[tokio::test]
async fn a_process_that_started_without_secrets_manager_recovers_with_it() {
    let world = World::new(estate(1)).await;
    world.aws.secrets_faults().add(Fault::on("GetSecretValue").status(400));
    let lambda = world.lambda().await;
    let (kind, message) = lambda.invoke(schedule(), MINUTES).await.error();
    assert_eq!(kind, "SecretsError", "{message}");
    assert!(message.contains(world.aws.secret_arn()), "{message}");
    world.aws.secrets_faults().clear();
    assert_eq!(lambda.invoke(schedule(), MINUTES).await.answer()["samples"], 1);
}

#[tokio::test]
async fn a_ca_bundle_in_the_secret_is_accepted() {
    let world = World::new(estate(1)).await;
    let mut members = secret(VMRAY_KEY, OPENCTI_TOKEN);
    members["ca_bundle"] = CERTIFICATE.into();
    world.aws.rotate_secret(&members).await;
    assert_eq!(world.run(schedule()).await["samples"], 1);
}

#[tokio::test]
async fn a_ca_bundle_that_is_no_pem_is_refused_clearly_before_any_call() {
    let broken = CERTIFICATE.replace("MII", "!!!");
    for wrong in ["my certificate", broken.as_str()] {
        let world = World::new(estate(1)).await;
        let mut members = secret(VMRAY_KEY, OPENCTI_TOKEN);
        members["ca_bundle"] = wrong.into();
        world.aws.rotate_secret(&members).await;
        let (kind, message) = world.lambda().await.invoke(schedule(), MINUTES).await.error();
        assert_eq!(kind, "HttpSetupError", "{message}");
        assert!(message.contains("CA bundle"), "{message}");
        assert_eq!((world.vmray_calls(), world.opencti_calls()), (0, 0));
        assert_eq!(world.aws.cursor().await.unwrap()["lease"], Value::Null, "the next run need not wait");
    }
}
