//! How every AWS client is set up, and how their errors are told.

use std::{error::Error, time::Duration};

use aws_config::{BehaviorVersion, SdkConfig, retry::RetryConfig, timeout::TimeoutConfig};
use aws_sdk_secretsmanager::error::{ProvideErrorMetadata, SdkError};

/// One attempt. `DynamoDB` and Secrets Manager answer within milliseconds; by default nothing would end an attempt on a
/// connection that has died silently.
const ATTEMPT: Duration = Duration::from_secs(5);

/// All attempts together.
const OPERATION: Duration = Duration::from_secs(20);

/// The region, credentials and endpoint of the environment, with our time limits: 5 s an attempt, 4 attempts, 20 s.
///
/// The behaviour version is pinned: a new SDK must not change retries or defaults unseen.
pub async fn sdk_config() -> SdkConfig {
    let limits =
        TimeoutConfig::builder().operation_attempt_timeout(ATTEMPT).operation_timeout(OPERATION).build();
    let load = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .retry_config(RetryConfig::standard().with_max_attempts(4))
        .timeout_config(limits)
        .load();
    // On the heap: over 20 KB that callers' futures would carry along.
    Box::pin(load).await
}

/// What an SDK error says, and what can be done about it.
///
/// Never the SDK's own long form: that one prints raw answers, which may hold a secret.
pub fn explain<E, R>(error: &SdkError<E, R>) -> String
where
    E: ProvideErrorMetadata + Error + 'static,
    R: std::fmt::Debug + 'static,
{
    match (error.code(), error.message()) {
        (Some(code), message) => format!("{code}: {}{}", message.unwrap_or("no message"), hint(code)),
        (None, _) => chain(error),
    }
}

fn hint(code: &str) -> &'static str {
    match code {
        "ResourceNotFoundException" => " (check the name, the account and AWS_REGION)",
        "AccessDeniedException" => " (check the policy of the function's role)",
        "UnrecognizedClientException" | "InvalidSignatureException" | "ExpiredTokenException" => {
            " (check the AWS credentials)"
        }
        "ProvisionedThroughputExceededException" | "ThrottlingException" | "RequestLimitExceeded" => {
            " (throttled although it was tried again; check the table's capacity)"
        }
        "DecryptionFailure" => " (check that the function's role may use the KMS key)",
        _ => "",
    }
}

/// An error and its causes, each once.
fn chain(error: &dyn Error) -> String {
    let mut parts = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !parts.contains(&text) {
            parts.push(text);
        }
        cause = error.source();
    }
    parts.join(": ")
}
