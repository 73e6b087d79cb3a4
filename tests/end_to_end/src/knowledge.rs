//! What two platforms hold, compared: one that went through faults with one of a clean run.

use std::collections::BTreeMap;

use serde_json::Value;
use simulators::opencti::Platform;

/// Members that the sample imported last, or first, decides: which one that is depends on where a run was cut off.
const OF_ONE_SAMPLE: [&str; 5] =
    ["created", "modified", "valid_from", "description", "x_opencti_description"];

/// Everything that the platform holds, by id, without what depends on the order of import.
#[must_use]
pub fn held(platform: &Platform) -> BTreeMap<String, Value> {
    let entities = platform.knowledge().entities().iter();
    entities.map(|(id, entity)| (id.clone(), settled(&entity.object))).collect()
}

fn settled(object: &Value) -> Value {
    let mut object = object.clone();
    for (name, value) in object.as_object_mut().into_iter().flatten() {
        if OF_ONE_SAMPLE.contains(&name.as_str()) {
            *value = Value::Null;
        } else if let Some(list) = value.as_array_mut() {
            // The platform unites lists in the order in which they come.
            list.sort_by_key(Value::to_string);
        }
    }
    object
}

/// Fails at the first object that only one of them holds, or that differs.
pub fn assert_same(here: &BTreeMap<String, Value>, clean: &BTreeMap<String, Value>) {
    for id in clean.keys().chain(here.keys()) {
        assert_eq!(here.get(id), clean.get(id), "{id}: here, and after a clean run");
    }
}

/// What must hold of every platform at the end of a test: nothing was refused, no reference was lost.
pub fn assert_nothing_refused(platform: &Platform) {
    let knowledge = platform.knowledge();
    assert!(knowledge.rejected().is_empty(), "the platform refused: {:?}", knowledge.rejected());
    assert_eq!(knowledge.lost_references(), [], "references to what the platform does not hold");
}
