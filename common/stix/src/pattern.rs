//! Indicator patterns, in the very form that OpenCTI brings them into: it is part of the indicator's id.

use std::fmt::Write;

/// `[type:property = 'value']`. The type and property are ours; the value may be anything.
#[must_use]
pub fn equals(path: &str, value: &str) -> String {
    let mut pattern = String::with_capacity(path.len() + value.len() + 8);
    push_equals(&mut pattern, path, value);
    pattern
}

fn push_equals(pattern: &mut String, path: &str, value: &str) {
    // Writing to a String cannot fail.
    let _ = write!(pattern, "[{path} = '");
    push_escaped(pattern, value);
    pattern.push_str("']");
}

/// Escapes a value for a single-quoted pattern literal. A line break cannot be written there and becomes a space.
fn push_escaped(pattern: &mut String, value: &str) {
    for char in value.chars() {
        match char {
            '\\' => pattern.push_str("\\\\"),
            '\'' => pattern.push_str("\\'"),
            '\n' | '\r' => pattern.push(' '),
            other => pattern.push(other),
        }
    }
}

/// How MD5 is named in a pattern: OpenCTI removes needless quotes since 7.260506, older versions and the Python
/// connector keep them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Md5Spelling {
    /// `hashes.MD5`: today's form.
    Bare,
    /// `hashes.'MD5'`: the former one.
    Quoted,
}

/// The pattern of a file by whichever of its hashes are known; none without any.
#[must_use]
pub fn file_hashes(
    md5: Option<&str>,
    sha1: Option<&str>,
    sha256: Option<&str>,
    spelling: Md5Spelling,
) -> Option<String> {
    let md5_path = match spelling {
        Md5Spelling::Bare => "file:hashes.MD5",
        Md5Spelling::Quoted => "file:hashes.'MD5'",
    };
    let all = [(md5_path, md5), ("file:hashes.'SHA-1'", sha1), ("file:hashes.'SHA-256'", sha256)];
    let mut pattern = String::new();
    for (path, hash) in all {
        if let Some(hash) = hash {
            if !pattern.is_empty() {
                pattern.push_str(" OR ");
            }
            push_equals(&mut pattern, path, hash);
        }
    }
    (!pattern.is_empty()).then_some(pattern)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads a literal back as a STIX pattern parser would.
    fn unescape(pattern: &str) -> Option<String> {
        let literal = pattern.strip_prefix("[url:value = '")?.strip_suffix("']")?;
        let mut value = String::new();
        let mut chars = literal.chars();
        while let Some(char) = chars.next() {
            match char {
                '\\' => match chars.next()? {
                    escaped @ ('\\' | '\'') => value.push(escaped),
                    _ => return None,
                },
                '\'' | '\n' | '\r' => return None,
                other => value.push(other),
            }
        }
        Some(value)
    }

    #[test]
    fn quotes_and_backslashes_are_escaped_and_line_breaks_become_spaces() {
        assert_eq!(equals("url:value", r"a'b\c"), r"[url:value = 'a\'b\\c']");
        assert_eq!(equals("url:value", "a\r\nb\tc"), "[url:value = 'a  b\tc']");
    }

    #[test]
    fn file_patterns_name_each_known_hash_once() {
        assert_eq!(file_hashes(None, None, None, Md5Spelling::Bare), None);
        assert_eq!(
            file_hashes(Some("a"), None, Some("c"), Md5Spelling::Bare).as_deref(),
            Some("[file:hashes.MD5 = 'a'] OR [file:hashes.'SHA-256' = 'c']")
        );
        assert_eq!(
            file_hashes(Some("a"), None, None, Md5Spelling::Quoted).as_deref(),
            Some("[file:hashes.'MD5' = 'a']")
        );
    }

    proptest! {
        #[test]
        fn any_value_can_be_read_back_but_for_its_line_breaks(value in ".*") {
            let read = unescape(&equals("url:value", &value)).expect("a valid literal");
            prop_assert_eq!(read, value.replace(['\n', '\r'], " "));
        }

        #[test]
        fn hostile_values_do_not_break_out(value in r"['\\\]\[ =a\n\r]{0,40}") {
            prop_assert!(unescape(&equals("url:value", &value)).is_some());
        }
    }
}
