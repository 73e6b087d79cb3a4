//! What a path means.

use serde_json::{Value, json};

use super::answers;
use super::options::ServerProfile;
use super::platform::Vmray;
use super::query::{Query, decoded, pairs};
use crate::estate::render::{self, IOC_LISTS};
use crate::estate::{Estate, Found, Part, SampleSpec};
use crate::server::{Answer, Request, lock};

/// An answer, or the error instead of it.
type Outcome = Result<Answer, Answer>;

impl Vmray {
    /// `submit` is the number under which a submit request was noted.
    pub(super) fn route(&self, request: &Request, submit: Option<usize>) -> Outcome {
        let path = decoded(request.path.trim_start_matches("/rest/"));
        let segments: Vec<&str> = path.split('/').collect();
        if let Some(submit) = submit {
            return self.submit(submit);
        }
        if request.method != "GET" {
            return Err(answers::error(405, "Method not allowed"));
        }
        match segments.as_slice() {
            ["system_info"] => self.system_info(),
            ["submission", rest @ ..] => self.submission_route(request, rest),
            ["sample", kind @ ("md5" | "sha1" | "sha256"), hash] => Ok(self.samples_by_hash(kind, hash)),
            ["sample", id, rest @ ..] => self.sample_route(request, number(id)?, rest),
            ["sample_relation", "sample", id] => self.relations(number(id)?),
            ["analysis", rest @ ..] => self.analysis_route(request, rest),
            ["continuation", id] => self.continuation(number(id)?),
            ["api_key", "quota"] => {
                let (limit, used) = lock(&self.desk).quota();
                Ok(answers::ok(&json!({"quota_limit": limit, "used_quota": used})))
            }
            ["billing_info"] => Ok(answers::ok(&answers::billing_info())),
            ["job", rest @ ..] => self.job_route(rest),
            _ => Err(answers::no_such_element()),
        }
    }

    fn system_info(&self) -> Outcome {
        if self.options.profile == ServerProfile::Old {
            return Err(answers::not_authorized());
        }
        let options = &self.options;
        Ok(answers::ok(&answers::system_info(options.api_items_per_request, options.max_api_items)))
    }

    /// Jobs disappear when they are finished.
    fn job_route(&self, rest: &[&str]) -> Outcome {
        let desk = lock(&self.desk);
        let estate = lock(&self.estate);
        let offset = self.options.clock_offset;
        let rows = match rest {
            ["sample", id] => {
                let id = number(id)?;
                desk.jobs(&estate, offset, |_, running| running.sample_id == id)
            }
            ["submission", id] => {
                let id = number(id)?;
                desk.jobs(&estate, offset, |submission_id, _| submission_id == id)
            }
            [id] => {
                let id = number(id)?;
                let job = desk.jobs(&estate, offset, |_, running| running.job_id == id).pop();
                return job.map(|job| answers::ok(&job)).ok_or_else(answers::no_such_element);
            }
            _ => return Err(answers::no_such_element()),
        };
        Ok(self.page(rows, None))
    }

    fn submission_route(&self, request: &Request, rest: &[&str]) -> Outcome {
        if matches!(rest, ["search"]) && self.options.submit.search {
            return self.submissions(Query::parse_search(&request.query)?);
        }
        let mut query = Query::parse(&request.query)?;
        match rest {
            [] => {}
            [id] => return self.one_submission(number(id)?),
            ["sample", id] => query.filter("submission_sample_id".to_owned(), id)?,
            [field, value] => query.filter(format!("submission_{field}"), value)?,
            _ => return Err(answers::no_such_element()),
        }
        self.submissions(query)
    }

    fn one_submission(&self, id: u64) -> Outcome {
        let mut row = lock(&self.estate).submission(id).ok_or_else(answers::no_such_element)?;
        answers::shift_times(&mut row, self.options.clock_offset);
        Ok(answers::ok(&self.of_profile(row)))
    }

    fn sample_route(&self, request: &Request, id: u64, rest: &[&str]) -> Outcome {
        match rest {
            [] => {
                let mut sample = self.part(id, Part::Sample)?;
                answers::shift_times(&mut sample, self.options.clock_offset);
                Ok(answers::ok(&self.of_profile(sample)))
            }
            ["iocs", rest @ ..] => {
                let filter = IocFilter::parse(request, rest)?;
                Ok(answers::ok(&filter.apply(self.part(id, Part::Iocs)?)))
            }
            ["vtis" | "threat_indicators"] => Ok(answers::ok(&self.part(id, Part::Vtis)?)),
            ["mitre_attack"] => Ok(answers::ok(&self.part(id, Part::Mitre)?)),
            ["threat_names"] => Ok(answers::ok(&self.part(id, Part::ThreatNames)?)),
            ["classifications"] => Ok(answers::ok(&self.part(id, Part::Classifications)?)),
            _ => Err(answers::no_such_element()),
        }
    }

    fn part(&self, id: u64, part: Part) -> Result<Value, Answer> {
        match lock(&self.estate).answer(id, part) {
            Found::Answer(value) => Ok(value),
            Found::Forbidden => Err(answers::not_authorized()),
            Found::Missing => Err(answers::no_such_element()),
        }
    }

    /// A list, empty when nothing is known: only a number that is unknown is an error.
    fn samples_by_hash(&self, kind: &str, hash: &str) -> Answer {
        let hash = hash.to_ascii_lowercase();
        let hidden = lock(&self.desk).hidden();
        let mut estate = lock(&self.estate);
        let fits = |spec: &SampleSpec| {
            let hashes = spec.hashes();
            hash == match kind {
                "md5" => hashes.md5,
                "sha1" => hashes.sha1,
                _ => hashes.sha256,
            }
        };
        let ids: Vec<u64> = estate
            .sample_ids()
            .into_iter()
            .filter(|&id| estate.outline(id).is_some_and(|spec| fits(&spec)))
            .filter(|&id| !estate.is_of_only(id, &hidden))
            .collect();
        let mut rows = Vec::new();
        for id in ids {
            if let Found::Answer(mut row) = estate.answer(id, Part::Sample) {
                answers::shift_times(&mut row, self.options.clock_offset);
                rows.push(self.of_profile(row));
            }
        }
        drop(estate);
        self.page(rows, None)
    }

    fn relations(&self, id: u64) -> Outcome {
        let sample = self.part(id, Part::Sample)?;
        let rows = ["sample_child_relations", "sample_parent_relations"]
            .iter()
            .filter_map(|name| sample[*name].as_array())
            .flatten()
            .cloned()
            .collect();
        Ok(self.page(rows, None))
    }

    fn analysis_route(&self, request: &Request, rest: &[&str]) -> Outcome {
        let limit = pairs(&request.query).into_iter().find(|(name, _)| name == "_limit");
        let limit = limit.map(|(_, value)| number(&value)).transpose()?;
        let wanted = limit.and_then(|limit| usize::try_from(limit).ok());
        let estate = lock(&self.estate);
        let rows = match rest {
            // A health check of other clients; the newest rows would cost a walk over the whole estate.
            [] => estate
                .sample_ids()
                .into_iter()
                .take(wanted.unwrap_or(100))
                .flat_map(|id| analyses(&estate, id))
                .collect(),
            ["sample", id] => analyses(&estate, number(id)?),
            ["submission", id] => {
                let spec = estate.submission_spec(number(id)?).ok_or_else(answers::no_such_element)?;
                analyses(&estate, spec.sample_id)
            }
            [id] => {
                let id = number(id)?;
                let found = analyses(&estate, id / 10).into_iter().find(|row| row["analysis_id"] == id);
                return found.map(|row| answers::ok(&row)).ok_or_else(answers::no_such_element);
            }
            _ => return Err(answers::no_such_element()),
        };
        drop(estate);
        let shifted = rows.into_iter().map(|mut row| {
            answers::shift_times(&mut row, self.options.clock_offset);
            row
        });
        Ok(self.page(shifted.collect(), wanted))
    }
}

fn analyses(estate: &Estate, sample_id: u64) -> Vec<Value> {
    let Some(spec) = estate.outline(sample_id) else { return Vec::new() };
    let submission = estate.submission_of(sample_id);
    if submission.is_some_and(|submission| submission.finished.is_none()) {
        return Vec::new();
    }
    spec.analysis_ids().into_iter().map(|id| render::analysis(id, &spec, submission)).collect()
}

fn number(text: &str) -> Result<u64, Answer> {
    text.parse().map_err(|_| answers::no_such_element())
}

/// Which IOCs are asked for, by query or by path.
#[derive(Default)]
struct IocFilter {
    kind: Option<String>,
    verdict: Option<String>,
    severity: Option<String>,
    all_artifacts: bool,
}

impl IocFilter {
    fn parse(request: &Request, mut path: &[&str]) -> Result<Self, Answer> {
        let mut filter = Self::default();
        for (name, value) in pairs(&request.query) {
            filter.set(name.trim_start_matches("ioc_"), value);
        }
        while let [name, value, rest @ ..] = path {
            filter.set(name, (*value).to_owned());
            path = rest;
        }
        if path.is_empty() { Ok(filter) } else { Err(answers::no_such_element()) }
    }

    fn set(&mut self, name: &str, value: String) {
        match name {
            "type" => self.kind = Some(value),
            "verdict" => self.verdict = Some(value),
            "severity" => self.severity = Some(value),
            "all_artifacts" => self.all_artifacts = value.eq_ignore_ascii_case("true"),
            _ => {}
        }
    }

    fn apply(&self, mut data: Value) -> Value {
        let Some(lists) = data["iocs"].as_object_mut() else { return data };
        for (name, list) in lists.iter_mut() {
            let other_type = self.kind.as_ref().is_some_and(|kind| kind != name);
            if let (true, Value::Array(entries)) = (IOC_LISTS.contains(&name.as_str()), list) {
                entries.retain(|entry| !other_type && self.fits(entry));
            }
        }
        data
    }

    fn fits(&self, entry: &Value) -> bool {
        let is = |wanted: &Option<String>, field: &str| {
            wanted
                .as_ref()
                .is_none_or(|wanted| entry[field].as_str().unwrap_or("null").eq_ignore_ascii_case(wanted))
        };
        // A malformed entry (not an object) is served as it is.
        let ioc = self.all_artifacts || entry["ioc"] != json!(false);
        ioc && is(&self.verdict, "verdict") && is(&self.severity, "severity")
    }
}
