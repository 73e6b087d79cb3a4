//! Keys from Secrets Manager, on moto when `TEST_MOTO_ENDPOINT` says where it is.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a helper that fails fails its test")]
#![cfg(feature = "aws")]

use std::io::Write as _;

use aws_config::SdkConfig;
use aws_sdk_secretsmanager::{
    Client,
    config::{Credentials, SharedCredentialsProvider},
    primitives::Blob,
};
use runtime::secrets::{Secrets, SecretsError};
use secrecy::ExposeSecret;

/// moto, or `None`, said aloud: it was not asked for.
async fn moto() -> Option<SdkConfig> {
    let Ok(endpoint) = std::env::var("TEST_MOTO_ENDPOINT") else {
        // Around the capture of a passing test's output.
        let _ = writeln!(
            std::io::stderr(),
            "left out: TEST_MOTO_ENDPOINT is not set (tests/aws/with-emulators sets it)"
        );
        return None;
    };
    let credentials = Credentials::new("testing", "testing", None, None, "tests");
    let config = runtime::aws::sdk_config().await.into_builder();
    Some(
        config
            .endpoint_url(endpoint)
            .region(aws_config::Region::new("us-east-1"))
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .build(),
    )
}

async fn create(aws: &SdkConfig, text: &str) -> String {
    let name = format!("bridge-{}", uuid::Uuid::new_v4());
    let made = Client::new(aws).create_secret().name(name).secret_string(text).send().await.unwrap();
    made.arn.unwrap()
}

#[tokio::test]
async fn a_rotated_key_is_found_after_it_was_refused() {
    let Some(aws) = moto().await else { return };
    let arn = create(&aws, r#"{"vmray_api_key": "old"}"#).await;
    let secrets = Secrets::from_secrets_manager(&aws, &arn);
    let old = secrets.keys().await.unwrap();
    assert_eq!(old.vmray().unwrap().expose_secret(), "old");
    assert_eq!(old.origin(), arn);
    let client = Client::new(&aws);
    // A rotation under way: the next key is there and not valid yet.
    client
        .put_secret_value()
        .secret_id(&arn)
        .secret_string(r#"{"vmray_api_key": "next"}"#)
        .version_stages("AWSPENDING")
        .send()
        .await
        .unwrap();
    let fresh = Secrets::from_secrets_manager(&aws, &arn);
    assert_eq!(fresh.keys().await.unwrap().vmray().unwrap().expose_secret(), "old");
    client
        .put_secret_value()
        .secret_id(&arn)
        .secret_string(r#"{"vmray_api_key": "new"}"#)
        .send()
        .await
        .unwrap();
    assert!(secrets.reread(&old).await.unwrap());
    assert_eq!(secrets.keys().await.unwrap().vmray().unwrap().expose_secret(), "new");
}

#[tokio::test]
async fn a_secret_that_is_not_there_is_named() {
    let Some(aws) = moto().await else { return };
    let arn = "arn:aws:secretsmanager:us-east-1:123456789012:secret:absent";
    let error = Secrets::from_secrets_manager(&aws, arn).keys().await.unwrap_err();
    assert!(matches!(error, SecretsError::Unreadable { .. }));
    let message = error.to_string();
    assert!(message.contains(arn) && message.contains("ResourceNotFoundException"), "{message}");
}

#[tokio::test]
async fn a_binary_secret_is_explained() {
    let Some(aws) = moto().await else { return };
    let name = format!("bridge-{}", uuid::Uuid::new_v4());
    Client::new(&aws).create_secret().name(&name).secret_binary(Blob::new(*b"hunter2")).send().await.unwrap();
    let message = Secrets::from_secrets_manager(&aws, &name).keys().await.unwrap_err().to_string();
    assert!(message.contains("binary") && !message.contains("hunter2"), "{message}");
}
