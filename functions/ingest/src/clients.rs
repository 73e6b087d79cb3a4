//! One run's clients to both servers.

use std::sync::Arc;

use runtime::http::{self, Deadline, HttpSettings, Limits, RetryPolicy};
use runtime::secrets::{RotatingKey, Secrets};
use url::Url;
use vmray::client::{VmrayClient, VmrayPolicy};

use crate::answer::CallCounts;
use crate::error::RunError;
use crate::opencti::client::{OpenctiClient, OpenctiPolicy};
use crate::settings::{Compression, IngestSettings};

/// Tries of a request that may be repeated.
const TRIES: usize = 4;

/// Largest answer of VMRay that is read, after decompression.
const MOST_VMRAY_BYTES: usize = 16 * 1024 * 1024;

/// Largest answer of `OpenCTI` that is read. Works with their errors are the longest.
const MOST_OPENCTI_BYTES: usize = 64 * 1024 * 1024;

/// A client for each server.
#[derive(Debug)]
pub struct Clients {
    pub vmray: VmrayClient,
    pub opencti: OpenctiClient,
}

impl Clients {
    /// Clients that ask VMRay until `read_until` and `OpenCTI` until `end`. Nothing is called but the source of the keys.
    pub async fn open(
        settings: &IngestSettings,
        secrets: &Arc<Secrets>,
        read_until: Deadline,
        end: Deadline,
    ) -> Result<Self, RunError> {
        let ca_bundle = secrets.keys().await?.ca_bundle.clone();
        let http = |verify_tls| {
            http::client(&HttpSettings {
                ca_bundle: ca_bundle.clone(),
                verify_tls,
                disable_proxy: settings.http.disable_proxy,
                connect_timeout: settings.http.connect_timeout,
            })
        };
        let retry = RetryPolicy { tries: TRIES, base: settings.http.retry_base };
        let vmray = VmrayPolicy {
            limits: Limits { timeout: settings.vmray.timeout, max_bytes: MOST_VMRAY_BYTES },
            retry,
            // Two of a sample's calls may run at the same time.
            concurrency: settings.run.concurrency * 2,
        };
        let opencti = OpenctiPolicy {
            limits: Limits { timeout: settings.opencti.timeout, max_bytes: MOST_OPENCTI_BYTES },
            retry,
            gzip: settings.opencti.compression == Compression::Gzip,
        };
        let (vmray_http, opencti_http) =
            (http(settings.vmray.verify_tls)?, http(settings.opencti.verify_tls)?);
        let vmray_key = RotatingKey::vmray(secrets).await?;
        let opencti_key = RotatingKey::opencti(secrets).await?;
        Ok(Self {
            vmray: VmrayClient::new(vmray_http, base(&settings.vmray.server), vmray_key, vmray, read_until),
            opencti: OpenctiClient::new(
                opencti_http,
                &base(&settings.opencti.url),
                opencti_key,
                opencti,
                end,
            ),
        })
    }

    /// Requests sent so far, repeats included.
    #[must_use]
    pub fn calls(&self) -> CallCounts {
        CallCounts { vmray: self.vmray.calls(), opencti: self.opencti.calls() }
    }
}

/// A server's address without a slash at its end.
fn base(url: &Url) -> String {
    url.as_str().trim_end_matches('/').to_owned()
}
