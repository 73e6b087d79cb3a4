//! Everything around one installation of the Lambda function `submit`: a simulated VMRay, emulated AWS with a queue,
//! settings. One binary, two functions: [`World::api`] answers HTTP, [`World::event_source`] feeds the worker.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use simulators::estate::Hashes;
use simulators::vmray::submit::SubmitOptions;
use simulators::vmray::{VmrayOptions, VmraySimulator};

use crate::aws::Aws;
use crate::event_source::EventSource;
use crate::http_api::{HttpRequest, HttpResponse};
pub use crate::ingest::{NEXT_VMRAY_KEY, SUBMITTER, VMRAY_KEY};
use crate::lambda::{Function, Lambda, Program};
use crate::queue::Queue;

/// The caller in the secret.
pub const CALLER: &str = "soar";

/// The caller's key: a text that nothing else contains.
pub const CALLER_KEY: &str = "k3y-of-the-soar-c4ca4238a0b923820dcc509a6f75849b";

/// Another caller in the secret.
pub const OTHER_CALLER: &str = "notifier";

/// The other caller's key.
pub const OTHER_CALLER_KEY: &str = "k3y-of-the-notifier-eccbc87e4b5ce2fe28308fd9f2a7baf3";

/// In the path of the URLs that tests submit: logs hold scheme, host and a hash of a URL, no more.
pub const PATH: &str = "quarterly-invoices";

/// In their query.
pub const QUERY: &str = "for-the-cfo";

/// The timeout of the API's function: API Gateway waits no longer than 30 seconds.
pub const API_LIMIT: Duration = Duration::from_secs(29);

/// The timeout of the worker's function.
pub const WORKER_LIMIT: Duration = Duration::from_mins(1);

/// The members of the secret.
#[must_use]
pub fn secret(vmray_api_key: &str) -> Value {
    let hash = |key: &str| Hashes::of(key).sha256;
    json!({
        "vmray_api_key": vmray_api_key,
        "callers": {
            CALLER: {"keys": [hash(CALLER_KEY)]},
            OTHER_CALLER: {"keys": [hash(OTHER_CALLER_KEY)]},
        },
    })
}

/// What a world is made of.
#[derive(Clone, Debug)]
pub struct WorldOptions {
    /// The simulated VMRay; its keys are the harness's.
    pub vmray: VmrayOptions,
    /// Where DynamoDB is; moto when left out.
    pub dynamodb: Option<String>,
    /// Where SQS is; moto when left out.
    pub sqs: Option<String>,
    /// The queue's visibility timeout.
    pub visibility_timeout: Duration,
}

impl Default for WorldOptions {
    /// All on moto; a message that failed comes again after a second.
    fn default() -> Self {
        Self {
            vmray: VmrayOptions::default(),
            dynamodb: None,
            sqs: None,
            visibility_timeout: Duration::from_secs(1),
        }
    }
}

/// VMRay, AWS, and one installation of the function between them.
pub struct World {
    /// The simulated VMRay.
    pub vmray: VmraySimulator,
    /// The table, the secret and the queue.
    pub aws: Aws,
    settings: BTreeMap<String, String>,
}

impl World {
    /// A world whose VMRay takes URLs so, on moto.
    pub async fn new(submit: SubmitOptions) -> Self {
        let vmray = VmrayOptions { submit, ..VmrayOptions::default() };
        Self::with(WorldOptions { vmray, ..WorldOptions::default() }).await
    }

    /// A world of these parts.
    pub async fn with(options: WorldOptions) -> Self {
        let WorldOptions { vmray, dynamodb, sqs, visibility_timeout } = options;
        let aws = Aws::start(dynamodb, &secret(VMRAY_KEY)).await.with_queue(sqs, visibility_timeout).await;
        let vmray = VmrayOptions { api_keys: vec![VMRAY_KEY.to_owned()], ..vmray };
        let vmray = VmraySimulator::start(vmray).await.expect("a port on the loopback interface");
        let mut world = Self { vmray, aws, settings: BTreeMap::new() };
        world.set("VMRAY_SERVER", &world.vmray.url());
        world.set("DISABLE_PROXY", "true");
        // Repeats need not be waited for.
        world.set("RETRY_BASE_MS", "1");
        for (name, value) in world.aws.variables() {
            world.set(name, &value);
        }
        world
    }

    /// Sets a variable of both functions, for processes that start from now on.
    pub fn set(&mut self, name: &str, value: &str) {
        self.settings.insert(name.to_owned(), value.to_owned());
    }

    /// A new process of the API's function: a cold start.
    pub async fn api(&self) -> Lambda {
        self.function("submit-api").start().await
    }

    /// A new process of the worker's function, for messages that the test hands over itself.
    pub async fn worker(&self) -> Lambda {
        self.function("submit-worker").start().await
    }

    /// Feeds so many processes of the worker's function from the queue.
    #[must_use]
    pub fn event_source(&self, workers: usize) -> EventSource {
        EventSource::start(self.aws.queue(), &self.function("submit-worker"), workers, WORKER_LIMIT)
    }

    /// The queue.
    #[must_use]
    pub fn queue(&self) -> &Queue {
        self.aws.queue()
    }

    fn function(&self, name: &str) -> Function {
        let secrets = [VMRAY_KEY, NEXT_VMRAY_KEY, CALLER_KEY, OTHER_CALLER_KEY, SUBMITTER];
        Function::new(Program::Submit, name, &self.settings, &secrets).not_printing(&[PATH, QUERY])
    }
}

/// A URL of this host, with a path and a query that nobody may print.
#[must_use]
pub fn url(host: &str) -> String {
    format!("http://{host}.example/{PATH}?{QUERY}")
}

/// A request with the caller's key.
#[must_use]
pub fn authorized(request: HttpRequest) -> HttpRequest {
    request.header("x-api-key", CALLER_KEY)
}

/// Sends a request to the API and reads what is answered.
pub async fn ask(api: &Lambda, request: &HttpRequest) -> HttpResponse {
    HttpResponse::read(&api.invoke(request.event(), API_LIMIT).await.answer())
}
