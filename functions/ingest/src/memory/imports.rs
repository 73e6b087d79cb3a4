//! Which pushes the platform has imported, by its works. Pure.
//!
//! The platform makes a work for each push and does not say which. So pushes are judged together with all others between
//! two looks at the works: they are imported when every work of that time is complete with as many objects processed as
//! expected, and each push has a work of its size. A work that a reset cut off is `complete`, too, with fewer objects
//! processed; one that no worker has seen yet expects nothing. What cannot be seen is not known: the platform shows only
//! the newest works.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use stix::StixId;

use crate::opencti::connector::{ConnectorWork, WorkError};

/// Works that the platform shows of a connector.
const SHOWN: usize = 20;

/// Errors that it keeps of a work: there may have been more.
const MOST_ERRORS: usize = 100;

/// Pushes that wait for their proof; of more the oldest are given up.
const MOST_PUSHED: usize = 40;

/// Pushes whose import is not proven, and what memory is trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imports {
    /// What was remembered in an earlier one is forgotten.
    #[serde(default)]
    epoch: u64,
    /// When the newest work was made that was seen, by the platform's clock, as it writes it.
    #[serde(default)]
    seen: Option<String>,
    #[serde(default)]
    pushed: Vec<PushedBundle>,
}

/// A bundle that the platform took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PushedBundle {
    /// The names of its documents.
    pub documents: Vec<String>,
    objects: u64,
    /// The newest work before it.
    after: Option<String>,
}

/// Pushes that are imported.
#[derive(Debug)]
pub(crate) struct Settled {
    pub bundles: Vec<PushedBundle>,
    /// Objects that the platform refused.
    pub refused: HashSet<u64>,
    /// Ends of relationships that it refused because an end is missing.
    pub missing: HashSet<u64>,
}

impl Imports {
    #[must_use]
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// How many pushes wait for their proof.
    #[must_use]
    pub(crate) fn unsettled(&self) -> usize {
        self.pushed.len()
    }

    /// Nothing that was remembered is trusted any more.
    pub(crate) fn forget(&mut self) {
        self.epoch += 1;
        self.pushed.clear();
    }

    /// The platform took a bundle.
    pub(crate) fn add(&mut self, documents: Vec<String>, objects: u64) {
        self.pushed.push(PushedBundle { documents, objects, after: self.seen.clone() });
        let over = self.pushed.len().saturating_sub(MOST_PUSHED);
        self.pushed.drain(..over);
    }

    /// Takes out the pushes about which the works, newest first, say everything.
    pub(crate) fn settle(&mut self, works: &[ConnectorWork]) -> Vec<Settled> {
        let mut settled = Vec::new();
        let mut pushed = std::mem::take(&mut self.pushed);
        while let Some(first) = pushed.first() {
            let after = first.after.clone();
            let count = pushed.iter().take_while(|bundle| bundle.after == after).count();
            let group: Vec<_> = pushed.drain(..count).collect();
            let until = pushed.first().and_then(|next| next.after.clone());
            match judge(&group, after.as_deref(), until.as_deref(), works) {
                Judgement::Imported { refused, missing } => {
                    settled.push(Settled { bundles: group, refused, missing });
                }
                Judgement::Open => self.pushed.extend(group),
                Judgement::Unknowable => {}
            }
        }
        if let Some(newest) = works.iter().map(|work| &work.timestamp).max() {
            self.seen = self.seen.take().max(Some(newest.clone()));
        }
        settled
    }
}

enum Judgement {
    Imported {
        refused: HashSet<u64>,
        missing: HashSet<u64>,
    },
    Open,
    /// No later look will say more.
    Unknowable,
}

/// What became of the pushes that were made between two works.
fn judge(
    group: &[PushedBundle],
    after: Option<&str>,
    until: Option<&str>,
    works: &[ConnectorWork],
) -> Judgement {
    let is_before = |work: &ConnectorWork| after.is_some_and(|after| work.timestamp.as_str() <= after);
    if works.len() >= SHOWN && !works.iter().any(is_before) {
        return Judgement::Unknowable;
    }
    let is_behind = |work: &ConnectorWork| until.is_some_and(|until| work.timestamp.as_str() > until);
    let own: Vec<&ConnectorWork> = works.iter().filter(|work| !is_before(work) && !is_behind(work)).collect();
    let mut sizes: Vec<u64> = own.iter().filter_map(|work| work.imported()).collect();
    if sizes.len() < own.len() {
        return Judgement::Open;
    }
    for bundle in group {
        let Some(place) = sizes.iter().position(|size| *size == bundle.objects) else {
            return Judgement::Open;
        };
        sizes.swap_remove(place);
    }
    let (mut refused, mut missing) = (HashSet::new(), HashSet::new());
    for work in own {
        let errors = work.errors.as_deref().unwrap_or_default();
        if errors.len() >= MOST_ERRORS {
            return Judgement::Unknowable;
        }
        for error in errors {
            let Some(object) = RefusedObject::of(error) else { return Judgement::Unknowable };
            refused.insert(object.id);
            missing.extend(object.ends);
        }
    }
    Judgement::Imported { refused, missing }
}

/// An object that the platform refused.
struct RefusedObject {
    id: u64,
    /// Of a relationship that misses one of its ends.
    ends: Vec<u64>,
}

impl RefusedObject {
    fn of(error: &WorkError) -> Option<Self> {
        let object: serde_json::Value = serde_json::from_str(error.source.as_deref()?).ok()?;
        let id = |member: &str| Some(object[member].as_str()?.parse::<StixId>().ok()?.digest());
        let message = error.message.as_deref().unwrap_or_default();
        let is_missing =
            ["MISSING_REFERENCE_ERROR", "Element(s) not found"].iter().any(|text| message.contains(text));
        let ends = ["source_ref", "target_ref"].into_iter().filter(|_| is_missing).filter_map(id).collect();
        Some(Self { id: id("id")?, ends })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(time: u32, processed: Option<u64>, expected: Option<u64>) -> ConnectorWork {
        ConnectorWork::for_tests(&format!("2026-01-01T00:00:{time:02}.000Z"), processed, expected, vec![])
    }

    fn done(time: u32, objects: u64) -> ConnectorWork {
        work(time, Some(objects), Some(objects))
    }

    /// Pushes of these sizes after a look that saw a work of second 1.
    fn pushed(sizes: &[u64]) -> Imports {
        let mut imports = Imports::default();
        imports.settle(&[done(1, 9)]);
        for objects in sizes {
            imports.add(vec![objects.to_string()], *objects);
        }
        imports
    }

    fn settled(imports: &mut Imports, works: &[ConnectorWork]) -> usize {
        imports.settle(works).iter().map(|settled| settled.bundles.len()).sum()
    }

    #[test]
    fn pushes_are_imported_when_all_their_works_have_processed_what_they_expected() {
        let mut imports = pushed(&[10, 20]);
        for too_early in [
            vec![done(1, 9)],
            vec![done(2, 10), done(1, 9)],
            vec![work(3, None, None), done(2, 10), done(1, 9)],
            vec![work(3, Some(19), Some(20)), done(2, 10), done(1, 9)],
        ] {
            assert_eq!(settled(&mut imports.clone(), &too_early), 0, "{too_early:?}");
        }
        assert_eq!(settled(&mut imports, &[done(3, 20), done(2, 10), done(1, 9)]), 2);
        assert_eq!(imports.unsettled(), 0);
    }

    #[test]
    fn a_work_that_is_complete_and_was_cut_off_proves_nothing() {
        let mut imports = pushed(&[10]);
        assert_eq!(settled(&mut imports, &[work(2, Some(4), Some(10)), done(1, 9)]), 0);
        assert_eq!(settled(&mut imports, &[done(3, 4), done(1, 9)]), 0, "one of another size neither");
    }

    #[test]
    fn an_older_work_of_the_same_size_proves_nothing() {
        let mut imports = pushed(&[9]);
        assert_eq!(settled(&mut imports, &[done(1, 9)]), 0);
    }

    #[test]
    fn pushes_of_an_earlier_look_do_not_wait_for_later_ones() {
        let mut imports = pushed(&[10]);
        let works = [work(2, Some(3), Some(10)), done(1, 9)];
        assert_eq!(settled(&mut imports, &works), 0);
        imports.add(vec![], 20);
        assert_eq!(settled(&mut imports, &[work(3, None, None), done(2, 10), done(1, 9)]), 1);
        assert_eq!(settled(&mut imports, &[done(3, 20), done(2, 10), done(1, 9)]), 1);
    }

    #[test]
    fn what_the_platform_no_longer_shows_is_not_known() {
        let mut imports = pushed(&[10; 20]);
        let works: Vec<ConnectorWork> = (0..20).map(|n| done(30 - n, 10)).collect();
        assert_eq!(settled(&mut imports, &works), 0);
        assert_eq!(imports.unsettled(), 0, "and never will be");
        let mut imports = pushed(&[10; 19]);
        let mut works: Vec<ConnectorWork> = (0..19).map(|n| done(30 - n, 10)).collect();
        works.push(done(1, 9));
        assert_eq!(settled(&mut imports, &works), 19);
    }

    #[test]
    fn what_was_refused_is_not_imported_and_what_it_missed_is_named() {
        let id = |n: u8| format!("url--00000000-0000-5000-8000-0000000000{n:02}");
        let error = |message: &str, source: String| WorkError {
            message: Some(message.to_owned()),
            source: Some(source),
        };
        let relation = format!(
            r#"{{"id": "relationship--00000000-0000-5000-8000-000000000003", "source_ref": "{}", "target_ref": "{}"}}"#,
            id(1),
            id(2)
        );
        let errors = vec![
            error("Observable is not correctly formatted", format!(r#"{{"id": "{}"}}"#, id(1))),
            error("{'name': 'MISSING_REFERENCE_ERROR', 'error_message': 'Element(s) not found'}", relation),
        ];
        let mut imports = pushed(&[10]);
        let work = ConnectorWork::for_tests("2026-01-01T00:00:02.000Z", Some(10), Some(10), errors);
        let [settled] = &imports.settle(&[work, done(1, 9)])[..] else { panic!("nothing was settled") };
        let digest = |id: &str| id.parse::<StixId>().unwrap().digest();
        assert_eq!(settled.refused.len(), 2);
        assert_eq!(settled.missing, HashSet::from([digest(&id(1)), digest(&id(2))]));

        let nameless = WorkError { message: None, source: None };
        for errors in [vec![nameless.clone()], vec![nameless; 100]] {
            let mut imports = pushed(&[10]);
            let work = ConnectorWork::for_tests("2026-01-01T00:00:02.000Z", Some(10), Some(10), errors);
            assert!(imports.settle(&[work, done(1, 9)]).is_empty());
        }
    }
}
