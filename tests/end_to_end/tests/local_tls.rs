//! Servers behind TLS and behind a proxy, as on-premises servers are: which certificates are taken, and which way a
//! request goes.

#![allow(clippy::unwrap_used)]

use end_to_end::local::{World, estate};
use end_to_end::served::Served;
use end_to_end::tls::{Authority, Proxy, TlsServer};
use serde_json::{Value, json};
use simulators::opencti::OpenctiOptions;
use simulators::vmray::VmrayOptions;

const URL: &str = "http://a.example/path";

/// A world whose servers are reached over TLS only, with certificates of a CA that no system knows.
struct Site {
    world: World,
    authority: Authority,
    vmray: TlsServer,
    opencti: TlsServer,
}

impl Site {
    async fn new() -> Self {
        let vmray = VmrayOptions { estate: estate(2), ..VmrayOptions::default() };
        let mut world = World::with(vmray, OpenctiOptions::default()).await;
        let authority = Authority::new();
        let vmray = authority.before(&world.vmray.url()).await;
        let opencti = authority.before(&world.opencti.url()).await;
        world.set("VMRAY_SERVER", &vmray.url());
        world.set("OPENCTI_URL", &opencti.url());
        for name in ["VERDICT_REFRESH_MS", "SUBMIT_RETRY_MS"] {
            world.set(name, "20");
        }
        Self { world, authority, vmray, opencti }
    }

    /// The same, and the product knows the CA.
    async fn with_ca_known() -> Self {
        let mut site = Self::new().await;
        let bundle = site.authority.write_to(site.world.state_file().parent().unwrap());
        site.world.set("CA_BUNDLE", bundle.to_str().unwrap());
        site
    }

    fn through(mut self, proxy: &Proxy) -> Self {
        self.world.set("HTTPS_PROXY", &proxy.url());
        self
    }

    async fn ingest_all(&self) {
        self.world.ingest_all().await;
        assert_eq!(self.world.arrived().len(), 2);
    }

    async fn submit_one(&self) -> Value {
        submit(&self.world.serve().await).await
    }
}

async fn submit(served: &Served) -> Value {
    let (status, answer) = served.submit("/v1/submissions?wait=1", &json!([URL])).await;
    assert_eq!(status, 202, "{answer}");
    let batch = answer["batch_id"].as_str().unwrap();
    served.until(batch, |answer| answer["results"][0]["status"] == "submitted").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_ca_is_trusted_when_the_bundle_names_it() {
    let site = Site::with_ca_known().await;
    site.ingest_all().await;
    site.submit_one().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_ca_is_refused_before_a_key_is_sent() {
    let site = Site::new().await;
    let answer = site.world.ingest().await;
    assert_eq!(answer["status"], "failed");
    assert!(answer.error().contains("certificate"), "{}", answer.error());

    let served = site.world.serve().await;
    let (_, answer) = served.submit("/v1/submissions?wait=1", &json!([URL])).await;
    assert_eq!(answer["results"][0]["status"], "pending", "{answer}");
    let batch = format!("/v1/submissions/{}", answer["batch_id"].as_str().unwrap());
    let told = |answer: &Value| answer["results"][0]["error_detail"].to_string().contains("certificate");
    served.until(batch.rsplit('/').next().unwrap(), told).await;
    assert_eq!(site.world.requests(), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn verification_that_is_switched_off_takes_any_certificate_and_says_so() {
    let mut site = Site::new().await;
    site.world.set("VMRAY_VERIFY_TLS", "false");
    assert_eq!(site.world.ingest().await["status"], "failed", "the platform's certificate is still checked");
    site.world.set("OPENCTI_VERIFY_TLS", "false");
    let answer = site.world.ingest_all().await;
    for setting in ["VMRAY_VERIFY_TLS", "OPENCTI_VERIFY_TLS"] {
        assert!(answer.stderr.contains(setting), "{}", answer.stderr);
    }
    let served = site.world.serve().await;
    submit(&served).await;
    assert!(served.log().contains("VMRAY_VERIFY_TLS"), "{}", served.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_go_through_the_proxy_and_tls_goes_to_the_server() {
    let proxy = Proxy::start().await;
    let site = Site::with_ca_known().await.through(&proxy);
    site.ingest_all().await;
    for server in [&site.vmray, &site.opencti] {
        assert!(proxy.tunnels().contains(&server.authority()), "{:?}", proxy.tunnels());
    }
    let before = proxy.tunnels().len();
    site.submit_one().await;
    assert!(proxy.tunnels()[before..].contains(&site.vmray.authority()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_of_no_proxy_is_reached_without_it() {
    let proxy = Proxy::start().await;
    let mut site = Site::with_ca_known().await.through(&proxy);
    site.world.set("NO_PROXY", "127.0.0.1");
    site.ingest_all().await;
    site.submit_one().await;
    assert!(proxy.tunnels().is_empty(), "{:?}", proxy.tunnels());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_is_disabled_is_passed_over() {
    let proxy = Proxy::start().await;
    let mut site = Site::with_ca_known().await.through(&proxy);
    site.world.set("DISABLE_PROXY", "true");
    site.ingest_all().await;
    site.submit_one().await;
    assert!(proxy.tunnels().is_empty(), "{:?}", proxy.tunnels());
}
