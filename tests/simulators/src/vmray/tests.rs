use super::*;
use crate::estate::{EstateSpec, Ioc, Part, SampleSpec, SubmissionSpec, Verdict, time};
use crate::faults::Fault;
use chrono::TimeDelta;

async fn start(options: VmrayOptions) -> VmraySimulator {
    VmraySimulator::start(options).await.unwrap()
}

fn one_sample() -> Estate {
    let mut estate = Estate::new();
    let iocs = vec![
        Ioc::domain("evil.test", &["198.51.100.7"]),
        Ioc::domain("cdn.test", &[]).verdict(Verdict::Clean),
        Ioc::domain("seen.test", &[]).with("ioc", json!(false)),
        Ioc::mutex("m"),
    ];
    estate.add_sample(SampleSpec { iocs, ..SampleSpec::file(7, "a.exe") });
    estate.add_submission(SubmissionSpec::finished(70, 7, time("2026-11-20T10:00:00")));
    estate
}

fn with(estate: Estate) -> VmrayOptions {
    VmrayOptions { estate, ..VmrayOptions::default() }
}

/// `count` submissions, a second apart.
fn many(count: u64) -> Estate {
    let mut estate = Estate::new();
    estate.add_sample(SampleSpec::file(7, "a.exe"));
    for n in 0..count {
        let finished = time("2026-11-20T10:00:00") + TimeDelta::seconds(n.cast_signed());
        estate.add_submission(SubmissionSpec::finished(n + 1, 7, finished));
    }
    estate
}

async fn get(vmray: &VmraySimulator, path: &str) -> (u16, Value) {
    let request = reqwest::Client::new().get(format!("{}{path}", vmray.url()));
    let response = request.header("authorization", "api_key vmray-key").send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

async fn ids(vmray: &VmraySimulator, path: &str) -> Vec<u64> {
    let (status, body) = get(vmray, path).await;
    assert_eq!(status, 200, "{path}: {body}");
    body["data"].as_array().unwrap().iter().map(|row| row["submission_id"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn a_wrong_key_is_a_401_and_keys_can_be_rotated() {
    let vmray = start(with(one_sample())).await;
    let plain = reqwest::get(format!("{}/rest/system_info", vmray.url())).await.unwrap();
    assert_eq!(plain.status(), 401);
    assert_eq!(get(&vmray, "/rest/system_info").await.1["data"]["max_api_items"], 1000);
    vmray.set_api_keys(&["new"]);
    assert_eq!(get(&vmray, "/rest/system_info").await.0, 401);
    let seen: Vec<_> = vmray.requests().iter().map(|request| request.authorization).collect();
    assert_eq!(seen, [Authorization::Missing, Authorization::Valid, Authorization::Invalid]);
}

#[tokio::test]
async fn a_long_list_comes_in_chunks_whose_numbers_work_once() {
    let vmray = start(with(many(250))).await;
    let (_, first) = get(&vmray, "/rest/submission").await;
    let path = format!("/rest/continuation/{}", first["continuation_id"]);
    let (_, second) = get(&vmray, &path).await;
    assert_eq!(
        (first["data"].as_array().unwrap().len(), second["data"][0]["submission_id"].as_u64()),
        (100, Some(101))
    );
    assert_eq!(get(&vmray, &path).await.0, 404);
    let (_, last) = get(&vmray, &format!("/rest/continuation/{}", second["continuation_id"])).await;
    assert_eq!((last["data"].as_array().unwrap().len(), &last["continuation_id"]), (50, &Value::Null));
    assert_eq!(vmray.calls()["GET /rest/continuation/{}"], 3);
}

#[tokio::test]
async fn more_than_the_server_gives_is_cut_off_and_said_so() {
    let vmray = start(VmrayOptions { max_api_items: 120, ..with(many(121)) }).await;
    let (_, first) = get(&vmray, "/rest/submission").await;
    assert_eq!(first["truncated"], true);
    let (_, second) = get(&vmray, &format!("/rest/continuation/{}", first["continuation_id"])).await;
    assert_eq!((second["data"].as_array().unwrap().len(), &second["continuation_id"]), (20, &Value::Null));
    let (_, exact) = get(&vmray, "/rest/submission?_max_id=120").await;
    assert_eq!(exact["truncated"], false);
}

#[tokio::test]
async fn ranges_hold_their_bounds_as_the_options_say() {
    let path = "/rest/submission?submission_finish_time=2026-11-20T10:00:01~2026-11-20T10:00:03";
    for (bounds, expected) in [
        (RangeBounds::Inclusive, vec![2, 3, 4]),
        (RangeBounds::HalfOpen, vec![2, 3]),
        (RangeBounds::Exclusive, vec![3]),
    ] {
        let vmray = start(VmrayOptions { bounds, ..with(many(6)) }).await;
        assert_eq!(ids(&vmray, path).await, expected);
        let by_path = "/rest/submission/finish_time/2026-11-20T10:00:01~2026-11-20T10:00:03";
        assert_eq!(ids(&vmray, by_path).await, expected);
    }
}

#[tokio::test]
async fn lists_are_filtered_ordered_and_limited() {
    let vmray = start(with(many(6))).await;
    {
        let mut estate = vmray.estate();
        estate.submission_mut(2)["submission_verdict"] = Value::Null;
        estate.submission_mut(3)["submission_finish_time"] = json!("2026-11-20T12:00:00");
        estate.add_submission(SubmissionSpec {
            finished: None,
            ..SubmissionSpec::finished(9, 7, time("2026-11-20T10:00:00"))
        });
    }
    assert_eq!(
        ids(&vmray, "/rest/submission?submission_verdict=malicious&_limit=2&_order=desc").await,
        [6, 5]
    );
    assert_eq!(ids(&vmray, "/rest/submission?_min_id=3&_max_id=4").await, [3, 4]);
    assert_eq!(ids(&vmray, "/rest/submission?_last_id=4").await, [5, 6, 3]);
    assert_eq!(ids(&vmray, "/rest/submission/sample/7?submission_finished=false").await, [9]);
    let range = "/rest/submission?submission_finish_time=2026-11-20T11:00:00~2027-01-01T00%3A00%3A00";
    assert_eq!(ids(&vmray, range).await, [3]);
    assert_eq!(get(&vmray, "/rest/submission?no_such_field=1").await.0, 400);
    assert_eq!(get(&vmray, "/rest/submission?submission_finish_time=a~b").await.0, 400);
}

#[tokio::test]
async fn the_servers_clock_can_be_wrong() {
    let vmray = start(VmrayOptions { clock_offset: TimeDelta::hours(2), ..with(many(1)) }).await;
    let (_, one) = get(&vmray, "/rest/submission/1").await;
    assert_eq!(one["data"]["submission_finish_time"], "2026-11-20T12:00:00");
    assert_eq!(
        ids(&vmray, "/rest/submission?submission_finish_time=2026-11-20T11:59:00~2026-11-20T12:01:00").await,
        [1]
    );
}

#[tokio::test]
async fn iocs_are_filtered_and_wait_for_their_aggregation() {
    let vmray = start(with(one_sample())).await;
    vmray.estate().wait(7, Part::Iocs, 1);
    assert_eq!(get(&vmray, "/rest/sample/7/iocs").await.1["data"]["status"], "waiting");
    let count = |body: &Value, list: &str| body["data"]["iocs"][list].as_array().unwrap().len();
    let (_, all) = get(&vmray, "/rest/sample/7/iocs").await;
    assert_eq!((count(&all, "domains"), count(&all, "mutexes"), count(&all, "emails")), (2, 1, 0));
    let (_, artifacts) = get(&vmray, "/rest/sample/7/iocs?all_artifacts=true").await;
    assert_eq!(count(&artifacts, "domains"), 3);
    let (_, malicious) = get(&vmray, "/rest/sample/7/iocs/type/domains/verdict/malicious").await;
    assert_eq!((count(&malicious, "domains"), count(&malicious, "mutexes")), (1, 0));
    assert_eq!(get(&vmray, "/rest/sample/7/threat_indicators").await.1["data"]["status"], "finished");
}

#[tokio::test]
async fn what_is_gone_forbidden_or_unknown() {
    let vmray = start(with(one_sample())).await;
    vmray.estate().forbid_sample(7, true);
    assert_eq!(get(&vmray, "/rest/sample/7/vtis").await.0, 403);
    vmray.estate().delete_sample(7);
    let (status, body) = get(&vmray, "/rest/sample/7").await;
    assert_eq!((status, body), (404, json!({"error_msg": "No such element", "result": "error"})));
    assert_eq!(get(&vmray, "/rest/submission/70").await.0, 200);
    assert_eq!(get(&vmray, "/rest/sample/md5/00000000000000000000000000000000").await.1["data"], json!([]));
}

#[tokio::test]
async fn a_throttled_request_says_when_to_come_again() {
    let vmray = start(with(one_sample())).await;
    vmray.faults().add(Fault::on("GET /rest/sample/*").once().throttle(2));
    let url = format!("{}/rest/sample/7", vmray.url());
    let request = reqwest::Client::new().get(url).header("authorization", "api_key vmray-key");
    let response = request.send().await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["retry-after"]),
        (429, &"2".parse().unwrap())
    );
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["error_msg"], "Request was throttled. Expected available in 2 seconds.");
    assert_eq!(get(&vmray, "/rest/sample/7").await.0, 200);
}

#[tokio::test]
async fn answers_are_compressed_for_those_who_accept_it() {
    let vmray = start(with(one_sample())).await;
    let ask = |encoding: &'static str| {
        let request = reqwest::Client::builder()
            .no_gzip()
            .build()
            .unwrap()
            .get(format!("{}/rest/sample/7", vmray.url()));
        request.header("authorization", "api_key vmray-key").header("accept-encoding", encoding).send()
    };
    assert_eq!(ask("gzip").await.unwrap().headers()["content-encoding"], "gzip");
    assert!(ask("identity").await.unwrap().headers().get("content-encoding").is_none());
    assert_eq!(get(&vmray, "/rest/sample/7").await.1["data"]["sample_id"], 7);
}

#[tokio::test]
async fn an_old_server_knows_less() {
    let vmray = start(VmrayOptions { profile: ServerProfile::Old, ..with(one_sample()) }).await;
    assert_eq!(get(&vmray, "/rest/system_info").await.0, 403);
    let (_, sample) = get(&vmray, "/rest/sample/7").await;
    assert!(sample["data"].get("sample_verdict").is_none());
    assert_eq!(sample["data"]["sample_webif_url"], "https://sim.vmray.test/user/sample/view?id=7");
    let (_, submission) = get(&vmray, "/rest/submission/70").await;
    assert!(submission["data"].get("submission_consumed_quota").is_none());
}

#[tokio::test]
async fn connections_break_where_a_fault_says() {
    let vmray = start(with(one_sample())).await;
    vmray.faults().add(Fault::at_request(1).close());
    vmray.faults().add(Fault::at_request(2).truncate(10));
    vmray.faults().add(Fault::at_request(3).huge(1 << 20));
    vmray.faults().add(Fault::at_request(4).bomb(1 << 20));
    let ask = || {
        let request = reqwest::Client::new().get(format!("{}/rest/sample/7", vmray.url()));
        request.header("authorization", "api_key vmray-key").send()
    };
    assert!(ask().await.is_err());
    assert!(ask().await.unwrap().bytes().await.is_err());
    assert!(ask().await.unwrap().bytes().await.unwrap().len() > 1 << 20);
    assert!(ask().await.unwrap().bytes().await.unwrap().len() > 1 << 20);
    assert_eq!(ask().await.unwrap().status(), 200);
    let answered: Vec<_> = vmray.requests().iter().map(|request| request.status).collect();
    assert_eq!(answered, [None, Some(200), Some(200), Some(200), Some(200)]);
}

#[tokio::test]
async fn a_paused_request_waits_for_the_test() {
    let vmray = start(with(one_sample())).await;
    let (fault, pause) = Fault::on("GET /rest/sample/7").pause();
    vmray.faults().add(fault);
    let test = async {
        pause.reached().await;
        vmray.estate().sample_mut(7)["sample_filename"] = json!("changed");
        pause.release();
    };
    let ((_, body), ()) = tokio::join!(get(&vmray, "/rest/sample/7"), test);
    assert_eq!(body["data"]["sample_filename"], "changed");
}

#[tokio::test]
async fn another_process_reads_counts_and_adds_faults() {
    let vmray = start(with(one_sample())).await;
    let fault = json!({"on": "GET /rest/sample/7", "times": 1, "kind": "status", "status": 503});
    let request = reqwest::Client::new().post(format!("{}/_sim/faults", vmray.url())).body(fault.to_string());
    assert_eq!(request.send().await.unwrap().status(), 200);
    assert_eq!(get(&vmray, "/rest/sample/7").await.0, 503);
    let (_, stats) = get(&vmray, "/_sim/stats").await;
    assert_eq!((&stats["requests"], &stats["faults_hit"]), (&json!(1), &json!([1])));
}

#[tokio::test]
async fn relatives_and_hashes_lead_to_samples() {
    let vmray =
        start(with(Estate::generate(EstateSpec { submissions: 24, malicious: 20, ..EstateSpec::default() })))
            .await;
    let (_, relations) = get(&vmray, "/rest/sample_relation/sample/7000004").await;
    assert_eq!(relations["data"][0]["relation_child_sample_id"], 7_000_005);
    let (_, children) = get(&vmray, "/rest/submission?submission_parent_submission_id=9100004").await;
    assert_eq!(children["data"][0]["submission_sample_id"], 7_000_005);
    let hash = vmray.estate().sample_spec(7_000_003).unwrap().hashes().sha256;
    let (_, found) = get(&vmray, &format!("/rest/sample/sha256/{hash}")).await;
    assert_eq!(found["data"][0]["sample_id"], 7_000_003);
    assert_eq!(get(&vmray, "/rest/analysis/submission/9100003").await.1["data"].as_array().unwrap().len(), 2);
}
