//! How fast samples become bundles: 50 samples of about 30 IOCs each, from VMRay's answers as text, through the mapping, to
//! the JSON that OpenCTI is given.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark may stop, and prints its result")]

use std::collections::HashSet;
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use mapping::{MappingSettings, SampleFacts, map_sample};
use serde_json::{Value, json};
use stix::{Bundle, BundleLimits, Packer};
use vmray::model::{Aggregated, Entries, Iocs, MitreTechnique, Sample, Submission, ThreatIndicator};

const SAMPLES: u64 = 50;
/// The Python connector (pycti 7.260817.0), mapping alone, same shape of samples.
const PYTHON: f64 = 19.0;

/// The answers about one sample, as text.
struct Answers {
    sample: String,
    submissions: String,
    iocs: String,
    vtis: String,
    techniques: String,
}

fn answers(id: u64) -> Answers {
    let common = json!({"ioc": true, "verdict": "malicious", "severity": "malicious", "analysis_ids": [id * 2, id * 2 + 1],
        "threat_names": ["Emotet", "Gen:Variant.Ulise.379246"], "classifications": ["Trojan"], "version": 3,
        "vtis": ["01989e83", "0198aa00"], "relations": [{"analysis_id": 1, "relations": {"file": ["1"], "process": ["2"]}}]});
    let list = |count: u64, entry: &dyn Fn(u64) -> Value| -> Vec<Value> {
        let merge = |n| {
            let mut whole = common.clone();
            whole.as_object_mut().unwrap().extend(entry(n).as_object().unwrap().clone());
            whole
        };
        (0..count).map(|n| merge(id * 100 + n)).collect()
    };
    let iocs = json!({
        "files": list(6, &|n| json!({"filename": format!("C:\\Users\\u\\AppData\\f{n}.exe"), "file_size": n, "mime_type": "application/x-dosexec",
            "filenames": [format!("C:\\Users\\u\\AppData\\f{n}.exe")], "hashes": [{"md5_hash": format!("{n:032x}"), "sha1_hash": format!("{n:040x}"),
            "sha256_hash": format!("{n:064x}"), "ssdeep_hash": "3:abc"}]})),
        "processes": list(5, &|n| json!({"cmd_line": format!("\"C:\\Windows\\cmd.exe\" /c start {n} "), "process_names": ["cmd.exe"]})),
        "domains": list(4, &|n| json!({"domain": format!("d{n}.example.com"), "original_domains": [format!("d{n}.example.com")],
            "ip_addresses": [format!("198.51.{}.7", n % 200)], "protocols": ["HTTPS"], "countries": ["Germany"], "country_codes": ["DE"]})),
        "urls": list(4, &|n| json!({"url": format!("https://d{n}.example.com/a?b={n}"), "original_urls": [], "ip_addresses": [format!("198.51.{}.7", n % 200)],
            "countries": ["Germany"], "country_codes": ["DE"]})),
        "ips": list(3, &|n| json!({"ip_address": format!("198.51.{}.7", n % 200), "domains": [format!("d{n}.example.com")], "country": "Germany", "country_code": "DE"})),
        "mutexes": list(3, &|n| json!({"mutex_name": format!("Global\\m{n}")})),
        "registry": list(4, &|n| json!({"reg_key_name": format!("HKEY_CURRENT_USER\\Software\\k{n}")})),
        "emails": list(1, &|n| json!({"sender": format!("Eve <e{n}@example.com>"), "subject": "Invoice", "recipients": ["bob@example.com"]})),
    });
    let vtis: Vec<_> = (0..20)
        .map(|n| json!({"analysis_ids": [id * 2 + n % 2], "category": "Defense Evasion", "operation": format!("Tries to do thing {n}"), "score": n % 5 + 1}))
        .collect();
    let techniques: Vec<_> = (0..10)
        .map(|n| json!({"analysis_ids": [id * 2 + n % 2], "technique_id": format!("T10{n:02}"), "technique": format!("Technique {n}"), "tactics": ["Defense Evasion", "Discovery"]}))
        .collect();
    Answers {
        sample: json!({"sample_id": id, "sample_created": "2026-11-20T03:04:05", "sample_filename": format!("s{id}.exe"), "sample_filesize": 4096,
            "sample_md5hash": format!("{id:032x}"), "sample_sha1hash": format!("{id:040x}"), "sample_sha256hash": format!("{id:064x}"),
            "sample_verdict": "malicious", "sample_threat_names": ["Emotet"], "sample_classifications": ["Trojan"], "sample_webif_url": "https://v.test/1"}).to_string(),
        submissions: json!([{"submission_id": id, "submission_sample_id": id, "submission_finished": true, "submission_verdict": "malicious",
            "submission_created": "2026-11-20T03:04:05", "submission_finish_time": "2026-11-20T03:14:05"}]).to_string(),
        iocs: json!({"status": "finished", "iocs": iocs}).to_string(),
        vtis: json!({"status": "finished", "threat_indicators": vtis}).to_string(),
        techniques: json!({"status": "finished", "mitre_attack_techniques": techniques}).to_string(),
    }
}

fn parse(answers: &Answers) -> SampleFacts {
    SampleFacts {
        sample: serde_json::from_str::<Sample>(&answers.sample).unwrap(),
        submissions: serde_json::from_str::<Vec<Submission>>(&answers.submissions).unwrap(),
        iocs: serde_json::from_str::<Aggregated<Iocs>>(&answers.iocs).unwrap().data,
        threat_indicators: serde_json::from_str::<Aggregated<Entries<ThreatIndicator>>>(&answers.vtis)
            .unwrap()
            .data,
        techniques: serde_json::from_str::<Aggregated<Entries<MitreTechnique>>>(&answers.techniques)
            .unwrap()
            .data,
        relatives: Vec::new(),
    }
}

/// From facts to bundles; returns objects and bytes.
fn bundle(facts: &[SampleFacts], settings: &MappingSettings) -> (usize, usize) {
    let mut packer = Packer::new(BundleLimits::default());
    let mut pushed = HashSet::new();
    let (mut objects, mut bytes) = (0, 0);
    let mut push = |group: Vec<_>| {
        let bundle = Bundle::merge(&group, |object, _| !pushed.contains(&object.id()));
        pushed.extend(bundle.label_ids());
        objects += bundle.object_count;
        bytes += bundle.json.len();
    };
    for facts in facts {
        for part in map_sample(facts, settings).unwrap().split(&BundleLimits::default()) {
            if let Some(group) = packer.add(part) {
                push(group);
            }
        }
    }
    if let Some(group) = packer.finish() {
        push(group);
    }
    (objects, bytes)
}

fn main() {
    let answers: Vec<_> = (1..=SAMPLES).map(answers).collect();
    let facts: Vec<_> = answers.iter().map(parse).collect();
    let settings = MappingSettings::default();

    let mut criterion = Criterion::default().configure_from_args().measurement_time(Duration::from_secs(3));
    let mut group = criterion.benchmark_group("samples");
    group.throughput(Throughput::Elements(SAMPLES));
    group.bench_function("parse", |bench| bench.iter(|| answers.iter().map(parse).collect::<Vec<_>>()));
    group.bench_function("map", |bench| {
        bench.iter(|| facts.iter().map(|facts| map_sample(facts, &settings).unwrap()).collect::<Vec<_>>());
    });
    group.bench_function("map, pack, write", |bench| bench.iter(|| bundle(black_box(&facts), &settings)));
    group.finish();

    let start = Instant::now();
    let (mut rounds, mut size) = (0_u32, (0, 0));
    while start.elapsed() < Duration::from_secs(2) {
        let facts: Vec<_> = answers.iter().map(parse).collect();
        size = bundle(black_box(&facts), &settings);
        rounds += 1;
    }
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = f64::from(rounds) * SAMPLES as f64 / start.elapsed().as_secs_f64();
    println!("\n{SAMPLES} samples: {} objects, {} bytes of bundles", size.0, size.1);
    println!("VMRay Bridge, parse + map + pack + write: {rate:.0} samples/s (one thread, wall clock)");
    println!(
        "Python connector (pycti 7.260817.0), mapping alone: {PYTHON:.0} samples/s; {:.0} times as many",
        rate / PYTHON
    );
}
