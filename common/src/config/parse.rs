//! From a variable's text to a value. Texts come trimmed and not blank; errors say what is expected.
//!
//! Values of enumerations are quoted in errors; addresses never are, since they may hold a password.

use std::{
    collections::BTreeSet, fmt::Display, net::IpAddr, ops::RangeInclusive, str::FromStr, time::Duration,
};

use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, Utc};
use url::{Host, Url};

use super::{Compression, duration::parse_duration};
use crate::{
    mapping::{LabelKind, VerdictSet},
    stix::{Color, TlpMarking},
    vmray::model::Verdict,
};

type Parsed<T> = Result<T, String>;

/// The longest overlap: what is behind it is remembered in the cursor, which has an end.
const MAX_OVERLAP: Duration = Duration::from_hours(7 * 24);

/// How far ahead of our clock a server's may be.
const CLOCKS_DIFFER: TimeDelta = TimeDelta::hours(24);

/// A bundle below this would split every sample, and above it no platform takes it.
const BUNDLE_BYTES: RangeInclusive<usize> = 64 * 1024..=64 * 1024 * 1024;

#[expect(clippy::unnecessary_wraps, reason = "has the shape of every parser")]
pub(super) fn text(text: &str) -> Parsed<String> {
    Ok(text.to_owned())
}

pub(super) fn name(text: &str) -> Parsed<String> {
    // OpenCTI refuses to register a shorter one.
    if text.chars().count() < 2 {
        Err("too short; expected at least 2 characters".to_owned())
    } else {
        Ok(text.to_owned())
    }
}

pub(super) fn list(text: &str) -> Parsed<Vec<String>> {
    let items: Vec<String> = items(text).map(str::to_owned).collect();
    if items.is_empty() { Err("expected a list with commas".to_owned()) } else { Ok(items) }
}

fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

pub(super) fn log_level(text: &str) -> Parsed<tracing::Level> {
    match text.to_ascii_lowercase().as_str() {
        "debug" => Ok(tracing::Level::DEBUG),
        "info" => Ok(tracing::Level::INFO),
        "warn" | "warning" => Ok(tracing::Level::WARN),
        "error" => Ok(tracing::Level::ERROR),
        _ => Err(format!("`{}` is no level; expected debug, info, warn or error", shown(text))),
    }
}

pub(super) fn boolean(text: &str) -> Parsed<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" => Ok(true),
        "false" | "0" | "no" => Ok(false),
        _ => Err(format!("`{}` is no boolean; expected true or false", shown(text))),
    }
}

pub(super) fn compression(text: &str) -> Parsed<Compression> {
    match text.to_ascii_lowercase().as_str() {
        "gzip" => Ok(Compression::Gzip),
        "off" => Ok(Compression::Off),
        _ => Err(format!("`{}` is not known; expected gzip or off", shown(text))),
    }
}

pub(super) fn whole<T>(text: &str, range: RangeInclusive<T>) -> Parsed<T>
where
    T: FromStr + PartialOrd + Display,
{
    text.parse()
        .ok()
        .filter(|number| range.contains(number))
        .ok_or_else(|| format!("expected a whole number from {} to {}", range.start(), range.end()))
}

pub(super) fn confidence(text: &str) -> Parsed<u8> {
    whole(text, 0..=100)
}

pub(super) fn positive_decimal(text: &str) -> Parsed<f64> {
    text.parse()
        .ok()
        .filter(|number: &f64| number.is_finite() && *number > 0.0)
        .ok_or_else(|| "expected a number above 0".to_owned())
}

pub(super) fn milliseconds(text: &str) -> Parsed<Duration> {
    whole(text, 1..=86_400_000_u64).map(Duration::from_millis)
}

pub(super) fn overlap(text: &str) -> Parsed<Duration> {
    let overlap = parse_duration(text)?;
    if overlap > MAX_OVERLAP { Err("too long; expected at most P7D".to_owned()) } else { Ok(overlap) }
}

pub(super) fn duration(text: &str) -> Parsed<Duration> {
    let duration = parse_duration(text)?;
    if duration.is_zero() { Err("expected more than no time".to_owned()) } else { Ok(duration) }
}

/// Callers may come back after weeks; with less than a day a batch could be gone before its verdicts are there.
pub(super) fn retention(text: &str) -> Parsed<Duration> {
    let retention = parse_duration(text)?;
    if retention < Duration::from_hours(24) {
        Err("too short; expected at least P1D".to_owned())
    } else {
        Ok(retention)
    }
}

/// `4194304`, `4096KiB` or `4 MiB`.
pub(super) fn bundle_bytes(text: &str) -> Parsed<usize> {
    let (number, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
        Some(end) => (&text[..end], text[end..].trim()),
        None => (text, ""),
    };
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" => Some(1),
        "kib" => Some(1024),
        "mib" => Some(1024 * 1024),
        _ => None,
    };
    factor
        .zip(number.parse::<usize>().ok())
        .and_then(|(factor, number)| number.checked_mul(factor))
        .filter(|bytes| BUNDLE_BYTES.contains(bytes))
        .ok_or_else(|| "expected 64KiB to 64MiB, such as 4MiB or 4194304".to_owned())
}

pub(super) fn color(text: &str) -> Parsed<Color> {
    text.parse().map_err(|_| "expected a colour as #rrggbb".to_owned())
}

pub(super) fn marking(text: &str) -> Parsed<TlpMarking> {
    text.parse().map_err(|_| {
        format!(
            "`{}` is no marking; expected TLP:CLEAR, WHITE, GREEN, AMBER, AMBER+STRICT or RED",
            shown(text)
        )
    })
}

pub(super) fn verdicts(text: &str) -> Parsed<VerdictSet> {
    if items(text).any(|item| item.eq_ignore_ascii_case(Verdict::Clean.as_str())) {
        return Err(
            "`clean` is not ingested: harmless things would stand in OpenCTI as threats; expected a list of \
                    malicious, suspicious"
                .to_owned(),
        );
    }
    choices(text, &[Verdict::Malicious, Verdict::Suspicious])
}

pub(super) fn labels(text: &str) -> Parsed<BTreeSet<LabelKind>> {
    if text.eq_ignore_ascii_case("none") { Ok(BTreeSet::new()) } else { choices(text, &LabelKind::ALL) }
}

/// A list of some of `allowed`, in any case, at least one.
pub(super) fn choices<T>(text: &str, allowed: &[T]) -> Parsed<BTreeSet<T>>
where
    T: Copy + Ord + Display + FromStr,
{
    let expected = || {
        let names: Vec<_> = allowed.iter().map(T::to_string).collect();
        format!("expected a list of {}", names.join(", "))
    };
    let choice = |item: &str| {
        let known = item.parse().ok().filter(|item| allowed.contains(item));
        known.ok_or_else(|| format!("`{}` is not known; {}", shown(item), expected()))
    };
    let chosen: BTreeSet<T> = items(text).map(choice).collect::<Result<_, _>>()?;
    if chosen.is_empty() { Err(expected()) } else { Ok(chosen) }
}

/// A date (its first second), a time with an offset, or a time without one (UTC); at most a day ahead of `now`.
pub(super) fn start(text: &str, now: DateTime<Utc>) -> Parsed<DateTime<Utc>> {
    let start = DateTime::parse_from_rfc3339(text)
        .map(|time| time.to_utc())
        .or_else(|_| NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f").map(|time| time.and_utc()))
        .or_else(|_| {
            NaiveDate::parse_from_str(text, "%Y-%m-%d").map(|day| day.and_time(NaiveTime::MIN).and_utc())
        })
        .map_err(|_| "expected a date as YYYY-MM-DD or a time as 2025-09-09T12:00:00Z".to_owned())?;
    if start > now + CLOCKS_DIFFER {
        return Err("in the future; nothing would ever be ingested before it".to_owned());
    }
    Ok(start)
}

/// A server's address: https unless it says otherwise, no query, no credentials, its path ending with `/` and without
/// `endpoint`, which people copy along.
pub(super) fn server(text: &str, endpoint: &str) -> Parsed<Url> {
    let full = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let mut url = Url::parse(&full).map_err(|error| format!("not a URL ({error}); expected https://host"))?;
    if !matches!(url.scheme(), "https" | "http") {
        return Err("expected a URL with https://".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("has a user name or password inside; the API key is set elsewhere".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("has a query or a fragment; expected only https://host and perhaps a path".to_owned());
    }
    let path = url.path().trim_end_matches('/');
    let base = path.strip_suffix(endpoint).filter(|base| base.ends_with('/')).unwrap_or(path);
    let base = format!("{}/", base.trim_end_matches('/'));
    url.set_path(&base);
    Ok(url)
}

/// Whether the address is this very machine.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => IpAddr::from(ip).is_loopback(),
        Some(Host::Ipv6(ip)) => IpAddr::from(ip).is_loopback(),
        None => false,
    }
}

/// The beginning of a wrong value: enough to recognise it, too short for a key pasted into the wrong place.
fn shown(text: &str) -> String {
    text.chars().take(16).collect()
}
