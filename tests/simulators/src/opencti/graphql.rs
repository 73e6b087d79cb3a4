//! GraphQL as far as a client can notice: documents are parsed and validated against a schema, variables checked,
//! answers cut to what was asked for. What the fields mean is told by a [`Resolver`].

use std::collections::{BTreeMap, HashMap, HashSet};

use graphql_parser::query::{
    Definition, Document, Field, OperationDefinition, Selection, SelectionSet, TypeCondition,
    Value as Literal, VariableDefinition,
};
use graphql_parser::schema::{self, Directive, Type, TypeDefinition};
use serde_json::{Map, Value, json};

use super::version::Version;

type Doc = Document<'static, String>;
type QueryField = Field<'static, String>;
type Kind = Type<'static, String>;

/// How often a root field may stand in one document, counted with its aliases.
const QUERY_ALIASES: usize = 2;
const MUTATION_ALIASES: usize = 1;

/// An error in the platform's form.
#[derive(Clone, Debug)]
pub(super) struct Error {
    pub(super) message: String,
    pub(super) code: &'static str,
    /// Absent on errors of the GraphQL engine itself.
    pub(super) http_status: Option<u16>,
    /// More members of `extensions.data`.
    pub(super) data: Value,
}

impl Error {
    pub(super) fn new(message: impl Into<String>, code: &'static str, http_status: u16) -> Self {
        Self { message: message.into(), code, http_status: Some(http_status), data: json!({}) }
    }

    fn engine(message: impl Into<String>, code: &'static str) -> Self {
        Self { message: message.into(), code, http_status: None, data: Value::Null }
    }

    fn validation(message: impl Into<String>) -> Self {
        Self::engine(message, "GRAPHQL_VALIDATION_FAILED")
    }

    fn input(message: impl Into<String>) -> Self {
        Self::engine(message, "BAD_USER_INPUT")
    }

    fn json(&self, path: Option<&str>) -> Value {
        let mut extensions = json!({"code": self.code});
        if let Some(status) = self.http_status {
            let mut data = json!({"http_status": status, "genre": "TECHNICAL"});
            crate::estate::merge(&mut data, self.data.clone());
            extensions["data"] = data;
        }
        let mut error = json!({"message": self.message, "name": self.code, "extensions": extensions});
        if let Some(path) = path {
            error["path"] = json!([path]);
        }
        error
    }

    pub(super) fn answer(&self) -> Value {
        json!({"errors": [self.json(None)], "data": null})
    }
}

/// What a platform does when a field is asked for.
pub(super) trait Resolver {
    /// The whole value of a root field.
    fn root(&self, field: &str, arguments: &Map<String, Value>) -> Result<Value, Error>;
    /// A field that acts, inside a root field of mutations.
    fn nested(&self, parent: &Value, field: &str, arguments: &Map<String, Value>) -> Result<Value, Error>;
}

#[derive(Debug)]
struct Argument {
    name: String,
    kind: Kind,
}

#[derive(Debug)]
struct FieldType {
    arguments: Vec<Argument>,
    kind: Kind,
}

/// The schema of one release.
#[derive(Debug)]
pub(super) struct Schema {
    objects: HashMap<String, BTreeMap<String, FieldType>>,
    inputs: HashMap<String, Vec<Argument>>,
    enums: HashMap<String, Vec<String>>,
}

impl Schema {
    /// The schema as it was in a release.
    #[expect(clippy::expect_used, reason = "the schema is a constant, parsed in every test")]
    pub(super) fn of(version: Version) -> Self {
        let document =
            graphql_parser::parse_schema::<String>(include_str!("schema.graphql")).expect("the schema");
        let mut schema = Self { objects: HashMap::new(), inputs: HashMap::new(), enums: HashMap::new() };
        for definition in document.into_static().definitions {
            if let schema::Definition::TypeDefinition(definition) = definition {
                schema.add(definition, version);
            }
        }
        schema
    }

    fn add(&mut self, definition: TypeDefinition<'static, String>, version: Version) {
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
        .map(|argument| Argument { name: argument.name, kind: argument.value_type })
        .collect()
}

/// Whether what carries these directives is in the release.
fn exists(directives: &[Directive<'static, String>], version: Version) -> bool {
    directives.iter().all(|directive| match directive.arguments.as_slice() {
        [(_, Literal::String(since))] => Version::parse(since).is_none_or(|since| version >= since),
        _ => true,
    })
}

fn named(kind: &Kind) -> &str {
    match kind {
        Type::NamedType(name) => name,
        Type::ListType(inner) | Type::NonNullType(inner) => named(inner),
    }
}

/// A parsed request.
#[derive(Debug)]
pub(super) struct Request {
    document: Doc,
    operation: usize,
    variables: Map<String, Value>,
}

impl Request {
    /// Parses the `query`, `variables` and `operationName` of a body.
    pub(super) fn parse(body: &Value) -> Result<Self, Error> {
        let Some(query) = body["query"].as_str() else {
            return Err(Error::engine("GraphQL operations must contain a non-empty `query`.", "BAD_REQUEST"));
        };
        if query.contains("__schema") {
            return Err(Error::new("GraphQL introspection not authorized!", "RESOURCE_NOT_FOUND", 404));
        }
        let document = graphql_parser::parse_query::<String>(query)
            .map_err(|error| Error::engine(format!("Syntax Error: {error}"), "GRAPHQL_PARSE_FAILED"))?
            .into_static();
        let wanted = body["operationName"].as_str();
        let operation = document.definitions.iter().position(|definition| match definition {
            Definition::Operation(operation) => wanted.is_none() || name(operation) == wanted,
            Definition::Fragment(_) => false,
        });
        let operation =
            operation.ok_or_else(|| Error::engine("Unknown operation", "OPERATION_RESOLUTION_FAILURE"))?;
        let variables = body["variables"].as_object().cloned().unwrap_or_default();
        Ok(Self { document, operation, variables })
    }

    /// The names of the root fields, for logs and faults.
    pub(super) fn label(&self) -> String {
        let fields = self.fields(self.parts().selection);
        fields.map_or_else(
            |error| error.code.to_owned(),
            |fields| fields.iter().map(|field| field.name.as_str()).collect::<Vec<_>>().join("+"),
        )
    }

    fn parts(&self) -> Parts<'_> {
        let Definition::Operation(operation) = &self.document.definitions[self.operation] else {
            unreachable!("an operation's place was looked for")
        };
        match operation {
            OperationDefinition::SelectionSet(selection) => {
                Parts { root: "Query", variables: &[], selection }
            }
            OperationDefinition::Query(query) => Parts {
                root: "Query",
                variables: &query.variable_definitions,
                selection: &query.selection_set,
            },
            OperationDefinition::Mutation(mutation) => Parts {
                root: "Mutation",
                variables: &mutation.variable_definitions,
                selection: &mutation.selection_set,
            },
            OperationDefinition::Subscription(subscription) => Parts {
                root: "Subscription",
                variables: &subscription.variable_definitions,
                selection: &subscription.selection_set,
            },
        }
    }

    /// The fields of a selection, those of fragments put in.
    fn fields<'a>(
        &'a self,
        selection: &'a SelectionSet<'static, String>,
    ) -> Result<Vec<&'a QueryField>, Error> {
        let mut fields = Vec::new();
        for item in &selection.items {
            match item {
                Selection::Field(field) => fields.push(field),
                Selection::InlineFragment(fragment) => fields.extend(self.fields(&fragment.selection_set)?),
                Selection::FragmentSpread(spread) => fields.extend(self.fragment(&spread.fragment_name)?),
            }
        }
        Ok(fields)
    }

    fn fragment(&self, name: &str) -> Result<Vec<&QueryField>, Error> {
        let found = self.document.definitions.iter().find_map(|definition| match definition {
            Definition::Fragment(fragment) if fragment.name == name => Some(fragment),
            _ => None,
        });
        let fragment = found.ok_or_else(|| Error::validation(format!("Unknown fragment \"{name}\".")))?;
        let TypeCondition::On(_) = &fragment.type_condition;
        self.fields(&fragment.selection_set)
    }
}

struct Parts<'a> {
    root: &'static str,
    variables: &'a [VariableDefinition<'static, String>],
    selection: &'a SelectionSet<'static, String>,
}

fn name<'a>(operation: &'a OperationDefinition<'static, String>) -> Option<&'a str> {
    match operation {
        OperationDefinition::SelectionSet(_) => None,
        OperationDefinition::Query(query) => query.name.as_deref(),
        OperationDefinition::Mutation(mutation) => mutation.name.as_deref(),
        OperationDefinition::Subscription(subscription) => subscription.name.as_deref(),
    }
}

/// Validates and runs a request.
pub(super) fn run(schema: &Schema, request: &Request, resolver: &dyn Resolver) -> Value {
    let parts = request.parts();
    let check = Check { schema, request, variables: parts.variables };
    if let Err(error) = check.document(&parts).and_then(|()| check.values()) {
        return error.answer();
    }
    let execution = Execution { schema, request, variables: parts.variables, resolver };
    execution.run(&parts)
}

/// Validation: nothing is done before all of it has passed.
struct Check<'a> {
    schema: &'a Schema,
    request: &'a Request,
    variables: &'a [VariableDefinition<'static, String>],
}

impl Check<'_> {
    fn document(&self, parts: &Parts<'_>) -> Result<(), Error> {
        let mut used = HashSet::new();
        self.selection(parts.root, parts.selection, &mut used)?;
        if let Some(unused) = self.variables.iter().find(|variable| !used.contains(&variable.name)) {
            return Err(Error::validation(format!("Variable \"${}\" is never used.", unused.name)));
        }
        self.aliases(parts)
    }

    fn aliases(&self, parts: &Parts<'_>) -> Result<(), Error> {
        let allowed = if parts.root == "Mutation" { MUTATION_ALIASES } else { QUERY_ALIASES };
        let mut counts: HashMap<&str, usize> = HashMap::new();
        for field in self.request.fields(parts.selection)? {
            let count = counts.entry(&field.name).or_default();
            *count += 1;
            if *count > allowed {
                let name = &field.name;
                return Err(Error::validation(format!(
                    "Allowed number of calls for '{name}' has been exceeded (max: {allowed})"
                )));
            }
        }
        Ok(())
    }

    fn selection(
        &self,
        parent: &str,
        selection: &SelectionSet<'static, String>,
        used: &mut HashSet<String>,
    ) -> Result<(), Error> {
        let Some(fields) = self.schema.objects.get(parent) else {
            return Err(Error::validation(format!("Unknown type \"{parent}\".")));
        };
        for field in self.request.fields(selection)? {
            if field.name == "__typename" {
                continue;
            }
            let Some(known) = fields.get(&field.name) else {
                let name = &field.name;
                return Err(Error::validation(format!(
                    "Cannot query field \"{name}\" on type \"{parent}\"."
                )));
            };
            self.arguments(field, known, used)?;
            let inner = named(&known.kind);
            let is_object = self.schema.objects.contains_key(inner);
            match (is_object, field.selection_set.items.is_empty()) {
                (true, false) => self.selection(inner, &field.selection_set, used)?,
                (false, true) => {}
                (true, true) => {
                    return Err(Error::validation(format!(
                        "Field \"{}\" of type \"{}\" must have a selection of subfields.",
                        field.name, known.kind
                    )));
                }
                (false, false) => {
                    return Err(Error::validation(format!(
                        "Field \"{}\" must not have a selection since type \"{}\" has no subfields.",
                        field.name, known.kind
                    )));
                }
            }
        }
        Ok(())
    }

    fn arguments(
        &self,
        field: &QueryField,
        known: &FieldType,
        used: &mut HashSet<String>,
    ) -> Result<(), Error> {
        for (name, literal) in &field.arguments {
            let Some(argument) = known.arguments.iter().find(|argument| argument.name == *name) else {
                return Err(Error::validation(format!(
                    "Unknown argument \"{name}\" on field \"{}\".",
                    field.name
                )));
            };
            self.literal(literal, &argument.kind, used)?;
        }
        for argument in &known.arguments {
            let given = field.arguments.iter().any(|(name, _)| *name == argument.name);
            if !given && matches!(argument.kind, Type::NonNullType(_)) {
                return Err(Error::validation(format!(
                    "Field \"{}\" argument \"{}\" of type \"{}\" is required, but it was not provided.",
                    field.name, argument.name, argument.kind
                )));
            }
        }
        Ok(())
    }

    fn literal(
        &self,
        literal: &Literal<'static, String>,
        kind: &Kind,
        used: &mut HashSet<String>,
    ) -> Result<(), Error> {
        match literal {
            Literal::Variable(name) => {
                used.insert(name.clone());
                self.variable(name, kind)
            }
            Literal::Object(members) => {
                let Some(fields) = self.schema.inputs.get(named(kind)) else {
                    return Err(Error::validation(format!("Expected value of type \"{kind}\".")));
                };
                members.iter().try_for_each(|(name, literal)| {
                    let field = fields.iter().find(|field| field.name == *name).ok_or_else(|| {
                        Error::validation(format!(
                            "Field \"{name}\" is not defined by type \"{}\".",
                            named(kind)
                        ))
                    })?;
                    self.literal(literal, &field.kind, used)
                })
            }
            Literal::List(items) => {
                items.iter().try_for_each(|item| self.literal(item, item_kind(kind), used))
            }
            _ => self.coerce(&literal_value(literal, &Map::new()), kind).map_err(Error::validation),
        }
    }

    fn variable(&self, name: &str, place: &Kind) -> Result<(), Error> {
        let Some(variable) = self.variables.iter().find(|variable| variable.name == name) else {
            return Err(Error::validation(format!("Variable \"${name}\" is not defined.")));
        };
        let sure = variable.default_value.is_some();
        if fits(&variable.var_type, place, sure) {
            return Ok(());
        }
        Err(Error::validation(format!(
            "Variable \"${name}\" of type \"{}\" used in position expecting type \"{place}\".",
            variable.var_type
        )))
    }

    /// The variables' values against their declared types.
    fn values(&self) -> Result<(), Error> {
        for variable in self.variables {
            let value = self.request.variables.get(&variable.name);
            let required =
                matches!(variable.var_type, Type::NonNullType(_)) && variable.default_value.is_none();
            match value {
                None if required => {
                    return Err(Error::input(format!(
                        "Variable \"${}\" of required type \"{}\" was not provided.",
                        variable.name, variable.var_type
                    )));
                }
                None => {}
                Some(value) => self.coerce(value, &variable.var_type).map_err(|problem| {
                    Error::input(format!("Variable \"${}\" got invalid value; {problem}", variable.name))
                })?,
            }
        }
        Ok(())
    }

    fn coerce(&self, value: &Value, kind: &Kind) -> Result<(), String> {
        match (kind, value) {
            (Type::NonNullType(_), Value::Null) => {
                Err(format!("Expected non-nullable type \"{kind}\" not to be null."))
            }
            (Type::NonNullType(inner), _) => self.coerce(value, inner),
            (_, Value::Null) => Ok(()),
            (Type::ListType(inner), Value::Array(items)) => {
                items.iter().try_for_each(|item| self.coerce(item, inner))
            }
            // A single value stands for a list of one.
            (Type::ListType(inner), _) => self.coerce(value, inner),
            (Type::NamedType(name), _) => self.coerce_named(value, name),
        }
    }

    fn coerce_named(&self, value: &Value, name: &str) -> Result<(), String> {
        if let Some(fields) = self.schema.inputs.get(name) {
            return self.coerce_input(value, name, fields);
        }
        let right = match name {
            "String" => value.is_string(),
            "ID" => value.is_string() || value.is_i64() || value.is_u64(),
            "Boolean" => value.is_boolean(),
            "Int" => value.as_i64().is_some_and(|number| i32::try_from(number).is_ok()),
            "Float" => value.is_number(),
            "DateTime" => {
                value.as_str().is_some_and(|text| chrono::DateTime::parse_from_rfc3339(text).is_ok())
            }
            _ => self.schema.enums.get(name).is_some_and(|values| values.iter().any(|known| value == known)),
        };
        if right { Ok(()) } else { Err(format!("{name} cannot represent value: {value}")) }
    }

    fn coerce_input(&self, value: &Value, name: &str, fields: &[Argument]) -> Result<(), String> {
        let Some(members) = value.as_object() else {
            return Err(format!("Expected type \"{name}\" to be an object."));
        };
        if let Some(unknown) = members.keys().find(|member| fields.iter().all(|field| field.name != **member))
        {
            return Err(format!("Field \"{unknown}\" is not defined by type \"{name}\"."));
        }
        fields.iter().try_for_each(|field| match members.get(&field.name) {
            Some(member) => self.coerce(member, &field.kind),
            None if matches!(field.kind, Type::NonNullType(_)) => {
                Err(format!("Field \"{}\" of required type \"{}\" was not provided.", field.name, field.kind))
            }
            None => Ok(()),
        })
    }
}

/// Whether a variable of this type may stand in a place of that type.
fn fits(variable: &Kind, place: &Kind, sure: bool) -> bool {
    match (variable, place) {
        (Type::NonNullType(variable), Type::NonNullType(place))
        | (Type::ListType(variable), Type::ListType(place)) => fits(variable, place, false),
        (_, Type::NonNullType(place)) => sure && fits(variable, place, false),
        (Type::NonNullType(variable), place) => fits(variable, place, false),
        (Type::NamedType(variable), Type::NamedType(place)) => variable == place,
        _ => false,
    }
}

fn item_kind(kind: &Kind) -> &Kind {
    match kind {
        Type::NonNullType(inner) => item_kind(inner),
        Type::ListType(inner) => inner,
        Type::NamedType(_) => kind,
    }
}

fn literal_value(literal: &Literal<'static, String>, variables: &Map<String, Value>) -> Value {
    match literal {
        Literal::Variable(name) => variables.get(name).cloned().unwrap_or(Value::Null),
        Literal::Int(number) => json!(number.as_i64()),
        Literal::Float(number) => json!(number),
        Literal::String(text) | Literal::Enum(text) => json!(text),
        Literal::Boolean(value) => json!(value),
        Literal::Null => Value::Null,
        Literal::List(items) => items.iter().map(|item| literal_value(item, variables)).collect(),
        Literal::Object(members) => {
            members.iter().map(|(name, item)| (name.clone(), literal_value(item, variables))).collect()
        }
    }
}

/// Running a valid request.
struct Execution<'a> {
    schema: &'a Schema,
    request: &'a Request,
    variables: &'a [VariableDefinition<'static, String>],
    resolver: &'a dyn Resolver,
}

impl Execution<'_> {
    fn run(&self, parts: &Parts<'_>) -> Value {
        let (mut data, mut errors) = (Map::new(), Vec::new());
        for field in self.request.fields(parts.selection).unwrap_or_default() {
            let key = field.alias.as_ref().unwrap_or(&field.name);
            match self.root(parts.root, field) {
                Ok(value) => {
                    data.insert(key.clone(), value);
                }
                Err(error) => {
                    data.insert(key.clone(), Value::Null);
                    errors.push(error.json(Some(key)));
                }
            }
        }
        if errors.is_empty() { json!({"data": data}) } else { json!({"errors": errors, "data": data}) }
    }

    fn root(&self, parent: &str, field: &QueryField) -> Result<Value, Error> {
        if field.name == "__typename" {
            return Ok(json!(parent));
        }
        let value = self.resolver.root(&field.name, &self.arguments(field))?;
        self.cut(value, named(&self.schema.objects[parent][&field.name].kind), field)
    }

    fn arguments(&self, field: &QueryField) -> Map<String, Value> {
        let mut variables = self.request.variables.clone();
        for variable in self.variables {
            if let (Some(default), None) = (&variable.default_value, variables.get(&variable.name)) {
                variables.insert(variable.name.clone(), literal_value(default, &Map::new()));
            }
        }
        let given = field.arguments.iter().filter(|(_, literal)| match literal {
            // A variable without a value is an argument that was not given.
            Literal::Variable(name) => variables.contains_key(name),
            _ => true,
        });
        given.map(|(name, literal)| (name.clone(), literal_value(literal, &variables))).collect()
    }

    /// Exactly the members that were asked for.
    fn cut(&self, value: Value, kind: &str, field: &QueryField) -> Result<Value, Error> {
        match value {
            Value::Array(items) => items.into_iter().map(|item| self.cut(item, kind, field)).collect(),
            Value::Object(_) if self.schema.objects.contains_key(kind) => {
                self.cut_object(&value, kind, field)
            }
            other => Ok(other),
        }
    }

    fn cut_object(&self, value: &Value, kind: &str, field: &QueryField) -> Result<Value, Error> {
        let mut cut = Map::new();
        for inner in self.request.fields(&field.selection_set)? {
            let key = inner.alias.as_ref().unwrap_or(&inner.name).clone();
            if inner.name == "__typename" {
                cut.insert(key, json!(kind));
                continue;
            }
            let member = if kind == "WorkEditMutations" {
                self.resolver.nested(value, &inner.name, &self.arguments(inner))?
            } else {
                value[&inner.name].clone()
            };
            let member_kind = named(&self.schema.objects[kind][&inner.name].kind);
            cut.insert(key, self.cut(member, member_kind, inner)?);
        }
        Ok(Value::Object(cut))
    }
}
