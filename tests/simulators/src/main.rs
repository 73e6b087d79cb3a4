//! Both simulators as a process: prints where they are as one line of JSON, serves until its standard input closes.

use std::io::Write as _;
use std::time::Duration;

use clap::Parser;
use serde_json::json;
use simulators::estate::{Estate, EstateSpec, time};
use simulators::opencti::{OpenctiOptions, OpenctiSimulator};
use simulators::vmray::submit::{Finish, SubmitOptions};
use simulators::vmray::{VmrayOptions, VmraySimulator};
use tokio::io::AsyncReadExt as _;

const CONTROL: &str = r#"Control of VMRay, by POST to its address:
  /_sim/submits                         what was submitted so far
  /_sim/finish      {"url", "verdict"}  ends analyses: of one URL or all; with a verdict, none, warning or error
  /_sim/submit-rule {"containing", "kind", "times"}
                                        kinds: fresh, cached, no_jobs, error, quota, refused, nothing, ...
  /_sim/reveal      {"url"}             shows what a rule with "hidden": true has hidden
  /_sim/quota       {"limit"}           submissions until all further ones are refused
  /_sim/faults      {"on", "kind"}      for example "POST /rest/sample/submit", "status_after_handling"
GET /_sim/stats and /_sim/requests tell what was asked for."#;

/// VMRay and OpenCTI, simulated on free ports of the loopback interface.
#[derive(Debug, Parser)]
#[command(after_help = CONTROL)]
struct Arguments {
    /// Latency of each VMRay call.
    #[arg(long, default_value_t = 0)]
    vmray_latency_ms: u64,
    /// Latency of each OpenCTI call.
    #[arg(long, default_value_t = 0)]
    opencti_latency_ms: u64,
    /// Latency of each submit to VMRay, on top of `--vmray-latency-ms`.
    #[arg(long, default_value_t = 0)]
    submit_latency_ms: u64,
    /// How long VMRay analyses a URL; until `POST /_sim/finish` when left out.
    #[arg(long)]
    finish_after_ms: Option<u64>,
    /// URLs that VMRay takes until the quota is spent; all of them when left out.
    #[arg(long)]
    quota_limit: Option<u64>,
    /// Submissions, each of a sample of its own.
    #[arg(long, default_value_t = 200)]
    submissions: usize,
    /// Malicious ones among them; three of five when left out.
    #[arg(long)]
    malicious: Option<usize>,
    /// Suspicious ones among them; four of twenty-five when left out.
    #[arg(long)]
    suspicious: Option<usize>,
    /// IOC entries of each sample that is not clean.
    #[arg(long, default_value_t = 30)]
    iocs: usize,
    /// The seed: the same seed, the same estate.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// When the first submission finished.
    #[arg(long, default_value = "2026-10-20T08:00:00")]
    first_finish: String,
    /// When the last submission finished.
    #[arg(long, default_value = "2026-11-20T08:00:00")]
    last_finish: String,
    /// Serves the sample with every kind of IOC and awkward values instead.
    #[arg(long)]
    kinds: bool,
    /// The release of OpenCTI.
    #[arg(long, default_value = "7.260817.0")]
    opencti_version: String,
    /// Port of VMRay; a free one when 0.
    #[arg(long, default_value_t = 0)]
    vmray_port: u16,
    /// Port of OpenCTI; a free one when 0.
    #[arg(long, default_value_t = 0)]
    opencti_port: u16,
    /// Never compresses answers.
    #[arg(long)]
    no_gzip: bool,
    /// Writes the bundles that were pushed into this file, a line each, when it ends.
    #[arg(long)]
    bundles: Option<std::path::PathBuf>,
}

impl Arguments {
    fn estate(&self) -> Estate {
        if self.kinds {
            return Estate::kinds();
        }
        Estate::generate(EstateSpec {
            seed: self.seed,
            submissions: self.submissions,
            malicious: self.malicious.unwrap_or(self.submissions * 3 / 5),
            suspicious: self.suspicious.unwrap_or(self.submissions * 4 / 25),
            iocs_per_sample: self.iocs,
            first_finish: time(&self.first_finish),
            last_finish: time(&self.last_finish),
            ..EstateSpec::default()
        })
    }

    fn submit(&self) -> SubmitOptions {
        let finish = self.finish_after_ms.map(|time| Finish::After(Duration::from_millis(time)));
        SubmitOptions {
            finish: finish.unwrap_or(Finish::WhenTold),
            quota_limit: self.quota_limit,
            latency: Duration::from_millis(self.submit_latency_ms),
            ..SubmitOptions::default()
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let arguments = Arguments::parse();
    let vmray = VmraySimulator::start(VmrayOptions {
        estate: arguments.estate(),
        submit: arguments.submit(),
        latency: Duration::from_millis(arguments.vmray_latency_ms),
        gzip: !arguments.no_gzip,
        record_bodies: false,
        port: arguments.vmray_port,
        ..VmrayOptions::default()
    })
    .await?;
    let opencti = OpenctiSimulator::start(OpenctiOptions {
        version: arguments.opencti_version.clone(),
        latency: Duration::from_millis(arguments.opencti_latency_ms),
        gzip: !arguments.no_gzip,
        record_bodies: false,
        keep_bundles: arguments.bundles.is_some(),
        port: arguments.opencti_port,
        ..OpenctiOptions::default()
    })
    .await?;
    let line = json!({"vmray_url": vmray.url(), "vmray_api_key": "vmray-key",
                      "opencti_url": opencti.url(), "opencti_token": "opencti-token"});
    writeln!(std::io::stdout(), "{line}")?;
    std::io::stdout().flush()?;
    until_stdin_closes().await?;
    if let Some(path) = arguments.bundles {
        let platform = opencti.platform();
        let lines: Vec<&str> = platform.bundles().iter().map(|bundle| bundle.text.as_str()).collect();
        std::fs::write(path, lines.join("\n"))?;
    }
    Ok(())
}

/// The parent's end of the pipe: when the parent dies, this process ends too.
async fn until_stdin_closes() -> std::io::Result<()> {
    let mut buffer = [0; 1024];
    while tokio::io::stdin().read(&mut buffer).await? > 0 {}
    Ok(())
}
