//! STIX 2.1, and the words that `ThreatQ` and OpenCTI have for the same things.

/// What the types of objects mean for a collection of URLs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum TypeMeaning {
    /// Its value is a URL.
    Url,
    /// Its pattern may name URLs.
    Indicator,
    /// What only holds other objects together, or tells about them: callers expect no result for it.
    Structure,
    /// An observable or indicator of another type.
    Other(String),
}

/// Types that are neither observables nor indicators, in lower case: STIX's, then those that OpenCTI adds.
const STRUCTURES: [&str; 52] = [
    "attack-pattern",
    "bundle",
    "campaign",
    "course-of-action",
    "extension-definition",
    "grouping",
    "identity",
    "incident",
    "infrastructure",
    "intrusion-set",
    "language-content",
    "location",
    "malware",
    "malware-analysis",
    "marking-definition",
    "note",
    "observed-data",
    "opinion",
    "relationship",
    "report",
    "sighting",
    "threat-actor",
    "tool",
    "vulnerability",
    "administrative-area",
    "case-incident",
    "case-rfi",
    "case-rft",
    "channel",
    "city",
    "country",
    "data-component",
    "data-source",
    "event",
    "external-reference",
    "feedback",
    "individual",
    "kill-chain-phase",
    "label",
    "language",
    "narrative",
    "organization",
    "position",
    "region",
    "sector",
    "stix-core-relationship",
    "stix-sighting-relationship",
    "system",
    "task",
    "threat-actor-group",
    "threat-actor-individual",
    "vocabulary",
];

/// What a type means: `url`, `ThreatQ`'s `URL`, OpenCTI's `Url`, ...
pub(super) fn kind(name: &str) -> TypeMeaning {
    let plain = name.trim().to_ascii_lowercase();
    match plain.as_str() {
        "url" | "uri" => TypeMeaning::Url,
        "indicator" => TypeMeaning::Indicator,
        structure if STRUCTURES.contains(&structure) => TypeMeaning::Structure,
        _ => TypeMeaning::Other(name.trim().to_owned()),
    }
}

/// Every URL that a pattern compares with `=`, or with `IN`, in its order.
pub(super) fn urls(pattern: &str) -> impl Iterator<Item = String> {
    let mut tokens = PatternTokens { rest: pattern };
    let mut place = ComparisonPlace::Elsewhere;
    std::iter::from_fn(move || {
        loop {
            let token = tokens.next()?;
            let (next, url) = place.after(token);
            place = next;
            if url.is_some() {
                return url;
            }
        }
    })
}

/// Where in a comparison a reader stands.
#[derive(Clone, Copy)]
enum ComparisonPlace {
    Elsewhere,
    /// Behind `url:value`.
    Path,
    /// Behind `url:value =`.
    Equals,
    /// Behind `url:value IN`, to the end of the set.
    Set,
}

impl ComparisonPlace {
    fn after(self, token: PatternToken<'_>) -> (Self, Option<String>) {
        match (self, token) {
            (_, PatternToken::Word("url:value")) => (Self::Path, None),
            // `==` is an old spelling of `=`.
            (Self::Path | Self::Equals, PatternToken::Sign('=')) => (Self::Equals, None),
            (Self::Path, PatternToken::Word(word)) if word.eq_ignore_ascii_case("IN") => (Self::Set, None),
            (Self::Equals, PatternToken::Text(url)) => (Self::Elsewhere, Some(unescaped(url))),
            (Self::Set, PatternToken::Text(url)) => (Self::Set, Some(unescaped(url))),
            (Self::Set, PatternToken::Sign('(' | ',')) => (Self::Set, None),
            _ => (Self::Elsewhere, None),
        }
    }
}

enum PatternToken<'a> {
    /// A path, a keyword or a number.
    Word(&'a str),
    /// What stands between single quotes, still escaped.
    Text(&'a str),
    Sign(char),
}

struct PatternTokens<'a> {
    rest: &'a str,
}

impl<'a> Iterator for PatternTokens<'a> {
    type Item = PatternToken<'a>;

    fn next(&mut self) -> Option<PatternToken<'a>> {
        self.rest = self.rest.trim_start();
        let first = self.rest.chars().next()?;
        if first == '\'' {
            // A text that does not end is no text; nothing can follow it.
            let end = text_end(&self.rest[1..])?;
            let text = &self.rest[1..=end];
            self.rest = &self.rest[end + 2..];
            return Some(PatternToken::Text(text));
        }
        let end = self.rest.find(|char| !is_of_a_word(char)).unwrap_or(self.rest.len());
        if end == 0 {
            self.rest = &self.rest[first.len_utf8()..];
            return Some(PatternToken::Sign(first));
        }
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        Some(PatternToken::Word(word))
    }
}

fn is_of_a_word(char: char) -> bool {
    char.is_ascii_alphanumeric() || matches!(char, '_' | '-' | ':' | '.')
}

/// The closing quote of a text, past the escaped ones.
fn text_end(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let closes = byte == b'\'' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    })
}

/// A text without its escapes. A lone backslash, which some tools write, stays.
fn unescaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        match (char, chars.peek()) {
            ('\\', Some(&escaped @ ('\\' | '\''))) => {
                plain.push(escaped);
                chars.next();
            }
            _ => plain.push(char),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(pattern: &str) -> Vec<String> {
        urls(pattern).collect()
    }

    #[test]
    fn the_urls_of_a_pattern_are_those_it_compares_for_equality() {
        for (pattern, expected) in [
            ("[url:value = 'http://a.test/']", vec!["http://a.test/"]),
            (
                "[url:value='http://a.test/' OR url:value=='http://b.test/']",
                vec!["http://a.test/", "http://b.test/"],
            ),
            ("[url:value = 'a'] OR [domain-name:value = 'b' AND url:value = 'c']", vec!["a", "c"]),
            ("[url:value IN ('a', 'b') AND file:name = 'c']", vec!["a", "b"]),
            (r"[url:value = 'it\'s \\ here']", vec![r"it's \ here"]),
            ("([url:value = 'a'] AND [url:value = 'b']) WITHIN 5 SECONDS", vec!["a", "b"]),
            ("[ipv4-addr:value = '1.2.3.4']", vec![]),
            ("[url:value != 'a' OR url:value LIKE 'b' OR url:value NOT = 'c' OR x-url:value = 'd']", vec![]),
            ("[file:name = 'url:value = \\'a\\'']", vec![]),
            ("[url:value = 'never closed", vec![]),
            ("[url:value = ", vec![]),
            ("", vec![]),
        ] {
            assert_eq!(found(pattern), expected, "{pattern}");
        }
    }

    #[test]
    fn the_words_of_each_product_mean_the_same() {
        for url in ["url", "URL", "Url", " url "] {
            assert_eq!(kind(url), TypeMeaning::Url);
        }
        assert_eq!(kind("Indicator"), TypeMeaning::Indicator);
        for structure in ["report", "identity", "Intrusion-Set", "marking-definition", "relationship"] {
            assert_eq!(kind(structure), TypeMeaning::Structure);
        }
        for other in ["FQDN", "file", "IPv4-Addr", "URL Path", "domain-name"] {
            assert_eq!(kind(other), TypeMeaning::Other(other.to_owned()));
        }
    }

    fn literal(value: &str) -> String {
        format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
    }

    proptest! {
        #[test]
        fn an_escaped_url_is_read_back(one in ".*", other in r"['\\\[\] =()a]*") {
            let pattern = format!("[url:value = {} OR url:value = {}]", literal(&one), literal(&other));
            prop_assert_eq!(found(&pattern), [one, other]);
        }

        #[test]
        fn no_pattern_panics(pattern in r"(url:value|=|'|\\|\[|IN|\(|,| |é|a){0,40}") {
            found(&pattern);
        }
    }
}
