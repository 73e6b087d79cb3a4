//! The deployment template, held against the code: settings, metrics, routes, rights.
//!
//! What is read is the template as `CloudFormation` gets it; `infra/check snapshot` holds it against
//! `infra/template.yaml`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a helper that fails fails its test")]

use std::collections::{BTreeMap, BTreeSet};

use chrono::Utc;
use ingest::settings::IngestSettings;
use repository::{json, metrics_of, read};
use runtime::settings::{Host, Setting, Unset};
use serde_json::Value;
use submit::api::http::Response;
use submit::settings::SubmitSettings;

/// Lambda's limit for names and values of variables together.
const MOST_ENVIRONMENT_BYTES: usize = 4096;

/// The longest name of a table, ARN of a secret and address of a queue that the template can lead to.
const LONGEST_REFERENCES: [(&str, usize); 3] = [("TABLE_NAME", 255), ("SECRET_ARN", 512), ("QUEUE_URL", 256)];

/// Each Lambda function of the template, and the settings that it reads.
const FUNCTIONS: [(&str, Tables); 3] = [
    ("IngestFunction", ingest::settings::TABLES),
    ("SubmitApiFunction", submit::settings::TABLES),
    ("SubmitWorkerFunction", submit::settings::TABLES),
];

/// The settings that a function reads.
type Tables = [&'static [Setting]; 3];

const ROLES: [&str; 4] = ["IngestRole", "SubmitApiRole", "SubmitWorkerRole", "ScheduleRole"];

fn template() -> Value {
    json("infra/tests/template.snapshot.json")
}

fn properties<'a>(template: &'a Value, resource: &str) -> &'a Value {
    let properties = &template["Resources"][resource]["Properties"];
    assert!(properties.is_object(), "the template has no {resource}");
    properties
}

fn environment<'a>(template: &'a Value, function: &str) -> BTreeMap<&'a str, &'a Value> {
    let variables = &properties(template, function)["Environment"]["Variables"];
    variables.as_object().unwrap().iter().map(|(name, value)| (name.as_str(), value)).collect()
}

fn settings_of(tables: Tables) -> impl Iterator<Item = &'static Setting> {
    tables.into_iter().flatten()
}

/// The parameter for a variable: `OPENCTI_URL` is `OpenctiUrl`.
fn parameter_name(variable: &str) -> String {
    let words = variable.split('_').map(|word| word[..1].to_owned() + &word[1..].to_lowercase());
    words.collect()
}

/// A number or a text as `CloudFormation` hands it to a function.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[test]
fn each_function_has_every_setting_that_it_reads_and_no_other_variable() {
    let template = template();
    for (name, tables) in FUNCTIONS {
        let set: BTreeSet<_> = environment(&template, name).into_keys().collect();
        let read: BTreeSet<_> = settings_of(tables).map(|setting| setting.name).collect();
        assert_eq!(set, read, "{name}");
    }
}

#[test]
fn what_is_not_chosen_is_as_the_code_has_it() {
    let template = template();
    for (name, tables) in FUNCTIONS {
        let environment = environment(&template, name);
        for setting in settings_of(tables).filter(|setting| setting.unset != Unset::RefusedOnLambda) {
            let value = environment[setting.name];
            let unset = if let Value::String(fixed) = value {
                Some(fixed.clone())
            } else {
                let parameter = parameter_name(setting.name);
                assert_eq!(value["Ref"], parameter.as_str(), "{name}: {}", setting.name);
                template["Parameters"][&parameter].get("Default").map(text)
            };
            let expected = match setting.unset {
                Unset::Means(default) => Some(default.to_owned()),
                Unset::Nothing => Some(String::new()),
                Unset::Refused | Unset::RefusedOnLambda => None,
            };
            assert_eq!(unset, expected, "{name}: {}", setting.name);
        }
    }
}

#[test]
fn the_longest_environment_fits_into_lambdas_limit() {
    let template = template();
    let longest = |variable: &str, value: &Value| -> usize {
        if let Some((_, length)) = LONGEST_REFERENCES.iter().find(|(name, _)| *name == variable) {
            return *length;
        }
        let Some(parameter) = value["Ref"].as_str() else { return text(value).len() };
        let parameter = &template["Parameters"][parameter];
        let choices = parameter["AllowedValues"].as_array().into_iter().flatten();
        let most = parameter["MaxLength"].as_u64().map(|most| usize::try_from(most).unwrap());
        let number = parameter.get("MaxValue").map(|most| text(most).len());
        // Patterns let only ASCII through: a character is a byte.
        let length = choices.map(|choice| text(choice).len()).max().or(most).or(number);
        length.unwrap_or_else(|| panic!("{variable} has no longest value: give it a MaxLength"))
    };
    for (name, _) in FUNCTIONS {
        let bytes: usize = environment(&template, name)
            .iter()
            .map(|(variable, value)| variable.len() + longest(variable, value))
            .sum();
        assert!(bytes <= MOST_ENVIRONMENT_BYTES, "{name}: {bytes} bytes");
    }
}

#[test]
fn the_code_takes_every_value_that_the_template_takes() {
    let examples = json("infra/tests/parameters.json");
    let needed = [
        ("TABLE_NAME", "table"),
        ("SECRET_ARN", "secret"),
        ("QUEUE_URL", "https://sqs.example.com/1/queue"),
        ("OPENCTI_URL", "https://opencti.example.com"),
        ("CONNECTOR_ID", "9f3c1f0e-5a0b-4a57-8d35-0d6c1f2a7b11"),
        ("VMRAY_INITIAL_FETCH_DATE", "2026-01-31"),
    ];
    for setting in settings_of(ingest::settings::TABLES).chain(submit::settings::SETTINGS) {
        let Some(examples) = examples.get(parameter_name(setting.name)) else { continue };
        for good in examples["good"].as_array().unwrap() {
            let good = good.as_str().unwrap();
            let lookup = |name: &str| {
                let of_others = needed.iter().find(|(needed, _)| *needed == name).map(|(_, value)| *value);
                (if name == setting.name { Some(good) } else { of_others }).map(str::to_owned)
            };
            // Later than every date in the examples.
            let now = Utc::now() + chrono::TimeDelta::days(365);
            let wrong = [
                IngestSettings::read(&lookup, Host::Lambda, now).err(),
                SubmitSettings::read(&lookup, Host::Lambda).err(),
            ];
            assert_eq!(wrong, [None, None], "{}={good}", setting.name);
        }
    }
}

/// A metric: its namespace, its name, its one dimension's name and value.
type Metric = (String, String, String, String);

/// The metrics that the code writes.
fn written() -> BTreeSet<Metric> {
    let now = Utc::now();
    let run = ingest::RunAnswer { lag_seconds: Some(0), ..ingest::RunAnswer::new(String::new()) };
    let lines = [
        run.metrics(now),
        submit::metrics::of_work(&submit::Work::default(), now),
        submit::metrics::of_response(&Response::json(200, &()), Some(0), 0, now),
    ];
    let metrics = lines.iter().flat_map(|line| {
        let (namespace, function, names) = metrics_of(line);
        names.into_iter().map(move |name| (namespace.clone(), name, "Function".to_owned(), function.clone()))
    });
    metrics.collect()
}

/// Metrics of AWS that the template may look at, with the dimension that they have.
const OF_AWS: [(&str, &[&str], &str); 3] = [
    ("AWS/Lambda", &["Errors", "Throttles", "Duration", "Invocations"], "FunctionName"),
    ("AWS/SQS", &["ApproximateAgeOfOldestMessage", "ApproximateNumberOfMessagesVisible"], "QueueName"),
    ("AWS/ApiGateway", &["5xx"], "ApiId"),
];

fn is_of_aws((namespace, name, dimension, _): &Metric) -> bool {
    OF_AWS.iter().any(|(of, names, by)| of == namespace && names.contains(&name.as_str()) && by == dimension)
}

fn in_alarms(template: &Value) -> BTreeSet<Metric> {
    let resources = template["Resources"].as_object().unwrap().values();
    let alarms = resources.filter(|resource| resource["Type"] == "AWS::CloudWatch::Alarm");
    let metric = |metric: &Value| -> Metric {
        let dimensions = metric["Dimensions"].as_array().unwrap();
        assert_eq!(dimensions.len(), 1, "{metric}");
        let dimension = &dimensions[0];
        (
            text(&metric["Namespace"]),
            text(&metric["MetricName"]),
            text(&dimension["Name"]),
            text(&dimension["Value"]),
        )
    };
    let mut metrics = BTreeSet::new();
    for alarm in alarms.map(|alarm| &alarm["Properties"]) {
        match alarm["Metrics"].as_array() {
            None => drop(metrics.insert(metric(alarm))),
            Some(parts) => {
                let stats = parts.iter().filter_map(|part| part.get("MetricStat"));
                metrics.extend(stats.map(|stat| metric(&stat["Metric"])));
            }
        }
    }
    metrics
}

/// The dashboard with every reference replaced by a number, which is right inside a text too.
fn dashboard(template: &Value) -> Value {
    let body = properties(template, "Dashboard")["DashboardBody"]["Fn::Sub"][0].as_str().unwrap();
    let mut parts = body.split("${");
    let mut filled = parts.next().unwrap().to_owned();
    for part in parts {
        filled += "1";
        filled += part.split_once('}').unwrap().1;
    }
    serde_json::from_str(&filled).unwrap_or_else(|error| panic!("the dashboard is no JSON: {error}"))
}

fn on_dashboard(template: &Value) -> BTreeSet<Metric> {
    let mut metrics = BTreeSet::new();
    for widget in dashboard(template)["widgets"].as_array().unwrap() {
        let mut before: Vec<String> = Vec::new();
        for row in widget["properties"]["metrics"].as_array().into_iter().flatten() {
            let row = row.as_array().unwrap().iter().filter_map(Value::as_str);
            // A dot is what stood there in the row before.
            let row: Vec<_> = row
                .enumerate()
                .map(|(at, part)| if part == "." { before[at].clone() } else { part.to_owned() })
                .collect();
            let [namespace, name, dimension, value] = row.clone().try_into().unwrap();
            metrics.insert((namespace, name, dimension, value));
            before = row;
        }
    }
    metrics
}

#[test]
fn alarms_and_dashboard_look_at_metrics_that_there_are() {
    let (template, written) = (template(), written());
    let watched: BTreeSet<_> = in_alarms(&template).into_iter().chain(on_dashboard(&template)).collect();
    for metric in &watched {
        assert!(written.contains(metric) || is_of_aws(metric), "nobody writes {metric:?}");
    }
}

#[test]
fn every_metric_of_the_code_is_on_the_dashboard() {
    let shown = on_dashboard(&template());
    let hidden: Vec<_> = written().into_iter().filter(|metric| !shown.contains(metric)).collect();
    assert!(hidden.is_empty(), "{hidden:?}");
}

#[test]
fn every_alarm_is_on_the_dashboard_tells_somebody_and_is_explained() {
    let template = template();
    let body = properties(&template, "Dashboard")["DashboardBody"]["Fn::Sub"][0].as_str().unwrap();
    let runbook = read("docs/alarms.md");
    let resources = template["Resources"].as_object().unwrap();
    let alarms = resources.iter().filter(|(_, resource)| resource["Type"] == "AWS::CloudWatch::Alarm");
    let mut explained = BTreeSet::new();
    for (name, alarm) in alarms {
        assert!(body.contains(&format!("${{{name}.Arn}}")), "{name} is not on the dashboard");
        assert_eq!(alarm["Properties"]["AlarmActions"][0]["Ref"], "Alarms", "{name}");
        let title = name.strip_suffix("Alarm").unwrap();
        assert!(runbook.contains(&format!("\n## {title}\n")), "docs/alarms.md does not explain {title}");
        let description = alarm["Properties"]["AlarmDescription"].as_str().unwrap();
        assert!(
            description.ends_with(&format!("docs/alarms.md#{}", title.to_lowercase())),
            "{name}: {description}"
        );
        explained.insert(title.to_owned());
    }
    let headings = runbook.lines().filter_map(|line| line.strip_prefix("## "));
    let headings: BTreeSet<_> =
        headings.filter(|heading| !heading.contains(' ')).map(str::to_owned).collect();
    assert_eq!(headings, explained);
}

#[test]
fn functions_are_started_as_the_code_wants_it() {
    let template = template();
    for (name, _) in FUNCTIONS {
        let function = properties(&template, name);
        assert_eq!(function["Runtime"], "provided.al2023", "{name}");
        assert_eq!(function["Handler"], "bootstrap", "{name}");
        assert_eq!(function["Architectures"][0]["Ref"], "Architecture", "{name}");
        assert!(
            function.get("ReservedConcurrentExecutions").is_none(),
            "{name}: small accounts could not deploy it"
        );
        assert!(function["LoggingConfig"]["LogGroup"]["Ref"].is_string(), "{name}");
    }
    let once = properties(&template, "IngestFunctionEventInvokeConfig");
    assert_eq!(once["MaximumRetryAttempts"], 0, "a failed run is not repeated");
    assert!(once["DestinationConfig"]["OnFailure"]["Destination"].is_object());

    // API Gateway gives up after 30 s, the worker's messages come back after six times its timeout.
    assert_eq!(properties(&template, "SubmitApiFunction")["Timeout"], 29);
    let worker = properties(&template, "SubmitWorkerFunction")["Timeout"].as_u64().unwrap();
    let queue = properties(&template, "SubmitQueue");
    assert!(queue["VisibilityTimeout"].as_u64().unwrap() >= 6 * worker);
    assert!(queue["RedrivePolicy"]["deadLetterTargetArn"].is_object());
    let source = properties(&template, "SubmitWorkerFunctionMessages");
    assert_eq!(source["BatchSize"], 1);
    assert_eq!(source["FunctionResponseTypes"][0], "ReportBatchItemFailures");
    assert!(source["ScalingConfig"]["MaximumConcurrency"].is_object());
}

#[test]
fn the_table_is_the_one_that_the_store_expects_and_survives_mistakes() {
    let template = template();
    let table = properties(&template, "Table");
    for (number, (name, kind)) in [("pk", "HASH"), ("sk", "RANGE")].into_iter().enumerate() {
        assert_eq!(table["KeySchema"][number]["AttributeName"], name);
        assert_eq!(table["KeySchema"][number]["KeyType"], kind);
        assert_eq!(table["AttributeDefinitions"][number]["AttributeType"], "S");
    }
    assert_eq!(table["TimeToLiveSpecification"]["AttributeName"], "ttl");
    assert_eq!(table["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"], true);
    assert_eq!(table["DeletionProtectionEnabled"], true);
    assert_eq!(template["Resources"]["Table"]["DeletionPolicy"], "Retain");
}

#[test]
fn secrets_are_made_in_the_shape_that_the_code_reads_and_hold_nothing() {
    let template = template();
    for (name, members) in
        [("IngestSecret", ["opencti_token", "vmray_api_key"]), ("SubmitSecret", ["callers", "vmray_api_key"])]
    {
        let text = properties(&template, name)["SecretString"].as_str().unwrap();
        let secret: BTreeMap<String, Value> = serde_json::from_str(text).unwrap();
        assert_eq!(secret.keys().collect::<Vec<_>>(), members, "{name}");
        let is_blank =
            |value: &Value| value == "" || value.as_object().is_some_and(serde_json::Map::is_empty);
        assert!(secret.values().all(is_blank), "{name}");
    }
}

#[test]
fn every_order_of_a_schedule_is_among_the_events() {
    let template = template();
    let input = |schedule: &str| -> Value {
        let input = properties(&template, schedule)["Target"]["Input"].as_str().unwrap();
        serde_json::from_str(input).unwrap()
    };
    assert_eq!(input("IngestSchedule"), serde_json::json!({}));
    assert_eq!(input("HeartbeatSchedule"), json("events/ingest-heartbeat.json"));
    for schedule in ["IngestSchedule", "HeartbeatSchedule"] {
        assert_eq!(properties(&template, schedule)["Target"]["RetryPolicy"]["MaximumRetryAttempts"], 0);
    }
}

#[test]
fn every_route_of_the_api_leads_to_the_function() {
    let template = template();
    let paths = properties(&template, "SubmitHttpApi")["Body"]["paths"].as_object().unwrap();
    let contract = json("functions/submit/openapi.json");
    let documented = contract["paths"].as_object().unwrap().iter();
    let routes: Vec<(&str, &str)> = documented
        .flat_map(|(path, item)| {
            item.as_object().unwrap().keys().map(move |method| (method.as_str(), path.as_str()))
        })
        .filter(|(method, _)| ["get", "post", "put", "patch", "delete"].contains(method))
        .collect();
    assert!(routes.len() > 6, "{routes:?}");
    for (method, path) in routes {
        let leads = paths.iter().any(|(pattern, methods)| {
            let fits = match pattern.split_once("{proxy+}") {
                Some((before, _)) => path.starts_with(before) && path.len() > before.len(),
                None => pattern == path,
            };
            fits && (methods.get(method).is_some() || methods.get("x-amazon-apigateway-any-method").is_some())
        });
        assert!(leads, "{method} {path}");
    }
}

#[test]
fn access_logs_hold_neither_queries_nor_headers() {
    let template = template();
    let stage = properties(&template, "SubmitHttpApiApiGatewayDefaultStage");
    let format = stage["AccessLogSettings"]["Format"].as_str().unwrap();
    let line: BTreeMap<String, String> = serde_json::from_str(format).expect("a line of JSON");
    for value in line.values() {
        for private in ["query", "header", "authorizer", "rawPath", "requestOverride"] {
            assert!(!value.to_lowercase().contains(private), "{value}");
        }
    }
    assert!(stage["DefaultRouteSettings"]["ThrottlingRateLimit"].is_object());
    assert!(stage["DefaultRouteSettings"]["ThrottlingBurstLimit"].is_object());
}

/// The statements of a role.
fn statements<'a>(template: &'a Value, role: &str) -> Vec<&'a Value> {
    let policies = properties(template, role)["Policies"].as_array().unwrap();
    let statements =
        policies.iter().flat_map(|policy| policy["PolicyDocument"]["Statement"].as_array().unwrap());
    // `Fn::If` with the statement for a customer's own key, or nothing.
    statements.map(|statement| statement["Fn::If"].get(1).unwrap_or(statement)).collect()
}

#[test]
fn rights_are_single_actions_on_single_resources() {
    let template = template();
    let resources = template["Resources"].as_object().unwrap().iter();
    let roles: BTreeSet<_> = resources
        .filter(|(_, resource)| resource["Type"] == "AWS::IAM::Role")
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(roles, ROLES.into());
    for role in ROLES {
        assert!(properties(&template, role).get("ManagedPolicyArns").is_none(), "{role}");
        for statement in statements(&template, role) {
            let actions = &statement["Action"];
            let actions: Vec<_> =
                actions.as_array().map_or_else(|| vec![actions], |actions| actions.iter().collect());
            for action in actions {
                assert!(!action.as_str().unwrap().contains('*'), "{role}: {action}");
            }
            // A reference to one resource, or to one of two.
            assert!(statement["Resource"].is_object(), "{role}: {statement}");
            assert_eq!(statement["Effect"], "Allow");
        }
    }
}

#[test]
fn the_function_that_faces_the_internet_cannot_read_the_token_of_opencti() {
    let template = template();
    for role in ["SubmitApiRole", "SubmitWorkerRole"] {
        let rights = serde_json::to_string(&statements(&template, role)).unwrap();
        assert!(rights.contains("SubmitSecret"), "{role}");
        assert!(!rights.contains("IngestSecret"), "{role}");
    }
    let rights = serde_json::to_string(&statements(&template, "IngestRole")).unwrap();
    assert!(!rights.contains("SubmitSecret"));
}
