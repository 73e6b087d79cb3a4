use super::submit::*;
use super::*;
use crate::estate::{EstateSpec, Hashes, SampleSpec, SubmissionSpec, Verdict, time};
use crate::faults::Fault;
use chrono::{TimeDelta, Utc};

const KEY: &str = "api_key vmray-key";
const DIGITS: &[u8; 16] = b"0123456789abcdef";

async fn start(submit: SubmitOptions) -> VmraySimulator {
    VmraySimulator::start(VmrayOptions { submit, ..VmrayOptions::default() }).await.unwrap()
}

async fn usual() -> VmraySimulator {
    start(SubmitOptions::default()).await
}

async fn answer_of(request: reqwest::RequestBuilder) -> (u16, Value) {
    let response = request.header("authorization", KEY).send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

/// Every byte is percent-encoded: no sign is special.
fn encoded(pairs: &[(&str, &str)]) -> String {
    let hex = |byte: u8| {
        ['%', char::from(DIGITS[usize::from(byte >> 4)]), char::from(DIGITS[usize::from(byte & 15)])]
    };
    let pair =
        |(name, value): &(&str, &str)| format!("{name}={}", value.bytes().flat_map(hex).collect::<String>());
    pairs.iter().map(pair).collect::<Vec<_>>().join("&")
}

async fn post(vmray: &VmraySimulator, pairs: &[(&str, &str)]) -> (u16, Value) {
    answer_of(request(vmray, pairs)).await
}

fn request(vmray: &VmraySimulator, pairs: &[(&str, &str)]) -> reqwest::RequestBuilder {
    reqwest::Client::new()
        .post(format!("{}/rest/sample/submit", vmray.url()))
        .header("content-type", "application/x-www-form-urlencoded")
        .body(encoded(pairs))
}

/// Submits a URL; its submission's number.
async fn submit(vmray: &VmraySimulator, url: &str) -> u64 {
    let (status, body) = post(vmray, &[("sample_url", url)]).await;
    assert_eq!(status, 200, "{body}");
    body["data"]["submissions"][0]["submission_id"].as_u64().expect("a submission")
}

async fn get(vmray: &VmraySimulator, path: &str) -> (u16, Value) {
    answer_of(reqwest::Client::new().get(format!("{}{path}", vmray.url()))).await
}

async fn ids(vmray: &VmraySimulator, path: &str) -> Vec<u64> {
    let (status, body) = get(vmray, path).await;
    assert_eq!(status, 200, "{path}: {body}");
    body["data"].as_array().unwrap().iter().map(|row| row["submission_id"].as_u64().unwrap()).collect()
}

async fn submission(vmray: &VmraySimulator, id: u64) -> Value {
    get(vmray, &format!("/rest/submission/{id}")).await.1["data"].clone()
}

fn found(metadata: &str) -> String {
    format!("/rest/submission?{}", encoded(&[("submission_submission_metadata", metadata)]))
}

fn searched(query: &str) -> String {
    format!("/rest/submission/search?{}", encoded(&[("query", query)]))
}

#[tokio::test]
async fn a_url_is_queued_then_in_progress_then_finished_when_told() {
    let vmray = usual().await;
    let (_, body) = post(&vmray, &[("sample_url", "evil.test/login"), ("max_recursive_samples", "5")]).await;
    let first = &body["data"]["submissions"][0];
    assert_eq!([&first["submission_status"], &first["submission_verdict"]], [&json!("queued"), &Value::Null]);
    assert_eq!(first["submission_original_url"], "evil.test/login");
    assert_eq!(first["submission_analyzer_mode_max_recursive_samples"], "5");
    assert_eq!(body["data"]["samples"][0]["sample_url"], "http://evil.test/login");
    assert_eq!(body["data"]["jobs"][0]["job_submission_id"], first["submission_id"]);

    let id = first["submission_id"].as_u64().unwrap();
    assert_eq!(submission(&vmray, id).await["submission_status"], "in_progress");
    let job = format!("/rest/job/{}", body["data"]["jobs"][0]["job_id"]);
    assert_eq!(get(&vmray, &job).await.0, 200);
    assert_eq!(vmray.finish("evil.test/login"), 1);
    let last = submission(&vmray, id).await;
    assert_eq!([&last["submission_verdict"], &last["submission_status"]], ["malicious", "success"]);
    assert_eq!((&last["submission_score"], &last["submission_consumed_quota"]), (&json!(100), &json!(1)));
    assert_eq!(get(&vmray, &job).await.0, 404);
}

#[tokio::test]
async fn a_finished_url_is_a_sample_of_the_estate() {
    let vmray = usual().await;
    let before = Utc::now().naive_utc();
    let id = submit(&vmray, "http://evil.test/a~b").await;
    let sha256 = Hashes::of("http://evil.test/a~b").sha256;
    let (_, known) = get(&vmray, &format!("/rest/sample/sha256/{sha256}")).await;
    let sample = known["data"][0]["sample_id"].clone();
    assert_eq!(known["data"][0]["sample_type"], "URL");
    assert_eq!(get(&vmray, &format!("/rest/analysis/submission/{id}")).await.1["data"], json!([]));
    vmray.finish_all();
    let window = format!(
        "/rest/submission?submission_finish_time={}~2100-01-01T00:00:00",
        crate::estate::written(before)
    );
    assert_eq!(ids(&vmray, &window).await, [id]);
    assert_eq!(ids(&vmray, &format!("/rest/submission/sample/{sample}")).await, [id]);
    assert_eq!(ids(&vmray, "/rest/submission?submission_original_url=http://evil.test/a~b").await, [id]);
    let (_, iocs) = get(&vmray, &format!("/rest/sample/{sample}/iocs")).await;
    assert_eq!(iocs["data"]["iocs"]["domains"][0]["domain"], "evil.test");
    assert_eq!(get(&vmray, &format!("/rest/sample/{sample}")).await.1["data"]["sample_verdict"], "malicious");
}

#[test]
fn a_url_without_a_scheme_gets_one() {
    for (sent, kept) in [
        ("evil.test/a", "http://evil.test/a"),
        ("https://evil.test", "https://evil.test"),
        ("evil.test/?to=https://other.test", "http://evil.test/?to=https://other.test"),
    ] {
        assert_eq!(normalised(sent), kept);
    }
    assert_eq!(ending_by_host("http://user@Odd.test:8080/evil"), Ending::Verdict(Verdict::Suspicious));
    assert_eq!(host("http://[2001:DB8::1]:80/"), "2001:db8::1");
}

#[tokio::test]
async fn analyses_end_by_themselves_at_their_time() {
    let vmray =
        start(SubmitOptions { finish: Finish::After(Duration::ZERO), ..SubmitOptions::default() }).await;
    let id = submit(&vmray, "odd.test").await;
    assert_eq!(submission(&vmray, id).await["submission_verdict"], "suspicious");
    vmray.on_submit(SubmitRule::containing("slow", SubmitAction::Fresh).finish(Finish::WhenTold));
    let slow = submit(&vmray, "slow.test").await;
    assert_eq!(submission(&vmray, slow).await["submission_finished"], false);
    assert_eq!(vmray.finish_all(), 1);
}

#[tokio::test]
async fn analyses_end_in_every_way() {
    let vmray = usual().await;
    for (n, (ending, status, verdict, errors)) in [
        (Ending::Verdict(Verdict::NotAvailable), "success", json!("not_available"), false),
        (Ending::NoVerdict, "success", Value::Null, false),
        (Ending::Warning(Verdict::Clean), "warning", json!("clean"), true),
        (Ending::Error, "error", Value::Null, true),
    ]
    .into_iter()
    .enumerate()
    {
        let url = format!("http://evil.test/{n}");
        let id = submit(&vmray, &url).await;
        vmray.finish_with(&url, ending);
        let last = submission(&vmray, id).await;
        assert_eq!(
            (&last["submission_status"], &last["submission_verdict"], &last["submission_has_errors"]),
            (&json!(status), &verdict, &json!(errors))
        );
        assert_eq!(last["submission_finished"], true);
    }
}

#[tokio::test]
async fn parameters_come_in_query_form_and_multipart() {
    let vmray = usual().await;
    let url = format!("{}/rest/sample/submit?tags=a,b", vmray.url());
    let body = "--XX\r\nContent-Disposition: form-data; name=\"sample_url\"\r\n\r\nhttp://a.test/?x=1&y=%20\r\n\
                --XX\r\nContent-Disposition: form-data; name=\"submission_metadata\"\r\n\r\n{\"a\":\"b\"}\r\n--XX--\r\n";
    let multipart = reqwest::Client::new()
        .post(url)
        .header("content-type", "multipart/form-data; boundary=XX")
        .body(body);
    let (_, answer) = answer_of(multipart).await;
    let row = &answer["data"]["submissions"][0];
    assert_eq!(row["submission_original_url"], "http://a.test/?x=1&y=%20");
    assert_eq!(
        (&row["submission_tags"], &row["submission_submission_metadata"]),
        (&json!(["a", "b"]), &json!("{\"a\":\"b\"}"))
    );
    let query = encoded(&[("sample_url", "http://b.test/ä"), ("shareable", "True")]);
    let (_, answer) =
        answer_of(reqwest::Client::new().post(format!("{}/rest/sample/submit?{query}", vmray.url()))).await;
    assert_eq!(answer["data"]["submissions"][0]["submission_shareable"], true);
    let submits = vmray.submits();
    assert_eq!(submits[0].parameters["tags"], "a,b");
    assert_eq!((submits[1].url.as_str(), vmray.posts_of("b.test/ä")), ("http://b.test/ä", 1));
}

#[tokio::test]
async fn what_is_wrong_is_refused() {
    let vmray = usual().await;
    assert_eq!(
        post(&vmray, &[("comment", "x")]).await,
        (400, json!({"result": "error", "error_msg": "Missing parameter"}))
    );
    for (name, value) in [
        ("tags", "two words"),
        ("tags", "a,,b"),
        ("tags", "a*b"),
        ("retention_period", "30"),
        ("max_recursive_samples", "51"),
        ("max_dynamic_analyses_per_sample", "11"),
        ("max_jobs", "-1"),
        ("analysis_caching", "always"),
        ("shareable", "yes"),
        ("submission_metadata", "[1]"),
    ] {
        let (status, body) = post(&vmray, &[("sample_url", "a.test"), (name, value)]).await;
        assert_eq!(
            (status, &body["error_msg"]),
            (400, &json!(format!("Invalid value for parameter {name}")))
        );
    }
    assert!(vmray.submits().iter().all(|submit| submit.outcome == SubmitOutcome::NotStored(400)));
    let right = [
        ("sample_url", "a.test"),
        ("tags", "größe_1,a/b"),
        ("retention_period", "60"),
        ("max_dynamic_analyses_per_sample", "default"),
        ("max_recursive_samples", "0"),
        ("max_jobs", "1"),
    ];
    assert_eq!(post(&vmray, &right).await.0, 200);
    vmray.set_api_keys(&[]);
    assert_eq!(post(&vmray, &right).await.0, 401);
    assert_eq!(vmray.submits().last().unwrap().outcome, SubmitOutcome::NotStored(401));
}

#[tokio::test]
async fn metadata_is_echoed_and_filtered_as_the_server_likes() {
    let sent = r#"{"token":"a,\":b","n":1}"#;
    for (metadata, echo) in [
        (MetadataEcho::AsSent, sent),
        (MetadataEcho::Respaced, r#"{"token": "a,\":b", "n": 1}"#),
        (MetadataEcho::Dropped, "{}"),
    ] {
        let vmray = start(SubmitOptions { metadata, ..SubmitOptions::default() }).await;
        let pairs = [("sample_url", "a.test"), ("submission_metadata", sent)];
        let (_, body) = post(&vmray, &pairs).await;
        submit(&vmray, "b.test").await;
        assert_eq!(body["data"]["submissions"][0]["submission_submission_metadata"], echo);
        let here = ids(&vmray, &found(sent)).await.len();
        assert_eq!(here, usize::from(metadata == MetadataEcho::AsSent));
        assert!(!ids(&vmray, &found(echo)).await.is_empty());
    }
    let ignoring = SubmitOptions { metadata_filter: MetadataFilter::Ignored, ..SubmitOptions::default() };
    let vmray = start(ignoring).await;
    submit(&vmray, "b.test").await;
    assert_eq!(ids(&vmray, &found(sent)).await.len(), 1);
    let refusing = SubmitOptions { metadata_filter: MetadataFilter::Unsupported, ..SubmitOptions::default() };
    assert_eq!(get(&start(refusing).await, &found(sent)).await.0, 400);
}

#[tokio::test]
async fn numbers_grow_from_above_the_estates_and_page() {
    let estate = Estate::generate(EstateSpec { submissions: 20, malicious: 10, ..EstateSpec::default() });
    let vmray = VmraySimulator::start(VmrayOptions { estate, ..VmrayOptions::default() }).await.unwrap();
    let one = submit(&vmray, "http://a.test/1").await;
    let two = submit(&vmray, "http://a.test/2").await;
    assert!(one > 9_100_019 && two == one + 1, "{one} {two}");
    assert_eq!(
        ids(&vmray, &format!("/rest/submission?_min_id={one}&_max_id={two}&_order=desc")).await,
        [two, one]
    );
    assert_eq!(ids(&vmray, &format!("/rest/submission?_last_id={one}")).await, [0_u64; 0]);
    vmray.finish_all();
    assert_eq!(ids(&vmray, &format!("/rest/submission?_last_id={one}")).await, [two]);
    assert_eq!(ids(&vmray, "/rest/submission?submission_status=success&_min_id=9100015").await.len(), 7);
}

#[tokio::test]
async fn submissions_are_searched_by_url() {
    let vmray = usual().await;
    let mut numbers = Vec::new();
    for url in ["http://evil.test/a b", "evil.test/A", "http://other.test/\"q\""] {
        numbers.push(submit(&vmray, url).await);
    }
    for (query, expected) in [
        (r#"url == "http://evil.test/a b""#, vec![0]),
        (r#"url == "http://evil.test/A""#, vec![1]),
        ("url == evil.test/A", vec![1]),
        (r#"url like "%EVIL.test/a%""#, vec![0, 1]),
        (r#"url not like "%evil%""#, vec![2]),
        (r#"url <> "evil.test/A" and url like %evil%"#, vec![0]),
        (r#"url == "http://other.test/\"q\"" or filename == "evil.test/A""#, vec![1, 2]),
        ("threat_name == QakBot", vec![]),
    ] {
        let expected: Vec<u64> = expected.into_iter().map(|at: usize| numbers[at]).collect();
        assert_eq!(ids(&vmray, &searched(query)).await, expected, "{query}");
    }
    assert_eq!(
        ids(&vmray, &format!("{}&_limit=1&_order=desc", searched("url like %evil%"))).await,
        [numbers[1]]
    );
    let eleven = ["url == a"; 11].join(" or ");
    for wrong in ["", "url", "url = a", "hash == a", "url == a url == b", "url == a and", &eleven] {
        assert_eq!(get(&vmray, &searched(wrong)).await.0, 400, "{wrong}");
    }
    let old = start(SubmitOptions { search: false, ..SubmitOptions::default() }).await;
    assert_eq!(get(&old, &searched("url == a")).await.0, 404);
}

#[tokio::test]
async fn a_known_url_is_answered_from_the_cache_unless_another_analysis_is_wanted() {
    let vmray = usual().await;
    let url = "http://evil.test/";
    let first = submit(&vmray, url).await;
    assert_ne!(submit(&vmray, url).await, first, "in progress is not known");
    vmray.finish_all();
    let (_, body) = post(&vmray, &[("sample_url", url)]).await;
    let row = &body["data"]["submissions"][0];
    assert_eq!(body["data"]["jobs"], json!([]));
    assert_eq!(
        (&row["submission_used_cache"], &row["submission_verdict"]),
        (&json!(true), &json!("malicious"))
    );
    assert_eq!(
        (&row["submission_finished"], &row["submission_number_created_jobs"]),
        (&json!(true), &json!(0))
    );
    assert_eq!(row["submission_created"], row["submission_finish_time"]);
    for (name, value, finished) in [
        ("analysis_caching", "disabled", false),
        ("reanalyze", "true", false),
        ("analysis_caching", "smart", true),
    ] {
        let (_, body) = post(&vmray, &[("sample_url", url), (name, value)]).await;
        assert_eq!(body["data"]["submissions"][0]["submission_finished"], finished, "{name}={value}");
    }
    let (_, body) = post(&vmray, &[("sample_url", url), ("analysis_caching", "legacy")]).await;
    assert_eq!(body["data"]["errors"][0]["error_msg"], "Submission not stored because no jobs were created");
    assert_eq!((vmray.posts_of(url), vmray.stored_of(url).len()), (7, 6));
}

#[tokio::test]
async fn a_url_of_the_estate_is_known() {
    let mut estate = Estate::new();
    estate.add_sample(SampleSpec::url(7, "http://old.test"));
    estate.add_submission(SubmissionSpec::finished(70, 7, time("2026-11-20T10:00:00")));
    let vmray = VmraySimulator::start(VmrayOptions { estate, ..VmrayOptions::default() }).await.unwrap();
    let (_, body) = post(&vmray, &[("sample_url", "old.test")]).await;
    let row = &body["data"]["submissions"][0];
    assert_eq!((&row["submission_sample_id"], &row["submission_verdict"]), (&json!(7), &json!("malicious")));
}

#[tokio::test]
async fn rules_decide_by_url_and_end() {
    let vmray = usual().await;
    vmray.on_submit(SubmitRule::containing("none", SubmitAction::NoJobs));
    vmray.on_submit(SubmitRule::containing("bare", SubmitAction::NoJobsBare));
    vmray.on_submit(SubmitRule::exactly("quota.test", SubmitAction::Quota).times(1));
    vmray.on_submit(SubmitRule::containing("top", SubmitAction::QuotaAtTop(200)));
    vmray.on_submit(SubmitRule::containing(
        "refused",
        SubmitAction::Refused(403, "Not authorized".to_owned()),
    ));
    vmray.on_submit(SubmitRule::containing("both", SubmitAction::FreshWithError("Half of it".to_owned())));
    vmray.on_submit(SubmitRule::containing("nothing", SubmitAction::Nothing));
    let clean = Ending::Verdict(Verdict::Clean);
    vmray.on_submit(SubmitRule::containing("cached", SubmitAction::Cached).ending(clean));
    let answer = async |url: &str| post(&vmray, &[("sample_url", url)]).await;

    let (_, none) = answer("none.test").await;
    assert_eq!(
        (&none["data"]["submissions"], &none["data"]["errors"][0]["submission_filename"]),
        (&json!([]), &json!("none.test"))
    );
    let (_, bare) = answer("bare.test").await;
    assert_eq!(bare["data"].as_object().unwrap().len(), 1);
    let (status, quota) = answer("http://quota.test").await;
    let text = quota["data"]["errors"][0]["error_msg"].as_str().unwrap();
    assert!(status == 200 && text.contains("exceed the Prepaid Report Quota"), "{text}");
    assert_eq!(answer("quota.test").await.1["data"]["errors"], json!([]));
    assert_eq!(answer("top.test").await.1["result"], "error");
    assert_eq!(answer("refused.test").await.0, 403);
    let (_, both) = answer("both.test").await;
    assert_eq!(
        (&both["data"]["errors"][0]["error_msg"], both["data"]["submissions"].as_array().unwrap().len()),
        (&json!("Half of it"), 1)
    );
    let (_, nothing) = answer("nothing.test").await;
    assert_eq!((&nothing["data"]["errors"], &nothing["data"]["submissions"]), (&json!([]), &json!([])));
    let (_, cached) = answer("cached.evil.test").await;
    assert_eq!(cached["data"]["submissions"][0]["submission_verdict"], "clean");
    assert_eq!(cached["data"]["samples"][0]["sample_created"], "2016-05-04T11:22:33");
}

#[tokio::test]
async fn after_the_quota_everything_is_refused_until_there_is_more() {
    let vmray = start(SubmitOptions { quota_limit: Some(1), ..SubmitOptions::default() }).await;
    submit(&vmray, "a.test").await;
    assert_eq!(post(&vmray, &[("sample_url", "b.test")]).await.1["data"]["submissions"], json!([]));
    let (_, quota) = get(&vmray, "/rest/api_key/quota").await;
    assert_eq!(quota["data"], json!({"quota_limit": 1, "used_quota": 1}));
    vmray.set_quota_limit(Some(2));
    submit(&vmray, "b.test").await;
}

#[tokio::test]
async fn a_client_that_hears_nothing_finds_what_was_stored() {
    let vmray = usual().await;
    let submits = Fault::on("POST /rest/sample/submit");
    vmray.faults().add(submits.clone().containing("http://after.test/").status_after_handling(502));
    vmray.faults().add(submits.clone().containing("closed.test").close_after_handling());
    vmray.faults().add(submits.clone().containing("before.test").once().status(502));
    vmray.faults().add(submits.clone().containing("hang.test").hang_after_handling());
    let (held, pause) = submits.containing("held.test").pause_after_handling();
    vmray.faults().add(held);
    let send = async |url: &str| {
        let request = request(&vmray, &[("sample_url", url)]).header("authorization", KEY);
        request.timeout(Duration::from_millis(300)).send().await
    };
    assert_eq!(send("http://after.test/").await.unwrap().status(), 502);
    assert!(send("closed.test").await.is_err());
    assert!(send("hang.test").await.is_err());
    assert_eq!(send("before.test").await.unwrap().status(), 502);
    for (url, stored) in [("http://after.test/", 1), ("closed.test", 1), ("hang.test", 1), ("before.test", 0)]
    {
        assert_eq!(ids(&vmray, &searched(&format!("url == \"{url}\""))).await.len(), stored, "{url}");
        assert_eq!((vmray.posts_of(url), vmray.stored_of(url).len()), (1, stored), "{url}");
    }
    assert_eq!(vmray.submits()[3].outcome, SubmitOutcome::NotHandled);
    assert_eq!((vmray.posts().len(), vmray.posts()["http://hang.test"]), (4, 1));
    let test = async {
        pause.reached().await;
        assert_eq!(vmray.stored_of("held.test").len(), 1);
        pause.release();
    };
    let (answer, ()) = tokio::join!(post(&vmray, &[("sample_url", "held.test")]), test);
    assert_eq!(answer.0, 200);
}

#[tokio::test]
async fn a_stored_submission_may_be_found_late() {
    let vmray = usual().await;
    vmray.on_submit(SubmitRule::containing("late", SubmitAction::Fresh).visible(Visible::WhenTold));
    vmray.on_submit(
        SubmitRule::containing("soon", SubmitAction::Fresh).visible(Visible::After(Duration::ZERO)),
    );
    let late = submit(&vmray, "http://late.test").await;
    let soon = submit(&vmray, "http://soon.test").await;
    let by_hash = format!("/rest/sample/sha256/{}", Hashes::of("http://late.test").sha256);
    assert_eq!(ids(&vmray, "/rest/submission").await, [soon]);
    assert_eq!(ids(&vmray, &searched("url like %late%")).await, [0_u64; 0]);
    assert_eq!(get(&vmray, &by_hash).await.1["data"], json!([]));
    assert_eq!(submission(&vmray, late).await["submission_id"], late);
    assert_eq!(vmray.reveal("late.test"), 1);
    assert_eq!(ids(&vmray, "/rest/submission").await, [late, soon]);
    assert_eq!(get(&vmray, &by_hash).await.1["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn an_old_server_with_a_wrong_clock_takes_urls_too() {
    let old = VmrayOptions {
        profile: ServerProfile::Old,
        clock_offset: TimeDelta::days(365),
        ..VmrayOptions::default()
    };
    let vmray = VmraySimulator::start(old).await.unwrap();
    let (_, body) = post(&vmray, &[("sample_url", "a.test")]).await;
    let row = &body["data"]["submissions"][0];
    assert!(row.get("submission_status").is_none() && row.get("submission_used_cache").is_none(), "{row}");
    assert_eq!(row["submission_created"], body["data"]["jobs"][0]["job_created"]);
    assert!(row["submission_created"].as_str() > Some(&crate::estate::written(Utc::now().naive_utc())));
}

#[tokio::test]
async fn submits_can_be_slow_and_throttled() {
    let vmray = start(SubmitOptions { latency: Duration::from_millis(50), ..SubmitOptions::default() }).await;
    vmray.faults().add(Fault::on("POST /rest/sample/submit").once().throttle(2));
    let begun = std::time::Instant::now();
    assert_eq!(post(&vmray, &[("sample_url", "a.test")]).await.0, 429);
    assert!(begun.elapsed() >= Duration::from_millis(50));
    submit(&vmray, "a.test").await;
    assert_eq!((vmray.posts_of("a.test"), vmray.calls()["POST /rest/sample/submit"]), (2, 2));
}

#[tokio::test]
async fn another_process_controls_submits() {
    let vmray = usual().await;
    let control = async |command: &str, body: Value| {
        let request = reqwest::Client::new().post(format!("{}/_sim/{command}", vmray.url()));
        answer_of(request.body(body.to_string())).await.1
    };
    control("submit-rule", json!({"containing": "gone", "kind": "no_jobs", "times": 1})).await;
    post(&vmray, &[("sample_url", "gone.test")]).await;
    let id = submit(&vmray, "gone.test").await;
    assert_eq!(control("finish", json!({"verdict": "suspicious"})).await["finished"], 1);
    assert_eq!(submission(&vmray, id).await["submission_verdict"], "suspicious");
    let submits = control("submits", Value::Null).await;
    assert_eq!(submits[0]["outcome"], json!({"not_stored": 200}));
    assert_eq!(submits[1]["outcome"]["stored"]["submission_id"], id);
    control("quota", json!({"limit": 0})).await;
    assert_eq!(post(&vmray, &[("sample_url", "b.test")]).await.1["data"]["submissions"], json!([]));
    assert_eq!(control("finish", json!({"verdict": "odd"})).await["ok"], false);
}
