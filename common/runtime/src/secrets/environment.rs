//! The local binary's keys: variables of the environment.

use async_trait::async_trait;

use super::{Keys, SecretSource, SecretsError, shape};

/// The variables that are asked for. `CA_BUNDLE` is the path of a PEM file, `CALLERS` is JSON.
pub const NAMES: [&str; 4] = ["VMRAY_API_KEY", "OPENCTI_TOKEN", "CA_BUNDLE", "CALLERS"];

const ORIGIN: &str = "the environment";

/// Reads the environment through a function, so that tests need no real one.
pub(super) struct Environment<F>(F);

impl<F: Fn(&str) -> Option<String> + Send + Sync> Environment<F> {
    pub(super) fn new(lookup: F) -> Self {
        Self(lookup)
    }

    fn read_now(&self) -> Result<Keys, String> {
        let [vmray, opencti, ca_bundle, callers] =
            NAMES.map(|name| (name, (self.0)(name).filter(|text| !text.trim().is_empty())));
        let key = |(name, text): (&str, Option<String>)| text.map(|text| shape::key(name, &text)).transpose();
        Ok(Keys {
            vmray_api_key: key(vmray)?,
            opencti_token: key(opencti)?,
            callers: callers.1.map(|text| parse_callers(callers.0, &text)).transpose()?.flatten(),
            ca_bundle: ca_bundle.1.map(|path| read_file(ca_bundle.0, path.trim())).transpose()?,
            own_domains: Vec::new(),
            deny: Vec::new(),
            origin: ORIGIN.to_owned(),
        })
    }
}

#[async_trait]
impl<F: Fn(&str) -> Option<String> + Send + Sync> SecretSource for Environment<F> {
    async fn read(&self) -> Result<Keys, SecretsError> {
        self.read_now().map_err(|problem| SecretsError::Malformed { origin: ORIGIN.to_owned(), problem })
    }
}

fn parse_callers(name: &str, text: &str) -> Result<Option<serde_json::Value>, String> {
    let value = serde_json::from_str(text).map_err(|error| {
        format!("`{name}` is not JSON (line {}, column {})", error.line(), error.column())
    })?;
    shape::callers(name, Some(value))
}

/// A short file, read once in a while: not worth a thread.
fn read_file(name: &str, path: &str) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("`{name}`: cannot read the file {path}: {error}"))
}
