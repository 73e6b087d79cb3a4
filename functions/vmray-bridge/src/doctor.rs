//! `vmray-bridge doctor`: a line for each thing that must work, with what to do when it does not.

use std::collections::BTreeSet;
use std::process::ExitCode;

use chrono::Utc;
use ingest::Clients;
use ingest::cursor::StoredCursor;
use ingest::opencti::client::OpenctiClient;
use ingest::opencti::connector::{self, Me};
use ingest::settings::{Deployment, IngestSettings};
use mapping::RelationshipKind;
use runtime::settings::Host;
use serde::Serialize;
use vmray::client::{VmrayClient, VmrayError};

use crate::setup::{self, environment};
use crate::{CommandFailure, StateArguments};

/// The first release that the bundles were proven on.
const OLDEST_OPENCTI: (u64, u64) = (6, 9);

/// What the connector does on the platform, by capability. A longer capability includes a shorter one.
const CAPABILITIES: [(&str, &str); 4] = [
    ("CONNECTORAPI", "register, ping, push"),
    ("MODULES", "read the queue and the works"),
    ("KNOWLEDGE_KNUPDATE", "import objects"),
    ("SETTINGS_SETLABELS", "create labels"),
];

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Health {
    Ok,
    Warning,
    Failed,
}

#[derive(Serialize)]
struct Finding {
    check: &'static str,
    health: Health,
    message: String,
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, check: &'static str, health: Health, message: impl Into<String>) {
        self.0.push(Finding { check, health, message: message.into() });
    }

    fn ok(&mut self, check: &'static str, message: impl Into<String>) {
        self.add(check, Health::Ok, message);
    }

    fn failed(&mut self, check: &'static str, message: impl std::fmt::Display) {
        self.add(check, Health::Failed, message.to_string());
    }

    fn warning(&mut self, check: &'static str, message: impl Into<String>) {
        self.add(check, Health::Warning, message);
    }
}

pub(crate) async fn run(arguments: StateArguments) -> Result<ExitCode, CommandFailure> {
    let mut findings = Findings::default();
    examine(arguments.state, &mut findings).await;
    let failed = findings.0.iter().any(|finding| finding.health == Health::Failed);
    if arguments.json {
        println!("{}", serde_json::json!({ "healthy": !failed, "findings": findings.0 }));
    } else {
        for finding in &findings.0 {
            let mark = match finding.health {
                Health::Ok => "ok     ",
                Health::Warning => "warning",
                Health::Failed => "FAILED ",
            };
            println!("{mark}  {:<16} {}", finding.check, finding.message);
        }
    }
    Ok(if failed { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

async fn examine(state: Option<std::path::PathBuf>, findings: &mut Findings) {
    match IngestSettings::read(&environment, Host::Local, Utc::now()) {
        Ok((_, warnings)) => {
            findings.ok("settings", "all readable");
            for warning in warnings {
                findings.warning("settings", warning.to_string());
            }
        }
        Err(error) => {
            for problem in error.problems {
                findings.failed("settings", format!("{}: {}", problem.name, problem.message));
            }
            return;
        }
    }
    let local = match setup::local(environment, state).await {
        Ok(local) => local,
        Err(CommandFailure::Failed(message) | CommandFailure::Usage(message)) => {
            return findings.failed("state", message);
        }
    };
    let settings = local.ingest.settings();
    findings.ok("relationships", relationships(&settings.mapping.relationships));
    let place = match &local.state {
        setup::StateStore::File(_) => "the state file can be read",
        setup::StateStore::Table(_) => "the DynamoDB table can be read",
    };
    match StoredCursor::load(local.ingest.store(), &settings.connector.id).await {
        Ok(stored) => {
            let position =
                stored.cursor.position.map_or("no run yet".to_owned(), |at| format!("position {at}"));
            findings.ok("state", format!("{place}, {position}"));
        }
        Err(error) => findings.failed("state", error),
    }
    let Clients { vmray, opencti } = match local.ingest.connect().await {
        Ok(clients) => clients,
        Err(error) => return findings.failed("keys", error),
    };
    let origin = match &settings.deployment {
        Deployment::Local { secret_arn: None, .. } => "the environment",
        _ => "Secrets Manager",
    };
    findings.ok("keys", format!("both read from {origin}"));
    examine_vmray(&vmray, findings).await;
    examine_opencti(&opencti, settings, findings).await;
}

async fn examine_vmray(vmray: &VmrayClient, findings: &mut Findings) {
    match vmray.probe().await {
        Ok(()) => findings.ok("VMRay", "reachable, and the key is valid"),
        Err(error) => return findings.failed("VMRay", error),
    }
    match vmray.system_info().await {
        Ok(info) => findings.ok("VMRay version", info.version.unwrap_or_else(|| "not told".to_owned())),
        Err(VmrayError::Forbidden { .. }) => {
            findings.ok("VMRay version", "only told to administrators on this server");
        }
        Err(error) => findings.warning("VMRay version", error.to_string()),
    }
    match vmray.quota().await {
        Ok(quota) if quota.quota_limit == 0 => findings.ok("VMRay quota", "unlimited; ingest spends none"),
        Ok(quota) => {
            let left = quota.quota_limit.saturating_sub(quota.used_quota);
            findings.ok("VMRay quota", format!("{left} of {} left; ingest spends none", quota.quota_limit));
        }
        Err(VmrayError::Forbidden { .. } | VmrayError::NotFound { .. }) => {
            findings.ok("VMRay quota", "not told to this key; ingest spends none");
        }
        Err(error) => findings.warning("VMRay quota", error.to_string()),
    }
}

async fn examine_opencti(opencti: &OpenctiClient, settings: &IngestSettings, findings: &mut Findings) {
    let version = match connector::version(opencti).await {
        Ok(version) => version,
        Err(error) => return findings.failed("OpenCTI", error),
    };
    findings.ok("OpenCTI", "reachable, and the token is valid");
    if is_supported(&version) {
        findings.ok("OpenCTI version", version);
    } else {
        let (major, minor) = OLDEST_OPENCTI;
        findings.failed("OpenCTI version", format!("{version}; at least {major}.{minor} is needed"));
    }
    match connector::me(opencti).await {
        Ok(me) => examine_account(&me, findings),
        Err(error) => findings.failed("OpenCTI account", error),
    }
    let marking = settings.mapping.marking;
    match connector::marking_exists(opencti, &marking.id().to_string()).await {
        Ok(true) => findings.ok("marking", format!("{marking} exists")),
        Ok(false) => findings.failed(
            "marking",
            format!("{marking} does not exist, or this account may not use it; create or allow it, or set VMRAY_DEFAULT_TLP"),
        ),
        Err(error) => findings.failed("marking", error),
    }
}

fn examine_account(me: &Me, findings: &mut Findings) {
    let has = |wanted: &str| {
        me.capabilities
            .iter()
            .any(|capability| capability.name == "BYPASS" || capability.name.starts_with(wanted))
    };
    let missing: Vec<_> = CAPABILITIES.iter().filter(|(name, _)| !has(name)).collect();
    if missing.is_empty() {
        findings.ok("OpenCTI account", format!("{} may do all that is needed", me.name));
    }
    for (name, purpose) in missing {
        findings.failed(
            "OpenCTI account",
            format!("{} lacks {name} ({purpose}); put it into the group Connectors", me.name),
        );
    }
    match me.effective_confidence_level.as_ref().and_then(|level| level.max_confidence) {
        Some(confidence) => findings.ok("confidence", format!("at most {confidence}")),
        None => findings.failed(
            "confidence",
            "the account has no maximum confidence level, and OpenCTI refuses every object from it; set one on the account or its group",
        ),
    }
}

/// How many relationships of a kind a malicious sample brings, in tenths: measured over the demo.
fn cost(kind: RelationshipKind) -> u32 {
    match kind {
        RelationshipKind::BasedOn => 208,
        RelationshipKind::Characterizes => 10,
        RelationshipKind::Drops => 1,
        RelationshipKind::Indicates => 225,
        RelationshipKind::LocatedAt => 22,
        RelationshipKind::RelatedTo => 114,
        RelationshipKind::ResolvesTo => 34,
        RelationshipKind::Uses => 25,
    }
}

/// Which kinds are made, and what they cost the platform, or what is saved.
fn relationships(made: &BTreeSet<RelationshipKind>) -> String {
    let with_cost = |kind: &RelationshipKind| format!("{kind} {}.{}", cost(*kind) / 10, cost(*kind) % 10);
    let listed = |kinds: Vec<String>| kinds.join(", ");
    let (kept, left): (Vec<_>, Vec<_>) =
        RelationshipKind::ALL.iter().partition::<Vec<&RelationshipKind>, _>(|kind| made.contains(kind));
    if left.is_empty() {
        let costs = listed(kept.into_iter().map(with_cost).collect());
        return format!("all are made; objects a malicious sample in the demo: {costs}");
    }
    let names = match listed(kept.into_iter().map(ToString::to_string).collect()) {
        names if names.is_empty() => "none".to_owned(),
        names => names,
    };
    let saved = listed(left.into_iter().map(with_cost).collect());
    format!(
        "{names} are made; left out, with the objects a malicious sample in the demo that this saves: {saved}"
    )
}

fn is_supported(version: &str) -> bool {
    let mut parts = version.split('.').map(|part| part.parse::<u64>().ok());
    match (parts.next().flatten(), parts.next().flatten()) {
        (Some(major), Some(minor)) => (major, minor) >= OLDEST_OPENCTI,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        for (version, supported) in [
            ("6.9.0", true),
            ("6.10.2", true),
            ("7.260817.0", true),
            ("6.8.9", false),
            ("5.12.1", false),
            ("dev", false),
        ] {
            assert_eq!(is_supported(version), supported, "{version}");
        }
    }
}
