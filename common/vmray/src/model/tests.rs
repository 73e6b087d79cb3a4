//! The border to VMRay: every awkward answer that a server is known to give, and some that none should.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn read<T: de::DeserializeOwned>(value: &Value) -> serde_json::Result<T> {
    serde_json::from_str(&value.to_string())
}

fn submission(value: &Value) -> Submission {
    read(value).unwrap()
}

fn date(text: &str) -> Option<String> {
    parse_date(text).map(|date| date.to_rfc3339())
}

#[test]
fn dates_without_a_zone_are_utc() {
    for text in [
        "2026-01-02T03:04:05",
        "2026-01-02 03:04:05",
        "2026-01-02T03:04:05Z",
        "2026-01-02T05:04:05+02:00",
        "2026-01-02T05:04:05+0200",
        " 2026-01-02T03:04:05 ",
    ] {
        assert_eq!(date(text).as_deref(), Some("2026-01-02T03:04:05+00:00"), "{text}");
    }
    assert_eq!(date("2019-04-25T20:53:07.719000").as_deref(), Some("2019-04-25T20:53:07.719+00:00"));
    assert_eq!(date("2026-01-02").as_deref(), Some("2026-01-02T00:00:00+00:00"));
    for text in ["", "2024-02-03 14:12 (UTC+1)", "now", "2026-13-01T00:00:00"] {
        assert_eq!(date(text), None, "{text}");
    }
}

#[test]
fn numbers_may_be_strings_and_strings_numbers() {
    let row =
        submission(&json!({"submission_id": "12", "submission_sample_id": "7", "submission_score": "100",
        "submission_finished": "true", "submission_status": 5}));
    assert_eq!((row.id, row.sample_id, row.score), (SubmissionId(12), Some(SampleId(7)), Some(100)));
    assert!(row.finished);
    assert_eq!(row.status.as_deref(), Some("5"));
}

#[test]
fn only_the_id_of_a_submission_is_required() {
    let bare = submission(&json!({"submission_id": 1}));
    assert!(!bare.finished && bare.verdict.is_none() && bare.finish_time.is_none());
    for wrong in [
        json!({}),
        json!({"submission_id": null}),
        json!({"submission_id": -1}),
        json!({"submission_id": "x"}),
        json!([]),
    ] {
        assert!(read::<Submission>(&wrong).is_err(), "{wrong}");
    }
}

#[test]
fn null_and_absent_are_the_same_and_garbage_is_absent() {
    let names = [
        "submission_sample_id",
        "submission_finished",
        "submission_status",
        "submission_verdict",
        "submission_severity",
        "submission_score",
        "submission_created",
        "submission_finish_time",
        "submission_webif_url",
        "submission_used_cache",
    ];
    let bare = submission(&json!({"submission_id": 1}));
    for garbage in [Value::Null, json!({"a": [1]}), json!([{"b": 2}])] {
        let mut document = json!({"submission_id": 1});
        for name in names {
            document[name] = garbage.clone();
        }
        assert_eq!(submission(&document), bare, "{garbage}");
    }
}

#[test]
fn old_servers_have_severities_instead_of_verdicts() {
    let verdict = |value: Value| submission(&value).verdict;
    let cases = [
        ("malicious", Verdict::Malicious),
        ("Blacklisted", Verdict::Malicious),
        ("suspicious", Verdict::Suspicious),
        ("not_suspicious", Verdict::Clean),
        ("whitelisted", Verdict::Clean),
        ("unknown", Verdict::NotAvailable),
    ];
    for (severity, expected) in cases {
        assert_eq!(verdict(json!({"submission_id": 1, "submission_severity": severity})), Some(expected));
    }
    for (score, expected) in
        [(0, Verdict::Clean), (24, Verdict::Clean), (25, Verdict::Suspicious), (75, Verdict::Malicious)]
    {
        assert_eq!(verdict(json!({"submission_id": 1, "submission_score": score})), Some(expected));
    }
    // A server that knows verdicts and has none is not asked again.
    let none = json!({"submission_id": 1, "submission_verdict": null, "submission_severity": "malicious"});
    assert_eq!(verdict(none), None);
    let known =
        json!({"submission_id": 1, "submission_verdict": "CLEAN", "submission_severity": "malicious"});
    assert_eq!(verdict(known), Some(Verdict::Clean));
}

#[test]
fn a_submission_survives_being_written_and_read() {
    let row =
        submission(&json!({"submission_id": 1, "submission_sample_id": 2, "submission_verdict": "malicious",
        "submission_finished": true, "submission_score": 90, "submission_created": "2026-01-02T03:04:05",
        "submission_finish_time": "2026-01-02T03:14:05", "submission_webif_url": "https://v.test/1"}));
    let written = serde_json::to_string(&row).unwrap();
    assert_eq!(serde_json::from_str::<Submission>(&written).unwrap(), row);
}

#[test]
fn rows_of_the_feed_are_small() {
    assert!(size_of::<Submission>() <= 136, "{}", size_of::<Submission>());
}

#[test]
fn a_sample_has_relatives_in_lists_and_in_relations() {
    let sample: Sample = read(&json!({"sample_id": 5, "sample_child_sample_ids": [9, "7", null, 5], "sample_parent_sample_ids": null,
        "sample_child_relations": [{"relation_child_sample_id": 8, "relation_parent_sample_id": 5, "relation_type": "Dropped File",
            "relation_child_sample_verdict": "clean"}, "garbage"],
        "sample_parent_relations": [{"relation_parent_sample_id": 2}], "sample_child_relations_truncated": true,
        "sample_threat_names": null, "sample_classifications": ["Spyware", 7, null]}))
    .unwrap();
    assert_eq!(sample.all_child_ids(), [SampleId(7), SampleId(8), SampleId(9)]);
    assert_eq!(sample.all_parent_ids(), [SampleId(2)]);
    assert_eq!(sample.child_relations[0].child_verdict, Some(Verdict::Clean));
    assert!(sample.child_relations_truncated && !sample.parent_relations_truncated);
    assert_eq!(sample.classifications, ["Spyware", "7"]);
    assert!(sample.threat_names.is_empty());
}

#[test]
fn urls_are_samples_of_their_own_kind() {
    let is_url = |value: Value| read::<Sample>(&value).unwrap().is_url();
    assert!(is_url(
        json!({"sample_id": 1, "sample_type": "URL", "sample_url": "http://a.test", "sample_filename": "sample.url"})
    ));
    assert!(is_url(json!({"sample_id": 1, "sample_url": "http://a.test"})));
    assert!(!is_url(json!({"sample_id": 1, "sample_type": "Word Document", "sample_url": null})));
    for without in [json!(null), json!(""), json!(" \u{feff}")] {
        assert!(!is_url(json!({"sample_id": 1, "sample_type": "URL", "sample_url": without})));
    }
    assert!(!is_url(json!({"sample_id": 1})));
}

fn iocs(lists: &Value) -> serde_json::Result<Aggregated<Iocs>> {
    read(&json!({"status": "finished", "iocs": lists}))
}

#[test]
fn one_malformed_entry_does_not_cost_the_others() {
    let answer = iocs(&json!({
        "domains": [{"domain": "a.test", "ioc": true}, 5, null, {"domain": "b.test", "ip_addresses": "1.2.3.4"}, {"domain": "c.test"}],
        "urls": null,
    }))
    .unwrap();
    let domains: Vec<_> = answer.data.domains.iter().filter_map(|ioc| ioc.domain.as_deref()).collect();
    assert_eq!(domains, ["a.test", "c.test"]);
    assert_eq!(answer.data.malformed, 3);
    assert!(answer.is_finished());
}

#[test]
fn an_answer_of_another_shape_is_an_error() {
    assert!(iocs(&json!({"domains": {"domain": "a.test"}})).is_err());
    assert!(iocs(&json!({"files": "none"})).is_err());
    assert!(iocs(&json!([])).is_err());
    for wrong in [json!([]), json!({}), json!({"status": "finished"}), json!("x"), json!(null)] {
        assert!(read::<Aggregated<Iocs>>(&wrong).is_err(), "{wrong}");
        assert!(read::<Aggregated<Entries<ThreatIndicator>>>(&wrong).is_err(), "{wrong}");
    }
}

#[test]
fn what_is_not_aggregated_yet_is_not_finished() {
    let waiting: Aggregated<Iocs> = read(&json!({"status": "waiting"})).unwrap();
    assert!(!waiting.is_finished());
    let old: Aggregated<Entries<MitreTechnique>> = read(&json!({"mitre_attack_techniques": null})).unwrap();
    assert!(old.is_finished() && old.data.is_empty());
}

#[test]
fn countries_of_addresses_are_read_from_both_spellings() {
    let answer = iocs(&json!({"ips": [
        {"ip_address": "1.2.3.4", "country": "Netherlands", "country_code": "NL"},
        {"ip_address": "1.2.3.5", "countries": ["Germany"], "country_codes": ["DE"]},
    ]}))
    .unwrap();
    let countries: Vec<_> =
        answer.data.ips.iter().map(|ip| (&ip.countries[..], &ip.country_codes[..])).collect();
    assert_eq!(
        countries,
        [
            (&["Netherlands".to_owned()][..], &["NL".to_owned()][..]),
            (&["Germany".to_owned()][..], &["DE".to_owned()][..]),
        ]
    );
}

#[test]
fn the_sender_of_an_email_address_is_a_flag() {
    let answer = iocs(&json!({
        "emails": [{"sender": "Alice <a@b.test>", "verdict": null, "severity": "malicious"}],
        "email_addresses": [{"email_address": "a@b.test", "sender": true, "recipient": false}],
    }))
    .unwrap();
    assert_eq!(answer.data.emails[0].sender.as_deref(), Some("Alice <a@b.test>"));
    assert_eq!(answer.data.emails[0].core.verdict, None);
    assert_eq!(answer.data.email_addresses[0].email_address.as_deref(), Some("a@b.test"));
    assert_eq!(answer.data.malformed, 0);
}

#[test]
fn an_answer_can_come_through_a_json_value() {
    let value = json!({"status": "finished", "iocs": {"urls": [{"url": "http://a.test"}, 1]}});
    let answer: Aggregated<Iocs> = serde_json::from_value(value).unwrap();
    assert_eq!((answer.data.urls.len(), answer.data.malformed), (1, 1));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z_]{1,8}", inner, 0..4).prop_map(Value::from_iter),
        ]
    })
}

proptest! {
    #[test]
    fn scalars_of_a_submission_may_be_anything(value in any_json()) {
        let document = json!({"submission_id": 3, "submission_verdict": value, "submission_score": value,
            "submission_created": value, "submission_webif_url": value, "submission_sample_id": value});
        prop_assert_eq!(submission(&document).id, SubmissionId(3));
    }

    #[test]
    fn entries_of_a_list_may_be_anything(entries in prop::collection::vec(any_json(), 0..8)) {
        let count = entries.len();
        let answer = iocs(&json!({"files": entries})).unwrap();
        prop_assert_eq!(answer.data.files.len() + answer.data.malformed as usize, count);
    }
}
