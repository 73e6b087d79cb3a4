//! A deployment made from the template itself: its table, secrets and queues on an emulator, its functions started with
//! the environment, memory and time limit that it gives them. What each function asks of AWS is noted, so that it can be
//! held against what its role allows.
//!
//! Only the addresses of AWS are added to a function's environment. What SAM and `CloudFormation` do with an account is not
//! shown by this.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use simulators::opencti::{OpenctiOptions, OpenctiSimulator};
use simulators::vmray::{VmrayOptions, VmraySimulator};

use crate::aws::moto_endpoint;
use crate::event_source::EventSource;
use crate::gateway::{Edit, Gateway, action};
use crate::ingest::{CONNECTOR, OPENCTI_TOKEN, START, SUBMITTER, VMRAY_KEY};
use crate::lambda::{Function, Lambda, Program};
use crate::queue::Queue;
use crate::submit::{CALLER_KEY, OTHER_CALLER_KEY};
use crate::template::{NOT_MADE, Right, Template, plain};
use crate::{ingest, submit};

/// The functions of the template, the program that each runs, and its role.
const FUNCTIONS: [(&str, Program, &str); 3] = [
    ("IngestFunction", Program::Ingest, "IngestRole"),
    ("SubmitApiFunction", Program::Submit, "SubmitApiRole"),
    ("SubmitWorkerFunction", Program::Submit, "SubmitWorkerRole"),
];

/// Something that a function asked of AWS, as its role sees it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    /// Such as `dynamodb:GetItem`.
    pub action: String,
    /// The ARN.
    pub resource: String,
    /// The partition keys that it was about.
    pub keys: BTreeSet<String>,
}

impl Call {
    /// Whether a statement allows it.
    #[must_use]
    pub fn is_allowed_by(&self, right: &Right) -> bool {
        let fits = |key: &String| right.keys.iter().any(|pattern| matches(pattern, key));
        right.resource == self.resource
            && right.actions.contains(&self.action)
            && (right.keys.is_empty() || self.keys.iter().all(fits))
    }
}

fn matches(pattern: &str, key: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == key, |start| key.starts_with(start))
}

/// One function as it is deployed.
pub struct Deployed {
    /// What starts its processes.
    pub function: Function,
    /// Its time limit.
    pub timeout: Duration,
    /// Its memory, in MiB.
    pub memory: u64,
    role: &'static str,
    calls: Arc<Mutex<BTreeSet<Call>>>,
    /// Closed with the deployment.
    _gateways: Vec<Gateway>,
}

impl Deployed {
    /// A cold start.
    pub async fn start(&self) -> Lambda {
        self.function.start().await
    }

    /// What its processes have asked of AWS so far.
    #[must_use]
    pub fn calls(&self) -> BTreeSet<Call> {
        lock(&self.calls).clone()
    }
}

/// A deployment, between a simulated VMRay and a simulated `OpenCTI`.
pub struct Deployment {
    /// The simulated VMRay.
    pub vmray: VmraySimulator,
    /// The simulated `OpenCTI`.
    pub opencti: OpenctiSimulator,
    /// The template with everything that was made.
    pub template: Template,
    /// The queue between the API and the worker.
    pub queue: Arc<Queue>,
    aws: Gateway,
    functions: BTreeMap<&'static str, Deployed>,
}

impl Deployment {
    /// Makes everything that the template holds and the functions need. The secrets are as blank as the template makes
    /// them, until [`put_keys`](Self::put_keys).
    pub async fn start(vmray: VmrayOptions) -> Self {
        let vmray = VmrayOptions { api_keys: vec![VMRAY_KEY.to_owned()], ..vmray };
        let opencti = OpenctiOptions { tokens: vec![OPENCTI_TOKEN.to_owned()], ..OpenctiOptions::default() };
        let vmray = VmraySimulator::start(vmray).await.expect("a port on the loopback interface");
        let opencti = OpenctiSimulator::start(opencti).await.expect("a port on the loopback interface");
        let mut template = Template::new(&[
            ("OpenctiUrl", &opencti.url()),
            ("VmrayServer", &vmray.url()),
            ("ConnectorId", CONNECTOR),
            ("VmrayInitialFetchDate", START),
            ("History", "oldest-first"),
            ("DisableProxy", "true"),
        ]);
        let aws = Gateway::start(moto_endpoint()).await;
        make_table(&aws, &mut template).await;
        make_secrets(&aws, &mut template).await;
        let queue = Arc::new(make_queues(&aws, &mut template).await);
        let mut functions = BTreeMap::new();
        for (name, program, role) in FUNCTIONS {
            functions.insert(name, deploy(name, program, role, &template, &queue).await);
        }
        Self { vmray, opencti, template, queue, aws, functions }
    }

    /// Puts the keys into the secrets, as the operator does after the deployment.
    pub async fn put_keys(&self) {
        for (resource, keys) in [
            ("IngestFunction", ingest::secret(VMRAY_KEY, OPENCTI_TOKEN)),
            ("SubmitApiFunction", submit::secret(VMRAY_KEY)),
        ] {
            let secret = self.template.properties(resource)["Environment"]["Variables"]["SECRET_ARN"].clone();
            let token = uuid::Uuid::new_v4().to_string();
            let request =
                json!({"SecretId": secret, "SecretString": keys.to_string(), "ClientRequestToken": token});
            self.aws.ask("secretsmanager.PutSecretValue", &request).await;
        }
    }

    /// A function by its name in the template.
    #[must_use]
    pub fn function(&self, name: &str) -> &Deployed {
        self.functions.get(name).unwrap_or_else(|| panic!("no function {name}"))
    }

    /// All of them.
    pub fn functions(&self) -> impl Iterator<Item = (&'static str, &Deployed)> {
        self.functions.iter().map(|(name, function)| (*name, function))
    }

    /// What a function's role allows.
    #[must_use]
    pub fn rights(&self, name: &str) -> Vec<Right> {
        self.template.rights(self.function(name).role)
    }

    /// Lambda's event source mapping, as the template has it.
    #[must_use]
    pub fn event_source(&self) -> EventSource {
        let mapping = self.template.properties("SubmitWorkerFunctionMessages");
        let workers = plain(&mapping["ScalingConfig"]["MaximumConcurrency"]).parse().expect("a number");
        assert_eq!(mapping["BatchSize"], 1, "the event source hands over one message at a time");
        let worker = self.function("SubmitWorkerFunction");
        EventSource::start(&self.queue, &worker.function, workers, worker.timeout)
    }
}

async fn make_table(aws: &Gateway, template: &mut Template) {
    let properties = template.properties("Table");
    let name = format!("vmray-bridge-Table-{}", uuid::Uuid::new_v4());
    let mut request = json!({"TableName": name});
    for property in ["AttributeDefinitions", "KeySchema", "BillingMode", "DeletionProtectionEnabled"] {
        request[property] = properties[property].clone();
    }
    let made = aws.ask("DynamoDB_20120810.CreateTable", &request).await;
    let ttl = json!({"TableName": name, "TimeToLiveSpecification": properties["TimeToLiveSpecification"]});
    aws.ask("DynamoDB_20120810.UpdateTimeToLive", &ttl).await;
    let arn = made["TableDescription"]["TableArn"].as_str().expect("a new table has an ARN");
    template.made("Table", &name, &[("Arn", arn)]);
}

async fn make_secrets(aws: &Gateway, template: &mut Template) {
    for resource in template.resources("AWS::SecretsManager::Secret") {
        let properties = template.properties(&resource);
        let request = json!({
            "Name": format!("{resource}-{}", uuid::Uuid::new_v4()),
            "Description": properties["Description"],
            "SecretString": properties["SecretString"],
            "ClientRequestToken": uuid::Uuid::new_v4().to_string(),
        });
        let made = aws.ask("secretsmanager.CreateSecret", &request).await;
        template.made(&resource, made["ARN"].as_str().expect("a new secret has an ARN"), &[]);
    }
}

/// The queues, those that others name first.
async fn make_queues(aws: &Gateway, template: &mut Template) -> Queue {
    let mut addresses = BTreeMap::new();
    let mut resources = template.resources("AWS::SQS::Queue");
    resources.sort_by_key(|resource| template.properties(resource).get("RedrivePolicy").is_some());
    for resource in resources {
        let attributes = template.properties(&resource);
        let attributes = attributes.as_object().into_iter().flatten();
        let attributes: BTreeMap<_, _> =
            attributes.map(|(name, value)| (name.as_str(), plain(value))).collect();
        let request =
            json!({"QueueName": format!("{resource}-{}", uuid::Uuid::new_v4()), "Attributes": attributes});
        let made = aws.ask("AmazonSQS.CreateQueue", &request).await;
        let url = made["QueueUrl"].as_str().expect("a new queue has an address").to_owned();
        let name = url.rsplit('/').next().unwrap_or_default();
        template.made(&resource, &url, &[("Arn", &queue_arn(&url)), ("QueueName", name)]);
        addresses.insert(resource, url);
    }
    Queue::adopt(moto_endpoint(), addresses["SubmitQueue"].clone(), addresses["SubmitDeadLetters"].clone())
        .await
}

async fn deploy(
    name: &str,
    program: Program,
    role: &'static str,
    template: &Template,
    queue: &Queue,
) -> Deployed {
    let properties = template.properties(name);
    assert_eq!(properties["Handler"], "bootstrap", "{name}: what runs is the binary itself");
    let calls = Arc::<Mutex<BTreeSet<Call>>>::default();
    let dynamodb = Gateway::editing(moto_endpoint(), Some(note(&calls, "DynamoDB_20120810"))).await;
    let secrets = Gateway::editing(moto_endpoint(), Some(note(&calls, "secretsmanager"))).await;
    let sqs = Gateway::editing(queue.address().to_owned(), Some(note(&calls, "AmazonSQS"))).await;
    let variables = properties["Environment"]["Variables"].as_object().expect("a function has variables");
    let mut settings: BTreeMap<_, _> =
        variables.iter().map(|(name, value)| (name.clone(), plain(value))).collect();
    for (variable, value) in &settings {
        assert!(!value.contains(NOT_MADE), "{name}: {variable} leads to {value}");
    }
    for (variable, gateway) in [
        ("AWS_ENDPOINT_URL_DYNAMODB", &dynamodb),
        ("AWS_ENDPOINT_URL_SECRETS_MANAGER", &secrets),
        ("AWS_ENDPOINT_URL_SQS", &sqs),
    ] {
        settings.insert(variable.to_owned(), gateway.address.clone());
    }
    let private = [VMRAY_KEY, OPENCTI_TOKEN, CALLER_KEY, OTHER_CALLER_KEY, SUBMITTER];
    let memory = plain(&properties["MemorySize"]).parse().expect("a number of megabytes");
    let timeout = plain(&properties["Timeout"]).parse().expect("a number of seconds");
    Deployed {
        function: Function::new(program, name, &settings, &private).with_memory(memory),
        timeout: Duration::from_secs(timeout),
        memory,
        role,
        calls,
        _gateways: vec![dynamodb, secrets, sqs],
    }
}

/// Notes what passes a gateway, and passes it on as it is.
fn note(calls: &Arc<Mutex<BTreeSet<Call>>>, service: &'static str) -> Edit {
    let calls = Arc::clone(calls);
    Arc::new(move |operation, request| {
        let action = action(&format!("{service}.{operation}"));
        let found = match service {
            "secretsmanager" => {
                vec![(request["SecretId"].as_str().unwrap_or_default().to_owned(), BTreeSet::new())]
            }
            "AmazonSQS" => {
                vec![(queue_arn(request["QueueUrl"].as_str().unwrap_or_default()), BTreeSet::new())]
            }
            _ => tables(&request),
        };
        let noted = found.into_iter().map(|(resource, keys)| Call { action: action.clone(), resource, keys });
        lock(&calls).extend(noted);
        request
    })
}

/// The tables of a request, and the partition keys that it asks for in each.
fn tables(request: &Value) -> Vec<(String, BTreeSet<String>)> {
    let arn = |name: &str| format!("arn:aws:dynamodb:us-east-1:123456789012:table/{name}");
    let key = |item: &Value| item["pk"]["S"].as_str().map(str::to_owned);
    if let Some(tables) = request["RequestItems"].as_object() {
        let keys = |asked: &Value| asked["Keys"].as_array().into_iter().flatten().filter_map(key).collect();
        return tables.iter().map(|(name, asked)| (arn(name), keys(asked))).collect();
    }
    let of_query = request["ExpressionAttributeValues"][":pk"]["S"].as_str().map(str::to_owned);
    let keys: BTreeSet<_> =
        [key(&request["Key"]), key(&request["Item"]), of_query].into_iter().flatten().collect();
    assert!(!keys.is_empty(), "a request without a partition key: {request}");
    vec![(arn(request["TableName"].as_str().unwrap_or_default()), keys)]
}

fn queue_arn(url: &str) -> String {
    format!("arn:aws:sqs:us-east-1:123456789012:{}", url.rsplit('/').next().unwrap_or_default())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
