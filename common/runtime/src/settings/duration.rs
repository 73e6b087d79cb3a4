//! ISO 8601 durations.

use std::time::Duration;

/// Parses `PnW`, `PnD`, `PTnHnMnS` or `PnDTnHnMnS`, whole numbers only.
///
/// `PT1D` is taken as one day although the standard wants `P1D`: VMRay's Python connector documents that spelling.
/// Years and months are refused, since they have no fixed length. The error says what is expected.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    const EXPECTED: &str = "expected an ISO 8601 duration such as PT15M, PT1H30M or P7D";
    let rest = text.strip_prefix('P').ok_or(EXPECTED)?;
    let (date, time) = rest.split_once('T').map_or((rest, None), |(date, time)| (date, Some(time)));
    if date.contains(['Y', 'M']) {
        return Err(format!("years and months have no fixed length; {EXPECTED}"));
    }
    if time.is_some_and(str::is_empty) || rest.is_empty() {
        return Err(EXPECTED.to_owned());
    }
    let total = seconds(date, &[('W', 604_800), ('D', 86_400)])
        .zip(seconds(time.unwrap_or(""), &[('D', 86_400), ('H', 3600), ('M', 60), ('S', 1)]))
        .and_then(|(date, time)| date.checked_add(time));
    total.map(Duration::from_secs).ok_or_else(|| EXPECTED.to_owned())
}

/// The sum of parts like `1H30M`; each unit at most once and in the order of `units`. `None`: it is none.
fn seconds(mut text: &str, units: &[(char, u64)]) -> Option<u64> {
    let mut total = 0_u64;
    for (unit, length) in units {
        let Some((number, rest)) = text.split_once(*unit) else { continue };
        // `parse` alone would take "+5".
        if !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(*length)?)?;
        text = rest;
    }
    text.is_empty().then_some(total)
}
