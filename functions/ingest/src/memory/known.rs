//! What the platform would learn from an object. Pure.

use std::borrow::Cow;
use std::collections::HashMap;

use stix::{Content, Object, ObjectKind, Timestamp};

use super::record::PushedObject;

/// An indicator counts longer when it is seen again; by less than this is not worth an import.
const WORTH_PROLONGING: i64 = 24 * 60 * 60;

/// What the last writer decides.
#[derive(Clone, Copy, Debug)]
struct Rating {
    value: u64,
    analysed: i64,
}

#[derive(Debug, Default)]
struct KnownObject {
    /// The rating that the platform was told last, imported or not.
    told: Option<Rating>,
    /// The one that it has imported last.
    imported: Option<Rating>,
    /// What it has imported. Sorted; an object without any is not imported.
    parts: Vec<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    /// All of it is to be sent.
    Everything,
    /// The platform was told a newer rating: what else it says is to be sent.
    Additions,
    Nothing,
}

/// What the platform has and was told.
#[derive(Debug)]
pub(crate) struct Known {
    objects: Option<HashMap<u64, KnownObject>>,
}

impl Known {
    pub(crate) fn empty() -> Self {
        Self { objects: Some(HashMap::new()) }
    }

    /// Without a memory everything is sent, and nothing is remembered.
    pub(crate) fn off() -> Self {
        Self { objects: None }
    }

    /// An object was pushed; all pushes are added in their order.
    pub(crate) fn add(&mut self, pushed: PushedObject, imported: bool) {
        let Some(objects) = &mut self.objects else { return };
        let known = objects.entry(pushed.id).or_default();
        let rating = pushed.rating.map(|value| Rating { value, analysed: pushed.analysed });
        known.told = rating.or(known.told);
        if imported {
            known.imported = rating.or(known.imported);
            known.parts.extend(pushed.parts);
            known.parts.sort_unstable();
            known.parts.dedup();
        }
    }

    /// Whether a bundle needs the object, which loses what would overwrite something newer. Adds to `pushed` what is to be
    /// remembered of it.
    pub(crate) fn select(
        &self,
        object: &mut Cow<'_, Object>,
        analysed: Timestamp,
        pushed: &mut Vec<PushedObject>,
    ) -> bool {
        let Some(objects) = &self.objects else { return true };
        let kind = object.id().kind();
        let mut content = object.content();
        let news =
            objects.get(&content.id).map_or(News::Everything, |known| known.news(&content, kind, analysed));
        if news == News::Additions {
            *object = Cow::Owned(object.without_rating());
            content.rating = None;
        }
        // A label stays known as long as it is used: sent again, it would overwrite the colour that an operator chose.
        if news != News::Nothing || kind == ObjectKind::Label {
            pushed.push(PushedObject::new(content, analysed));
        }
        news != News::Nothing
    }
}

impl KnownObject {
    fn news(&self, content: &Content, kind: ObjectKind, analysed: Timestamp) -> News {
        let analysed = analysed.seconds();
        let is_older = self.told.is_some_and(|told| analysed < told.analysed);
        let is = |rating: Option<Rating>| rating.map(|rating| rating.value) == content.rating;
        let rates = content.rating.is_some() && !is_older && !(is(self.told) && is(self.imported));
        let prolongs = kind == ObjectKind::Indicator
            && self.imported.is_none_or(|imported| analysed >= imported.analysed + WORTH_PROLONGING);
        let adds =
            self.parts.is_empty() || content.parts.iter().any(|part| self.parts.binary_search(part).is_err());
        if !(rates || prolongs || adds) {
            News::Nothing
        } else if is_older && kind.is_observable() && content.rating.is_some() && !is(self.told) {
            News::Additions
        } else {
            News::Everything
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    const DAY: i64 = 86_400;

    fn known(pushes: &[(i64, Option<u64>, &[u64], bool)]) -> KnownObject {
        let mut known = Known::empty();
        for (analysed, rating, parts, imported) in pushes {
            let object = PushedObject { id: 1, analysed: *analysed, rating: *rating, parts: parts.to_vec() };
            known.add(object, *imported);
        }
        known.objects.unwrap().remove(&1).unwrap()
    }

    fn news(
        known: &KnownObject,
        kind: ObjectKind,
        analysed: i64,
        rating: Option<u64>,
        parts: &[u64],
    ) -> News {
        let analysed = Timestamp::from(DateTime::from_timestamp(analysed, 0).unwrap());
        known.news(&Content { id: 1, rating, parts: parts.to_vec() }, kind, analysed)
    }

    #[test]
    fn what_was_pushed_and_is_not_imported_is_sent_again() {
        let pushed = known(&[(0, Some(80), &[1, 2], false)]);
        assert_eq!(news(&pushed, ObjectKind::Url, 0, Some(80), &[1, 2]), News::Everything);
        let relationship = known(&[(0, None, &[1], false)]);
        assert_eq!(news(&relationship, ObjectKind::Relationship, 0, None, &[1]), News::Everything);
    }

    #[test]
    fn a_part_of_what_is_imported_is_no_news_and_anything_else_is() {
        let imported = known(&[(0, Some(80), &[1], true), (0, Some(80), &[2, 3], true)]);
        for parts in [&[1, 2, 3][..], &[2]] {
            assert_eq!(news(&imported, ObjectKind::Url, DAY * 9, Some(80), parts), News::Nothing);
        }
        assert_eq!(news(&imported, ObjectKind::Url, 0, Some(80), &[2, 4]), News::Everything);
        assert_eq!(news(&imported, ObjectKind::Url, 0, Some(90), &[2]), News::Everything);
        assert_eq!(
            news(&imported, ObjectKind::Url, DAY, None, &[2]),
            News::Nothing,
            "it only explains another"
        );
    }

    #[test]
    fn an_indicator_is_news_when_it_is_seen_a_day_later_or_with_another_score() {
        let imported = known(&[(DAY, Some(80), &[1], true)]);
        let indicator = |analysed, score| news(&imported, ObjectKind::Indicator, analysed, Some(score), &[1]);
        assert_eq!(indicator(2 * DAY - 1, 80), News::Nothing);
        assert_eq!(indicator(2 * DAY, 80), News::Everything);
        assert_eq!(indicator(DAY + 1, 90), News::Everything);
        assert_eq!(indicator(DAY - 1, 90), News::Nothing, "an older one changes nothing on the platform");
    }

    #[test]
    fn a_rating_that_is_on_its_way_is_not_taken_for_imported() {
        let changing = known(&[(0, Some(80), &[1], true), (1, Some(90), &[1], false)]);
        assert_eq!(
            news(&changing, ObjectKind::Url, 2, Some(80), &[1]),
            News::Everything,
            "the platform will say 90"
        );
        assert_eq!(
            news(&changing, ObjectKind::Url, 2, Some(90), &[1]),
            News::Everything,
            "it may be refused"
        );
    }

    #[test]
    fn older_data_adds_and_never_overwrites() {
        for imported in [true, false] {
            let newer = known(&[(DAY, Some(90), &[1, 2], imported)]);
            assert_eq!(news(&newer, ObjectKind::Url, 0, Some(80), &[1, 3]), News::Additions);
            assert_eq!(
                news(&newer, ObjectKind::Indicator, 0, Some(80), &[1, 3]),
                News::Everything,
                "the platform sees to it"
            );
        }
        let newer = known(&[(DAY, Some(90), &[1, 2], true), (2 * DAY, None, &[1], false)]);
        assert_eq!(news(&newer, ObjectKind::Url, 0, Some(80), &[1]), News::Nothing);
    }
}
