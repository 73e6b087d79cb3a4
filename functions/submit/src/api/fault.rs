//! What is wrong with a body, at which place: the `errors` of a problem answer.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// How many faults are told one by one: enough to see what is wrong with a thousand alike.
const TOLD: usize = 20;

/// How much of a member's name is repeated: a name may be as long as the body.
const NAME_CHARS: usize = 64;

/// One thing that is wrong with a body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Where: a JSON pointer (RFC 6901); empty for the body as a whole, and for a body that is no JSON.
    pub pointer: String,
    /// What is wrong, and what is expected.
    pub detail: String,
}

impl Fault {
    /// A fault at `pointer`.
    pub fn new(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), detail: detail.into() }
    }
}

/// The faults found so far: the first ones in full, the others counted.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    told: Vec<Fault>,
    untold: usize,
}

impl Faults {
    pub(crate) fn push(&mut self, pointer: impl Into<String>, detail: impl Into<String>) {
        if self.told.len() < TOLD {
            self.told.push(Fault::new(pointer, detail));
        } else {
            self.untold += 1;
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.told.is_empty()
    }

    /// All that is told; the last one says how many are not.
    pub(crate) fn into_vec(mut self) -> Vec<Fault> {
        if self.untold > 0 {
            self.told.push(Fault::new("", format!("and {} more", self.untold)));
        }
        self.told
    }
}

/// `pointer` one member further down.
pub(crate) fn below(pointer: &str, name: &str) -> String {
    let name = shown(name);
    let escaped: Cow<'_, str> = if name.contains(['~', '/']) {
        Cow::Owned(name.replace('~', "~0").replace('/', "~1"))
    } else {
        Cow::Borrowed(name)
    };
    format!("{pointer}/{escaped}")
}

/// The beginning of a caller's word, for a message.
pub(crate) fn shown(word: &str) -> &str {
    word.char_indices().nth(NAME_CHARS).map_or(word, |(end, _)| &word[..end])
}

/// An error's words without its line and column, which count from the inner value.
pub(crate) fn without_place(error: &serde_json::Error) -> String {
    let words = error.to_string();
    words.split(" at line ").next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_escapes_what_pointers_are_made_of() {
        assert_eq!(below("/urls/3", "value"), "/urls/3/value");
        assert_eq!(below("", "a/b~c"), "/a~1b~0c");
    }

    #[test]
    fn twenty_faults_are_told_and_the_others_counted() {
        let mut faults = Faults::default();
        for index in 0..25 {
            faults.push(format!("/{index}"), "wrong");
        }
        let told = faults.into_vec();
        assert_eq!(told.len(), 21);
        assert_eq!(told.last(), Some(&Fault::new("", "and 5 more")));
    }

    #[test]
    fn a_long_name_is_cut_between_characters() {
        let name = "ü".repeat(100);
        assert_eq!(shown(&name), "ü".repeat(64));
        assert_eq!(shown("short"), "short");
    }
}
