//! Connectors, works and imports: what the operations do.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Map, Value, json};

use super::graphql::{Error, Resolver};
use super::ids;
use super::knowledge::{Knowledge, Rights};
use super::options::{OpenctiOptions, Workers};
use super::pace::Pace;
use super::queue::{Content, Message, Queue};
use super::split::split_bundle;
use super::version::Version;
use super::works::{Work, Works};
use crate::server::lock;

const USER_ID: &str = "88ec0c6a-13ce-5e39-b486-354fe4a7084f";

/// The rights of the group *Connectors*, whatever the release.
const CONNECTORS_GROUP: [&str; 15] = [
    "CONNECTORAPI",
    "KNOWLEDGE_KNASKIMPORT",
    "KNOWLEDGE_KNENRICHMENT",
    "KNOWLEDGE_KNGETEXPORT_KNASKEXPORT",
    "KNOWLEDGE_KNUPDATE_KNBYPASSFIELDS",
    "KNOWLEDGE_KNUPDATE_KNBYPASSREFERENCE",
    "KNOWLEDGE_KNUPDATE_KNDELETE",
    "KNOWLEDGE_KNUPDATE_KNMERGE",
    "KNOWLEDGE_KNUPLOAD",
    "MODULES_MODMANAGE",
    "SETTINGS_SETKILLCHAINPHASES",
    "SETTINGS_SETLABELS",
    "SETTINGS_SETMARKINGS",
    "SETTINGS_SETVOCABULARIES",
    "TAXIIAPI",
];

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
    /// Whether a reset waits to be seen by a ping; `None` before the first reset.
    pub reset: Option<bool>,
    /// When it was created or reset.
    pub state_timestamp: String,
    /// The last `connectorInfo`.
    pub info: Value,
    /// When it registered or pinged last.
    pub updated_at: String,
    created_at: String,
    /// What the Python library registers with; once it is there it must be sent.
    enrichment_resolution: Option<String>,
    /// What the next pings answer instead of the state: the database lags behind.
    stale: Vec<Option<String>>,
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
    /// How many objects of all connectors waited before it.
    pub waiting: usize,
}

impl PushedBundle {
    /// The bundle's objects.
    #[must_use]
    pub fn objects(&self) -> Vec<Value> {
        parse_bundle(&self.text).unwrap_or_default()
    }
}

/// The platform's state.
#[derive(Debug)]
pub struct Platform {
    options: OpenctiOptions,
    version: Version,
    capabilities: Vec<String>,
    tokens: Vec<String>,
    connectors: BTreeMap<String, Connector>,
    works: Works,
    knowledge: Knowledge,
    queue: Queue,
    pace: Option<Pace>,
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
            knowledge: Knowledge::new(version, rights(&options)),
            queue: Queue::new(options.statistics),
            pace: match options.workers {
                Workers::Paced { objects_per_second } => Some(Pace::new(objects_per_second, Instant::now())),
                Workers::Immediate | Workers::Held => None,
            },
            options,
            version,
            capabilities: connectors_group(version),
            connectors: BTreeMap::new(),
            works: Works::default(),
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
        self.works.all()
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
        connector.reset = Some(true);
        connector.state_timestamp.clone_from(&now);
        // Works that a reset cuts off are closed, with less processed than expected.
        for work in self.queue.purge(connector_id) {
            if let Some(work) = self.works.get_mut(&work) {
                work.complete(now.clone());
            }
        }
        true
    }

    /// Resets the pushing connector right before the n-th push (from 1) is handled.
    pub fn reset_at_push(&mut self, n: u64) {
        self.reset_at_push.push(n);
    }

    /// Sets a connector's state as another program left it. A connector that is not there is registered first, as the Python
    /// library registers one.
    pub fn set_state(&mut self, connector_id: &str, state: Option<&str>) {
        if !self.connectors.contains_key(connector_id) {
            let registered = self.register(&json!({
                "id": connector_id, "name": "VMRay Platform", "type": "EXTERNAL_IMPORT", "scope": ["vmray"],
                "auto": false, "auto_update": false, "enrichment_resolution": "none", "only_contextual": false,
                "playbook_compatible": false, "listen_callback_uri": null,
            }));
            debug_assert!(registered.is_ok(), "{registered:?}");
        }
        if let Some(connector) = self.connectors.get_mut(connector_id) {
            connector.state = state.map(str::to_owned);
        }
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
        self.capabilities = capabilities.iter().map(|&name| name.to_owned()).collect();
    }

    /// Imports the next `count` objects that wait, or as many as there are; gives how many that were.
    pub fn import(&mut self, count: usize) -> usize {
        (0..count).take_while(|_| self.import_next()).count()
    }

    /// Imports everything that waits.
    pub fn import_all(&mut self) {
        self.import(usize::MAX);
    }

    /// How many objects wait to be imported, whatever the broker tells.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.queue.objects()
    }

    /// For how long workers with a pace had something to import.
    pub fn busy(&mut self) -> Duration {
        self.catch_up();
        self.pace.as_ref().map_or(Duration::ZERO, Pace::busy)
    }

    /// Removes a stored object, as an operator can: by any of its ids, with its relationships and all references to it. Says
    /// whether it was there.
    pub fn delete(&mut self, id: &str) -> bool {
        self.knowledge.delete(id)
    }

    /// Lets the broker's statistics see what waits in the queue, as they do a few seconds after a push.
    pub fn collect_statistics(&mut self) {
        self.queue.collect();
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
            "import" => {
                let count =
                    body["n"].as_u64().map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
                return Some(json!({"imported": self.import(count)}));
            }
            "delete" => return Some(json!({"ok": self.delete(body["id"].as_str()?)})),
            "collect-statistics" => self.collect_statistics(),
            "keys" => self.tokens = serde_json::from_value(body["keys"].clone()).ok()?,
            "connectors" => {
                return Some(
                    self.connectors.values().map(|connector| self.connector_json(connector)).collect(),
                );
            }
            "works" => return Some(self.works().iter().map(Work::json).collect()),
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
        stats["works"] = json!(self.works().len());
        stats["works_open"] = json!(self.works().iter().filter(|work| work.status != "complete").count());
        stats["waiting"] = json!(self.waiting());
        stats
    }
}

/// Operations.
impl Platform {
    /// An upsert: what is left out of a later registration is patched to null, which not every field may be.
    fn register(&mut self, input: &Value) -> Result<Value, Error> {
        let text = |name: &str| input[name].as_str().map(str::to_owned);
        let id = text("id").unwrap_or_default();
        let scope: Vec<String> = serde_json::from_value(input["scope"].clone()).unwrap_or_default();
        let enrichment_resolution = text("enrichment_resolution");
        if let Some(known) = self.connectors.get(&id) {
            if scope.is_empty() && !known.scope.is_empty() {
                return Err(cannot_be_nil("connector_scope"));
            }
            if enrichment_resolution.is_none() && known.enrichment_resolution.is_some() {
                return Err(cannot_be_nil("enrichment_resolution"));
            }
        }
        let now = self.now();
        let connector = self.connectors.entry(id.clone()).or_insert_with(|| Connector {
            state_timestamp: now.clone(),
            created_at: now.clone(),
            ..Connector::default()
        });
        connector.id = id;
        connector.name = text("name").unwrap_or_default();
        connector.kind = text("type").unwrap_or_default();
        connector.scope = scope;
        connector.enrichment_resolution = enrichment_resolution;
        connector.updated_at = now;
        let connector = connector.clone();
        Ok(self.connector_json(&connector))
    }

    fn ping(&mut self, arguments: &Map<String, Value>) -> Result<Value, Error> {
        let id = argument(arguments, "id");
        let now = self.now();
        let connector = self.connectors.get_mut(&id).ok_or_else(|| unknown_connector(&id))?;
        if let Some(info) = arguments.get("connectorInfo").filter(|info| !info.is_null()) {
            connector.info = info.clone();
        }
        if connector.reset == Some(true) {
            // What was sent is ignored: the connector must see the reset first.
            connector.reset = Some(false);
        } else {
            let state = arguments.get("state").and_then(Value::as_str).filter(|state| !state.is_empty());
            connector.state = state.map(str::to_owned);
            connector.updated_at = now;
        }
        let mut shown = connector.clone();
        if let Some(stale) = connector.stale.pop() {
            shown.state = stale;
        }
        Ok(self.connector_json(&shown))
    }

    fn connector_json(&self, connector: &Connector) -> Value {
        let works = self.works.shown(&connector.id);
        let (messages, bytes) = self.queue_size.unwrap_or_else(|| self.queue.size(&connector.id));
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

    /// Every failure is wrapped in the same words, the cause beside them.
    fn push(&mut self, arguments: &Map<String, Value>) -> Result<Value, Error> {
        let connector_id = argument(arguments, "connectorId");
        let text = argument(arguments, "bundle");
        if self.reset_at_push.contains(&(self.pushes + 1)) {
            let next = self.pushes + 1;
            self.reset_at_push.retain(|&n| n != next);
            self.operator_reset(&connector_id);
        }
        let objects = parse_bundle(&text).map_err(|cause| invalid_bundle(&cause))?;
        if !self.connectors.contains_key(&connector_id) {
            let unknown = Error::new("Invalid connector", "UNSUPPORTED_ERROR", 500);
            let unknown = unknown.with("connectorId", json!(connector_id));
            return Err(invalid_bundle(&unknown.as_cause()));
        }
        let given = arguments.get("work_id").and_then(Value::as_str).filter(|id| !id.is_empty());
        let work_id = given.map_or_else(|| self.add_work(&connector_id, None, false), str::to_owned);
        self.pushes += 1;
        self.bytes_pushed += text.len() as u64;
        let bytes = text.len();
        if self.options.keep_bundles {
            let (connector_id, work_id) = (connector_id.clone(), work_id.clone());
            let waiting = self.queue.objects();
            self.bundles.push(PushedBundle { connector_id, text, work_id, waiting });
        }
        if self.version >= Version::SPLIT_AT_PUSH {
            self.add_split(&connector_id, &work_id, objects, bytes);
        } else {
            // A worker will not split a bundle of one object, nor count it.
            if objects.len() == 1
                && given.is_none()
                && let Some(work) = self.works.get_mut(&work_id)
            {
                work.expect(1);
            }
            self.queue.add(Message { connector_id, work_id, content: Content::Bundle(objects), bytes });
        }
        if self.options.workers == Workers::Immediate {
            self.import_all();
        }
        Ok(json!(true))
    }

    fn add_work(&mut self, connector_id: &str, name: Option<&str>, multipart: bool) -> String {
        let now = self.now();
        let shown = self.connectors.get(connector_id).map_or("", |connector| &connector.name);
        let name = name.map_or_else(|| format!("{shown} run @ {now}"), str::to_owned);
        self.works.add(Work::new(connector_id, name, multipart, now)).id.clone()
    }

    /// What the workers have imported by now, when they have a pace.
    fn catch_up(&mut self) {
        let waiting = self.queue.objects();
        if let Some(pace) = &mut self.pace {
            let count = pace.imported(waiting, Instant::now());
            self.import(count);
        }
    }

    /// Takes the next object from the queue and imports it; a bundle that comes first is split.
    fn import_next(&mut self) -> bool {
        while let Some(Message { connector_id, work_id, content, bytes }) = self.queue.next() {
            match content {
                Content::Bundle(objects) if objects.len() > 1 => {
                    self.add_split(&connector_id, &work_id, objects, bytes);
                }
                Content::Bundle(objects) => {
                    for object in objects {
                        self.import_object(&work_id, &object);
                    }
                    return true;
                }
                Content::Object(object) => {
                    self.import_object(&work_id, &object);
                    return true;
                }
            }
        }
        false
    }

    /// Counts a bundle's objects and makes a message of each.
    fn add_split(&mut self, connector_id: &str, work_id: &str, objects: Vec<Value>, bytes: usize) {
        let objects = split_bundle(objects);
        if let Some(work) = self.works.get_mut(work_id) {
            work.expect(objects.len());
        }
        let bytes = bytes / objects.len().max(1);
        for object in objects {
            let (connector_id, work_id) = (connector_id.to_owned(), work_id.to_owned());
            self.queue.add(Message { connector_id, work_id, content: Content::Object(object), bytes });
        }
    }

    fn import_object(&mut self, work_id: &str, object: &Value) {
        let now = self.now();
        // The workers drop what belongs to no work, or to one that an operator has deleted.
        if let Some(work) = self.works.get_mut(work_id) {
            let imported = self.knowledge.import(object);
            work.report(imported.as_ref().err().map(|refusal| (refusal, object)), self.version, now);
        }
    }

    fn edit_work(&mut self, id: &str, field: &str, arguments: &Map<String, Value>) -> Result<Value, Error> {
        let now = self.now();
        let work = self.works.get_mut(id).ok_or_else(unknown_work)?;
        match field {
            "addExpectations" => {
                let count = arguments.get("expectations").and_then(Value::as_u64).unwrap_or(0);
                work.expect(usize::try_from(count).unwrap_or(0));
            }
            "toProcessed" => {
                let message = arguments.get("message").and_then(Value::as_str).unwrap_or_default();
                let in_error = arguments.get("inError").and_then(Value::as_bool) == Some(true);
                work.end(message, in_error, self.version, now);
            }
            "delete" => self.works.delete(id),
            _ => {}
        }
        Ok(json!(id))
    }

    fn me(&self) -> Value {
        let capabilities: Vec<Value> = self.capabilities.iter().map(|name| json!({"name": name})).collect();
        let markings: Vec<Value> =
            self.options.allowed_markings.iter().filter_map(|name| marking_json(name)).collect();
        json!({"id": USER_ID, "name": "[C] vmray connector", "user_email": "vmray@connector.test",
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
        let (value, color) = self.knowledge.label(value, input["color"].as_str());
        let id = ids::standard_id(&json!({"type": "label", "value": value}), self.version, |_| None);
        json!({"id": id, "standard_id": id, "entity_type": "Label", "parent_types": ["Basic-Object"],
               "value": value, "color": color})
    }
}

fn rights(options: &OpenctiOptions) -> Rights {
    let ids = |names: &[String]| {
        let known = ids::MARKINGS.iter().filter(|(name, _)| names.iter().any(|wanted| wanted == name));
        known.map(|(_, id)| (*id).to_owned()).collect()
    };
    Rights {
        max_confidence: options.max_confidence,
        markings: ids(&options.markings),
        allowed_markings: ids(&options.allowed_markings),
    }
}

fn connectors_group(version: Version) -> Vec<String> {
    let own = if version >= Version::TOKEN_CAPABILITY { "APIACCESS_USETOKEN" } else { "INGESTION" };
    CONNECTORS_GROUP.iter().chain([&own]).map(|&name| name.to_owned()).collect()
}

/// The bundle's objects, or the cause why it is not one, as the platform shows it.
fn parse_bundle(text: &str) -> Result<Vec<Value>, Value> {
    // The cause of what is not JSON is an exception, which prints as an object without members.
    let mut bundle: Value = serde_json::from_str(text).map_err(|_| json!({}))?;
    match bundle["objects"].take() {
        Value::Array(objects) if bundle["type"] == "bundle" && !objects.is_empty() => Ok(objects),
        _ => Err(Error::new("Invalid stix bundle", "UNSUPPORTED_ERROR", 500).as_cause()),
    }
}

/// Every failure of a push is wrapped in the same words, the cause beside them.
fn invalid_bundle(cause: &Value) -> Error {
    Error::new("Invalid bundle", "UNSUPPORTED_ERROR", 500).with("cause", cause.clone())
}

fn marking_json(name: &str) -> Option<Value> {
    let (_, id) = ids::MARKINGS.iter().find(|(known, _)| *known == name)?;
    let internal = id.trim_start_matches("marking-definition--");
    let kind = name.split(':').next();
    Some(json!({"id": internal, "standard_id": id, "definition_type": kind, "definition": name}))
}

fn queue_config(id: &str) -> Value {
    json!({
        "connection": {"host": "rabbitmq", "vhost": "/", "use_ssl": false, "port": 5672, "user": "u", "pass": "p"},
        "listen": format!("listen_{id}"), "listen_routing": format!("listen_routing_{id}"),
        "listen_exchange": "amqp.connector.exchange", "push": format!("push_{id}"),
        "push_routing": format!("push_routing_{id}"), "push_exchange": "amqp.worker.exchange",
    })
}

fn argument(arguments: &Map<String, Value>, name: &str) -> String {
    arguments.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn unknown_connector(id: &str) -> Error {
    let error = Error::new("No connector found with the specified ID", "FUNCTIONAL_ERROR", 400);
    error.with("id", json!(id))
}

fn cannot_be_nil(attribute: &str) -> Error {
    let message = format!(
        "Validation against schema failed on attribute [{attribute}]: this mandatory field cannot be nil"
    );
    Error::new(message, "FUNCTIONAL_ERROR", 400)
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
        // A longer capability includes a shorter one.
        let has = |name: &&str| {
            platform
                .capabilities
                .iter()
                .any(|capability| capability == "BYPASS" || capability.starts_with(name))
        };
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
        platform.catch_up();
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
                    return Err(unknown_connector(&id));
                }
                Ok(platform
                    .connector(&id)
                    .map_or(Value::Null, |connector| platform.connector_json(connector)))
            }
            "markingDefinition" => Ok(platform.marking(&id)),
            "work" => Ok(platform.works.get(&id).map_or(Value::Null, Work::json)),
            "workAdd" => {
                let multipart = arguments.get("isMultiPartWork").and_then(Value::as_bool).unwrap_or(false);
                let name = arguments.get("friendlyName").and_then(Value::as_str);
                let id = platform.add_work(&argument(arguments, "connectorId"), name, multipart);
                Ok(platform.works.get(&id).map_or(Value::Null, Work::json))
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
