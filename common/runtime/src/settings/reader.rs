//! Reads one variable at a time and remembers everything that is wrong.

use super::{Lookup, Setting, SettingsError, Unset, Warning, WrongSetting};

/// Collects problems and warnings while settings are read.
pub struct Reader<'a> {
    lookup: Lookup<'a>,
    tables: &'a [&'a [Setting]],
    problems: Vec<WrongSetting>,
    warnings: Vec<Warning>,
}

impl<'a> Reader<'a> {
    /// Reads the settings that `tables` describe.
    #[must_use]
    pub fn new(lookup: Lookup<'a>, tables: &'a [&'a [Setting]]) -> Self {
        Self { lookup, tables, problems: Vec::new(), warnings: Vec::new() }
    }

    /// A setting with a default; `None`: a problem was noted.
    pub fn value<T>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        match self.text(name).or_else(|| self.default_of(name)) {
            Some(text) => self.parsed(name, parse(&text)),
            None => self.problem(name, "not set".to_owned()),
        }
    }

    /// A setting that must be set; `None`: a problem was noted.
    pub fn required<T>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        match self.text(name) {
            Some(text) => self.parsed(name, parse(&text)),
            None => self
                .problem(name, format!("not set; {}", self.find(name).map_or("", |setting| setting.meaning))),
        }
    }

    /// A setting that may be left unset; the outer `None`: a problem was noted.
    pub fn optional<T>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<Option<T>> {
        match self.text(name) {
            Some(text) => self.parsed(name, parse(&text)).map(Some),
            None => Some(None),
        }
    }

    /// Notes something that is accepted, and that the operator should know.
    pub fn warn(&mut self, name: &'static str, message: &str) {
        self.warnings.push(Warning { name, message: message.to_owned() });
    }

    /// The settings and the warnings, or every problem.
    pub fn finish<T>(self, settings: Option<T>) -> Result<(T, Vec<Warning>), SettingsError> {
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
        self.problems.push(WrongSetting { name, message });
        None
    }

    fn find(&self, name: &str) -> Option<&'a Setting> {
        self.tables.iter().flat_map(|table| table.iter()).find(|setting| setting.name == name)
    }

    fn default_of(&self, name: &str) -> Option<String> {
        match self.find(name)?.unset {
            Unset::Means(default) => Some(default.to_owned()),
            Unset::Refused | Unset::RefusedOnLambda | Unset::Nothing => None,
        }
    }
}
