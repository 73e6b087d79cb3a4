//! GraphQL as far as a client can notice: documents are parsed and validated against a schema, variables checked,
//! answers cut to what was asked for. What the fields mean is told by a [`Resolver`].

mod input;

use std::collections::{BTreeMap, HashMap, HashSet};

use axum::body::Bytes;
use graphql_parser::Pos;
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
    message: String,
    code: &'static str,
    /// More members of `extensions` than the code.
    extensions: Value,
    position: Option<Pos>,
}

impl Error {
    /// An error of the platform; those of the GraphQL engine carry no data.
    pub(super) fn new(message: impl Into<String>, code: &'static str, http_status: u16) -> Self {
        let mut data = json!({"http_status": http_status});
        if let Some(genre) = genre(code) {
            data["genre"] = json!(genre);
        }
        Self { extensions: json!({"data": data}), ..Self::engine(message, code) }
    }

    fn engine(message: impl Into<String>, code: &'static str) -> Self {
        Self { message: message.into(), code, extensions: json!({}), position: None }
    }

    pub(super) fn bad_request(message: &str) -> Self {
        Self::engine(message, "BAD_REQUEST")
    }

    fn validation(message: impl Into<String>) -> Self {
        Self::engine(message, "GRAPHQL_VALIDATION_FAILED")
    }

    fn input(message: impl Into<String>) -> Self {
        Self::engine(message, "BAD_USER_INPUT")
    }

    /// With one more member of `extensions.data`.
    pub(super) fn with(mut self, name: &str, value: Value) -> Self {
        self.extensions["data"][name] = value;
        self
    }

    fn with_extensions(self, extensions: Value) -> Self {
        Self { extensions, ..self }
    }

    fn at(self, position: Pos) -> Self {
        Self { position: Some(position), ..self }
    }

    /// HTTP 400 for what is not a GraphQL request; everything else is a 200.
    pub(super) fn status(&self) -> u16 {
        if self.code == "BAD_REQUEST" { 400 } else { 200 }
    }

    fn extensions(&self) -> Value {
        let mut extensions = self.extensions.clone();
        extensions["code"] = json!(self.code);
        extensions
    }

    /// This error as the cause that another one carries.
    pub(super) fn as_cause(&self) -> Value {
        json!({"message": self.message, "extensions": self.extensions()})
    }

    fn json(&self, path: Option<&str>) -> Value {
        let mut error = json!({"message": self.message, "name": self.code, "extensions": self.extensions()});
        if let Some(position) = self.position {
            error["locations"] = json!([{"line": position.line, "column": position.column}]);
        }
        if let Some(path) = path {
            error["path"] = json!([path]);
        }
        error
    }

    /// The answer when nothing was carried out.
    pub(super) fn answer(&self) -> Value {
        json!({"errors": [self.json(None)]})
    }
}

/// Whose fault an error is in the platform's eyes.
fn genre(code: &str) -> Option<&'static str> {
    match code {
        "RESOURCE_NOT_FOUND" => None,
        "AUTH_REQUIRED" | "AUTH_FAILURE" | "FORBIDDEN_ACCESS" | "DATABASE_ERROR" => Some("TECHNICAL"),
        _ => Some("BUSINESS"),
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
    /// In characters.
    least_length: Option<usize>,
}

#[derive(Debug)]
struct FieldType {
    arguments: Vec<Argument>,
    kind: Kind,
}

/// The schema of one release.
#[derive(Debug)]
pub(super) struct Schema {
    version: Version,
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
        let (objects, inputs, enums) = (HashMap::new(), HashMap::new(), HashMap::new());
        let mut schema = Self { version, objects, inputs, enums };
        for definition in document.into_static().definitions {
            if let schema::Definition::TypeDefinition(definition) = definition {
                schema.add(definition);
            }
        }
        schema
    }

    fn is_graphql_17(&self) -> bool {
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
    /// As it was sent.
    body: Bytes,
}

impl Request {
    /// Parses the `query`, `variables` and `operationName` of a body, which `sent` holds as it came.
    pub(super) fn parse(body: &Value, sent: Bytes) -> Result<Self, Error> {
        let Some(query) = body["query"].as_str() else {
            let needed =
                "GraphQL operations must contain a non-empty `query` or a `persistedQuery` extension.";
            return Err(Error::bad_request(needed));
        };
        if query.contains("__schema") {
            return Err(Error::new("GraphQL introspection not authorized!", "RESOURCE_NOT_FOUND", 404));
        }
        let document = graphql_parser::parse_query::<String>(query)
            .map_err(|error| syntax_error(&error.to_string()))?
            .into_static();
        let wanted = body["operationName"].as_str();
        let operation = document.definitions.iter().position(|definition| match definition {
            Definition::Operation(operation) => wanted.is_none() || name(operation) == wanted,
            Definition::Fragment(_) => false,
        });
        let operation =
            operation.ok_or_else(|| Error::engine("Unknown operation", "OPERATION_RESOLUTION_FAILURE"))?;
        let variables = body["variables"].as_object().cloned().unwrap_or_default();
        Ok(Self { document, operation, variables, body: sent })
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

/// The parser's words, such as `Parse error at 1:8`, `Unexpected end of input`, in those of the platform's.
fn syntax_error(words: &str) -> Error {
    let place = words.split_once("Parse error at ").map_or("", |(_, rest)| rest).lines().next();
    let position = place
        .and_then(|place| place.split_once(':'))
        .and_then(|(line, column)| Some(Pos { line: line.parse().ok()?, column: column.parse().ok()? }));
    let unexpected = words.lines().find_map(|line| line.strip_prefix("Unexpected "));
    let message = match unexpected {
        None | Some("end of input") => "Syntax Error: Expected Name, found <EOF>.".to_owned(),
        Some(token) => format!("Syntax Error: Unexpected {token}."),
    };
    let error = Error::engine(message, "GRAPHQL_PARSE_FAILED");
    match position {
        Some(position) => error.at(position),
        None => error,
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
    if let Err(error) = check
        .document(&parts)
        .and_then(|()| input::check(schema, parts.variables, &request.variables, &request.body))
    {
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
            let message = format!("Variable \"${}\" is never used.", unused.name);
            return Err(Error::validation(message).at(unused.position));
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
                let message = format!("Cannot query field \"{name}\" on type \"{parent}\".");
                return Err(Error::validation(message).at(field.position));
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
            _ => self
                .schema
                .coerce(&literal_value(literal, &Map::new()), kind)
                .map_err(|misfit| Error::validation(misfit.words())),
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
        let (mut data, mut errors) = (json!({}), Vec::new());
        for field in self.request.fields(parts.selection).unwrap_or_default() {
            let key = field.alias.as_ref().unwrap_or(&field.name);
            match self.root(parts.root, field) {
                Ok(value) => data[key] = value,
                Err(error) => {
                    errors.push(error.at(field.position).json(Some(key)));
                    // A field that cannot be null takes everything above it along.
                    if matches!(self.kind(parts.root, field), Type::NonNullType(_)) {
                        data = Value::Null;
                        break;
                    }
                    data[key] = Value::Null;
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
        self.cut(value, named(self.kind(parent, field)), field)
    }

    fn kind(&self, parent: &str, field: &QueryField) -> &Kind {
        &self.schema.objects[parent][&field.name].kind
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
            // JavaScript prints 500.0 as 500.
            #[expect(clippy::cast_possible_truncation, reason = "a whole number below 2^53")]
            Value::Number(number) if number.as_f64().is_some_and(|n| n.fract() == 0.0 && n.abs() < 9e15) => {
                Ok(json!(number.as_f64().unwrap_or_default() as i64))
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
            let member_kind = named(self.kind(kind, inner));
            cut.insert(key, self.cut(member, member_kind, inner)?);
        }
        Ok(Value::Object(cut))
    }
}
