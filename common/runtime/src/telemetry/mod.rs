//! Logs as JSON lines, metrics as CloudWatch Embedded Metric Format, and URLs fit for a log.
//!
//! A log line is one flat object: `timestamp`, `level`, `target`, `message`, then the event's own fields and those of
//! the spans around it, the innermost first to name one. So a search for one `run_id` or `sample_id` finds every line.

use std::{
    fmt::{self, Write as _},
    io::Write as _,
};

use chrono::{SecondsFormat, Utc};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{
    Layer, filter::Targets, layer::Context, layer::SubscriberExt as _, registry::LookupSpan,
    util::SubscriberInitExt as _,
};

/// The crates whose lines follow the level that was set. All others are dependencies, of which only warnings matter:
/// at `debug` the AWS SDK and hyper alone would bury ours, and print headers.
const OUR_CRATES: [&str; 8] =
    ["ingest", "mapping", "runtime", "stix", "store", "submit", "vmray", "vmray_bridge"];

/// Where log lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Lambda: CloudWatch reads it.
    Stdout,
    /// The local binary: standard output is for its answers.
    Stderr,
}

impl Output {
    /// Writes a whole line at once, so that lines of several threads do not mix. A closed pipe is nobody's error.
    fn write_line(self, mut line: String) {
        line.push('\n');
        let _ = match self {
            Self::Stdout => std::io::stdout().lock().write_all(line.as_bytes()),
            Self::Stderr => std::io::stderr().lock().write_all(line.as_bytes()),
        };
    }
}

/// Starts logging for the process: our crates at `level`, everything else at `warn`. Only the first call counts.
pub fn init(level: Level, output: Output) {
    let layer = JsonLines { write: move |line| output.write_line(line) }.with_filter(filter(level));
    // An error only says that logging is set up already, by a test beside this one.
    let _ = tracing_subscriber::registry().with(layer).try_init();
}

fn filter(level: Level) -> Targets {
    let dependencies = LevelFilter::from_level(level).min(LevelFilter::WARN);
    OUR_CRATES
        .into_iter()
        .fold(Targets::new().with_default(dependencies), |targets, name| targets.with_target(name, level))
}

/// A layer that makes each event a line of JSON.
struct JsonLines<W> {
    write: W,
}

/// The fields of a span or an event.
#[derive(Default)]
struct Fields(Map<String, Value>);

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.insert(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.insert(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.insert(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.insert(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.insert(field, value.into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.insert(field, value.to_string().into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.insert(field, format!("{value:?}").into());
    }
}

impl Fields {
    fn insert(&mut self, field: &Field, value: Value) {
        self.0.insert(field.name().to_owned(), value);
    }
}

impl<S, W> Layer<S> for JsonLines<W>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    W: Fn(String) + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        span.extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(fields) = span.extensions_mut().get_mut::<Fields>() {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        for span in context.event_scope(event).into_iter().flatten() {
            for (name, value) in span.extensions().get::<Fields>().iter().flat_map(|fields| &fields.0) {
                fields.0.entry(name).or_insert_with(|| value.clone());
            }
        }
        (self.write)(line(event.metadata(), fields.0));
    }
}

fn line(metadata: &tracing::Metadata<'_>, mut fields: Map<String, Value>) -> String {
    let now = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
    let message = fields.remove("message").unwrap_or_default();
    let mut line = json!({
        "timestamp": now,
        "level": metadata.level().as_str(),
        "target": metadata.target(),
        "message": message,
    });
    if let Value::Object(line) = &mut line {
        for (name, value) in fields {
            line.entry(name).or_insert(value);
        }
    }
    line.to_string()
}

/// What a metric counts, in CloudWatch's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A number of things.
    Count,
    /// A duration in seconds.
    Seconds,
    /// A duration in milliseconds.
    Milliseconds,
    /// A size in bytes.
    Bytes,
    /// 0 to 100.
    Percent,
    /// A number without unit.
    None,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Count => "Count",
            Self::Seconds => "Seconds",
            Self::Milliseconds => "Milliseconds",
            Self::Bytes => "Bytes",
            Self::Percent => "Percent",
            Self::None => "None",
        }
    }
}

/// One line of CloudWatch's Embedded Metric Format, without a line break; the caller writes it to standard output.
///
/// `dimensions` make one dimension set, at most 30 (none: metrics of the namespace as a whole); `metrics` are at most
/// 100 and finite, others are left out, since CloudWatch would drop the whole line; `timestamp_ms` is in epoch
/// milliseconds; `properties` can be searched for in the logs and are no metrics. One name should be used once.
#[must_use]
pub fn emf(
    namespace: &str,
    dimensions: &[(&str, &str)],
    metrics: &[(&str, f64, Unit)],
    timestamp_ms: i64,
    properties: &[(&str, Value)],
) -> String {
    const MOST_DIMENSIONS: usize = 30;
    const MOST_METRICS: usize = 100;
    let dimensions = &dimensions[..dimensions.len().min(MOST_DIMENSIONS)];
    let metrics: Vec<_> =
        metrics.iter().filter(|(_, value, _)| value.is_finite()).take(MOST_METRICS).collect();
    let mut line = Map::new();
    line.extend(properties.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    line.extend(dimensions.iter().map(|(name, value)| ((*name).to_owned(), json!(value))));
    line.extend(metrics.iter().map(|(name, value, _)| ((*name).to_owned(), number(*value))));
    let names: Vec<_> = dimensions.iter().map(|(name, _)| name).collect();
    let definitions: Vec<_> =
        metrics.iter().map(|(name, _, unit)| json!({"Name": name, "Unit": unit.name()})).collect();
    let directive = json!({"Namespace": namespace, "Dimensions": [names], "Metrics": definitions});
    line.insert("_aws".to_owned(), json!({"Timestamp": timestamp_ms, "CloudWatchMetrics": [directive]}));
    Value::Object(line).to_string()
}

/// A whole number is written as one: `3`, not `3.0`.
#[expect(clippy::cast_possible_truncation, reason = "checked: whole and far inside i64")]
fn number(value: f64) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0; // 2^53
    if value.fract() == 0.0 && value.abs() < EXACT { json!(value as i64) } else { json!(value) }
}

/// What a log may hold of a URL: scheme, host, and twelve hexadecimal digits of the SHA-256 of the whole text.
///
/// `https://evil.example/reset?token=1` becomes `https://evil.example#…`; a text that is no URL with a host only leaves
/// its hash. Equal texts give equal results, so lines about one URL can be found.
#[must_use]
pub fn url_for_log(url: &str) -> String {
    let mut text = match url::Url::parse(url) {
        Ok(parsed) if parsed.has_host() => {
            format!("{}://{}#", parsed.scheme(), parsed.host_str().unwrap_or_default())
        }
        _ => "not-a-url#".to_owned(),
    };
    for byte in &Sha256::digest(url.as_bytes())[..6] {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests;
