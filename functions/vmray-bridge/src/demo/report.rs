//! One report of the platform as a tree, as an analyst would walk through it.

use std::collections::BTreeMap;

use serde_json::Value;
use simulators::opencti::Knowledge;

/// Most lines under one heading.
const MOST: usize = 4;

/// Widest line.
const WIDEST: usize = 110;

/// The report with the fewest objects among those that show a family and a technique; `None` without any.
pub(super) fn tree(knowledge: &Knowledge) -> Option<String> {
    let report = knowledge
        .of_type("report")
        .map(|entity| &entity.object)
        .filter(|report| {
            ["malware--", "attack-pattern--", "file--"]
                .iter()
                .all(|kind| refs(report).any(|id| id.starts_with(kind)))
        })
        .min_by_key(|report| refs(report).count())?;
    let mut tree = Tree { lines: vec![format!("{} ({})", text(report, "name"), text(report, "published"))] };
    let objects: Vec<&Value> =
        refs(report).filter_map(|id| knowledge.get(id)).map(|entity| &entity.object).collect();
    let of = |kind: &str| objects.iter().copied().filter(|object| object["type"] == kind).collect::<Vec<_>>();
    tree.branch("malware", &of("malware"), |malware| text(malware, "name").to_owned());
    tree.branch("techniques", &of("attack-pattern"), |technique| {
        format!("{} {}", text(technique, "x_mitre_id"), text(technique, "name"))
    });
    tree.branch("indicators", &of("indicator"), |indicator| {
        format!("score {:>3}  {}", indicator["x_opencti_score"], text(indicator, "pattern"))
    });
    tree.branch("countries", &of("location"), |location| text(location, "name").to_owned());
    tree.counts("relationships", &of("relationship"), "relationship_type");
    tree.counts("all objects", &objects, "type");
    tree.close();
    Some(tree.lines.join("\n"))
}

fn refs(report: &Value) -> impl Iterator<Item = &str> {
    report["object_refs"].as_array().into_iter().flatten().filter_map(Value::as_str)
}

fn text<'a>(object: &'a Value, member: &str) -> &'a str {
    object[member].as_str().unwrap_or("?")
}

struct Tree {
    lines: Vec<String>,
}

impl Tree {
    fn branch(&mut self, heading: &str, objects: &[&Value], line: impl Fn(&Value) -> String) {
        if objects.is_empty() {
            return;
        }
        self.lines.push(format!("├─ {heading}: {}", objects.len()));
        let mut lines: Vec<String> = objects.iter().map(|object| line(object)).collect();
        lines.sort();
        let hidden = lines.len().saturating_sub(MOST);
        lines.truncate(MOST);
        if hidden > 0 {
            lines.push(format!("… {hidden} more"));
        }
        let last = lines.len() - 1;
        for (place, line) in lines.into_iter().enumerate() {
            let corner = if place == last { "└─" } else { "├─" };
            let line: String = line.chars().take(WIDEST).collect();
            self.lines.push(format!("│  {corner} {line}"));
        }
    }

    fn counts(&mut self, heading: &str, objects: &[&Value], member: &str) {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for object in objects {
            *counts.entry(text(object, member)).or_default() += 1;
        }
        let counts: Vec<_> = counts.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        self.lines.push(format!("├─ {heading}: {}", counts.join(", ")));
    }

    /// The last branch gets a corner.
    fn close(&mut self) {
        if let Some(last) = self.lines.last_mut() {
            *last = last.replacen('├', "└", 1);
        }
    }
}
