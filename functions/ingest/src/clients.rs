//! One run's clients to both servers.

use std::sync::Arc;

use runtime::http::{self, ClientSettings, Deadline, Limits, RetryPolicy};
use runtime::secrets::{RotatingKey, Secrets};
use vmray::VmraySettings;
use vmray::client::{VmrayClient, VmrayPolicy};

use crate::answer::CallCounts;
use crate::error::RunError;
use crate::opencti::client::{OpenctiClient, OpenctiPolicy};
use crate::settings::{Compression, IngestSettings, OpenctiSettings};

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
        Ok(Self {
            vmray: vmray(settings, secrets, read_until).await?,
            opencti: opencti(settings, secrets, end).await?,
        })
    }

    /// Requests sent so far, repeats included.
    #[must_use]
    pub fn calls(&self) -> CallCounts {
        CallCounts { vmray: self.vmray.calls(), opencti: self.opencti.calls() }
    }
}

async fn vmray(
    settings: &IngestSettings,
    secrets: &Arc<Secrets>,
    deadline: Deadline,
) -> Result<VmrayClient, RunError> {
    let VmraySettings { server, verify_tls, timeout } = &settings.vmray;
    let policy = VmrayPolicy {
        limits: Limits { timeout: *timeout, max_bytes: MOST_VMRAY_BYTES },
        retry: retry(settings),
        // Two of a sample's calls may run at the same time.
        concurrency: settings.run.concurrency * 2,
    };
    let http = http(settings, secrets, *verify_tls).await?;
    Ok(VmrayClient::new(http, server, RotatingKey::vmray(secrets).await?, policy, deadline))
}

/// A client for `OpenCTI` alone, which needs no key of VMRay's.
pub(crate) async fn opencti(
    settings: &IngestSettings,
    secrets: &Arc<Secrets>,
    deadline: Deadline,
) -> Result<OpenctiClient, RunError> {
    let OpenctiSettings { url, verify_tls, timeout, compression } = &settings.opencti;
    let policy = OpenctiPolicy {
        limits: Limits { timeout: *timeout, max_bytes: MOST_OPENCTI_BYTES },
        retry: retry(settings),
        gzip: *compression == Compression::Gzip,
    };
    let http = http(settings, secrets, *verify_tls).await?;
    Ok(OpenctiClient::new(http, url, RotatingKey::opencti(secrets).await?, policy, deadline))
}

async fn http(
    settings: &IngestSettings,
    secrets: &Secrets,
    verify_tls: bool,
) -> Result<reqwest::Client, RunError> {
    Ok(http::client(&ClientSettings {
        ca_bundle: secrets.keys().await?.ca_bundle.clone(),
        verify_tls,
        disable_proxy: settings.http.disable_proxy,
        connect_timeout: settings.http.connect_timeout,
    })?)
}

fn retry(settings: &IngestSettings) -> RetryPolicy {
    RetryPolicy { tries: TRIES, base: settings.http.retry_base }
}
