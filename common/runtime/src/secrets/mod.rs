//! API keys and what else is secret or too long for a function's environment.
//!
//! They come from a [`SecretSource`]: AWS Secrets Manager ([`Secrets::from_secrets_manager`]) or, on one machine, the
//! environment ([`Secrets::from_environment`]). [`Secrets`] keeps them for five minutes, and reads them again when a
//! server has answered 401. A set that lacks a needed key is not kept.
//!
//! Nothing in here prints a value: not `Debug`, not an error, not a log line.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::{sync::Mutex, time::Instant};

mod environment;
#[cfg(feature = "aws")]
mod manager;
mod rotating;
mod shape;

pub use environment::NAMES as ENVIRONMENT_NAMES;
pub use rotating::RotatingKey;

/// How long keys are used before they are read again.
const KEEP: Duration = Duration::from_mins(5);

/// The shortest time between two readings that somebody's refused key has caused: callers with wrong keys and many
/// requests failing together must not become a storm on Secrets Manager.
const REREAD_PAUSE: Duration = Duration::from_secs(30);

/// The keys of one function. A blank one counts as absent.
#[derive(Clone, Default)]
pub struct Keys {
    /// VMRay's REST API.
    pub vmray_api_key: Option<SecretString>,
    /// `OpenCTI`'s GraphQL API.
    pub opencti_token: Option<SecretString>,
    /// Who may call `submit`: the JSON object under `callers`, as it was written.
    pub callers: Option<Value>,
    /// Certificates to trust besides the system's, PEM text.
    pub ca_bundle: Option<String>,
    /// Hosts whose URLs are never submitted because they are our own.
    pub own_domains: Vec<String>,
    /// Hosts, suffixes and networks whose URLs are never submitted.
    pub deny: Vec<String>,
    /// Where they come from, for messages: an ARN or "the environment".
    origin: String,
}

impl Keys {
    /// Reads the JSON text of a secret; `origin` says in messages where it comes from.
    ///
    /// Members: `vmray_api_key`, `opencti_token`, `ca_bundle` (strings), `callers` (object), `own_domains`, `deny` (lists
    /// of strings); all optional, others are passed over. Fails with [`SecretsError::Malformed`].
    pub fn from_json(origin: &str, text: &str) -> Result<Self, SecretsError> {
        shape::keys_from_json(origin, text)
    }

    /// VMRay's key, or the error that says where it is missing.
    pub fn vmray(&self) -> Result<&SecretString, SecretsError> {
        self.require(self.vmray_api_key.as_ref(), "vmray_api_key", "VMRAY_API_KEY")
    }

    /// `OpenCTI`'s token, or the error that says where it is missing.
    pub fn opencti(&self) -> Result<&SecretString, SecretsError> {
        self.require(self.opencti_token.as_ref(), "opencti_token", "OPENCTI_TOKEN")
    }

    /// Whether all that `ingest` needs is there.
    #[must_use]
    pub fn suffice_for_ingest(&self) -> bool {
        self.vmray_api_key.is_some() && self.opencti_token.is_some()
    }

    /// Whether all that `submit` needs is there.
    #[must_use]
    pub fn suffice_for_submit(&self) -> bool {
        let callers = self.callers.as_ref().and_then(Value::as_object);
        self.vmray_api_key.is_some() && callers.is_some_and(|callers| !callers.is_empty())
    }

    /// Where the keys come from, for messages: an ARN or "the environment".
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    fn require<'a>(
        &self,
        key: Option<&'a SecretString>,
        member: &'static str,
        variable: &'static str,
    ) -> Result<&'a SecretString, SecretsError> {
        key.ok_or_else(|| SecretsError::Missing { origin: self.origin.clone(), member, variable })
    }

    fn same_as(&self, other: &Self) -> bool {
        let text = |key: &Option<SecretString>| key.as_ref().map(|key| key.expose_secret().to_owned());
        text(&self.vmray_api_key) == text(&other.vmray_api_key)
            && text(&self.opencti_token) == text(&other.opencti_token)
            && self.callers == other.callers
            && self.ca_bundle == other.ca_bundle
            && self.own_domains == other.own_domains
            && self.deny == other.deny
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys")
            .field("origin", &self.origin)
            .field("vmray_api_key", &self.vmray_api_key)
            .field("opencti_token", &self.opencti_token)
            .field("callers", &self.callers.as_ref().map(|_| "[REDACTED]"))
            .field("ca_bundle", &self.ca_bundle.as_ref().map(|_| "[REDACTED]"))
            .field("own_domains", &self.own_domains.len())
            .field("deny", &self.deny.len())
            .finish()
    }
}

/// Why there are no keys. Holds names, never a value.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    /// The source did not answer, or refused.
    #[error("could not read the keys from {origin}: {reason}")]
    Unreadable {
        /// The source.
        origin: String,
        /// What it said, and what can be done about it.
        reason: String,
    },
    /// The source answered with something that is no set of keys.
    #[error("the keys in {origin} are not usable: {problem}")]
    Malformed {
        /// The source.
        origin: String,
        /// The member and the rule it breaks.
        problem: String,
    },
    /// A key that is needed is not there, or blank.
    #[error(
        "there is no {member} in {origin}; set the member `{member}` of the secret, or on one machine the variable {variable}"
    )]
    Missing {
        /// The source.
        origin: String,
        /// The JSON member of the secret.
        member: &'static str,
        /// The variable of the local binary.
        variable: &'static str,
    },
}

/// Where keys come from.
#[async_trait]
pub trait SecretSource: Send + Sync {
    /// Reads them, now.
    async fn read(&self) -> Result<Keys, SecretsError>;
}

/// The keys, kept for five minutes.
pub struct Secrets {
    source: Box<dyn SecretSource>,
    is_complete: fn(&Keys) -> bool,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    keys: Option<(Arc<Keys>, Instant)>,
    reread_at: Option<Instant>,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets").finish_non_exhaustive()
    }
}

impl Secrets {
    /// Keys from any source. Nothing is read yet.
    #[must_use]
    pub fn new(source: Box<dyn SecretSource>) -> Self {
        Self { source, is_complete: |_| true, kept: Mutex::default() }
    }

    /// Keeps only sets of keys that are complete: a key that is still blank is about to be filled in.
    #[must_use]
    pub fn keeping(self, is_complete: fn(&Keys) -> bool) -> Self {
        Self { is_complete, ..self }
    }

    /// Keys from the JSON secret `arn` of AWS Secrets Manager, always its `AWSCURRENT` version.
    #[cfg(feature = "aws")]
    #[must_use]
    pub fn from_secrets_manager(aws: &aws_config::SdkConfig, arn: impl Into<String>) -> Self {
        Self::new(Box::new(manager::SecretsManager::new(aws, arn.into())))
    }

    /// Keys from the variables [`ENVIRONMENT_NAMES`], asked for through `lookup`.
    pub fn from_environment(lookup: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        Self::new(Box::new(environment::Environment::new(lookup)))
    }

    /// The keys, at most five minutes old.
    ///
    /// When they have to be read again and cannot be, this fails: an old key may have been revoked.
    pub async fn keys(&self) -> Result<Arc<Keys>, SecretsError> {
        let mut kept = self.kept.lock().await;
        if let Some((keys, read_at)) = &kept.keys
            && read_at.elapsed() < KEEP
        {
            return Ok(Arc::clone(keys));
        }
        self.read_into(&mut kept).await
    }

    /// For a caller whom `refused` has just brought a 401: are there other keys by now?
    ///
    /// `true`: yes, [`keys`](Self::keys) has them. `false`: the source has still the same, or was asked less than 30 s
    /// ago, so that trying again is in vain.
    pub async fn reread(&self, refused: &Keys) -> Result<bool, SecretsError> {
        let mut kept = self.kept.lock().await;
        if kept.keys.as_ref().is_some_and(|(keys, _)| !keys.same_as(refused)) {
            return Ok(true);
        }
        if kept.reread_at.is_some_and(|at| at.elapsed() < REREAD_PAUSE) {
            return Ok(false);
        }
        kept.reread_at = Some(Instant::now());
        Ok(!self.read_into(&mut kept).await?.same_as(refused))
    }

    async fn read_into(&self, kept: &mut Kept) -> Result<Arc<Keys>, SecretsError> {
        let keys = Arc::new(self.source.read().await?);
        kept.keys = (self.is_complete)(&keys).then(|| (Arc::clone(&keys), Instant::now()));
        Ok(keys)
    }
}

#[cfg(test)]
mod tests;
