//! What can be asked for in one release.

use std::collections::{BTreeMap, HashMap};

use graphql_parser::query::Value as Literal;
use graphql_parser::schema::{self, Directive, Type, TypeDefinition};

use crate::opencti::version::Version;

pub(super) type Kind = Type<'static, String>;

#[derive(Debug)]
pub(super) struct Argument {
    pub(super) name: String,
    pub(super) kind: Kind,
    /// In characters.
    pub(super) least_length: Option<usize>,
}

#[derive(Debug)]
pub(super) struct FieldType {
    pub(super) arguments: Vec<Argument>,
    pub(super) kind: Kind,
}

/// The schema of one release.
#[derive(Debug)]
pub(in super::super) struct Schema {
    version: Version,
    pub(super) objects: HashMap<String, BTreeMap<String, FieldType>>,
    pub(super) inputs: HashMap<String, Vec<Argument>>,
    pub(super) enums: HashMap<String, Vec<String>>,
}

impl Schema {
    /// The schema as it was in a release.
    #[expect(clippy::expect_used, reason = "the schema is a constant, parsed in every test")]
    pub(in super::super) fn of(version: Version) -> Self {
        let document =
            graphql_parser::parse_schema::<String>(include_str!("schema.graphql")).expect("the schema");
        let (objects, inputs, enums) = (HashMap::new(), HashMap::new(), HashMap::new());
        let mut schema = Self { version, objects, inputs, enums };
        for definition in document.into_static().definitions {
            if let schema::Definition::TypeDefinition(definition) = definition {
                schema.add(definition);
            }
        }
        schema
    }

    pub(super) fn is_graphql_17(&self) -> bool {
        self.version >= Version::GRAPHQL_17
    }

    fn add(&mut self, definition: TypeDefinition<'static, String>) {
        let version = self.version;
        match definition {
            TypeDefinition::Object(object) => {
                let fields = object.fields.into_iter().filter(|field| exists(&field.directives, version));
                let fields = fields.map(|field| {
                    let arguments = arguments(field.arguments, version);
                    (field.name, FieldType { arguments, kind: field.field_type })
                });
                self.objects.insert(object.name, fields.collect());
            }
            TypeDefinition::InputObject(input) => {
                self.inputs.insert(input.name, arguments(input.fields, version));
            }
            TypeDefinition::Enum(list) => {
                self.enums.insert(list.name, list.values.into_iter().map(|value| value.name).collect());
            }
            _ => {}
        }
    }
}

fn arguments(list: Vec<schema::InputValue<'static, String>>, version: Version) -> Vec<Argument> {
    list.into_iter()
        .filter(|argument| exists(&argument.directives, version))
        .map(|argument| Argument {
            least_length: least_length(&argument.directives, version),
            name: argument.name,
            kind: argument.value_type,
        })
        .collect()
}

/// Whether what carries these directives is in the release.
fn exists(directives: &[Directive<'static, String>], version: Version) -> bool {
    directive(directives, "since")
        .and_then(|since| release(since, "version"))
        .is_none_or(|since| version >= since)
}

fn least_length(directives: &[Directive<'static, String>], version: Version) -> Option<usize> {
    let constraint = directive(directives, "constraint")?;
    let until = release(constraint, "until");
    match argument(constraint, "minLength")? {
        Literal::Int(least) if until.is_none_or(|until| version < until) => {
            usize::try_from(least.as_i64()?).ok()
        }
        _ => None,
    }
}

fn directive<'a>(
    directives: &'a [Directive<'static, String>],
    name: &str,
) -> Option<&'a Directive<'static, String>> {
    directives.iter().find(|directive| directive.name == name)
}

fn argument<'a>(
    directive: &'a Directive<'static, String>,
    name: &str,
) -> Option<&'a Literal<'static, String>> {
    directive.arguments.iter().find(|(argument, _)| argument == name).map(|(_, value)| value)
}

fn release(directive: &Directive<'static, String>, name: &str) -> Option<Version> {
    match argument(directive, name)? {
        Literal::String(text) => Version::parse(text),
        _ => None,
    }
}

pub(super) fn named(kind: &Kind) -> &str {
    match kind {
        Type::NamedType(name) => name,
        Type::ListType(inner) | Type::NonNullType(inner) => named(inner),
    }
}
