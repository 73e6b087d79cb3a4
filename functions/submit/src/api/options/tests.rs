use proptest::prelude::*;
use serde_json::json;
use vmray::parameters::AnalysisCaching;

use super::*;

fn map(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn read_value(value: Value) -> Result<Options, Vec<Fault>> {
    read(&map(value), &Options::default(), false)
}

fn faults(value: Value) -> Vec<(String, String)> {
    let faults = read_value(value).expect_err("faults");
    faults.into_iter().map(|fault| (fault.pointer, fault.detail)).collect()
}

fn everything() -> Options {
    Options {
        comment: Some("from ThreatQ".to_owned()),
        tags: vec!["tq".to_owned(), "phishing".to_owned()],
        retention_days: Some(60),
        max_recursive_samples: Some(15),
        max_dynamic_analyses_per_sample: Some(10),
        reputation_lookups: Some(true),
        whois_lookups: Some(false),
        analysis_caching: Some(AnalysisCaching::Smart),
        shareable: false,
        force: true,
    }
}

#[test]
fn every_parameter_of_the_threatq_action_is_read_from_json_and_from_texts() {
    let typed = json!({
        "comment": "from ThreatQ", "tags": ["tq", "phishing"], "retention_days": 60,
        "max_recursive_samples": 15, "max_dynamic_analyses_per_sample": 10, "reputation_lookups": true,
        "whois_lookups": false, "analysis_caching": "smart", "shareable": false, "force": true
    });
    let texts = json!({
        "comment": " from ThreatQ ", "tags": "tq, phishing,,tq", "retention_days": "60",
        "max_recursive_samples": "15", "max_dynamic_analyses_per_sample": " 10 ",
        "reputation_lookups": "True", "whois_lookups": "no", "analysis_caching": "Smart",
        "shareable": "False", "force": 1
    });
    assert_eq!(read_value(typed), Ok(everything()));
    assert_eq!(read_value(texts), Ok(everything()));
}

#[test]
fn every_value_that_threatq_offers_is_taken() {
    for samples in [0, 1, 5, 10, 15, 20, 50] {
        assert!(read_value(json!({"max_recursive_samples": samples})).is_ok(), "{samples}");
    }
    for analyses in 0..=10 {
        assert!(read_value(json!({"max_dynamic_analyses_per_sample": analyses})).is_ok(), "{analyses}");
    }
    for days in [0, 60, 120, 180, 360] {
        assert!(read_value(json!({"retention_days": days})).is_ok(), "{days}");
    }
}

#[test]
fn what_is_not_given_is_the_deployments_and_what_is_given_goes_over_it() {
    let defaults = everything();
    for not_given in [
        json!({}),
        json!({"comment": null, "tags": null, "force": null}),
        json!({"comment": " ", "tags": ""}),
    ] {
        assert_eq!(read(&map(not_given), &defaults, false), Ok(defaults.clone()));
    }
    let given = json!({"tags": [], "comment": "mine", "force": false, "retention_days": 0});
    let expected = Options {
        comment: Some("mine".to_owned()),
        tags: Vec::new(),
        force: false,
        retention_days: Some(0),
        ..everything()
    };
    assert_eq!(read(&map(given), &defaults, false), Ok(expected));
}

#[test]
fn all_faults_are_told_at_once_where_they_are() {
    let wrong = json!({
        "comment": "bell\u{7}", "tags": ["ok", 5, "two words"], "retention_days": 30,
        "max_recursive_samples": 51, "max_dynamic_analyses_per_sample": -1, "reputation_lookups": "maybe",
        "whois_lookups": {}, "analysis_caching": "on", "force": [true]
    });
    let pointers: Vec<String> = faults(wrong).into_iter().map(|(pointer, _)| pointer).collect();
    let expected = [
        "/options/comment",
        "/options/tags/1",
        "/options/tags/2",
        "/options/retention_days",
        "/options/max_recursive_samples",
        "/options/max_dynamic_analyses_per_sample",
        "/options/reputation_lookups",
        "/options/whois_lookups",
        "/options/analysis_caching",
        "/options/force",
    ];
    assert_eq!(pointers, expected);
}

#[test]
fn an_unknown_option_is_refused_with_a_hint() {
    for (name, hint) in [
        ("retention_dais", "did you mean `retention_days`?"),
        ("Tags", "did you mean `tags`?"),
        ("Data Retention", "`retention_days`"),
        ("Submission Comment", "`comment`"),
        ("Reputation Lookups & WHOIS Lookups", "`reputation_lookups` and `whois_lookups`"),
        ("Objects Per Run", "a setting of the deployment"),
        ("reanalyze", "`force`"),
        ("priority", "expected one of comment, tags,"),
    ] {
        let mut given = Map::new();
        given.insert(name.to_owned(), Value::Null);
        let told = faults(Value::Object(given));
        assert_eq!(told[0].0, format!("/options/{name}"));
        assert!(told[0].1.contains(hint), "{name}: {}", told[0].1);
    }
}

#[test]
fn sharing_needs_the_deployments_leave() {
    assert_eq!(faults(json!({"shareable": true}))[0].0, "/options/shareable");
    let shared = Options { shareable: true, ..Options::default() };
    assert_eq!(read(&map(json!({"shareable": "yes"})), &Options::default(), true), Ok(shared.clone()));
    // A default that the deployment no longer allows is no leave.
    assert_eq!(read(&Map::new(), &shared, false), Ok(Options::default()));
    assert_eq!(read(&Map::new(), &shared, true), Ok(shared));
}

#[test]
fn tags_are_those_that_vmray_takes() {
    for tag in ["phishing", "größe", "日本", "TLP:AMBER", r"a_.!?;:+-–=/$@%^&)(#\'"] {
        assert_eq!(parameters::tag(tag), Ok(tag.to_owned()));
    }
    for tag in ["two words", "a,b", "a\"b", "<x>", "", "a\u{a0}b", "a\nb", &"x".repeat(256)] {
        assert!(parameters::tag(tag).is_err(), "{tag}");
    }
    let many: Vec<String> = (0..101).map(|number| format!("t{number}")).collect();
    assert!(parameters::tags(&many[..100].join(",")).is_ok());
    assert_eq!(faults(json!({"tags": many}))[0].0, "/options/tags");
}

#[test]
fn a_comment_has_an_end_and_its_line_ends_are_made_the_same() {
    assert_eq!(parameters::comment("a\r\nb\tc").as_deref(), Ok("a\nb\tc"));
    assert!(parameters::comment(&"ü".repeat(4096)).is_ok());
    assert!(parameters::comment(&"ü".repeat(4097)).is_err());
    assert!(parameters::comment("a\0").is_err());
}

#[test]
fn the_form_is_vmrays_and_always_says_that_nothing_is_shared() {
    assert_eq!(Options::default().form(), [("shareable", "false".to_owned())]);
    let form = everything().form();
    let pairs: Vec<(&str, &str)> = form.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let expected = [
        ("comment", "from ThreatQ"),
        ("tags", "tq,phishing"),
        ("retention_period", "60"),
        ("max_recursive_samples", "15"),
        ("max_dynamic_analyses_per_sample", "10"),
        ("enable_reputation", "true"),
        ("enable_whois", "false"),
        ("analysis_caching", "smart"),
        ("shareable", "false"),
    ];
    assert_eq!(pairs, expected);
}

#[test]
fn the_analysis_key_has_what_changes_the_analysis_and_nothing_else() {
    assert_eq!(Options::default().analysis_key(), "");
    let key = everything().analysis_key();
    assert_eq!(
        key,
        "max_recursive_samples=15;max_dynamic_analyses_per_sample=10;enable_reputation=true;enable_whois=false;analysis_caching=smart"
    );
    let labelled = Options {
        comment: None,
        tags: Vec::new(),
        retention_days: Some(0),
        shareable: true,
        force: false,
        ..everything()
    };
    assert_eq!(labelled.analysis_key(), key);
    let unlimited = Options { max_recursive_samples: None, ..everything() };
    assert_ne!(unlimited.analysis_key(), key);
}

#[test]
fn options_are_stored_and_read_back() {
    let stored = serde_json::to_value(everything()).expect("JSON");
    assert_eq!(stored["analysis_caching"], "smart");
    assert_eq!(serde_json::from_value::<Options>(stored).expect("options"), everything());
    assert_eq!(serde_json::from_value::<Options>(json!({})).expect("options"), Options::default());
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 4, |inner| prop::collection::vec(inner, 0..4).prop_map(Value::from))
}

proptest! {
    #[test]
    fn options_never_panic_and_point_below_options(
        values in prop::collection::vec((prop::sample::select(&NAMES[..]), any_json()), 0..10),
        unknown in prop::option::of(".{0,12}"),
    ) {
        let mut given: Map<String, Value> =
            values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        given.extend(unknown.map(|name| (name, Value::Null)));
        match read(&given, &Options::default(), false) {
            Ok(options) => prop_assert!(!options.shareable),
            Err(faults) => prop_assert!(faults.iter().all(|fault| fault.pointer.starts_with("/options/"))),
        }
    }

    #[test]
    fn what_was_read_can_be_given_again(tags in prop::collection::vec(r"[\p{L}0-9_.!?;:+=/$@%^&)(#\\'-]{1,20}", 0..9)) {
        let once = read_value(json!({"tags": tags.join(",")})).expect("tags");
        prop_assert_eq!(read_value(json!({"tags": once.tags})).expect("tags"), once);
    }
}
