//! `vmray-bridge demo`: the whole flow on one machine, against simulators of both servers.
//!
//! Nothing in it is staged: the same `ingest` as everywhere, over HTTP, with its state in a file that is thrown away.

mod report;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use ingest::{IngestEvent, RunAnswer, RunStatus, TimeLimit};
use serde_json::json;
use simulators::estate::{Estate, EstateSpec};
use simulators::opencti::{OpenctiOptions, OpenctiSimulator};
use simulators::vmray::{VmrayOptions, VmraySimulator};

use crate::CommandFailure;
use crate::ingest_command::summary;
use crate::setup;

/// How long a real VMRay and a real OpenCTI take to answer, roughly.
const LATENCY: (Duration, Duration) = (Duration::from_millis(40), Duration::from_millis(15));

#[derive(Debug, clap::Args)]
pub(crate) struct DemoArguments {
    /// Submissions in the simulated VMRay
    #[arg(long, default_value_t = 200)]
    submissions: usize,
    /// One JSON document on one line
    #[arg(long)]
    json: bool,
}

/// Both servers on free ports of this machine.
struct Simulated {
    vmray: VmraySimulator,
    opencti: OpenctiSimulator,
}

impl Simulated {
    async fn start(submissions: usize) -> std::io::Result<Self> {
        let estate = Estate::generate(EstateSpec {
            submissions,
            malicious: submissions * 3 / 5,
            suspicious: submissions * 4 / 25,
            ..EstateSpec::default()
        });
        let vmray = VmrayOptions { estate, latency: LATENCY.0, ..VmrayOptions::default() };
        let opencti = OpenctiOptions { latency: LATENCY.1, ..OpenctiOptions::default() };
        Ok(Self {
            vmray: VmraySimulator::start(vmray).await?,
            opencti: OpenctiSimulator::start(opencti).await?,
        })
    }

    /// The settings of a deployment that has these two.
    fn settings(&self) -> BTreeMap<&'static str, String> {
        BTreeMap::from([
            ("VMRAY_SERVER", self.vmray.url()),
            ("VMRAY_API_KEY", VmrayOptions::default().api_keys.concat()),
            ("VMRAY_INITIAL_FETCH_DATE", "2026-01-01".to_owned()),
            ("HISTORY", "oldest-first".to_owned()),
            ("OPENCTI_URL", self.opencti.url()),
            ("OPENCTI_TOKEN", OpenctiOptions::default().tokens.concat()),
            ("CONNECTOR_ID", "0d9a7c52-6a0e-4c0e-9e55-7f2f0f6f1c11".to_owned()),
            ("CONNECTOR_LOG_LEVEL", "warn".to_owned()),
        ])
    }

    /// What the platform has, by type.
    fn arrived(&self) -> BTreeMap<String, u64> {
        self.opencti.platform().knowledge().counts()
    }
}

pub(crate) async fn run(arguments: DemoArguments) -> Result<ExitCode, CommandFailure> {
    let simulated = Simulated::start(arguments.submissions).await.map_err(CommandFailure::failed)?;
    let folder = tempfile::tempdir().map_err(CommandFailure::failed)?;
    let settings = simulated.settings();
    let lookup = move |name: &str| settings.get(name).cloned();
    let local = setup::local(lookup, Some(folder.path().join("state.sqlite"))).await?;
    if !arguments.json {
        println!(
            "VMRay, simulated:    {} with {} finished submissions",
            simulated.vmray.url(),
            arguments.submissions
        );
        println!("OpenCTI, simulated:  {}\n", simulated.opencti.url());
    }
    let first = local.ingest.handle(IngestEvent::Scheduled, TimeLimit::NONE).await;
    let second = local.ingest.handle(IngestEvent::Scheduled, TimeLimit::NONE).await;
    let faults = simulated.faults();
    if arguments.json {
        println!("{}", json!({ "runs": [first, second], "arrived": simulated.arrived(), "faults": faults }));
    } else {
        print(&simulated, &first, &second);
        for fault in &faults {
            println!("WRONG: {fault}");
        }
    }
    let well = faults.is_empty()
        && first.status == RunStatus::Done
        && second.status == RunStatus::Done
        && second.objects == 0;
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

impl Simulated {
    /// What went wrong in the platform; empty when all is well.
    fn faults(&self) -> Vec<String> {
        let platform = self.opencti.platform();
        let knowledge = platform.knowledge();
        let refused = knowledge.rejected().iter().map(|refused| format!("refused: {}", refused.message));
        let doubles = knowledge
            .mismatched_ids()
            .iter()
            .map(|id| format!("id {} should be {}", id.pushed, id.standard_id));
        refused.chain(doubles).collect()
    }
}

fn print(simulated: &Simulated, first: &RunAnswer, second: &RunAnswer) {
    println!("First run\n{}\n", indent(&summary(first)));
    println!("Second run, with nothing new\n{}\n", indent(&summary(second)));
    println!("What arrived in OpenCTI");
    for (kind, count) in simulated.arrived() {
        println!("  {count:>6}  {kind}");
    }
    let platform = simulated.opencti.platform();
    if let Some(tree) = report::tree(platform.knowledge()) {
        println!("\nOne report\n{}", indent(&tree));
    }
    println!(
        "\nNext: docs/one-machine.md says how to run it against your own VMRay and OpenCTI; `vmray-bridge doctor` checks them."
    );
}

fn indent(text: &str) -> String {
    format!("  {}", text.replace('\n', "\n  "))
}
