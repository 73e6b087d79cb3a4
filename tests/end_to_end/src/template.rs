//! The deployment template as `CloudFormation` gets it: what it says once parameters are chosen and resources are there.
//!
//! It knows the functions of `CloudFormation` that the template uses, and fails on any other.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

/// Where the deployment stands.
const REGION: &str = "us-east-1";
const ACCOUNT: &str = "123456789012";

/// What a reference to a resource that nobody has made begins with: a name that nothing else has.
pub(crate) const NOT_MADE: &str = "not-made:";

/// A resource that was made.
#[derive(Clone, Debug, Default)]
struct Made {
    reference: String,
    attributes: BTreeMap<&'static str, String>,
}

/// A statement of a role's policy.
#[derive(Clone, Debug)]
pub struct Right {
    /// What it is called.
    pub sid: String,
    /// What it allows.
    pub actions: Vec<String>,
    /// On what.
    pub resource: String,
    /// The partition keys that it is confined to, as patterns; empty: all.
    pub keys: Vec<String>,
}

/// The template with its parameters.
#[derive(Clone, Debug)]
pub struct Template {
    document: Value,
    parameters: BTreeMap<String, Value>,
    made: BTreeMap<String, Made>,
}

impl Template {
    /// The template of the repository, with these parameters and the defaults of all others.
    #[must_use]
    pub fn new(chosen: &[(&str, &str)]) -> Self {
        let document = read();
        let mut parameters = BTreeMap::new();
        for (name, parameter) in members(&document["Parameters"]) {
            let chosen =
                chosen.iter().find(|(chosen, _)| chosen == name).map(|(_, value)| Value::from(*value));
            let value = chosen.or_else(|| parameter.get("Default").cloned());
            parameters.insert(name.clone(), value.unwrap_or_else(|| panic!("{name} must be chosen")));
        }
        for (name, _) in chosen {
            assert!(parameters.contains_key(*name), "the template has no parameter {name}");
        }
        Self { document, parameters, made: BTreeMap::new() }
    }

    /// Says that a resource is there now: what `Ref` and `Fn::GetAtt` give.
    pub fn made(&mut self, resource: &str, reference: &str, attributes: &[(&'static str, &str)]) {
        assert!(self.document["Resources"].get(resource).is_some(), "the template has no {resource}");
        let attributes = attributes.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        self.made.insert(resource.to_owned(), Made { reference: reference.to_owned(), attributes });
    }

    /// The resources of a type, those whose condition does not hold left out.
    #[must_use]
    pub fn resources(&self, kind: &str) -> Vec<String> {
        let of_kind = members(&self.document["Resources"]).filter(|(_, resource)| resource["Type"] == kind);
        let wanted = of_kind.filter(|(_, resource)| match resource["Condition"].as_str() {
            Some(condition) => self.holds(condition),
            None => true,
        });
        wanted.map(|(name, _)| name.clone()).collect()
    }

    /// The properties of a resource, with everything filled in.
    #[must_use]
    pub fn properties(&self, resource: &str) -> Value {
        let properties = self.document["Resources"][resource].get("Properties");
        let properties = properties.unwrap_or_else(|| panic!("the template has no {resource}"));
        self.resolve(properties).expect("properties are something")
    }

    /// What a role allows.
    #[must_use]
    pub fn rights(&self, role: &str) -> Vec<Right> {
        let policies = self.properties(role)["Policies"].as_array().cloned().unwrap_or_default();
        let statements = policies
            .iter()
            .flat_map(|policy| policy["PolicyDocument"]["Statement"].as_array().cloned().unwrap_or_default());
        statements.map(|statement| right(&statement)).collect()
    }

    fn holds(&self, condition: &str) -> bool {
        self.is_true(&self.document["Conditions"][condition])
    }

    fn is_true(&self, condition: &Value) -> bool {
        let (function, operand) = single(condition).unwrap_or_else(|| panic!("no condition: {condition}"));
        match function {
            "Condition" => self.holds(operand.as_str().expect("the name of a condition")),
            "Fn::Equals" => self.resolve(&operand[0]) == self.resolve(&operand[1]),
            "Fn::Not" => !self.is_true(&operand[0]),
            "Fn::And" => list(operand).iter().all(|operand| self.is_true(operand)),
            other => panic!("{other} is not known here yet"),
        }
    }

    /// `None`: `AWS::NoValue`.
    fn resolve(&self, value: &Value) -> Option<Value> {
        if let Some((function, operand)) = single(value) {
            match function {
                "Ref" => return self.reference(text(operand)),
                "Fn::GetAtt" => return Some(self.attribute(text(&operand[0]), text(&operand[1])).into()),
                "Fn::Sub" => return Some(self.substituted(operand).into()),
                "Fn::If" => {
                    let branch = if self.holds(text(&operand[0])) { 1 } else { 2 };
                    return self.resolve(&operand[branch]);
                }
                "Fn::FindInMap" => {
                    let key = |at: usize| self.resolve(&operand[at]).expect("a key of a mapping");
                    return Some(
                        self.document["Mappings"][text(&key(0))][text(&key(1))][text(&key(2))].clone(),
                    );
                }
                other => assert!(!other.starts_with("Fn::"), "{other} is not known here yet"),
            }
        }
        match value {
            Value::Object(members) => {
                let members =
                    members.iter().filter_map(|(name, value)| Some((name.clone(), self.resolve(value)?)));
                Some(Value::Object(members.collect::<Map<_, _>>()))
            }
            Value::Array(values) => Some(values.iter().filter_map(|value| self.resolve(value)).collect()),
            other => Some(other.clone()),
        }
    }

    fn reference(&self, name: &str) -> Option<Value> {
        let pseudo = match name {
            "AWS::NoValue" => return None,
            "AWS::Region" => Some(REGION),
            "AWS::AccountId" => Some(ACCOUNT),
            "AWS::Partition" => Some("aws"),
            "AWS::URLSuffix" => Some("amazonaws.com"),
            "AWS::StackName" => Some("vmray-bridge"),
            _ => None,
        };
        let made = self.made.get(name).map(|made| Value::from(made.reference.as_str()));
        let known = pseudo.map(Value::from).or_else(|| self.parameters.get(name).cloned()).or(made);
        Some(known.unwrap_or_else(|| {
            assert!(self.document["Resources"].get(name).is_some(), "the template has no {name}");
            format!("{NOT_MADE}{name}").into()
        }))
    }

    fn attribute(&self, resource: &str, attribute: &str) -> String {
        let made = self.made.get(resource).and_then(|made| made.attributes.get(attribute));
        made.cloned().unwrap_or_else(|| format!("{NOT_MADE}{resource}.{attribute}"))
    }

    /// `Fn::Sub`, of a text alone.
    fn substituted(&self, operand: &Value) -> String {
        let mut parts = text(operand).split("${");
        let mut filled = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (name, rest) = part.split_once('}').expect("a reference ends");
            let value = match name.split_once('.') {
                Some((resource, attribute)) => self.attribute(resource, attribute),
                None => plain(&self.reference(name).expect("a reference to something")),
            };
            filled += &value;
            filled += rest;
        }
        filled
    }
}

/// The template, which `infra/check snapshot` holds against its source.
fn read() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../infra/tests/template.snapshot.json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every action that any role of the template allows.
#[must_use]
pub fn allowed_actions() -> std::collections::BTreeSet<String> {
    let template = read();
    let roles = members(&template["Resources"]).filter(|(_, resource)| resource["Type"] == "AWS::IAM::Role");
    let policies = roles.flat_map(|(_, role)| list(&role["Properties"]["Policies"]));
    let statements = policies.flat_map(|policy| list(&policy["PolicyDocument"]["Statement"]));
    statements.flat_map(|statement| some_or_one(&statement["Action"])).collect()
}

fn right(statement: &Value) -> Right {
    let conditions = members(&statement["Condition"]);
    let keys = conditions.flat_map(|(operator, condition)| {
        assert!(
            matches!(operator.as_str(), "ForAllValues:StringEquals" | "ForAllValues:StringLike"),
            "{operator}"
        );
        some_or_one(&condition["dynamodb:LeadingKeys"])
    });
    Right {
        sid: text(&statement["Sid"]).to_owned(),
        actions: some_or_one(&statement["Action"]),
        resource: text(&statement["Resource"]).to_owned(),
        keys: keys.collect(),
    }
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn single(value: &Value) -> Option<(&str, &Value)> {
    let members = value.as_object().filter(|members| members.len() == 1)?;
    members.iter().next().map(|(name, value)| (name.as_str(), value))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn some_or_one(value: &Value) -> Vec<String> {
    match value {
        Value::String(one) => vec![one.clone()],
        some => list(some).iter().map(|one| text(one).to_owned()).collect(),
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

/// A number or a text, as `CloudFormation` hands it on.
pub(crate) fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
