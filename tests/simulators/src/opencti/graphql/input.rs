//! The variables of a request against their declared types, with the words of the platform's GraphQL engine.
//!
//! 6.9.0 speaks as graphql-js 16 does, the later releases as graphql-js 17.

use std::fmt::Write as _;

use axum::body::Bytes;
use graphql_parser::query::VariableDefinition;
use graphql_parser::schema::Type;
use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Argument, Error, Kind, Schema};

/// An array is printed up to this many items.
const PRINTED_ITEMS: usize = 10;
/// What lies deeper is printed as `[Object]`.
const PRINTED_DEPTH: usize = 2;

/// A value that does not fit, and where it stands below the variable.
pub(super) struct Misfit {
    path: Vec<Step>,
    problem: Problem,
}

enum Step {
    Member(String),
    Item(usize),
}

enum Problem {
    NotProvided(Kind),
    Null(Kind),
    NoObject(String),
    UnknownField { input: String, field: String },
    MissingField { input: String, field: String, kind: Kind },
    Scalar { needs: &'static str },
    NotInEnum { value: String, name: String },
    TooShort { least: usize },
}

impl Misfit {
    fn at(mut self, step: Step) -> Self {
        self.path.insert(0, step);
        self
    }

    /// What a literal in the document is refused with.
    pub(super) fn words(&self) -> String {
        self.problem.words(false, "the value")
    }
}

fn misfit(problem: Problem) -> Misfit {
    Misfit { path: Vec::new(), problem }
}

/// The variables against their declarations. `body` is the request as it was sent: messages quote its members in their order.
pub(super) fn check(
    schema: &Schema,
    declared: &[VariableDefinition<'static, String>],
    given: &serde_json::Map<String, Value>,
    body: &Bytes,
) -> Result<(), Error> {
    for variable in declared {
        let required = matches!(variable.var_type, Type::NonNullType(_)) && variable.default_value.is_none();
        let checked = match given.get(&variable.name) {
            None if required => Err(misfit(Problem::NotProvided(variable.var_type.clone()))),
            None => Ok(()),
            Some(value) => schema.coerce(value, &variable.var_type),
        };
        checked.map_err(|misfit| error(&misfit, schema, variable, body))?;
    }
    Ok(())
}

fn error(
    misfit: &Misfit,
    schema: &Schema,
    variable: &VariableDefinition<'static, String>,
    body: &Bytes,
) -> Error {
    let name = &variable.name;
    let found = inspect(sent(body, name, &misfit.path).as_ref(), 0);
    let words = misfit.problem.words(schema.is_graphql_17(), &found);
    let mut path = String::new();
    for step in &misfit.path {
        let _ = match step {
            Step::Member(name) => write!(path, ".{name}"),
            Step::Item(at) => write!(path, "[{at}]"),
        };
    }
    let message = match (&misfit.problem, schema.is_graphql_17()) {
        (Problem::TooShort { .. }, _) => {
            format!("Variable \"${name}\" got invalid value {found} at \"{name}{path}\". {words}")
        }
        (Problem::NotProvided(kind), false) => {
            format!("Variable \"${name}\" of required type \"{kind}\" was not provided.")
        }
        (Problem::Null(kind), false) if path.is_empty() => {
            format!("Variable \"${name}\" of non-null type \"{kind}\" must not be null.")
        }
        (_, false) if path.is_empty() => format!("Variable \"${name}\" got invalid value {found}; {words}"),
        (_, false) => format!("Variable \"${name}\" got invalid value {found} at \"{name}{path}\"; {words}"),
        (_, true) if path.is_empty() => format!("Variable \"${name}\" has invalid value: {words}"),
        (_, true) => format!("Variable \"${name}\" has invalid value at {path}: {words}"),
    };
    match misfit.problem {
        // The plugin that checks lengths knows no place in the document.
        Problem::TooShort { least } => Error::input(message).with_extensions(
            json!({"field": format!("{name}{path}"), "context": [{"arg": "minLength", "value": least}]}),
        ),
        _ => Error::input(message).at(variable.position),
    }
}

impl Problem {
    fn words(&self, graphql_17: bool, found: &str) -> String {
        match (self, graphql_17) {
            (Self::NotProvided(kind), _) => {
                format!("Expected a value of non-null type \"{kind}\" to be provided.")
            }
            (Self::Null(kind), false) => format!("Expected non-nullable type \"{kind}\" not to be null."),
            (Self::Null(kind), true) => format!("Expected value of non-null type \"{kind}\" not to be null."),
            (Self::NoObject(name), false) => format!("Expected type \"{name}\" to be an object."),
            (Self::NoObject(name), true) => {
                format!("Expected value of type \"{name}\" to be an object, found: {found}.")
            }
            (Self::UnknownField { input, field }, false) => {
                format!("Field \"{field}\" is not defined by type \"{input}\".")
            }
            (Self::UnknownField { input, field }, true) => {
                format!(
                    "Expected value of type \"{input}\" not to include unknown field \"{field}\", found: {found}."
                )
            }
            (Self::MissingField { field, kind, .. }, false) => {
                format!("Field \"{field}\" of required type \"{kind}\" was not provided.")
            }
            (Self::MissingField { input, field, .. }, true) => {
                format!(
                    "Expected value of type \"{input}\" to include required field \"{field}\", found: {found}."
                )
            }
            (Self::Scalar { needs }, _) => format!("{needs}: {found}"),
            (Self::NotInEnum { value, name }, _) => {
                format!("Value \"{value}\" does not exist in \"{name}\" enum.")
            }
            (Self::TooShort { least }, _) => format!("Must be at least {least} characters in length"),
        }
    }
}

impl Schema {
    /// Whether a value fits a type.
    pub(super) fn coerce(&self, value: &Value, kind: &Kind) -> Result<(), Misfit> {
        match (kind, value) {
            (Type::NonNullType(_), Value::Null) => Err(misfit(Problem::Null(kind.clone()))),
            (Type::NonNullType(inner), _) => self.coerce(value, inner),
            (_, Value::Null) => Ok(()),
            (Type::ListType(inner), Value::Array(items)) => {
                items.iter().enumerate().try_for_each(|(at, item)| {
                    self.coerce(item, inner).map_err(|misfit| misfit.at(Step::Item(at)))
                })
            }
            // A single value stands for a list of one.
            (Type::ListType(inner), _) => self.coerce(value, inner),
            (Type::NamedType(name), _) => self.coerce_named(value, name),
        }
    }

    fn coerce_named(&self, value: &Value, name: &str) -> Result<(), Misfit> {
        if let Some(fields) = self.inputs.get(name) {
            return self.coerce_input(value, name, fields);
        }
        if let (Some(known), Some(text)) = (self.enums.get(name), value.as_str()) {
            let (value, name) = (text.to_owned(), name.to_owned());
            return if known.contains(&value) {
                Ok(())
            } else {
                Err(misfit(Problem::NotInEnum { value, name }))
            };
        }
        let (right, needs) = match name {
            "String" => (value.is_string(), "String cannot represent a non string value"),
            "ID" => (value.is_string() || value.is_i64() || value.is_u64(), "ID cannot represent value"),
            "Boolean" => (value.is_boolean(), "Boolean cannot represent a non boolean value"),
            "Int" => (
                value.as_i64().is_some_and(|number| i32::try_from(number).is_ok()),
                "Int cannot represent non-integer value",
            ),
            "Float" => (value.is_number(), "Float cannot represent non numeric value"),
            "DateTime" => (
                value.as_str().is_some_and(|text| chrono::DateTime::parse_from_rfc3339(text).is_ok()),
                "DateTime cannot represent an invalid date-time-string",
            ),
            _ => (false, "Enum cannot represent non-string value"),
        };
        if right { Ok(()) } else { Err(misfit(Problem::Scalar { needs })) }
    }

    fn coerce_input(&self, value: &Value, name: &str, fields: &[Argument]) -> Result<(), Misfit> {
        let Some(members) = value.as_object() else { return Err(misfit(Problem::NoObject(name.to_owned()))) };
        for field in fields {
            let within = |problem: Misfit| problem.at(Step::Member(field.name.clone()));
            match members.get(&field.name) {
                Some(member) => {
                    field.check_length(member).map_err(within)?;
                    self.coerce(member, &field.kind).map_err(within)?;
                }
                None if matches!(field.kind, Type::NonNullType(_)) => {
                    return Err(misfit(Problem::MissingField {
                        input: name.to_owned(),
                        field: field.name.clone(),
                        kind: field.kind.clone(),
                    }));
                }
                None => {}
            }
        }
        match members.keys().find(|member| fields.iter().all(|field| field.name != **member)) {
            Some(unknown) => {
                Err(misfit(Problem::UnknownField { input: name.to_owned(), field: unknown.clone() }))
            }
            None => Ok(()),
        }
    }
}

impl Argument {
    fn check_length(&self, value: &Value) -> Result<(), Misfit> {
        match (value.as_str(), self.least_length) {
            (Some(text), Some(least)) if text.chars().count() < least => {
                Err(misfit(Problem::TooShort { least }))
            }
            _ => Ok(()),
        }
    }
}

/// A value with its members in the order in which they were sent.
#[derive(Deserialize)]
#[serde(untagged)]
enum Sent {
    Object(IndexMap<String, Sent>),
    List(Vec<Sent>),
    Scalar(Value),
}

fn sent(body: &Bytes, variable: &str, path: &[Step]) -> Option<Sent> {
    #[derive(Deserialize)]
    struct Variables {
        variables: IndexMap<String, Sent>,
    }
    let variables = serde_json::from_slice::<Variables>(body).ok()?.variables;
    let mut value = variables.into_iter().find(|(name, _)| name == variable)?.1;
    for step in path {
        value = match (value, step) {
            (Sent::Object(mut members), Step::Member(name)) => members.swap_remove(name)?,
            (Sent::List(items), Step::Item(at)) => items.into_iter().nth(*at)?,
            _ => return None,
        };
    }
    Some(value)
}

/// A value as graphql-js prints it.
fn inspect(value: Option<&Sent>, depth: usize) -> String {
    match value {
        None => "undefined".to_owned(),
        Some(Sent::Scalar(scalar)) => scalar.to_string(),
        Some(Sent::List(items)) if items.is_empty() => "[]".to_owned(),
        Some(Sent::List(_)) if depth >= PRINTED_DEPTH => "[Array]".to_owned(),
        Some(Sent::List(items)) => {
            let mut printed: Vec<String> =
                items.iter().take(PRINTED_ITEMS).map(|item| inspect(Some(item), depth + 1)).collect();
            match items.len().saturating_sub(PRINTED_ITEMS) {
                0 => {}
                1 => printed.push("... 1 more item".to_owned()),
                more => printed.push(format!("... {more} more items")),
            }
            format!("[{}]", printed.join(", "))
        }
        Some(Sent::Object(members)) if members.is_empty() => "{}".to_owned(),
        Some(Sent::Object(_)) if depth >= PRINTED_DEPTH => "[Object]".to_owned(),
        Some(Sent::Object(members)) => {
            let printed: Vec<String> = members
                .iter()
                .map(|(name, member)| format!("{name}: {}", inspect(Some(member), depth + 1)))
                .collect();
            format!("{{ {} }}", printed.join(", "))
        }
    }
}
