//! Objects as they are remembered: numbers in a line of text.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::{Deserialize, Serialize};
use stix::{Content, Timestamp};

/// What an object said when it was pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PushedObject {
    pub id: u64,
    /// The newest analysis that it was from, in epoch seconds.
    pub analysed: i64,
    pub rating: Option<u64>,
    pub parts: Vec<u64>,
}

impl PushedObject {
    pub(crate) fn new(content: Content, analysed: Timestamp) -> Self {
        let Content { id, rating, parts } = content;
        Self { id, analysed: analysed.seconds(), rating, parts }
    }
}

/// Objects in base64: each a few words of eight bytes, which are its id, its analysis, whether it has a rating and how many
/// parts, the rating, the parts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) struct ObjectList(pub Vec<PushedObject>);

#[derive(Debug, thiserror::Error)]
#[error("not a list of objects")]
pub(crate) struct NotAnObjectList;

impl From<ObjectList> for String {
    fn from(list: ObjectList) -> Self {
        let mut bytes = Vec::new();
        let mut put = |word: u64| bytes.extend_from_slice(&word.to_le_bytes());
        for object in list.0 {
            put(object.id);
            put(object.analysed.cast_unsigned());
            put((object.parts.len() as u64) << 1 | u64::from(object.rating.is_some()));
            object.rating.into_iter().chain(object.parts).for_each(&mut put);
        }
        STANDARD_NO_PAD.encode(bytes)
    }
}

impl TryFrom<String> for ObjectList {
    type Error = NotAnObjectList;

    fn try_from(text: String) -> Result<Self, NotAnObjectList> {
        let bytes = STANDARD_NO_PAD.decode(text).map_err(|_| NotAnObjectList)?;
        let (words, rest) = bytes.as_chunks::<8>();
        if !rest.is_empty() {
            return Err(NotAnObjectList);
        }
        let mut words = words.iter().map(|word| u64::from_le_bytes(*word));
        let mut objects = Vec::new();
        while let Some(id) = words.next() {
            objects.push(object(id, &mut words).ok_or(NotAnObjectList)?);
        }
        Ok(Self(objects))
    }
}

fn object(id: u64, words: &mut impl ExactSizeIterator<Item = u64>) -> Option<PushedObject> {
    let analysed = words.next()?.cast_signed();
    let shape = words.next()?;
    let rating = if shape & 1 == 1 { Some(words.next()?) } else { None };
    let count = usize::try_from(shape >> 1).ok().filter(|count| *count <= words.len())?;
    Some(PushedObject { id, analysed, rating, parts: words.take(count).collect() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_list_comes_back_as_it_was(objects in prop::collection::vec(
            (any::<u64>(), any::<i64>(), any::<Option<u64>>(), prop::collection::vec(any::<u64>(), 0..5)), 0..20))
        {
            let objects = objects.into_iter().map(|(id, analysed, rating, parts)| PushedObject { id, analysed, rating, parts });
            let list = ObjectList(objects.collect());
            let back = ObjectList::try_from(String::from(list.clone())).unwrap();
            prop_assert_eq!(back, list);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[A-Za-z0-9+/]{0,80}") {
            let _ = ObjectList::try_from(text);
        }
    }
}
