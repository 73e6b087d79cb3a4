//! Connectors, works and imports: what the operations do.

use std::collections::BTreeMap;
use std::sync::Mutex;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Map, Value, json};

use super::graphql::{Error, Resolver};
use super::knowledge::{Knowledge, Rights};
use super::version::Version;
use super::{OpenctiOptions, Workers, ids};
use crate::server::lock;

const USER_ID: &str = "88ec0c6a-13ce-5e39-b486-354fe4a7084f";
/// The platform keeps no more errors of one work.
const MAX_WORK_ERRORS: usize = 100;

/// A registered connector.
#[derive(Clone, Debug, Default)]
pub struct Connector {
    /// Its id, as it registered.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its type, such as `EXTERNAL_IMPORT`.
    pub kind: String,
    /// Its scope.
    pub scope: Vec<String>,
    /// The state it sent last.
    pub state: Option<String>,
    /// Whether a reset waits to be seen by a ping.
    pub reset: bool,
    /// When it was created or reset.
    pub state_timestamp: String,
    /// The last `connectorInfo`.
    pub info: Value,
    /// When it registered or pinged last.
    pub updated_at: String,
    created_at: String,
    /// What the next pings answer instead of the state: the database lags behind.
    stale: Vec<Option<String>>,
}

/// One work.
#[derive(Clone, Debug)]
pub struct Work {
    /// `work_<connector>_<time>`
    pub id: String,
    /// The connector it belongs to.
    pub connector_id: String,
    /// Its name.
    pub name: String,
    /// `wait`, `progress` or `complete`.
    pub status: String,
    /// When it was made.
    pub timestamp: String,
    /// Errors: message and source.
    pub errors: Vec<(String, String)>,
    /// Objects expected.
    pub expected: usize,
    /// Objects imported or refused.
    pub processed: usize,
    processed_time: Option<String>,
    completed_time: Option<String>,
    multipart: bool,
}

/// A bundle as it was pushed.
#[derive(Clone, Debug)]
pub struct PushedBundle {
    /// The connector that pushed it.
    pub connector_id: String,
    /// The text, as it was sent.
    pub text: String,
    /// The work it was imported under.
    pub work_id: String,
}

impl PushedBundle {
    /// The bundle's objects.
    #[must_use]
    pub fn objects(&self) -> Vec<Value> {
        parse_bundle(&self.text).unwrap_or_default()
    }
}

/// What waits in a connector's queue.
#[derive(Clone, Debug)]
struct Queued {
    connector_id: String,
    work_id: String,
    objects: Vec<Value>,
    bytes: usize,
}

/// The platform's state.
#[derive(Debug)]
pub struct Platform {
    options: OpenctiOptions,
    tokens: Vec<String>,
    connectors: BTreeMap<String, Connector>,
    works: Vec<Work>,
    knowledge: Knowledge,
    queue: Vec<Queued>,
    queue_size: Option<(u64, u64)>,
    bundles: Vec<PushedBundle>,
    pushes: u64,
    bytes_pushed: u64,
    reset_at_push: Vec<u64>,
    last_time: DateTime<Utc>,
}

impl Platform {
    pub(super) fn new(options: OpenctiOptions, version: Version) -> Self {
        Self {
            tokens: options.tokens.clone(),
            options,
            connectors: BTreeMap::new(),
            works: Vec::new(),
            knowledge: Knowledge::new(version),
            queue: Vec::new(),
            queue_size: None,
            bundles: Vec::new(),
            pushes: 0,
            bytes_pushed: 0,
            reset_at_push: Vec::new(),
            last_time: DateTime::UNIX_EPOCH,
        }
    }

    /// What was imported.
    #[must_use]
    pub fn knowledge(&self) -> &Knowledge {
        &self.knowledge
    }

    /// A connector by its id.
    #[must_use]
    pub fn connector(&self, id: &str) -> Option<&Connector> {
        self.connectors.get(id)
    }

    /// All works, oldest first.
    #[must_use]
    pub fn works(&self) -> &[Work] {
        &self.works
    }

    /// The bundles that were pushed, in their order, unless the options say not to keep them.
    #[must_use]
    pub fn bundles(&self) -> &[PushedBundle] {
        &self.bundles
    }

    /// How many pushes were accepted.
    #[must_use]
    pub fn pushes(&self) -> u64 {
        self.pushes
    }

    /// What an operator's *Reset state* does: the state is emptied, the queue purged, the timestamp moved. Says whether there
    /// is such a connector.
    pub fn operator_reset(&mut self, connector_id: &str) -> bool {
        let now = self.now();
        let Some(connector) = self.connectors.get_mut(connector_id) else { return false };
        connector.state = Some(String::new());
        connector.reset = true;
        connector.state_timestamp = now;
        self.queue.retain(|queued| queued.connector_id != connector_id);
        true
    }

    /// Resets the pushing connector right before the n-th push (from 1) is handled.
    pub fn reset_at_push(&mut self, n: u64) {
        self.reset_at_push.push(n);
    }

    /// Sets a connector's state as another program left it; registers the connector if need be.
    pub fn set_state(&mut self, connector_id: &str, state: Option<&str>) {
        let now = self.now();
        let connector = self.connectors.entry(connector_id.to_owned()).or_insert_with(|| Connector {
            id: connector_id.to_owned(),
            state_timestamp: now.clone(),
            updated_at: now.clone(),
            created_at: now,
            ..Connector::default()
        });
        connector.state = state.map(str::to_owned);
    }

    /// Makes the next pings answer the state as it is now, whatever they write.
    pub fn stale_echo(&mut self, connector_id: &str, pings: usize) {
        if let Some(connector) = self.connectors.get_mut(connector_id) {
            connector.stale = vec![connector.state.clone(); pings];
        }
    }

    /// Removes a connector, as an operator can.
    pub fn delete_connector(&mut self, connector_id: &str) {
        self.connectors.remove(connector_id);
    }

    /// Sets the size of all queues: messages and bytes. `None`: what really waits.
    pub fn set_queue(&mut self, size: Option<(u64, u64)>) {
        self.queue_size = size;
    }

    /// Replaces the tokens in force.
    pub fn set_tokens(&mut self, tokens: &[&str]) {
        self.tokens = tokens.iter().map(|&token| token.to_owned()).collect();
    }

    /// Replaces the account's capabilities.
    pub fn set_capabilities(&mut self, capabilities: &[&str]) {
        self.options.capabilities = capabilities.iter().map(|&name| name.to_owned()).collect();
    }

    /// Imports everything that waits in the queue.
    pub fn run_workers(&mut self) {
        for queued in std::mem::take(&mut self.queue) {
            self.import(&queued.work_id, &queued.objects);
        }
    }

    pub(super) fn knows_token(&self, token: &str) -> bool {
        self.tokens.iter().any(|known| known == token)
    }

    /// A new time at each call, so that timestamps differ whatever the clock's resolution.
    fn now(&mut self) -> String {
        let next = self.last_time + TimeDelta::milliseconds(1);
        self.last_time = Utc::now().max(next);
        self.last_time.to_rfc3339_opts(SecondsFormat::Millis, true)
    }

    fn rights(&self) -> Rights {
        let ids = |names: &[String]| {
            let known = ids::TLP.iter().filter(|(name, _)| names.iter().any(|wanted| wanted == name));
            known.map(|(_, id)| (*id).to_owned()).collect()
        };
        Rights {
            max_confidence: self.options.max_confidence,
            markings: ids(&self.options.markings),
            allowed_markings: ids(&self.options.allowed_markings),
        }
    }

    /// A command of the control endpoint; `None` when there is no such command.
    pub(super) fn control(&mut self, command: &str, body: &Value) -> Option<Value> {
        let id = body["connector_id"].as_str();
        match command {
            "reset-connector" => {
                let ids: Vec<String> =
                    id.map_or_else(|| self.connectors.keys().cloned().collect(), |id| vec![id.to_owned()]);
                let reset = ids.iter().filter(|id| self.operator_reset(id)).count();
                return Some(json!({"ok": reset > 0}));
            }
            "reset-at-push" => self.reset_at_push(body["n"].as_u64()?),
            "queue" => self.queue_size = body["messages"].as_u64().zip(body["bytes"].as_u64()),
            "run-workers" => self.run_workers(),
            "keys" => self.tokens = serde_json::from_value(body["keys"].clone()).ok()?,
            "connectors" => {
                return Some(
                    self.connectors.values().map(|connector| self.connector_json(connector)).collect(),
                );
            }
            "works" => return Some(self.works.iter().map(work_json).collect()),
            "bundles" => {
                return Some(self.bundles.iter().map(|bundle| Value::Array(bundle.objects())).collect());
            }
            "knowledge" => {
                return Some(
                    self.knowledge.entities().values().map(|entity| entity.object.clone()).collect(),
                );
            }
            "mismatched-ids" => {
                let mismatched = self.knowledge.mismatched_ids().iter();
                return Some(
                    mismatched
                        .map(|id| json!({"pushed": id.pushed, "standard_id": id.standard_id}))
                        .collect(),
                );
            }
            _ => return None,
        }
        Some(json!({"ok": true}))
    }

    pub(super) fn stats(&self) -> Value {
        let mut stats = self.knowledge.stats();
        stats["pushes"] = json!(self.pushes);
        stats["bytes_pushed"] = json!(self.bytes_pushed);
        stats["works"] = json!(self.works.len());
        stats["works_open"] = json!(self.works.iter().filter(|work| work.status != "complete").count());
        stats["queued"] = json!(self.queue.len());
        stats
    }
}

/// Operations.
impl Platform {
    fn register(&mut self, input: &Value) -> Result<Value, Error> {
        let text = |name: &str| input[name].as_str().unwrap_or_default().to_owned();
        if text("name").trim().chars().count() < 2 {
            return Err(Error::new(
                "Connector name must have at least 2 characters",
                "FUNCTIONAL_ERROR",
                400,
            ));
        }
        let now = self.now();
        let connector = self.connectors.entry(text("id")).or_insert_with(|| Connector {
            state_timestamp: now.clone(),
            created_at: now.clone(),
            ..Connector::default()
        });
        connector.id = text("id");
        connector.name = text("name");
        connector.kind = text("type");
        connector.scope = serde_json::from_value(input["scope"].clone()).unwrap_or_default();
        connector.updated_at = now;
        let connector = connector.clone();
        Ok(self.connector_json(&connector))
    }

    fn ping(&mut self, arguments: &Map<String, Value>) -> Result<Value, Error> {
        let id = argument(arguments, "id");
        let now = self.now();
        let connector = self.connectors.get_mut(&id).ok_or_else(unknown_connector)?;
        if let Some(info) = arguments.get("connectorInfo").filter(|info| !info.is_null()) {
            connector.info = info.clone();
        }
        if connector.reset {
            // What was sent is ignored: the connector must see the reset first.
            connector.reset = false;
        } else {
            connector.state = arguments.get("state").and_then(Value::as_str).map(str::to_owned);
            connector.updated_at = now;
        }
        let mut shown = connector.clone();
        if let Some(stale) = connector.stale.pop() {
            shown.state = stale;
        }
        Ok(self.connector_json(&shown))
    }

    fn connector_json(&self, connector: &Connector) -> Value {
        let works: Vec<Value> =
            self.works.iter().rev().filter(|work| work.connector_id == connector.id).map(work_json).collect();
        let (messages, bytes) = self.queue_size.unwrap_or_else(|| self.queued(&connector.id));
        let active = DateTime::parse_from_rfc3339(&connector.updated_at)
            .is_ok_and(|at| Utc::now().signed_duration_since(at) < TimeDelta::minutes(5));
        json!({
            "id": connector.id, "name": connector.name, "active": active, "auto": false,
            "connector_type": connector.kind, "connector_scope": connector.scope,
            "connector_state": connector.state, "connector_state_reset": connector.reset,
            "connector_state_timestamp": connector.state_timestamp, "connector_user_id": USER_ID,
            "connector_info": connector.info, "works": works,
            "connector_queue_details": {"messages_number": messages, "messages_size": bytes},
            "config": queue_config(&connector.id), "jwks": "{\"keys\":[]}",
            "created_at": connector.created_at, "updated_at": connector.updated_at,
        })
    }

    fn queued(&self, connector_id: &str) -> (u64, u64) {
        let waiting = self.queue.iter().filter(|queued| queued.connector_id == connector_id);
        waiting.fold((0, 0), |(messages, bytes), queued| {
            (messages + queued.objects.len() as u64, bytes + queued.bytes as u64)
        })
    }

    /// Every failure is wrapped in the same words, the cause beside them.
    fn push(&mut self, arguments: &Map<String, Value>) -> Result<Value, Error> {
        let connector_id = argument(arguments, "connectorId");
        let text = argument(arguments, "bundle");
        if self.reset_at_push.contains(&(self.pushes + 1)) {
            let next = self.pushes + 1;
            self.reset_at_push.retain(|&n| n != next);
            self.operator_reset(&connector_id);
        }
        let invalid = |cause: &str| {
            let mut error = Error::new("Invalid bundle", "UNSUPPORTED_ERROR", 500);
            error.data = json!({"cause": {"message": cause}});
            error
        };
        let objects = parse_bundle(&text).map_err(|cause| invalid(&cause))?;
        if !self.connectors.contains_key(&connector_id) {
            return Err(invalid("Invalid connector"));
        }
        let work_id = match arguments.get("work_id").and_then(Value::as_str).filter(|id| !id.is_empty()) {
            Some(id) => id.to_owned(),
            None => self.add_work(&connector_id, None, false),
        };
        self.pushes += 1;
        self.bytes_pushed += text.len() as u64;
        let bytes = text.len();
        if self.options.keep_bundles {
            let (connector_id, work_id) = (connector_id.clone(), work_id.clone());
            self.bundles.push(PushedBundle { connector_id, text, work_id });
        }
        match self.options.workers {
            Workers::Immediate => self.import(&work_id, &objects),
            Workers::Held => self.queue.push(Queued { connector_id, work_id, objects, bytes }),
        }
        Ok(json!(true))
    }

    fn add_work(&mut self, connector_id: &str, name: Option<&str>, multipart: bool) -> String {
        let now = self.now();
        let shown = self.connectors.get(connector_id).map_or("", |connector| &connector.name);
        let work = Work {
            id: format!("work_{connector_id}_{now}"),
            connector_id: connector_id.to_owned(),
            name: name.map_or_else(|| format!("{shown} run @ {now}"), str::to_owned),
            status: "progress".to_owned(),
            timestamp: now,
            errors: Vec::new(),
            expected: 0,
            processed: 0,
            processed_time: None,
            completed_time: None,
            multipart,
        };
        let id = work.id.clone();
        self.works.push(work);
        id
    }

    fn import(&mut self, work_id: &str, objects: &[Value]) {
        let rights = self.rights();
        let (count, refused) = self.knowledge.import(objects, &rights);
        let now = self.now();
        // A work that an operator deleted does not stop the import.
        let Some(work) = self.works.iter_mut().find(|work| work.id == work_id) else { return };
        work.expected += count;
        work.processed += count;
        for (refusal, object) in refused {
            if work.errors.len() < MAX_WORK_ERRORS {
                work.errors.push((refusal.text(), object.to_string()));
            }
        }
        if !work.multipart || work.processed_time.is_some() {
            work.complete(now);
        }
    }

    fn edit_work(&mut self, id: &str, field: &str, arguments: &Map<String, Value>) -> Result<Value, Error> {
        let now = self.now();
        let at = self.works.iter().position(|work| work.id == id).ok_or_else(unknown_work)?;
        let work = &mut self.works[at];
        match field {
            "addExpectations" => {
                let count = arguments.get("expectations").and_then(Value::as_u64).unwrap_or(0);
                work.expected += usize::try_from(count).unwrap_or(0);
            }
            "toProcessed" => {
                work.processed_time = Some(now.clone());
                let message = arguments.get("message").and_then(Value::as_str).unwrap_or_default();
                if arguments.get("inError").and_then(Value::as_bool) == Some(true) {
                    work.errors.push((message.to_owned(), "Connector".to_owned()));
                }
                if work.processed >= work.expected {
                    work.complete(now);
                }
            }
            "delete" => {
                self.works.remove(at);
            }
            _ => {}
        }
        Ok(json!(id))
    }

    fn me(&self) -> Value {
        let capabilities: Vec<Value> =
            self.options.capabilities.iter().map(|name| json!({"name": name})).collect();
        let markings: Vec<Value> =
            self.options.allowed_markings.iter().filter_map(|name| marking_json(name)).collect();
        json!({"id": USER_ID, "name": "[C] VMRay", "user_email": "vmray@connector.test",
               "capabilities": capabilities, "allowed_marking": markings,
               "effective_confidence_level": {"max_confidence": self.options.max_confidence}})
    }

    /// By internal or standard id; null when it does not exist or the account may not see it.
    fn marking(&self, id: &str) -> Value {
        let seen = |name: &&String| self.options.allowed_markings.contains(name);
        let markings = self.options.markings.iter().filter(seen).filter_map(|name| marking_json(name));
        markings
            .into_iter()
            .find(|marking| marking["standard_id"] == id || marking["id"] == id)
            .unwrap_or(Value::Null)
    }

    fn add_label(&mut self, input: &Value) -> Value {
        let value = input["value"].as_str().unwrap_or_default();
        let (value, color) = self.knowledge.add_label(value, input["color"].as_str().unwrap_or("auto"));
        let id = Version::parse(&self.options.version).and_then(|version| {
            ids::standard_id(&json!({"type": "label", "value": value}), version, |_| None)
        });
        json!({"id": id, "standard_id": id, "entity_type": "Label", "parent_types": ["Basic-Object"],
               "value": value, "color": color})
    }
}

impl Work {
    fn complete(&mut self, now: String) {
        "complete".clone_into(&mut self.status);
        self.completed_time = Some(now);
    }
}

fn parse_bundle(text: &str) -> Result<Vec<Value>, String> {
    let mut bundle: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    match bundle["objects"].take() {
        Value::Array(objects) if bundle["type"] == "bundle" && !objects.is_empty() => Ok(objects),
        Value::Array(_) if bundle["type"] == "bundle" => Err("JSON data does not have any object".to_owned()),
        _ => Err("JSON data is not a STIX2 bundle".to_owned()),
    }
}

fn marking_json(name: &str) -> Option<Value> {
    let (_, id) = ids::TLP.iter().find(|(known, _)| *known == name)?;
    let internal = id.trim_start_matches("marking-definition--");
    Some(json!({"id": internal, "standard_id": id, "definition_type": "TLP", "definition": name}))
}

fn queue_config(id: &str) -> Value {
    json!({
        "connection": {"host": "rabbitmq", "vhost": "/", "use_ssl": false, "port": 5672, "user": "u", "pass": "p"},
        "listen": format!("listen_{id}"), "listen_routing": format!("listen_routing_{id}"),
        "listen_exchange": "amqp.connector.exchange", "push": format!("push_{id}"),
        "push_routing": format!("push_routing_{id}"), "push_exchange": "amqp.worker.exchange",
    })
}

fn work_json(work: &Work) -> Value {
    let errors: Vec<Value> = work
        .errors
        .iter()
        .map(|(message, source)| json!({"timestamp": work.timestamp, "message": message, "source": source}))
        .collect();
    json!({
        "id": work.id, "name": work.name, "status": work.status, "timestamp": work.timestamp,
        "event_source_id": work.connector_id, "received_time": work.timestamp, "errors": errors, "messages": [],
        "processed_time": work.processed_time, "completed_time": work.completed_time,
        "tracking": {"import_expected_number": work.expected, "import_processed_number": work.processed},
    })
}

fn argument(arguments: &Map<String, Value>, name: &str) -> String {
    arguments.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn unknown_connector() -> Error {
    Error::new("No connector found with the specified ID", "FUNCTIONAL_ERROR", 400)
}

fn unknown_work() -> Error {
    Error::new("Work not found", "FUNCTIONAL_ERROR", 400)
}

/// Which capability an operation needs; none for those that any account may use.
fn needed(field: &str) -> &'static [&'static str] {
    match field {
        "registerConnector" | "pingConnector" | "stixBundlePush" => &["CONNECTORAPI"],
        "workAdd" | "workEdit" => &["CONNECTORAPI", "MODULES_MODMANAGE"],
        "connector" | "connectors" | "work" => &["MODULES"],
        "labelAdd" => &["SETTINGS_SETLABELS"],
        "resetStateConnector" => &["MODULES_MODMANAGE"],
        _ => &[],
    }
}

/// One request's view of the platform.
pub(super) struct Session<'a> {
    pub(super) platform: &'a Mutex<Platform>,
    pub(super) authenticated: bool,
}

impl Session<'_> {
    fn check(&self, field: &str) -> Result<(), Error> {
        if !self.authenticated {
            return Err(Error::new("You must be logged in to do this.", "AUTH_REQUIRED", 401));
        }
        let platform = lock(self.platform);
        let has = |name: &&str| platform.options.capabilities.iter().any(|capability| capability == name);
        let needed = needed(field);
        if needed.is_empty() || needed.iter().any(has) {
            return Ok(());
        }
        Err(Error::new("You are not allowed to do this.", "FORBIDDEN_ACCESS", 403))
    }
}

impl Resolver for Session<'_> {
    fn root(&self, field: &str, arguments: &Map<String, Value>) -> Result<Value, Error> {
        self.check(field)?;
        let mut platform = lock(self.platform);
        let id = argument(arguments, "id");
        match field {
            "about" => Ok(json!({"version": platform.options.version})),
            "me" => Ok(platform.me()),
            "registerConnector" => platform.register(&arguments.get("input").cloned().unwrap_or_default()),
            "pingConnector" => platform.ping(arguments),
            "stixBundlePush" => platform.push(arguments),
            "connector" => Ok(platform
                .connector(&id)
                .map_or(Value::Null, |connector| platform.connector_json(connector))),
            "connectors" => {
                Ok(platform.connectors.values().map(|connector| platform.connector_json(connector)).collect())
            }
            "resetStateConnector" => {
                if !platform.operator_reset(&id) {
                    return Err(unknown_connector());
                }
                Ok(platform
                    .connector(&id)
                    .map_or(Value::Null, |connector| platform.connector_json(connector)))
            }
            "markingDefinition" => Ok(platform.marking(&id)),
            "work" => Ok(platform.works.iter().find(|work| work.id == id).map_or(Value::Null, work_json)),
            "workAdd" => {
                let multipart = arguments.get("isMultiPartWork").and_then(Value::as_bool).unwrap_or(false);
                let name = arguments.get("friendlyName").and_then(Value::as_str);
                let id = platform.add_work(&argument(arguments, "connectorId"), name, multipart);
                Ok(platform.works.iter().find(|work| work.id == id).map_or(Value::Null, work_json))
            }
            "workEdit" => Ok(json!({"id": id})),
            "labelAdd" => Ok(platform.add_label(&arguments.get("input").cloned().unwrap_or_default())),
            other => Err(Error::new(format!("{other} is not simulated"), "UNSUPPORTED_ERROR", 500)),
        }
    }

    fn nested(&self, parent: &Value, field: &str, arguments: &Map<String, Value>) -> Result<Value, Error> {
        lock(self.platform).edit_work(parent["id"].as_str().unwrap_or_default(), field, arguments)
    }
}
