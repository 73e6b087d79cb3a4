//! One key as a client uses it: it may be exchanged in the secret while a run goes on.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use secrecy::{ExposeSecret, SecretString};

use super::{Keys, Secrets, SecretsError};
use crate::http::Answer;

/// Which of the keys a client shows its server.
type Pick = fn(&Keys) -> Result<&SecretString, SecretsError>;

/// A key that is read again when the server has refused it.
pub struct RotatingKey {
    secrets: Arc<Secrets>,
    pick: Pick,
    current: RwLock<Arc<Keys>>,
}

impl fmt::Debug for RotatingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RotatingKey").field("origin", &self.keys().origin()).finish_non_exhaustive()
    }
}

impl RotatingKey {
    /// VMRay's API key. Fails when there is none.
    pub async fn vmray(secrets: &Arc<Secrets>) -> Result<Self, SecretsError> {
        Self::read(secrets, Keys::vmray).await
    }

    /// `OpenCTI`'s token. Fails when there is none.
    pub async fn opencti(secrets: &Arc<Secrets>) -> Result<Self, SecretsError> {
        Self::read(secrets, Keys::opencti).await
    }

    async fn read(secrets: &Arc<Secrets>, pick: Pick) -> Result<Self, SecretsError> {
        let keys = secrets.keys().await?;
        pick(&keys)?;
        Ok(Self { secrets: Arc::clone(secrets), pick, current: RwLock::new(keys) })
    }

    /// What is in use now; give it back to [`replaced`](Self::replaced) when the server refuses it.
    pub fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The header value `prefix` + key, marked sensitive. Fails for a key that no header can carry.
    pub fn header(&self, keys: &Keys, prefix: &str) -> Result<reqwest::header::HeaderValue, SecretsError> {
        let key = (self.pick)(keys)?;
        let text = format!("{prefix}{}", key.expose_secret());
        let mut value =
            reqwest::header::HeaderValue::try_from(text).map_err(|_| SecretsError::Malformed {
                origin: keys.origin().to_owned(),
                problem: "a key holds characters that an HTTP header cannot carry".to_owned(),
            })?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// Takes the key out of an answer that may be quoted: servers and proxies echo headers when something is wrong.
    pub fn mask(&self, keys: &Keys, answer: &mut Answer) {
        // Data is left as it is; errors in a 200 are short.
        let may_be_quoted = !answer.status.is_success() || answer.body.len() < 1024;
        let Ok(key) = (self.pick)(keys) else { return };
        if may_be_quoted
            && let Ok(text) = std::str::from_utf8(&answer.body)
            && text.contains(key.expose_secret())
        {
            answer.body = text.replace(key.expose_secret(), "[...]").into_bytes();
        }
    }

    /// For a client whose server has just answered 401 to `refused`: whether there is another key by now. Many
    /// requests that fail together cause one reading.
    pub async fn replaced(&self, refused: &Keys) -> Result<bool, SecretsError> {
        if !self.secrets.reread(refused).await? {
            return Ok(false);
        }
        let keys = self.secrets.keys().await?;
        (self.pick)(&keys)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = keys;
        Ok(true)
    }
}
