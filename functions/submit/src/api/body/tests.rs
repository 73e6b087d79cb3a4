use std::fmt::Write;

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;

const LIMITS: BodyLimits = BodyLimits { max_urls: 1000, max_bytes: 4 << 20, max_depth: 32 };

const JSON: Option<&str> = Some("application/json");

fn read(body: &Json) -> Result<RequestBody, BodyError> {
    parse(JSON, body.to_string().as_bytes(), LIMITS)
}

fn inputs(body: &Json) -> Vec<Input> {
    read(body).unwrap_or_else(|error| panic!("{body}: {error}")).inputs
}

fn url(url: &str) -> Input {
    Input { id: None, value: Value::Url(url.to_owned()) }
}

fn named(id: impl Into<Json>, url: &str) -> Input {
    Input { id: Some(id_of(id)), value: Value::Url(url.to_owned()) }
}

fn other(id: impl Into<Json>, what: &str) -> Input {
    Input { id: Some(id_of(id)), value: Value::NotAUrl(what.to_owned()) }
}

fn id_of(id: impl Into<Json>) -> Id {
    serde_json::from_value(id.into()).expect("an id")
}

fn faults(body: &Json) -> Vec<(String, String)> {
    match read(body) {
        Err(BodyError::Wrong(faults)) => {
            faults.into_iter().map(|fault| (fault.pointer, fault.detail)).collect()
        }
        read => panic!("{body}: {read:?}"),
    }
}

fn pointers(body: &Json) -> Vec<String> {
    faults(body).into_iter().map(|(pointer, _)| pointer).collect()
}

#[test]
fn our_own_shape_takes_texts_and_objects() {
    let body = json!({
        "urls": ["http://a.test/", {"id": "42", "value": "b.test"}, {"id": 7, "url": "c.test"}, {"value": "d.test"}],
        "options": {"tags": "x", "force": "True"}
    });
    let read = read(&body).expect("a body");
    assert_eq!(
        read.inputs,
        [url("http://a.test/"), named("42", "b.test"), named(7, "c.test"), url("d.test")]
    );
    assert_eq!(Json::Object(read.options), json!({"tags": "x", "force": "True"}));
}

#[test]
fn xsoar_joins_urls_with_commas() {
    let body = json!({"urls": "http://a.test/1,2, http://b.test/,c.test"});
    assert_eq!(inputs(&body), [url("http://a.test/1,2"), url("http://b.test/,c.test")]);
}

#[test]
fn n8n_and_sentinel_send_one_url_a_call() {
    assert_eq!(inputs(&json!({"url": "http://a.test/,b.test"})), [url("http://a.test/,b.test")]);
    let body = json!({"url": "a.test", "id": 3, "options": null});
    assert_eq!(read(&body), Ok(RequestBody { inputs: vec![named(3, "a.test")], options: Map::new() }));
    assert_eq!(inputs(&json!({"value": "a.test", "id": "x"})), [named("x", "a.test")]);
}

#[test]
fn a_bare_list_is_taken() {
    assert_eq!(inputs(&json!(["a.test", {"value": "b.test"}])), [url("a.test"), url("b.test")]);
}

#[test]
fn threatq_indicators_are_told_apart_by_their_type() {
    let indicators = json!([
        {"id": 5, "value": "http://a.test/", "type": "URL", "type_id": 30, "status": {"name": "Active"},
         "score": 7, "attributes": [{"name": "TLP", "value": "AMBER"}], "sources": [{"name": "mail"}]},
        {"id": 6, "value": "a.test", "type": "FQDN"},
        {"id": 7, "value": "http://b.test/", "type": {"id": 30, "name": "URL"}, "tlp": null},
        {"id": 8, "value": "http://c.test/", "type_id": 30, "class": "network"},
        {"id": 9, "value": "http://d.test/", "type": 30}
    ]);
    let expected = [
        named(5, "http://a.test/"),
        other(6, "an object of type `FQDN`"),
        named(7, "http://b.test/"),
        named(8, "http://c.test/"),
        named(9, "http://d.test/"),
    ];
    assert_eq!(inputs(&indicators), expected);
    assert_eq!(inputs(&json!({"indicators": indicators})), expected);
    assert_eq!(inputs(&json!({"urls": indicators})), expected);
    assert_eq!(inputs(&indicators[0]), expected[..1]);
}

#[test]
fn a_stix_bundle_gives_its_urls_and_names_what_is_none() {
    let url_id = "url--00000000-0000-4000-8000-000000000001";
    let objects = json!([
        {"type": "identity", "id": "identity--1", "name": "us"},
        {"type": "marking-definition", "id": "marking-definition--1"},
        {"type": "url", "spec_version": "2.1", "id": url_id, "value": "http://a.test/"},
        {"type": "indicator", "id": "indicator--1", "pattern_type": "stix",
         "pattern": "[url:value = 'http://b.test/it\\'s'] OR [url:value = 'http://c.test/']"},
        {"type": "indicator", "id": "indicator--2", "pattern": "[file:name = 'x']"},
        {"type": "indicator", "id": "indicator--3", "pattern_type": "yara", "pattern": "rule x {}"},
        {"type": "file", "id": "file--1", "name": "x.exe"},
        {"type": "relationship", "id": "relationship--1"},
        {"type": "report", "id": "report--1", "name": "all of it"}
    ]);
    let expected = [
        named(url_id, "http://a.test/"),
        named("indicator--1", "http://b.test/it's"),
        named("indicator--1", "http://c.test/"),
        other("indicator--2", "an indicator without a URL in its pattern"),
        other("indicator--3", "an indicator with a pattern in `yara`"),
        other("file--1", "an object of type `file`"),
    ];
    let bundle = json!({"type": "bundle", "id": "bundle--1", "objects": objects});
    assert_eq!(inputs(&bundle), expected);
    assert_eq!(inputs(&json!({"objects": objects, "options": {}})), expected);
    assert_eq!(inputs(&objects), expected);
    assert_eq!(inputs(&objects[3]), expected[1..3]);
    let body = parse(Some("application/stix+json;version=2.1"), bundle.to_string().as_bytes(), LIMITS);
    assert_eq!(body.expect("a bundle").inputs, expected);
}

#[test]
fn opencti_notifications_are_read_at_their_instances() {
    let data = json!([
        {"notification_id": "n", "type": "create", "message": "..",
         "instance": {"type": "url", "id": "url--1", "value": "http://a.test/", "extensions": {}}},
        {"type": "update", "instance": {"entity_type": "Url", "id": "2", "observable_value": "http://b.test/"}},
        {"type": "update", "instance":
            {"entity_type": "Indicator", "id": "3", "pattern_type": "stix", "pattern": "[url:value = 'c.test']"}},
        {"type": "create", "instance": {"type": "domain-name", "id": "domain-name--1", "value": "a.test"}},
        {"type": "create", "instance": {"type": "relationship", "id": "relationship--1"}},
        {"type": "delete", "instance": {"type": "url", "id": "url--2", "value": "http://gone.test/"}}
    ]);
    let expected = [
        named("url--1", "http://a.test/"),
        named("2", "http://b.test/"),
        named("3", "c.test"),
        other("domain-name--1", "an object of type `domain-name`"),
    ];
    let template =
        json!({"data": data, "notification_content": [], "settings": {}, "options": {"tags": "octi"}});
    assert_eq!(inputs(&template), expected);
    assert_eq!(read(&template).expect("a body").options.len(), 1);
    assert_eq!(inputs(&data), expected);
    assert_eq!(inputs(&data[0]), expected[..1]);
}

#[test]
fn shuffle_sends_json_without_a_content_type() {
    let body = br#" {"urls": ["a.test"], "options": {"force": "true"}} "#;
    for content_type in [
        None,
        Some(""),
        Some("*/*"),
        Some("application/octet-stream"),
        Some("text/plain; charset=utf-8"),
        Some("application/x-www-form-urlencoded"),
        Some("Application/JSON; charset=UTF-8"),
        Some("text/csv"),
    ] {
        let read =
            parse(content_type, body, LIMITS).unwrap_or_else(|error| panic!("{content_type:?}: {error}"));
        assert_eq!(read.inputs, [url("a.test")], "{content_type:?}");
        assert_eq!(read.options.len(), 1);
    }
}

#[test]
fn text_is_one_url_a_line_with_a_content_type_or_without() {
    let body = "\u{feff}http://a.test/\r\n# a comment\r\n\r\nhxxp://b[.]test/1,2\r\n";
    for content_type in [None, Some("text/plain"), Some("text/csv; header=absent")] {
        let read = parse(content_type, body.as_bytes(), LIMITS).expect("a list");
        assert_eq!(read.inputs, [url("http://a.test/"), url("hxxp://b[.]test/1,2")]);
    }
    let defanged = parse(Some("text/plain"), b"[http://a.test]\n", LIMITS).expect("a list");
    assert_eq!(defanged.inputs, [url("[http://a.test]")]);
    let prose = parse(Some("text/plain"), b"hello world", LIMITS).expect("the gate will refuse it");
    assert_eq!(prose.inputs, [url("hello world")]);
}

#[test]
fn a_form_has_fields_named_url_and_urls() {
    let form = Some("application/x-www-form-urlencoded");
    let read = parse(form, b"url=http%3A%2F%2Fa.test%2F%3Fx%3D1%262&urls=b.test,c.test&url=d.test", LIMITS);
    let expected = [url("http://a.test/?x=1&2"), url("b.test"), url("c.test"), url("d.test")];
    assert_eq!(read.expect("a form").inputs, expected);
    let cut = parse(form, b"url=http://a.test/?x=1&y=2", LIMITS);
    assert!(matches!(&cut, Err(BodyError::Wrong(faults)) if faults[0].pointer == "/y"), "{cut:?}");
    assert_eq!(
        parse(form, b"http://a.test/?x=1", LIMITS),
        Err(BodyError::UnsupportedMediaType("application/x-www-form-urlencoded".to_owned()))
    );
}

#[test]
fn what_is_not_read_is_refused_by_its_content_type() {
    for content_type in ["multipart/form-data; boundary=x", "application/xml", "text/html", "image/png"] {
        let read = parse(Some(content_type), b"[\"a.test\"]", LIMITS);
        let essence = content_type.split(';').next().expect("a type").to_owned();
        assert_eq!(read, Err(BodyError::UnsupportedMediaType(essence)));
    }
}

#[test]
fn what_is_not_json_is_told_with_its_place() {
    let not_json = |line, column| Err(BodyError::NotJson { line, column });
    for (content_type, body, expected) in [
        (None, "{'urls': ['a.test']}", not_json(1, 2)),
        (None, "{\"urls\": [\"a.test\"],\n \"options\": {\"force\": True}}", not_json(2, 23)),
        (Some("text/plain"), "{\"urls\": [\"a.test\"}", not_json(1, 19)),
        (Some("text/plain"), "[\"a.test\", \"b.test\"", not_json(1, 19)),
        (JSON, "http://a.test/", not_json(1, 1)),
        (JSON, "[1] 2", not_json(1, 5)),
        (None, "hello world", not_json(1, 1)),
        (None, "True", not_json(1, 1)),
    ] {
        assert_eq!(parse(content_type, body.as_bytes(), LIMITS), expected, "{body}");
    }
}

#[test]
fn limits_are_kept() {
    assert_eq!(parse(JSON, b"", LIMITS), Err(BodyError::Empty));
    assert_eq!(parse(None, "\u{feff} \r\n".as_bytes(), LIMITS), Err(BodyError::Empty));
    assert_eq!(parse(JSON, b"[\"\xff\"]", LIMITS), Err(BodyError::InvalidUtf8 { at: 2 }));
    let small = BodyLimits { max_urls: 2, max_bytes: 40, max_depth: 3 };
    let many = Err(BodyError::TooManyUrls { limit: 2 });
    assert!(parse(JSON, br#"["a","b"]"#, small).is_ok());
    assert_eq!(parse(JSON, br#"["a","b","c"]"#, small), many);
    assert_eq!(parse(JSON, br#"{"urls": "a.test,b.test,c.test"}"#, small), many);
    assert_eq!(parse(None, b"a.test\nb.test\nc.test", small), many);
    assert_eq!(parse(Some("application/x-www-form-urlencoded"), b"url=a&url=b&url=c", small), many);
    assert_eq!(parse(JSON, &[b' '; 41], small), Err(BodyError::TooLarge { limit: 40 }));
    assert_eq!(parse(JSON, b"[[[[]]]]", small), Err(BodyError::TooDeep { limit: 3 }));
    assert!(matches!(parse(JSON, b"[[[\"[\"]]]", small), Err(BodyError::Wrong(_))));
}

#[test]
fn depth_is_no_way_to_the_end_of_the_stack() {
    let deep = "[".repeat(4 << 20);
    assert_eq!(parse(None, deep.as_bytes(), LIMITS), Err(BodyError::TooDeep { limit: 32 }));
}

#[test]
fn structure_alone_does_not_count_and_is_nothing_to_answer() {
    let one = BodyLimits { max_urls: 1, ..LIMITS };
    let body = json!([{"type": "report"}, {"type": "identity"}, "a.test", {"type": "note"}]).to_string();
    assert_eq!(parse(JSON, body.as_bytes(), one).expect("a body").inputs, [url("a.test")]);
    for (body, place) in [
        (json!({"type": "bundle", "objects": [{"type": "report"}]}), "/objects"),
        (json!({"urls": []}), "/urls"),
        (json!({"urls": " , "}), "/urls"),
        (json!([]), ""),
        (json!({"data": []}), "/data"),
        (json!({"type": "report"}), ""),
    ] {
        assert_eq!(pointers(&body), [place], "{body}");
        assert!(faults(&body)[0].1.contains("no URL"), "{body}");
    }
    let comments = parse(Some("text/csv"), b"url\n# nothing\n", LIMITS);
    assert!(matches!(comments, Err(BodyError::Wrong(_))));
}

#[test]
fn wrong_types_are_told_where_they_are_all_at_once() {
    let body = json!({
        "urls": ["a.test", 5, null, {"value": 7}, {"id": true, "value": "b.test"}, {"id": 1}, ["c.test"],
                 {"id": 1.5, "value": "d.test"}, {"id": "x".repeat(257), "value": "e.test"},
                 {"instance": 5}, {"type": "indicator", "pattern": []}, {"type": "url"}],
        "options": []
    });
    let expected = [
        "/options",
        "/urls/1",
        "/urls/2",
        "/urls/3/value",
        "/urls/4/id",
        "/urls/5",
        "/urls/6",
        "/urls/7/id",
        "/urls/8/id",
        "/urls/9/instance",
        "/urls/10/pattern",
        "/urls/11",
    ];
    assert_eq!(pointers(&body), expected);
    let many = faults(&json!(vec![0; 50]));
    assert_eq!(many.len(), 21);
    assert_eq!(many[20], (String::new(), "and 30 more".to_owned()));
    assert_eq!(
        pointers(&json!({"data": [{"instance": {"type": "url", "value": 5}}]})),
        ["/data/0/instance/value"]
    );
    assert_eq!(
        pointers(&json!({"data": [{"instance": {"instance": {"value": "a.test"}}}]})),
        ["/data/0/instance"]
    );
    assert_eq!(pointers(&json!({"urls": 5})), ["/urls"]);
    assert_eq!(pointers(&json!({"objects": "a.test"})), ["/objects"]);
    assert_eq!(pointers(&json!({"url": ["a.test"]})), ["/url"]);
    assert_eq!(pointers(&json!(5)), [""]);
}

#[test]
fn a_member_that_is_not_known_is_refused_by_name() {
    for (body, pointer, hint) in [
        (json!({"urls": ["a.test"], "option": {}}), "/option", "did you mean `options`?"),
        (json!({"urls": ["a.test"], "tags": "x"}), "/tags", "belongs under `options`"),
        (json!({"url": "a.test", "force": true}), "/force", "belongs under `options`"),
        (json!({"urls": ["a.test"], "id": 5}), "/id", "expected only urls, options"),
        (json!({"urls": ["a.test"], "url": "b.test"}), "/url", "did you mean `urls`?"),
        (json!({"url": "a.test", "a/b": 1}), "/a~1b", "expected only url, id, options"),
        (json!({"URLs": ["a.test"]}), "/URLs", "did you mean `urls`?"),
        (json!({"data": [], "Options": {}}), "/Options", "did you mean `options`?"),
        (json!({}), "", "has no `urls`"),
    ] {
        let told = faults(&body);
        assert!(told[0].0 == pointer && told[0].1.contains(hint), "{body}: {told:?}");
    }
}

#[test]
fn a_member_given_twice_is_refused() {
    for body in [
        r#"{"urls": ["a.test"], "urls": ["b.test"]}"#,
        r#"[{"value": "a.test", "value": "b.test"}]"#,
        r#"{"urls": ["a.test"], "\u0075rls": []}"#,
        r#"{"urls": ["a.test"], "options": {"force": false, "force": true}}"#,
        r#"{"urls": ["a.test"], "options": {"force": true, "\u0066orce": true}}"#,
    ] {
        assert!(matches!(parse(JSON, body.as_bytes(), LIMITS), Err(BodyError::Wrong(_))), "{body}");
    }
}

#[test]
fn half_a_character_is_told_where_it_is() {
    let read = parse(JSON, br#"{"urls": ["a.test", "\ud800"]}"#, LIMITS);
    assert!(matches!(&read, Err(BodyError::Wrong(faults)) if faults[0].pointer == "/urls/1"), "{read:?}");
}

#[test]
fn an_id_is_echoed_as_it_came() {
    let ids = json!([0, -5, 18_446_744_073_709_551_615_u64, "", "007", "é".repeat(256)]);
    let entries: Vec<Json> =
        ids.as_array().expect("ids").iter().map(|id| json!({"id": id, "value": "a.test"})).collect();
    let read = inputs(&Json::from(entries));
    let echoed: Vec<Option<Id>> = read.into_iter().map(|input| input.id).collect();
    assert_eq!(serde_json::to_value(echoed).expect("JSON"), ids);
    // It would come back as another number.
    assert!(parse(JSON, br#"[{"id": 18446744073709551616, "value": "a"}]"#, LIMITS).is_err());
}

#[test]
fn a_body_with_too_many_or_too_much_at_the_top_is_refused() {
    let mut members = String::from("{\"urls\": [\"a.test\"]");
    for number in 0..300 {
        let _ = write!(members, ", \"m{number}\": 0");
    }
    members.push('}');
    let read = parse(JSON, members.as_bytes(), LIMITS);
    assert!(matches!(&read, Err(BodyError::Wrong(faults)) if faults[0].detail.contains("256")), "{read:?}");
    let body = json!({"urls": ["a.test"], "options": {"comment": "x".repeat(200_000)}});
    assert_eq!(pointers(&body), ["/options"]);
}

#[test]
fn ten_thousand_threatq_indicators_are_read() {
    let attributes = json!([{"name": "a", "value": "x".repeat(100)}, {"name": "b", "value": [{}, {}, {}]}]);
    let indicators: Vec<Json> = (0..10_000)
        .map(|id| json!({"id": id, "value": format!("http://a.test/{id}"), "type": "URL", "attributes": attributes}))
        .collect();
    let body = Json::from(indicators).to_string();
    let read =
        parse(None, body.as_bytes(), BodyLimits { max_urls: 10_000, ..LIMITS }).expect("a body").inputs;
    assert_eq!(read.len(), 10_000);
    assert_eq!(read[9_999], named(9_999, "http://a.test/9999"));
}

fn any_json() -> impl Strategy<Value = Json> {
    let name = prop_oneof![
        prop::sample::select(vec![
            "urls",
            "url",
            "id",
            "value",
            "options",
            "type",
            "objects",
            "data",
            "instance",
            "pattern",
            "entity_type",
            "indicators",
            "pattern_type",
            "observable_value",
            "name",
        ])
        .prop_map(str::to_owned),
        ".{0,6}",
    ];
    let word =
        prop::sample::select(vec!["bundle", "url", "indicator", "report", "[url:value = 'a']", "a.test"]);
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i32>().prop_map(Json::from),
        any::<f64>().prop_map(Json::from),
        word.prop_map(Json::from),
        ".{0,8}".prop_map(Json::from),
    ];
    leaf.prop_recursive(5, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Json::from),
            prop::collection::vec((name.clone(), inner), 0..6)
                .prop_map(|members| Json::Object(members.into_iter().collect())),
        ]
    })
}

/// Every shape of JSON that carries a list of URLs.
fn shapes(urls: &[String]) -> Vec<Json> {
    let each = |entry: fn(&String) -> Json| Json::from(urls.iter().map(entry).collect::<Vec<_>>());
    let texts = each(|url| json!(url));
    let threatq = each(|url| json!({"id": 1, "value": url, "type": "URL", "attributes": []}));
    let stix = each(|url| json!({"type": "url", "id": "url--1", "value": url}));
    let indicators = each(|url| {
        let literal = url.replace('\\', "\\\\").replace('\'', "\\'");
        json!({"type": "indicator", "pattern_type": "stix", "pattern": format!("[url:value = '{literal}']")})
    });
    let opencti = each(|url| json!({"type": "create", "instance": {"type": "url", "value": url}}));
    vec![
        json!({"urls": texts, "options": {}}),
        json!({"urls": each(|url| json!({"id": "x", "url": url}))}),
        json!({"type": "bundle", "objects": stix}),
        json!({"type": "bundle", "objects": indicators}),
        json!({"data": opencti}),
        json!({"indicators": threatq}),
        texts,
        threatq,
        stix,
        opencti,
    ]
}

proptest! {
    #[test]
    fn each_shape_gives_back_exactly_the_urls_that_it_carries(urls in prop::collection::vec(".{0,30}", 1..10)) {
        for body in shapes(&urls) {
            let read: Vec<Value> = inputs(&body).into_iter().map(|input| input.value).collect();
            let sent: Vec<Value> = urls.iter().cloned().map(Value::Url).collect();
            prop_assert_eq!(read, sent, "{}", body);
        }
    }

    #[test]
    fn any_json_is_read_or_refused_and_every_pointer_points_into_it(body in any_json()) {
        match read(&body) {
            Ok(read) => prop_assert!(!read.inputs.is_empty()),
            Err(BodyError::Wrong(faults)) => {
                prop_assert!(!faults.is_empty());
                for fault in faults {
                    let lists_missing = fault.pointer == "/objects" && body.get("objects").is_none();
                    prop_assert!(lists_missing || body.pointer(&fault.pointer).is_some(), "{} {:?}", body, fault);
                }
            }
            Err(error) => prop_assert!(false, "{}: {}", body, error),
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        text in r#"[\[\]{}:,"'\\a-f0-9urlsvti. \n]{0,80}"#,
        content_type in prop::sample::select(vec![
            None, JSON, Some("text/csv"), Some("application/x-www-form-urlencoded"), Some("x"),
        ]),
    ) {
        let _ = parse(content_type, &bytes, LIMITS);
        if let Ok(body) = parse(content_type, text.as_bytes(), LIMITS) {
            prop_assert!(!body.inputs.is_empty());
        }
    }

    #[test]
    fn a_body_cut_off_is_never_taken_for_a_shorter_list(urls in prop::collection::vec("[a-z.]{1,9}", 2..6), cut in 1..9_usize) {
        let body = json!({"urls": urls}).to_string();
        for content_type in [None, JSON, Some("text/plain")] {
            let read = parse(content_type, &body.as_bytes()[..body.len() - cut], LIMITS);
            let refused = matches!(read, Err(BodyError::NotJson { .. }));
            prop_assert!(refused, "{:?}", read);
        }
    }
}
