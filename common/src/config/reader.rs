//! Reads one variable at a time and remembers everything that is wrong.

use super::{
    Lookup, Problem, SettingsError, Warning,
    table::{self, Unset},
};

/// Collects problems and warnings while settings are read.
pub(super) struct Reader<'a> {
    lookup: Lookup<'a>,
    problems: Vec<Problem>,
    warnings: Vec<Warning>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(lookup: Lookup<'a>) -> Self {
        Self { lookup, problems: Vec::new(), warnings: Vec::new() }
    }

    /// A setting with a default; `None`: a problem was noted.
    pub(super) fn value<T>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        match self.text(name).or_else(|| default_of(name)) {
            Some(text) => self.parsed(name, parse(&text)),
            None => self.problem(name, "not set".to_owned()),
        }
    }

    /// A setting that must be set; `None`: a problem was noted.
    pub(super) fn required<T>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        match self.text(name) {
            Some(text) => self.parsed(name, parse(&text)),
            None => self.problem(name, format!("not set; {}", table::meaning_of(name))),
        }
    }

    /// A setting that may be left unset; the outer `None`: a problem was noted.
    #[expect(clippy::option_option, reason = "the outer level is this reader's, the inner the setting's")]
    pub(super) fn optional<T>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<Option<T>> {
        match self.text(name) {
            Some(text) => self.parsed(name, parse(&text)).map(Some),
            None => Some(None),
        }
    }

    pub(super) fn warn(&mut self, name: &'static str, message: &str) {
        self.warnings.push(Warning { name, message: message.to_owned() });
    }

    pub(super) fn finish<T>(self, settings: Option<T>) -> Result<(T, Vec<Warning>), SettingsError> {
        match settings {
            Some(settings) if self.problems.is_empty() => Ok((settings, self.warnings)),
            _ => Err(SettingsError { problems: self.problems }),
        }
    }

    fn text(&self, name: &str) -> Option<String> {
        (self.lookup)(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    fn parsed<T>(&mut self, name: &'static str, result: Result<T, String>) -> Option<T> {
        result.map_or_else(|message| self.problem(name, message), Some)
    }

    fn problem<T>(&mut self, name: &'static str, message: String) -> Option<T> {
        self.problems.push(Problem { name, message });
        None
    }
}

fn default_of(name: &str) -> Option<String> {
    match table::find(name)?.unset {
        Unset::Means(default) => Some(default.to_owned()),
        Unset::Refused | Unset::RefusedOnLambda | Unset::Nothing => None,
    }
}
