//! From a variable's text to a value. Texts come trimmed and not blank; errors say what is expected.
//!
//! Values of enumerations are quoted in errors; addresses never are, since they may hold a password.

use std::{
    collections::BTreeSet, fmt::Display, net::IpAddr, ops::RangeInclusive, str::FromStr, time::Duration,
};

use url::{Host, Url};

use super::duration::parse_duration;

/// A value, or what is expected instead.
pub type Parsed<T> = Result<T, String>;

pub fn text(text: &str) -> Parsed<String> {
    Ok(text.to_owned())
}

pub fn list(text: &str) -> Parsed<Vec<String>> {
    let items: Vec<String> = items(text).map(str::to_owned).collect();
    if items.is_empty() { Err("expected a list with commas".to_owned()) } else { Ok(items) }
}

/// The parts of a list with commas.
pub fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

pub fn log_level(text: &str) -> Parsed<tracing::Level> {
    match text.to_ascii_lowercase().as_str() {
        "debug" => Ok(tracing::Level::DEBUG),
        "info" => Ok(tracing::Level::INFO),
        "warn" | "warning" => Ok(tracing::Level::WARN),
        "error" => Ok(tracing::Level::ERROR),
        _ => Err(format!("`{}` is no level; expected debug, info, warn or error", shown(text))),
    }
}

pub fn boolean(text: &str) -> Parsed<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" => Ok(true),
        "false" | "0" | "no" => Ok(false),
        _ => Err(format!("`{}` is no boolean; expected true or false", shown(text))),
    }
}

pub fn whole<T>(text: &str, range: RangeInclusive<T>) -> Parsed<T>
where
    T: FromStr + PartialOrd + Display,
{
    text.parse()
        .ok()
        .filter(|number| range.contains(number))
        .ok_or_else(|| format!("expected a whole number from {} to {}", range.start(), range.end()))
}

pub fn milliseconds(text: &str) -> Parsed<Duration> {
    whole(text, 1..=86_400_000_u64).map(Duration::from_millis)
}

pub fn duration(text: &str) -> Parsed<Duration> {
    let duration = parse_duration(text)?;
    if duration.is_zero() { Err("expected more than no time".to_owned()) } else { Ok(duration) }
}

/// A list of some of `allowed`, in any case, at least one.
pub fn choices<T>(text: &str, allowed: &[T]) -> Parsed<BTreeSet<T>>
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

/// A server's address: https unless it says otherwise, no query, no credentials, its path ending with `/` and without
/// `endpoint`, which people copy along.
pub fn server(text: &str, endpoint: &str) -> Parsed<Url> {
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
#[must_use]
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => IpAddr::from(ip).is_loopback(),
        Some(Host::Ipv6(ip)) => IpAddr::from(ip).is_loopback(),
        None => false,
    }
}

/// The beginning of a wrong value: enough to recognise it, too short for a key pasted into the wrong place.
#[must_use]
pub fn shown(text: &str) -> String {
    text.chars().take(16).collect()
}
