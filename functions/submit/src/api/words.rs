//! Which known word a misspelt one was meant to be.

/// How far a word may be from a known one to be taken for its misspelling.
const TYPOS: usize = 2;

/// A longer word is not a misspelling of a known one, and comparing it costs time.
const LONGEST: usize = 64;

/// The known word nearest to `word` in any case, if one is near.
pub(crate) fn nearest(word: &str, known: &[&'static str]) -> Option<&'static str> {
    if word.len() > LONGEST {
        return None;
    }
    let word = word.to_lowercase();
    let near = known.iter().map(|known| (strsim::levenshtein(&word, known), *known));
    // Three letters are near to every other three.
    near.filter(|(distance, known)| *distance <= TYPOS && distance * 2 < known.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelling_finds_its_word_and_another_word_finds_none() {
        let known = ["urls", "url", "options"];
        assert_eq!(nearest("option", &known), Some("options"));
        assert_eq!(nearest("Optoins", &known), Some("options"));
        assert_eq!(nearest("URLs", &known), Some("urls"));
        assert_eq!(nearest("id", &known), None);
        assert_eq!(nearest("tlp", &known), None);
        assert_eq!(nearest(&"urls".repeat(1000), &known), None);
    }
}
