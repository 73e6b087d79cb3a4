//! VMRay's JSON, made from the facts.

use serde_json::{Map, Value, json};

use super::spec::{SampleSpec, SubmissionSpec, Verdict, written};

pub(crate) const WEB: &str = "https://sim.vmray.test";

pub(crate) const IOC_LISTS: [&str; 10] = [
    "files",
    "filenames",
    "processes",
    "domains",
    "urls",
    "ips",
    "mutexes",
    "registry",
    "emails",
    "email_addresses",
];

pub(crate) fn submission(spec: &SubmissionSpec, sample: &SampleSpec) -> Value {
    let mut value = result(spec);
    for part in [subject(spec, sample), account(spec), options()] {
        super::spec::merge(&mut value, part);
    }
    value
}

pub(crate) fn result(spec: &SubmissionSpec) -> Value {
    let finished = spec.finished.is_some();
    let verdict = spec.verdict.filter(|_| finished);
    json!({
        "submission_id": spec.id,
        "submission_sample_id": spec.sample_id,
        "submission_finished": finished,
        "submission_status": if finished { "success" } else { "in_progress" },
        "submission_verdict": verdict.map(Verdict::name),
        "submission_verdict_reason_code": null,
        "submission_verdict_reason_description": null,
        "submission_severity": verdict.map(Verdict::severity),
        "submission_score": verdict.and_then(Verdict::score),
        "submission_has_errors": finished.then_some(false),
        "submission_has_recursive_errors": finished.then_some(false),
        "submission_created": written(spec.created),
        "submission_finish_time": spec.finished.map(written),
        "submission_deletion_date": null,
        "submission_retention_period": 0,
    })
}

fn subject(spec: &SubmissionSpec, sample: &SampleSpec) -> Value {
    let hashes = sample.hashes();
    json!({
        "submission_filename": sample.submitted_name(),
        "submission_original_filename": sample.submitted_name(),
        "submission_original_url": sample.submitted_url(),
        "submission_sample_md5": hashes.md5,
        "submission_sample_sha1": hashes.sha1,
        "submission_sample_sha256": hashes.sha256,
        "submission_sample_ssdeep": "3:AB:C",
        "submission_sample_verdict": sample.verdict.map(Verdict::name),
        // A string here, a number in submission_verdict_reason_code.
        "submission_sample_verdict_reason_code": null,
        "submission_sample_verdict_reason_description": null,
        "submission_webif_url": format!("{WEB}/samples/{}", spec.sample_id),
        "submission_type": "api",
        "submission_tags": ["mail-gateway"],
        "submission_comment": null,
        "submission_submission_metadata": "{}",
        "submission_parent_submission_id": spec.parent,
    })
}

fn account(spec: &SubmissionSpec) -> Value {
    json!({
        "submission_consumed_quota": 1,
        "submission_quota_type": "report",
        "submission_billing_type": "analyzer",
        "submission_used_cache": false,
        "submission_number_cached_analyses": 0,
        "submission_number_created_jobs": 2,
        "submission_analysis_cache_ids": [],
        "submission_job_cache_ids": [],
        "submission_recursive": spec.parent.is_some(),
        "submission_api_key_id": 12,
        "submission_user_id": 5,
        "submission_user_email": "analyst@customer.test",
        "submission_user_account_id": 3,
        "submission_user_account_name": "customer",
        "submission_user_account_type": "paid",
        "submission_user_account_subscription_mode": "prepaid",
        "submission_submitter_email": null,
        "submission_ip_id": 77,
        "submission_ip_ip": "192.0.2.10",
        "submission_interface_name": "REST API",
        "submission_known_configuration": false,
        "submission_priority": 5,
        "submission_shareable": false,
        "submission_system_time": null,
    })
}

fn options() -> Value {
    json!({
        "submission_triage_error_handling": null,
        "submission_triage_stage": null,
        "submission_triaged": null,
        "submission_reputation_mode": "triage",
        "submission_whois_mode": "enabled",
        "submission_enable_local_av": true,
        "submission_enable_custom_av": null,
        "submission_dll_call_mode": null,
        "submission_dll_calls": null,
        "submission_document_password": null,
        "submission_prescript_force_admin": false,
        "submission_prescript_id": null,
        "submission_reputation_job_cache_id": null,
        "submission_reputation_lookup_cache_id": null,
        "submission_analyzer_mode_id": 901,
        "submission_analyzer_mode_analysis_caching": "smart",
        "submission_analyzer_mode_analyzer_mode": "reputation_static_dynamic",
        "submission_analyzer_mode_archive_action": "separate_samples",
        "submission_analyzer_mode_disk_image_action": null,
        "submission_analyzer_mode_detonate_links_in_documents": "smart",
        "submission_analyzer_mode_detonate_links_in_emails": "smart",
        "submission_analyzer_mode_enable_reputation": true,
        "submission_analyzer_mode_enable_whois": true,
        "submission_analyzer_mode_known_benign": null,
        "submission_analyzer_mode_known_malicious": null,
        "submission_analyzer_mode_triage": "system_default",
        "submission_analyzer_mode_triage_error_handling": null,
        "submission_analyzer_mode_ai_based_phishing_detection": "normal",
        "submission_analyzer_mode_ml_based_phishing_detection": null,
        // Numbers in strings, as the server has them.
        "submission_analyzer_mode_max_recursive_samples": "10",
        "submission_analyzer_mode_max_dynamic_analyses_per_sample": "default",
    })
}

/// The sample's own answer. `verdict_of` tells a relative's verdict.
pub(crate) fn sample(spec: &SampleSpec, verdict_of: impl Fn(u64) -> Option<Verdict>) -> Value {
    let hashes = spec.hashes();
    let url = spec.submitted_url();
    let (kind, size) = match &spec.subject {
        super::spec::Subject::File { sample_type, .. } => (sample_type.as_str(), 258_048),
        super::spec::Subject::Url(url) => ("URL", url.len()),
    };
    let mut value = json!({
        "sample_id": spec.id,
        "sample_created": written(spec.created),
        "sample_filename": spec.file_name(),
        "sample_filesize": size,
        "sample_type": kind,
        "sample_url": url,
        "sample_display_url": url,
        "sample_md5hash": hashes.md5,
        "sample_sha1hash": hashes.sha1,
        "sample_sha256hash": hashes.sha256,
        "sample_ssdeephash": "3:AB:C",
        "sample_imphash": null,
        "sample_emailhash": null,
        "sample_container_type": null,
        "sample_is_multipart": false,
        "sample_password_protected": false,
        "sample_pe_signature": null,
        "sample_priority": 5,
        "sample_webif_url": format!("{WEB}/samples/{}", spec.id),
        "submission_filename": spec.submitted_name(),
    });
    super::spec::merge(&mut value, sample_result(spec));
    super::spec::merge(&mut value, relatives(spec, verdict_of));
    value
}

fn sample_result(spec: &SampleSpec) -> Value {
    let score = spec.verdict.and_then(Verdict::score);
    let severity = spec.verdict.map(Verdict::severity);
    json!({
        "sample_verdict": spec.verdict.map(Verdict::name),
        "sample_verdict_reason_code": null,
        "sample_verdict_reason_description": null,
        "sample_vti_score": score,
        "sample_highest_vti_score": score,
        "sample_highest_vti_severity": severity,
        "sample_last_reputation_severity": "unknown",
        "sample_last_vt_score": null,
        "sample_last_md_score": null,
        "sample_clusters": [],
        "sample_score": score,
        "sample_severity": severity,
        "sample_threat_names": some(&spec.threat_names),
        "sample_classifications": some(&spec.classifications),
    })
}

/// The server says null of a list that is empty here.
fn some(names: &[String]) -> Option<&[String]> {
    (!names.is_empty()).then_some(names)
}

fn relatives(spec: &SampleSpec, verdict_of: impl Fn(u64) -> Option<Verdict>) -> Value {
    let relation = |parent: u64, child: u64| {
        json!({
            "relation_id": parent * 31 + child,
            "relation_child_sample_id": child,
            "relation_parent_sample_id": parent,
            "relation_child_sample_verdict": verdict_of(child).map(Verdict::name),
            "relation_parent_sample_verdict": verdict_of(parent).map(Verdict::name),
            "relation_type": "Dropped File",
        })
    };
    let children: Vec<Value> = spec.children.iter().map(|&child| relation(spec.id, child)).collect();
    let parents: Vec<Value> = spec.parents.iter().map(|&parent| relation(parent, spec.id)).collect();
    json!({
        "sample_child_sample_ids": spec.children,
        "sample_child_relations": children,
        "sample_child_relations_truncated": false,
        "sample_parent_sample_ids": spec.parents,
        "sample_parent_relations": parents,
        "sample_parent_relations_truncated": false,
    })
}

pub(crate) fn iocs(spec: &SampleSpec) -> Value {
    let mut lists: Map<String, Value> = IOC_LISTS.iter().map(|&list| (list.to_owned(), json!([]))).collect();
    for ioc in &spec.iocs {
        let mut fields = ioc.fields.clone();
        if fields.get("analysis_ids").is_none() {
            fields["analysis_ids"] = json!(spec.analysis_ids());
        }
        if let Some(Value::Array(list)) = lists.get_mut(ioc.list) {
            list.push(fields);
        }
    }
    json!({"status": "finished", "iocs": lists})
}

pub(crate) fn vtis(spec: &SampleSpec) -> Value {
    let list: Vec<Value> = spec
        .vtis
        .iter()
        .enumerate()
        .map(|(at, vti)| {
            json!({"analysis_ids": seen_by(&vti.analysis_ids, spec), "category": vti.category, "classifications": [],
                   "id": at + 1, "operation": vti.operation, "score": vti.score})
        })
        .collect();
    json!({"status": "finished", "threat_indicators": list})
}

pub(crate) fn techniques(spec: &SampleSpec) -> Value {
    let list: Vec<Value> = spec
        .techniques
        .iter()
        .enumerate()
        .map(|(at, technique)| {
            json!({"analysis_ids": seen_by(&technique.analysis_ids, spec), "id": at + 1,
                   "matrix_version": "2025-04-22T20:53:07.719000", "tactics": technique.tactics,
                   "technique": technique.name, "technique_id": technique.id, "threat_indicators": [],
                   "version": 1.0})
        })
        .collect();
    json!({"status": "finished", "mitre_attack_techniques": list})
}

fn seen_by(ids: &[u64], spec: &SampleSpec) -> Vec<u64> {
    if ids.is_empty() { spec.analysis_ids() } else { ids.to_vec() }
}

pub(crate) fn threat_names(spec: &SampleSpec) -> Value {
    let list: Vec<Value> = spec
        .threat_names
        .iter()
        .map(|name| json!({"threat_name": name, "sources": ["av", "yara"]}))
        .collect();
    json!({"sample_threat_names": list, "children_threat_names": []})
}

pub(crate) fn classifications(spec: &SampleSpec) -> Value {
    let list: Vec<Value> =
        spec.classifications.iter().map(|name| json!({"classification_name": name})).collect();
    json!({"sample_classifications": list, "children_classifications": []})
}

pub(crate) fn analysis(id: u64, spec: &SampleSpec, submission: Option<&SubmissionSpec>) -> Value {
    let hashes = spec.hashes();
    let submission_id = submission.map(|submission| submission.id);
    let started =
        submission.map_or(spec.created, |submission| submission.created) + chrono::TimeDelta::seconds(55);
    json!({
        "analysis_id": id,
        "analysis_sample_id": spec.id,
        "analysis_submission_id": submission_id,
        "analysis_submission_ids": submission_id.into_iter().collect::<Vec<_>>(),
        "analysis_job_id": id + 1,
        "analysis_job_started": written(started),
        "analysis_created": written(started + chrono::TimeDelta::minutes(3)),
        "analysis_analyzer_name": if spec.submitted_url().is_some() { "vmray_web" } else { "vmray" },
        "analysis_platform": "windows",
        "analysis_verdict": spec.verdict.map(Verdict::name),
        "analysis_severity": spec.verdict.map(Verdict::severity),
        "analysis_vti_score": spec.verdict.and_then(Verdict::score),
        "analysis_result_code": 1,
        "analysis_result_str": "Operation completed successfully.",
        "analysis_lock_status": "unlocked",
        "analysis_billing_type": "analyzer",
        "analysis_quota_type": "report",
        "analysis_ioc_aggregation_state": "ok",
        "analysis_vti_aggregation_state": "ok",
        "analysis_mitre_attack_aggregation_state": "ok",
        "analysis_vm_name": "win10_64",
        "analysis_configuration_name": "exe",
        "analysis_snapshot_name": "clean",
        "analysis_pdf_created": 1,
        "analysis_sample_md5": hashes.md5,
        "analysis_sample_sha1": hashes.sha1,
        "analysis_sample_sha256": hashes.sha256,
        "analysis_sample_ssdeep": "3:AB:C",
        "analysis_tags": [],
        "analysis_webif_url": format!("{WEB}/analyses/{id}"),
    })
}
