//! Everything around one installation of the Lambda function `ingest`: a simulated VMRay, a simulated `OpenCTI`, emulated
//! AWS, settings. [`World::lambda`] starts a process of it.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{NaiveDateTime, TimeDelta};
use serde_json::{Value, json};
use simulators::estate::{Estate, Ioc, SampleSpec, SubmissionSpec, Technique, Vti, time};
use simulators::opencti::{OpenctiOptions, OpenctiSimulator};
use simulators::vmray::{VmrayOptions, VmraySimulator};

use crate::aws::Aws;
use crate::knowledge::{assert_nothing_refused, assert_same, held};
use crate::lambda::{Function, Lambda, Program};
pub use crate::lambda::{MINUTES, event};

/// The connector's id.
pub const CONNECTOR: &str = "9f3c1f0e-5a0b-4a57-8d35-0d6c1f2a7b11";

/// VMRay's key: a text that nothing else contains.
pub const VMRAY_KEY: &str = "k3y-of-vmray-5d41402a";

/// `OpenCTI`'s token: a text that nothing else contains.
pub const OPENCTI_TOKEN: &str = "t0k3n-of-opencti-7d793037";

/// The keys that take their place in tests of rotation.
pub const NEXT_VMRAY_KEY: &str = "n3xt-k3y-of-vmray-9d5ed678";

/// The token of tests of rotation.
pub const NEXT_OPENCTI_TOKEN: &str = "n3xt-t0k3n-of-opencti-fe57bcca";

/// Who has submitted everything in the simulated VMRay.
pub const SUBMITTER: &str = "analyst@customer.test";

/// The first minute of the estates.
pub const START: &str = "2025-06-01T10:00:00";

/// What the schedule sends.
#[must_use]
pub fn schedule() -> Value {
    event("ingest-schedule.json")
}

/// The end of the n-th minute of the estates.
#[must_use]
pub fn minute(n: u64) -> NaiveDateTime {
    time(START) + TimeDelta::minutes(n.cast_signed())
}

/// The same time as the product writes it.
#[must_use]
pub fn position(n: u64) -> String {
    minute(n).format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Adds a malicious file with something of its own and something that it shares with the others, and its submission,
/// finished in the sample's own minute.
pub fn add(estate: &mut Estate, id: u64) {
    estate.add_sample(SampleSpec {
        iocs: vec![
            Ioc::file(&format!("C:\\Temp\\drop-{id}.exe"), &format!("dropped by {id}")),
            Ioc::domain(&format!("c2-{id}.evil.test"), &["198.51.100.7"]),
            Ioc::domain("shared.evil.test", &[]),
        ],
        vtis: vec![Vti::new("Persistence", "Installs system startup script or application", 4)],
        techniques: vec![Technique::new("T1055", "Process Injection", &["Defense Evasion"])],
        threat_names: vec!["QakBot".to_owned()],
        ..SampleSpec::file(id, &file_name(id))
    });
    estate.add_submission(SubmissionSpec::finished(1000 + id, id, minute(id)));
}

/// The name under which a sample was submitted; no other sample's contains it.
#[must_use]
pub fn file_name(id: u64) -> String {
    format!("sample-{id}.exe")
}

/// The samples 1 to `count`, one a minute.
#[must_use]
pub fn estate(count: u64) -> Estate {
    let mut estate = Estate::new();
    (1..=count).for_each(|id| add(&mut estate, id));
    estate
}

/// The members of the secret.
#[must_use]
pub fn secret(vmray_api_key: &str, opencti_token: &str) -> Value {
    json!({"vmray_api_key": vmray_api_key, "opencti_token": opencti_token})
}

/// Both servers, AWS, and one installation of the function between them.
pub struct World {
    /// The simulated VMRay.
    pub vmray: VmraySimulator,
    /// The simulated `OpenCTI`.
    pub opencti: OpenctiSimulator,
    /// The table and the secret.
    pub aws: Aws,
    settings: BTreeMap<String, String>,
}

impl World {
    /// A world with these samples, on moto.
    pub async fn new(estate: Estate) -> Self {
        Self::on(None, VmrayOptions { estate, ..VmrayOptions::default() }).await
    }

    /// A world with its table at `dynamodb`, or on moto, and with VMRay set up like this; the keys are the harness's.
    pub async fn on(dynamodb: Option<String>, vmray: VmrayOptions) -> Self {
        let aws = Aws::start(dynamodb, &secret(VMRAY_KEY, OPENCTI_TOKEN)).await;
        let vmray = VmrayOptions { api_keys: vec![VMRAY_KEY.to_owned()], ..vmray };
        let opencti = OpenctiOptions { tokens: vec![OPENCTI_TOKEN.to_owned()], ..OpenctiOptions::default() };
        let vmray = VmraySimulator::start(vmray).await.expect("a port on the loopback interface");
        let opencti = OpenctiSimulator::start(opencti).await.expect("a port on the loopback interface");
        let mut world = Self { vmray, opencti, aws, settings: BTreeMap::new() };
        world.set("OPENCTI_URL", &world.opencti.url());
        world.set("VMRAY_SERVER", &world.vmray.url());
        world.set("CONNECTOR_ID", CONNECTOR);
        world.set("VMRAY_INITIAL_FETCH_DATE", START);
        // The estates are old: with the default all of them would be history, which has tests of its own.
        world.set("HISTORY", "oldest-first");
        world.set("DISABLE_PROXY", "true");
        // Repeats need not be waited for.
        world.set("RETRY_BASE_MS", "1");
        for (name, value) in world.aws.variables() {
            world.set(name, &value);
        }
        world
    }

    /// Sets a variable of the function, for processes that start from now on.
    pub fn set(&mut self, name: &str, value: &str) {
        self.settings.insert(name.to_owned(), value.to_owned());
    }

    /// Makes the product write a bundle per sample of [`add`]: one has 29 objects, two have 45.
    pub fn one_sample_per_bundle(&mut self) {
        self.set("BUNDLE_MAX_OBJECTS", "40");
    }

    /// A new process of the function: a cold start.
    pub async fn lambda(&self) -> Lambda {
        let secrets = [VMRAY_KEY, OPENCTI_TOKEN, NEXT_VMRAY_KEY, NEXT_OPENCTI_TOKEN, SUBMITTER];
        Function::new(Program::Ingest, "ingest", &self.settings, &secrets).start().await
    }

    /// One invocation in a process of its own, which must succeed.
    pub async fn run(&self, event: Value) -> Value {
        self.lambda().await.invoke(event, MINUTES).await.answer()
    }

    /// Fails unless `OpenCTI` holds what one undisturbed run over VMRay's samples as they are now gives.
    pub async fn assert_holds_what_a_clean_run_gives(&self) {
        let estate = self.vmray.estate().clone();
        let clean = Self::new(estate).await;
        let answer = clean.run(schedule()).await;
        assert_eq!(answer["status"], "done", "{answer}");
        assert_same(&held(&self.opencti.platform()), &held(&clean.opencti.platform()));
    }

    /// Requests to VMRay so far.
    #[must_use]
    pub fn vmray_calls(&self) -> u64 {
        self.vmray.requests().len() as u64
    }

    /// Requests to `OpenCTI` so far.
    #[must_use]
    pub fn opencti_calls(&self) -> u64 {
        self.opencti.requests().len() as u64
    }

    /// The samples that have arrived, by the names of the reports about them.
    #[must_use]
    pub fn arrived(&self, candidates: std::ops::RangeInclusive<u64>) -> Vec<u64> {
        let platform = self.opencti.platform();
        let bundles = platform.bundles();
        let named = |id: &u64| bundles.iter().any(|bundle| bundle.text.contains(&file_name(*id)));
        candidates.filter(named).collect()
    }

    /// The different contents under which each object was pushed: two that share an object differ in its date.
    #[must_use]
    pub fn contents(&self) -> BTreeMap<String, BTreeSet<String>> {
        self.pushed_objects().into_iter().map(|(id, contents)| (id, contents.into_iter().collect())).collect()
    }

    /// Every content of each object, in the order of the pushes.
    #[must_use]
    pub fn pushed_objects(&self) -> BTreeMap<String, Vec<String>> {
        let platform = self.opencti.platform();
        let mut objects: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for object in platform.bundles().iter().flat_map(simulators::opencti::PushedBundle::objects) {
            let id = object["id"].as_str().unwrap_or_default().to_owned();
            objects.entry(id).or_default().push(object.to_string());
        }
        objects
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let platform = self.opencti.platform();
            assert_eq!(
                platform.knowledge().mismatched_ids(),
                [],
                "objects under other ids than the platform's"
            );
            assert_nothing_refused(&platform);
        }
    }
}
