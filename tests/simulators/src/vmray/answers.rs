//! The server's words: envelope, errors, the shape of older releases, the server's clock.

use chrono::{NaiveDateTime, TimeDelta};
use serde_json::{Value, json};

use crate::estate::render::WEB;
use crate::estate::written;
use crate::server::Answer;

pub(super) fn error(status: u16, message: &str) -> Answer {
    Answer::json(status, &json!({"error_msg": message, "result": "error"}))
}

pub(super) fn no_such_element() -> Answer {
    error(404, "No such element")
}

pub(super) fn not_authorized() -> Answer {
    error(403, "Not authorized")
}

pub(super) fn ok(data: &Value) -> Answer {
    Answer::json(200, &json!({"result": "ok", "data": data}))
}

pub(super) fn system_info(items_per_request: usize, max_items: usize) -> Value {
    json!({"api_items_per_request": items_per_request, "file_param_http_scheme_enabled": false,
           "max_api_items": max_items, "version": "2026.2.1", "version_major": 2026, "version_minor": 2,
           "version_revision": 1, "webif_alias": "sim", "webif_base_url": WEB,
           "webif_max_sample_size": 209_715_200, "webif_max_upload_size": 209_715_200})
}

pub(super) fn billing_info() -> Value {
    json!({"billing_period": 30, "quota": 1000, "remaining": 900, "report_quota": 1000, "report_remaining": 900,
           "verdict_quota": 0, "verdict_remaining": 0, "detector_quota": 0, "detector_remaining": 0,
           "ppu_report_quota_used": 0, "ppu_verdict_quota_used": 0, "end_date": "2027-02-03 14:12 (UTC+1)",
           "today_date": "2026-11-22 09:00 (UTC+1)", "next_plan_start_date": null,
           "product_plan_name": "Simulated", "user_email": "analyst@customer.test", "user_expiry_date": null})
}

/// Shifts the times at the top of an object to the server's clock.
pub(super) fn shift_times(value: &mut Value, offset: TimeDelta) {
    let Some(members) = value.as_object_mut().filter(|_| !offset.is_zero()) else { return };
    let is_time = |name: &str| ["_created", "_finish_time", "_started"].iter().any(|end| name.ends_with(end));
    for (_, member) in members.iter_mut().filter(|(name, _)| is_time(name)) {
        if let Some(time) = member.as_str().and_then(|text| text.parse::<NaiveDateTime>().ok()) {
            *member = json!(written(time + offset));
        }
    }
}

const NEW_SUBMISSION_FIELDS: [&str; 12] = [
    "submission_consumed_quota",
    "submission_quota_type",
    "submission_used_cache",
    "submission_recursive",
    "submission_number_cached_analyses",
    "submission_number_created_jobs",
    "submission_analysis_cache_ids",
    "submission_job_cache_ids",
    "submission_has_recursive_errors",
    "submission_sample_verdict",
    "submission_status",
    "submission_deletion_date",
];

/// Takes away what servers of release 4.2.0 do not have.
pub(super) fn make_old(value: &mut Value) {
    let Some(members) = value.as_object_mut() else { return };
    members.retain(|name, _| {
        !NEW_SUBMISSION_FIELDS.contains(&name.as_str())
            && !name.starts_with("sample_verdict")
            && !name.starts_with("submission_analyzer_mode_")
    });
    for (name, id) in [("submission_webif_url", "submission_sample_id"), ("sample_webif_url", "sample_id")] {
        if let (true, Some(id)) = (members.contains_key(name), members.get(id).cloned()) {
            members.insert(name.to_owned(), json!(format!("{WEB}/user/sample/view?id={id}")));
        }
    }
    if let Some(signature) = members.get_mut("sample_pe_signature") {
        *signature = json!({});
    }
}
