//! What became of a collection, for people.

use std::fmt::Write as _;

use serde_json::Value;

/// The widest URL that is shown whole.
const URL_CHARS: usize = 70;

/// Characters of the progress bar.
const BAR: u64 = 30;

/// How far a batch is.
pub(super) fn progress(counts: &Value) -> String {
    let number = |name: &str| counts[name].as_u64().unwrap_or_default();
    let total = number("total").max(1);
    let open = number("pending") + number("unconfirmed");
    let sent = total.saturating_sub(open);
    let filled = usize::try_from(BAR * sent / total).unwrap_or_default();
    let bar: String =
        (0..usize::try_from(BAR).unwrap_or_default()).map(|at| if at < filled { '#' } else { '.' }).collect();
    format!("[{bar}] {sent} of {total} settled, {} with a verdict", number("finished"))
}

/// A line for each input, and a sum.
pub(super) fn of(answer: &Value) -> String {
    let mut text = String::new();
    let rows = answer["results"].as_array().map(Vec::as_slice).unwrap_or_default();
    let header = ["STATUS", "VERDICT", "SOURCE", "SUBMISSION", "URL"].map(str::to_owned);
    let lines: Vec<[String; 5]> = std::iter::once(header).chain(rows.iter().map(line)).collect();
    let mut widths = [0; 4];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for line in &lines {
        for (cell, width) in line.iter().zip(widths) {
            // Writing to a String cannot fail.
            let _ = write!(text, "{cell:width$}  ");
        }
        let _ = writeln!(text, "{}", line[4]);
    }
    let _ = write!(text, "{}", sum(answer));
    text
}

fn line(row: &Value) -> [String; 5] {
    let cell = |name: &str| match &row[name] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let status = if row["action"].is_null() { cell("status") } else { cell("action") };
    let mut url = if row["url"].is_null() { cell("input") } else { cell("url") };
    // A terminal obeys control characters.
    url = url.chars().map(|char| if char.is_control() { '?' } else { char }).collect();
    if let Some((end, _)) = url.char_indices().nth(URL_CHARS) {
        url.truncate(end);
        url.push_str("...");
    }
    let reason = cell("error_code");
    let place = if reason.is_empty() { url } else { format!("{url} ({reason})") };
    [status, cell("verdict"), cell("source"), cell("submission_id"), place]
}

fn sum(answer: &Value) -> String {
    let counts = answer["counts"].as_object().into_iter().flatten();
    let counts: Vec<_> = counts
        .filter(|(_, count)| count.as_u64() != Some(0))
        .map(|(name, count)| format!("{count} {name}"))
        .collect();
    let mut text = counts.join(", ");
    if let Some(batch) = answer["batch_id"].as_str() {
        let _ = write!(text, "\nbatch {batch}");
    }
    if let Some(remaining) = answer["quota"]["remaining"].as_u64() {
        let _ = write!(text, "; {remaining} submissions left in VMRay's quota");
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_input_has_a_line_and_nothing_commands_the_terminal() {
        let answer = json!({
            "batch_id": "b", "counts": {"total": 2, "finished": 1, "refused": 1, "failed": 0}, "quota": null,
            "results": [
                {"status": "finished", "verdict": "malicious", "source": "new", "submission_id": 7, "url": "http://a.example/"},
                {"status": "refused", "input": "a\u{1b}[2J", "error_code": "not_a_url"},
            ],
        });
        let text = of(&answer);
        assert!(text.contains("finished  malicious  new     7           http://a.example/"), "{text}");
        assert!(text.contains("a?[2J (not_a_url)") && !text.contains('\u{1b}'), "{text}");
        assert!(text.ends_with("1 finished, 1 refused, 2 total\nbatch b"), "{text}");
    }

    #[test]
    fn the_bar_is_full_when_everything_is_settled() {
        let counts = json!({"total": 4, "pending": 1, "unconfirmed": 1, "finished": 2});
        assert!(progress(&counts).starts_with("[###############...............] 2 of 4 settled"));
    }
}
