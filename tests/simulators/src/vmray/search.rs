//! `/rest/submission/search?query=`: up to ten conditions on file name, threat name and URL.

use serde_json::Value;

use super::answers;
use super::submit::normalised;
use crate::server::Answer;

const MOST_CONDITIONS: usize = 10;

/// A query, parsed: alternatives, each of which is a list of conditions that must all hold.
#[derive(Debug)]
pub(super) struct Search(Vec<Vec<Condition>>);

#[derive(Debug)]
struct Condition {
    field: Field,
    operator: Operator,
    value: String,
}

#[derive(Clone, Copy, Debug)]
enum Field {
    FileName,
    ThreatName,
    Url,
}

#[derive(Clone, Copy, Debug)]
enum Operator {
    Equal,
    Unequal,
    Like,
    Unlike,
}

impl Search {
    /// `and` binds closer than `or`.
    pub(super) fn parse(query: &str) -> Result<Self, Answer> {
        let invalid = || answers::error(400, "Invalid search query");
        let mut words = words(query).into_iter();
        let mut alternatives = Vec::new();
        let mut all = Vec::new();
        for _ in 0..MOST_CONDITIONS {
            all.push(Condition::read(&mut words).ok_or_else(invalid)?);
            match words.next().as_deref() {
                Some("and") => {}
                Some("or") => alternatives.push(std::mem::take(&mut all)),
                Some(_) => break,
                None => {
                    alternatives.push(all);
                    return Ok(Self(alternatives));
                }
            }
        }
        Err(invalid())
    }

    /// Whether a submission fits, its sample's threat names given.
    pub(super) fn fits(&self, submission: &Value, threat_names: &[String]) -> bool {
        self.0.iter().any(|all| all.iter().all(|condition| condition.holds(submission, threat_names)))
    }
}

impl Condition {
    fn read(words: &mut impl Iterator<Item = String>) -> Option<Self> {
        let field = match words.next()?.as_str() {
            "filename" => Field::FileName,
            "threat_name" => Field::ThreatName,
            "url" => Field::Url,
            _ => return None,
        };
        let operator = match words.next()?.as_str() {
            "==" => Operator::Equal,
            "<>" => Operator::Unequal,
            "like" => Operator::Like,
            "not" if words.next()? == "like" => Operator::Unlike,
            _ => return None,
        };
        Some(Self { field, operator, value: words.next()? })
    }

    fn holds(&self, submission: &Value, threat_names: &[String]) -> bool {
        let text = |name: &str| submission[name].as_str().map(str::to_owned);
        let values: Vec<String> = match self.field {
            Field::FileName => text("submission_filename").into_iter().collect(),
            Field::ThreatName => threat_names.to_vec(),
            // A URL is found as it was sent and as VMRay keeps it.
            Field::Url => {
                let sent = text("submission_original_url");
                sent.iter().map(|url| normalised(url)).chain(sent.clone()).collect()
            }
        };
        let any = |fits: &dyn Fn(&String) -> bool| values.iter().any(fits);
        match self.operator {
            Operator::Equal => any(&|value| *value == self.value),
            Operator::Unequal => !any(&|value| *value == self.value),
            Operator::Like => any(&|value| like(&self.value, value)),
            Operator::Unlike => !any(&|value| like(&self.value, value)),
        }
    }
}

/// Words, and texts in quotation marks, in which a backslash takes the next character as it is.
fn words(query: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut signs = query.trim().chars().peekable();
    while let Some(&first) = signs.peek() {
        if first.is_whitespace() {
            signs.next();
        } else if first == '"' {
            signs.next();
            words.push(quoted(&mut signs));
        } else {
            let mut word = String::new();
            while let Some(sign) = signs.next_if(|sign| !sign.is_whitespace()) {
                word.push(sign);
            }
            words.push(word);
        }
    }
    words
}

fn quoted(signs: &mut impl Iterator<Item = char>) -> String {
    let mut text = String::new();
    while let Some(sign) = signs.next() {
        match sign {
            '"' => break,
            '\\' => text.extend(signs.next()),
            sign => text.push(sign),
        }
    }
    text
}

/// `%` stands for any text, case does not matter.
fn like(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.to_lowercase(), text.to_lowercase());
    crate::faults::glob_with('%', &pattern, &text)
}
