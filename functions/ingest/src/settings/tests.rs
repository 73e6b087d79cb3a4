use std::{cell::RefCell, collections::BTreeSet};

use proptest::prelude::*;

use super::*;

const MINIMUM: [(&str, &str); 5] = [
    ("OPENCTI_URL", "https://opencti.example"),
    ("CONNECTOR_ID", "5a3c0c64-9b2e-4f0e-a1a5-1f0c3e6f1b11"),
    ("VMRAY_INITIAL_FETCH_DATE", "2025-09-09"),
    ("TABLE_NAME", "bridge"),
    ("SECRET_ARN", "arn:aws:secretsmanager:eu-central-1:1:secret:bridge"),
];

fn now() -> DateTime<Utc> {
    "2025-11-01T12:00:00Z".parse().unwrap()
}

/// Reads the minimum with `changes`; an empty text unsets.
fn read_on(host: Host, changes: &[(&str, &str)]) -> Result<(IngestSettings, Vec<Warning>), SettingsError> {
    let lookup = |name: &str| {
        let found = changes.iter().chain(&MINIMUM).find(|(variable, _)| *variable == name);
        found.map(|(_, text)| (*text).to_owned())
    };
    IngestSettings::read(&lookup, host, now())
}

fn read(changes: &[(&str, &str)]) -> IngestSettings {
    read_on(Host::Lambda, changes).unwrap().0
}

fn warnings(changes: &[(&str, &str)]) -> Vec<&'static str> {
    read_on(Host::Lambda, changes).unwrap().1.into_iter().map(|warning| warning.name).collect()
}

/// The one problem that `name` = `text` causes.
fn problem(name: &'static str, text: &str) -> String {
    let error = read_on(Host::Lambda, &[(name, text)]).expect_err(text);
    assert_eq!(error.problems.len(), 1, "{error}");
    assert_eq!(error.problems[0].name, name);
    error.problems[0].message.clone()
}

#[test]
fn the_minimum_is_enough_and_the_rest_has_defaults() {
    let (settings, warnings) = read_on(Host::Lambda, &[]).unwrap();
    assert_eq!(warnings, []);
    assert_eq!(settings.connector.name, "VMRay");
    assert_eq!(settings.connector.scope, ["not-applicable"]);
    assert!((settings.connector.queue_threshold_mb - 500.0).abs() < f64::EPSILON);
    assert_eq!(settings.log_level, tracing::Level::INFO);
    assert_eq!(settings.vmray.server.as_str(), "https://cloud.vmray.com/");
    assert_eq!(settings.vmray.timeout, Duration::from_secs(30));
    assert!(settings.vmray.verify_tls && settings.opencti.verify_tls && !settings.http.disable_proxy);
    assert_eq!(settings.opencti.compression, Compression::Gzip);
    assert_eq!(settings.feed.initial_fetch, "2025-09-09T00:00:00Z".parse::<DateTime<Utc>>().unwrap());
    assert_eq!(settings.feed.overlap, Duration::from_mins(15));
    assert_eq!(settings.feed.history, HistoryOrder::NewestFirst);
    assert_eq!(settings.run.history_queue_messages, 2000);
    assert_eq!(settings.run.concurrency, 16);
    assert_eq!(settings.run.bundle, BundleLimits::default());
    assert_eq!(settings.run.quarantine_max_attempts, 10);
    assert_eq!(
        settings.mapping,
        MappingSettings::default(),
        "what the mapping's own tests prove is the default"
    );
}

#[test]
fn every_wrong_setting_is_reported_at_once_by_name() {
    let error = read_on(
        Host::Lambda,
        &[
            ("OPENCTI_URL", ""),
            ("CONNECTOR_ID", "  "),
            ("CONNECTOR_NAME", "V"),
            ("VMRAY_INITIAL_FETCH_DATE", "yesterday"),
            ("VMRAY_VTI_COLOR", "red"),
            ("INGEST_CONCURRENCY", "65"),
            ("TABLE_NAME", ""),
            ("SECRET_ARN", ""),
        ],
    )
    .unwrap_err();
    let names: BTreeSet<_> = error.problems.iter().map(|problem| problem.name).collect();
    let expected = [
        "OPENCTI_URL",
        "CONNECTOR_ID",
        "CONNECTOR_NAME",
        "VMRAY_INITIAL_FETCH_DATE",
        "VMRAY_VTI_COLOR",
        "INGEST_CONCURRENCY",
        "TABLE_NAME",
        "SECRET_ARN",
    ];
    assert_eq!(names, expected.into_iter().collect());
    assert!(expected.iter().all(|name| error.to_string().contains(name)), "{error}");
}

#[test]
fn the_reader_asks_for_exactly_the_names_in_the_table() {
    for host in [Host::Lambda, Host::Local] {
        let asked = RefCell::new(BTreeSet::new());
        let lookup = |name: &str| {
            asked.borrow_mut().insert(name.to_owned());
            None
        };
        IngestSettings::read(&lookup, host, now()).expect_err("nothing is set");
        let documented: BTreeSet<_> =
            TABLES.iter().flat_map(|table| table.iter()).map(|setting| setting.name.to_owned()).collect();
        // On one machine the keys are variables too, and missed together with everything else.
        let keys =
            ["VMRAY_API_KEY", "OPENCTI_TOKEN"].map(str::to_owned).into_iter().filter(|_| host == Host::Local);
        assert_eq!(asked.into_inner(), documented.into_iter().chain(keys).collect(), "{host:?}");
    }
}

#[test]
fn what_the_table_says_about_unset_is_what_happens() {
    for setting in TABLES.iter().flat_map(|table| table.iter()) {
        let refused = |host| {
            read_on(host, &[(setting.name, " ")]).is_err_and(|error| error.problems[0].name == setting.name)
        };
        let expected = match setting.unset {
            Unset::Refused => (true, true),
            // On one machine the keys are then missed instead.
            Unset::RefusedOnLambda => (true, false),
            Unset::Nothing | Unset::Means(_) => (false, false),
        };
        assert_eq!((refused(Host::Lambda), refused(Host::Local)), expected, "{}", setting.name);
    }
}

#[test]
fn on_one_machine_table_and_secret_are_optional() {
    let keys = [("VMRAY_API_KEY", "k"), ("OPENCTI_TOKEN", "t"), ("SECRET_ARN", "")];
    let without_table = [keys[0], keys[1], keys[2], ("TABLE_NAME", "")];
    let (settings, _) = read_on(Host::Local, &without_table).unwrap();
    assert_eq!(settings.deployment, Deployment::Local { table_name: None, secret_arn: None });
    let (settings, _) = read_on(Host::Local, &keys).unwrap();
    assert_eq!(
        settings.deployment,
        Deployment::Local { table_name: Some("bridge".to_owned()), secret_arn: None }
    );
}

#[test]
fn without_a_secret_the_keys_are_missed_by_name() {
    let error = read_on(Host::Local, &[("SECRET_ARN", "")]).unwrap_err();
    let names: Vec<_> = error.problems.iter().map(|problem| problem.name).collect();
    assert_eq!(names, ["VMRAY_API_KEY", "OPENCTI_TOKEN"]);
}

#[test]
fn a_server_may_be_written_in_many_ways() {
    let server = |text| read(&[("VMRAY_SERVER", text)]).vmray.server.to_string();
    for text in [
        "https://vmray.example",
        "https://vmray.example/",
        "https://vmray.example/rest",
        "vmray.example",
        "https://vmray.example/rest/",
    ] {
        assert_eq!(server(text), "https://vmray.example/", "{text}");
    }
    assert_eq!(server("localhost:8080"), "https://localhost:8080/");
    assert_eq!(server("https://proxy.example/vmray/rest"), "https://proxy.example/vmray/");
    assert_eq!(server("https://proxy.example/arrest"), "https://proxy.example/arrest/");
    let opencti = read(&[("OPENCTI_URL", "https://cti.example/base/graphql")]).opencti.url;
    assert_eq!(opencti.join("graphql").unwrap().as_str(), "https://cti.example/base/graphql");
}

#[test]
fn a_wrong_server_is_refused_without_being_quoted() {
    for text in [
        "https://user:hunter2@vmray.example",
        "https://hunter2@vmray.example",
        "https://vmray.example/?key=hunter2",
        "https://vmray.example/#hunter2",
        "ftp://hunter2.example",
        "https://",
        "https://hunter2 x",
    ] {
        assert!(!problem("VMRAY_SERVER", text).contains("hunter2"), "{text}");
    }
}

#[test]
fn what_is_risky_is_accepted_with_a_warning() {
    assert_eq!(warnings(&[("VMRAY_SERVER", "http://vmray.example")]), ["VMRAY_SERVER"]);
    assert_eq!(warnings(&[("OPENCTI_URL", "http://opencti:8080")]), ["OPENCTI_URL"]);
    assert_eq!(warnings(&[("OPENCTI_URL", "http://127.0.0.1:8080")]), [""; 0]);
    assert_eq!(warnings(&[("CONNECTOR_ID", "vmray-1")]), ["CONNECTOR_ID"]);
    assert_eq!(
        warnings(&[("VMRAY_VERIFY_TLS", "no"), ("OPENCTI_VERIFY_TLS", "0")]),
        ["OPENCTI_VERIFY_TLS", "VMRAY_VERIFY_TLS"]
    );
}

#[test]
fn a_start_is_a_day_or_a_time_and_its_offset_counts() {
    let start = |text| read(&[("VMRAY_INITIAL_FETCH_DATE", text)]).feed.initial_fetch.to_rfc3339();
    assert_eq!(start("2025-09-09"), "2025-09-09T00:00:00+00:00");
    assert_eq!(start("2025-09-09T12:30:00Z"), "2025-09-09T12:30:00+00:00");
    assert_eq!(start("2025-09-09T12:30:00+02:00"), "2025-09-09T10:30:00+00:00");
    assert_eq!(start("2025-09-09T12:30:00"), "2025-09-09T12:30:00+00:00");
    assert_eq!(start("2025-11-02"), "2025-11-02T00:00:00+00:00", "12 h ahead: clocks differ");
    for text in ["09/09/2025", "2025-13-01", "2025-9", "now", "2025-11-03", "2099-01-01T00:00:00Z"] {
        problem("VMRAY_INITIAL_FETCH_DATE", text);
    }
}

#[test]
fn clean_is_refused_as_a_verdict_with_a_reason() {
    assert_eq!(
        read(&[("VMRAY_SAMPLE_VERDICT", "Malicious, suspicious,malicious")]).mapping.sample_verdicts.len(),
        2
    );
    assert!(problem("VMRAY_IOCS_VERDICT", "malicious,clean").contains("`clean` is not ingested"));
    assert!(problem("VMRAY_IOCS_VERDICT", "bad").contains("`bad`"));
    problem("VMRAY_SAMPLE_VERDICT", ",");
}

#[test]
fn enumerations_take_any_case_and_refuse_the_rest() {
    for text in ["debug", "INFO", "warning", "warn", "Error"] {
        read(&[("CONNECTOR_LOG_LEVEL", text)]);
    }
    problem("CONNECTOR_LOG_LEVEL", "verbose");
    let early = |text: &'static str| runtime::settings::log_level(&move |_| Some(text.to_owned()));
    assert_eq!((early("error"), early("verbose")), (tracing::Level::ERROR, tracing::Level::INFO));
    assert_eq!(read(&[("OPENCTI_COMPRESSION", "OFF")]).opencti.compression, Compression::Off);
    problem("OPENCTI_COMPRESSION", "br");
    assert!(read(&[("DISABLE_PROXY", "Yes")]).http.disable_proxy);
    problem("DISABLE_PROXY", "maybe");
    let marking = |text| read(&[("VMRAY_DEFAULT_TLP", text)]).mapping.marking;
    assert_eq!(marking("tlp:amber+strict"), stix::TlpMarking::AmberStrict);
    assert_eq!(marking("White"), stix::TlpMarking::Clear);
    problem("VMRAY_DEFAULT_TLP", "TLP:PURPLE");
    read(&[("VMRAY_IOC_TYPES", "files,filenames")]);
    problem("VMRAY_IOC_TYPES", "files,hashes");
    assert!(read(&[("VMRAY_LABELS", "none")]).mapping.labels.is_empty());
    problem("VMRAY_LABELS", "none,vtis");
    let relationships = |text| read(&[("VMRAY_RELATIONSHIPS", text)]).mapping.relationships;
    assert!(relationships("none").is_empty());
    assert_eq!(
        relationships("Based-On, indicates"),
        [RelationshipKind::BasedOn, RelationshipKind::Indicates].into()
    );
    problem("VMRAY_RELATIONSHIPS", "none,uses");
    problem("VMRAY_RELATIONSHIPS", "targets");
}

#[test]
fn numbers_have_bounds() {
    assert_eq!(read(&[("VMRAY_CONFIDENCE", "0")]).mapping.confidence, Some(0));
    for (name, text) in [
        ("VMRAY_CONFIDENCE", "101"),
        ("VMRAY_CONFIDENCE", "-1"),
        ("INGEST_CONCURRENCY", "0"),
        ("BUNDLE_MAX_OBJECTS", "2k"),
        ("CONNECTOR_QUEUE_THRESHOLD", "0"),
        ("CONNECTOR_QUEUE_THRESHOLD", "inf"),
        ("CONNECTOR_QUEUE_THRESHOLD", "NaN"),
        ("RETRY_BASE_MS", "0"),
        ("VMRAY_TIMEOUT_MS", "1.5"),
        ("BUNDLE_MAX_BYTES", "1"),
        ("BUNDLE_MAX_BYTES", "4MB"),
        ("BUNDLE_MAX_BYTES", "99999999999999999999MiB"),
        ("FEED_OVERLAP", "P8D"),
        ("FEED_OVERLAP", "15"),
        ("VMRAY_MITRE_COLOR", "#12345"),
        ("VMRAY_MITRE_COLOR", "#12345é"),
    ] {
        problem(name, text);
    }
    for (text, bytes) in [("131072", 131_072), ("128KiB", 131_072), ("2 mib", 2_097_152)] {
        assert_eq!(read(&[("BUNDLE_MAX_BYTES", text)]).run.bundle.max_bytes, bytes);
    }
    assert_eq!(read(&[("FEED_OVERLAP", "PT0S")]).feed.overlap, Duration::ZERO);
}

#[test]
fn durations_are_iso_8601() {
    for (text, seconds) in [
        ("PT15M", 900),
        ("P7D", 604_800),
        ("P1W", 604_800),
        ("PT1D", 86_400),
        ("P1DT2H3M4S", 93_784),
        ("PT0S", 0),
        ("PT90M", 5400),
    ] {
        assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
    }
    for text in [
        "",
        "P",
        "PT",
        "P1DT",
        "15M",
        "PT15",
        "PT1M1H",
        "PT1M1M",
        "P1M",
        "P1Y",
        "PT-5M",
        "PT+5M",
        "PTM",
        "PT1.5H",
        "pt5m",
        "P1D ",
        "PT99999999999999999999S",
        "P9999999999999999999W",
    ] {
        assert!(parse_duration(text).is_err(), "{text}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(index in 0..SETTINGS.len(), text in ".{0,40}") {
        let _ = read_on(Host::Lambda, &[(SETTINGS[index].name, &text)]);
        let _ = parse_duration(&text);
    }

    #[test]
    fn a_written_duration_is_read_back(days in 0_u64..1000, h in 0_u64..99, m in 0_u64..99, s in 0_u64..99) {
        let expected = Duration::from_secs(days * 86_400 + h * 3600 + m * 60 + s);
        prop_assert_eq!(parse_duration(&format!("P{days}DT{h}H{m}M{s}S")), Ok(expected));
    }
}
