//! AWS Secrets Manager.

use async_trait::async_trait;
use aws_sdk_secretsmanager::Client;

use super::{Keys, SecretSource, SecretsError};

/// One JSON secret.
pub(super) struct SecretsManager {
    client: Client,
    arn: String,
}

impl SecretsManager {
    pub(super) fn new(aws: &aws_config::SdkConfig, arn: String) -> Self {
        Self { client: Client::new(aws), arn }
    }
}

#[async_trait]
impl SecretSource for SecretsManager {
    async fn read(&self) -> Result<Keys, SecretsError> {
        let unreadable = |reason: String| SecretsError::Unreadable { origin: self.arn.clone(), reason };
        let answer = self
            .client
            .get_secret_value()
            .secret_id(&self.arn)
            // While a rotation is under way the newest version may not be the valid one.
            .version_stage("AWSCURRENT")
            .send()
            .await
            .map_err(|error| unreadable(crate::aws::explain(&error)))?;
        match answer.secret_string() {
            Some(text) => Keys::from_json(&self.arn, text),
            None => Err(unreadable("it is binary, and a JSON text is needed".to_owned())),
        }
    }
}
