//! `vmray-bridge serve` and `vmray-bridge submit`: the API on one machine, killed, slowed down and misused.

#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::time::Duration;

use end_to_end::local::World;
use end_to_end::served::{Served, read};
use serde_json::{Value, json};
use simulators::estate::{Estate, Hashes};
use simulators::faults::Fault;
use simulators::opencti::OpenctiOptions;
use simulators::vmray::VmrayOptions;
use simulators::vmray::submit::{SubmitAction, SubmitOptions, SubmitRule, Visible};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A world whose VMRay takes this long for a submission, and whose product waits for nothing.
async fn world(latency: Duration) -> World {
    let submit = SubmitOptions { latency, ..SubmitOptions::default() };
    let vmray = VmrayOptions { estate: Estate::new(), submit, ..VmrayOptions::default() };
    let mut world = World::with(vmray, OpenctiOptions::default()).await;
    for name in ["VERDICT_REFRESH_MS", "SUBMIT_RETRY_MS", "LOOKUP_PAUSE_MS", "LOOKUP_SETTLE_MS"] {
        world.set(name, "20");
    }
    world
}

fn urls(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("http://host-{number}.example/path")).collect()
}

fn batch(answer: &Value) -> String {
    answer["batch_id"].as_str().unwrap().to_owned()
}

fn unsent(answer: &Value) -> u64 {
    answer["counts"]["pending"].as_u64().unwrap() + answer["counts"]["unconfirmed"].as_u64().unwrap()
}

/// Looks again and again, and leaves the others time to work.
async fn until(happened: impl Fn() -> bool) {
    while !happened() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn each_stored_once(world: &World, urls: &[String]) {
    for url in urls {
        let posts: Vec<_> = world.vmray.submits().into_iter().filter(|submit| submit.url == *url).collect();
        assert_eq!(world.vmray.stored_of(url).len(), 1, "{posts:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_is_submitted_and_its_verdicts_come_back() {
    let world = world(Duration::ZERO).await;
    let served = world.serve().await;
    let body = json!({"urls": ["hxxps://evil[.]example/a", {"id": 42, "value": "http://good.example/"}, "10.0.0.1"]});
    let (status, answer) = served.submit("/v1/submissions", &body).await;
    assert_eq!(status, 202, "{answer}");
    assert_eq!(answer["results"][0]["status"], "submitted");
    assert!(answer["results"][0]["submission_id"].is_u64());
    assert_eq!(answer["results"][1]["id"], 42);
    assert_eq!(answer["results"][2]["error_code"], "private_host");

    world.vmray.finish_all();
    let done = served.until(&batch(&answer), |answer| answer["done"] == true).await;
    assert_eq!(done["results"][0]["verdict"], "malicious");
    assert_eq!(done["results"][1]["verdict"], "clean");
    let attribute = &done["results"][0]["attributes"][0];
    assert_eq!(attribute["name"], "VMRay Submission ID");
    assert_eq!(attribute["value"], done["results"][0]["sample_id"].to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_goes_on_where_it_stopped_and_sends_nothing_twice() {
    let mut world = world(Duration::from_millis(10)).await;
    // A claim lasts five seconds longer than this.
    world.set("SUBMIT_TIMEOUT_MS", "4000");
    // A simulator that a busy machine holds up may store later than that.
    world.set("LOOKUP_SETTLE_MS", "5000");
    let urls = urls(250);
    let served = world.serve().await;
    let (_, answer) = served.submit("/v1/submissions?wait=0", &json!({ "urls": urls })).await;
    until(|| world.vmray.submits().len() >= 60).await;
    served.kill().await;
    let before = world.vmray.submits().len();
    assert!(before < 250, "it was killed too late");

    let served = world.serve().await;
    // The key is another one, and so the caller's name is the same.
    served.until(&batch(&answer), |answer| unsent(answer) == 0).await;
    each_stored_once(&world, &urls);
    world.vmray.finish_all();
    let done = served.until(&batch(&answer), |answer| answer["done"] == true).await;
    assert_eq!(done["counts"]["finished"], 250);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_meets_an_outage_is_finished_after_it() {
    let world = world(Duration::ZERO).await;
    world.vmray.faults().add(Fault::on("*").status(503));
    let served = world.serve().await;
    let urls = urls(30);
    let (status, answer) = served.submit("/v1/submissions?wait=1", &json!({ "urls": urls })).await;
    assert_eq!(status, 202);
    assert_eq!(unsent(&answer), 30, "{answer}");
    world.heal();
    served.until(&batch(&answer), |answer| unsent(answer) == 0).await;
    each_stored_once(&world, &urls);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_identical_calls_at_once_are_one_batch_and_one_post_for_each_url() {
    let world = world(Duration::from_millis(5)).await;
    let served = world.serve().await;
    let urls = urls(120);
    let body = json!({ "urls": urls });
    let calls = (0..8).map(|_| served.submit("/v1/submissions", &body));
    let answers = futures::future::join_all(calls).await;
    assert!(answers.iter().all(|(_, answer)| batch(answer) == batch(&answers[0].1)));
    served.until(&batch(&answers[0].1), |answer| unsent(answer) == 0).await;
    assert!(urls.iter().all(|url| world.vmray.posts_of(url) == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn identical_calls_at_the_same_moment_send_no_more_than_the_daily_limit() {
    let mut world = world(Duration::ZERO).await;
    world.set("MAX_URLS_PER_CALLER_DAY", "100");
    let served = world.serve().await;
    let too_many = json!({ "urls": urls(101) });
    let calls = (0..20).map(|_| served.submit("/v1/submissions", &too_many));
    let answers = futures::future::join_all(calls).await;
    assert!(answers.iter().all(|(status, _)| *status == 429), "{answers:?}");
    let fitting = json!({ "urls": urls(100) });
    let calls = (0..20).map(|_| served.submit("/v1/submissions?wait=25", &fitting));
    let answers = futures::future::join_all(calls).await;
    assert!(answers.iter().all(|(status, answer)| *status == 202 && unsent(answer) == 0), "{answers:?}");
    assert_eq!(world.vmray.submits().len(), 100);
    let (_, check) = served.submit("/v1/check", &json!(["http://another.example/"])).await;
    assert_eq!((&check["today"]["used"], &check["fits"]), (&json!(100), &json!(false)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_url_is_sent_beside_another_callers_backlog() {
    let mut world = world(Duration::from_millis(40)).await;
    let hash = |key: &str| json!({"keys": [Hashes::of(key).sha256]});
    world.set("CALLERS", &json!({"many": hash("key-of-many"), "one": hash("key-of-one")}).to_string());
    let mut served = world.serve().await;
    served.key = "key-of-many".to_owned();
    let backlog: Vec<_> =
        (0..10).map(|batch| (0..100).map(move |n| format!("http://h{batch}-{n}.example/"))).collect();
    for urls in backlog {
        served.submit("/v1/submissions?wait=0", &json!({ "urls": urls.collect::<Vec<_>>() })).await;
    }
    until(|| world.vmray.submits().len() >= 100).await;
    served.key = "key-of-one".to_owned();
    let before = world.vmray.submits().len();
    let (_, answer) = served.submit("/v1/submissions?wait=25", &json!(["http://single.example/"])).await;
    assert_eq!(answer["results"][0]["status"], "submitted", "{answer}");
    let sent = world.vmray.submits();
    let place = sent.iter().position(|submit| submit.url == "http://single.example/").unwrap();
    assert!(place < before + 100, "{} of the other caller's came first", place - before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_waited_for_its_urls_does_not_wait_for_verdicts() {
    let world = world(Duration::ZERO).await;
    let served = world.serve().await;
    let body = json!({ "urls": urls(20) });
    let (_, answer) = served.submit("/v1/submissions?wait=25", &body).await;
    assert_eq!(answer["counts"]["submitted"], 20, "{answer}");
    let lists = || world.vmray.calls().keys().filter(|call| call.starts_with("GET /rest/submission")).count();
    assert_eq!(lists(), 0);
    let (_, again) = served.submit("/v1/submissions", &body).await;
    assert_eq!(batch(&again), batch(&answer));
    assert_eq!(lists(), 1, "with nothing left to send it asks for verdicts");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_list_shows_is_asked_for_several_at_a_time() {
    let world = world(Duration::ZERO).await;
    world.vmray.on_submit(SubmitRule::all(SubmitAction::Fresh).visible(Visible::WhenTold));
    let served = world.serve().await;
    let (_, answer) = served.submit("/v1/submissions?wait=25", &json!({ "urls": urls(20) })).await;
    world.vmray.finish_all();
    // The first of them is answered last.
    let (fault, pause) = Fault::on("GET /rest/submission/*").once().pause();
    world.vmray.faults().add(fault);
    let path = format!("/v1/submissions/{}", batch(&answer));
    let asking = served.get(&path);
    let others = async {
        pause.reached().await;
        let asked =
            || world.vmray.requests().iter().filter(|it| it.path.starts_with("/rest/submission/")).count();
        // All but the one that is held.
        until(|| asked() >= 19).await;
        pause.release();
    };
    let ((_, done), ()) = tokio::join!(asking, others);
    assert_eq!(done["counts"]["finished"], 20, "{done}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_of_what_is_known_asks_vmray_for_nothing_new() {
    let world = world(Duration::ZERO).await;
    let served = world.serve().await;
    let body = json!({ "urls": urls(20) });
    let (_, first) = served.submit("/v1/submissions", &body).await;
    world.vmray.finish_all();
    served.until(&batch(&first), |answer| answer["done"] == true).await;
    let (status, second) = served.submit("/v1/submissions", &body).await;
    assert_eq!(status, 200, "{second}");
    assert_ne!(batch(&first), batch(&second));
    assert!(second["results"].as_array().unwrap().iter().all(|row| row["source"] == "reused"));
    assert_eq!(world.vmray.submits().len(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn urls_that_vmray_makes_no_jobs_for_do_not_wait_for_each_other() {
    let mut world = world(Duration::ZERO).await;
    world.set("SUBMIT_CONCURRENCY", "2");
    world.vmray.on_submit(SubmitRule::all(SubmitAction::NoJobs));
    let served = world.serve().await;
    let (_, answer) = served.submit("/v1/submissions?wait=0", &json!({ "urls": urls(20) })).await;
    let done = served.until(&batch(&answer), |answer| answer["done"] == true).await;
    assert_eq!(done["counts"]["failed"], 20);
    assert_eq!(done["results"][0]["error_code"], "no_jobs");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_vmray_says_of_a_url_is_repeated_without_the_url() {
    let world = world(Duration::ZERO).await;
    let secret = "https://victim.example/reset/7f3a?token=9c1d";
    let said = |text: &str| SubmitAction::Error(format!("Cannot open {text}: not reachable"));
    world.vmray.on_submit(SubmitRule::containing("refused", said(secret)));
    world.vmray.on_submit(SubmitRule::containing("bare", said("victim.example/reset/7f3a?token=9c1d")));
    world.vmray.on_submit(SubmitRule::containing(
        "denied",
        SubmitAction::Refused(400, format!("bad URL '{secret}'")),
    ));
    let served = world.serve().await;
    let urls = ["refused", "bare", "denied"].map(|host| format!("http://{host}.example/"));
    let (_, answer) = served.submit("/v1/submissions", &json!(urls)).await;
    let done = served.until(&batch(&answer), |answer| answer["done"] == true).await;
    assert_eq!(done["counts"]["failed"], 3, "{done}");
    assert!(done["results"][0]["error_detail"].as_str().unwrap().contains("not reachable"), "{done}");
    let page = format!("<html>{secret} is blocked</html>");
    world.vmray.faults().add(Fault::any().body(502, "text/html", &page));
    let (_, answer) = served.submit("/v1/submissions?wait=0", &json!(["http://blocked.example/"])).await;
    let waits =
        served.until(&batch(&answer), |answer| answer["results"][0]["error_detail"].is_string()).await;
    for text in [done.to_string(), waits.to_string(), served.log()] {
        assert!(!text.contains("7f3a") && !text.contains("9c1d"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_says_nothing_holds_up_nobody() {
    let world = world(Duration::ZERO).await;
    let served = world.serve().await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        let mut connection = served.connect().await;
        connection
            .write_all(b"POST /v1/submissions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n")
            .await
            .unwrap();
        silent.push(connection);
    }
    assert_eq!(served.get("/health").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_never_ends_is_refused_at_its_limit() {
    let world = world(Duration::ZERO).await;
    let served = world.serve().await;
    let mut connection = served.connect().await;
    let head = format!(
        "POST /v1/submissions HTTP/1.1\r\nhost: x\r\nx-api-key: {}\r\ncontent-length: 7000000\r\n\r\n",
        served.key
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    let chunk = vec![b'x'; 64 * 1024];
    let (mut reading, mut writing) = connection.into_split();
    let sending = tokio::spawn(async move { while writing.write_all(&chunk).await.is_ok() {} });
    let mut answer = [0; 12];
    reading.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
    drop(reading);
    sending.await.unwrap();
}

/// A body of the largest size that is allowed.
const LARGEST_BODY: usize = 4 * 1024 * 1024;

/// More clients than may be connected without a key.
const CROWD: usize = 700;

/// What `serve` may need at most.
const MOST_MEMORY_MIB: u64 = 100;

fn head_of_post(key: &str, more: &str) -> String {
    format!("POST /v1/submissions HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\n{more}\r\n\r\n")
}

/// Sends a whole body, whether somebody reads it or not, and gives the first line of what is answered.
async fn answer_to_body(served: &Served, key: &str, body: &[u8]) -> String {
    let head = head_of_post(key, &format!("content-length: {}", body.len()));
    let (mut reading, mut writing) = served.connect().await.into_split();
    let sending = async {
        if writing.write_all(head.as_bytes()).await.is_ok() {
            let _ = writing.write_all(body).await;
        }
    };
    let mut answer = [0; 12];
    let ((), read) = tokio::join!(sending, reading.read_exact(&mut answer));
    read.unwrap();
    String::from_utf8(answer.to_vec()).unwrap()
}

/// The most memory that a process has had so far.
fn peak_memory_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() / 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bodies_of_strangers_are_refused_unread() {
    let world = world(Duration::ZERO).await;
    let served = world.serve().await;
    let body = vec![b' '; LARGEST_BODY];
    let calls = (0..400).map(|_| answer_to_body(&served, "no-key", &body));
    let answers = futures::future::join_all(calls).await;
    assert!(answers.iter().all(|answer| answer == "HTTP/1.1 401"));
    let peak = peak_memory_mib(served.pid());
    assert!(peak <= MOST_MEMORY_MIB, "{peak} MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bodies_of_callers_take_turns_in_memory() {
    let world = world(Duration::ZERO).await;
    let served = world.serve().await;
    let body = vec![b' '; LARGEST_BODY];
    let calls = (0..60).map(|_| answer_to_body(&served, &served.key, &body));
    let answers = futures::future::join_all(calls).await;
    assert!(answers.iter().all(|answer| answer == "HTTP/1.1 400"), "{answers:?}");
    let peak = peak_memory_mib(served.pid());
    assert!(peak <= MOST_MEMORY_MIB, "{peak} MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_head_alone_decides_whether_a_body_is_wanted() {
    let world = world(Duration::ZERO).await;
    let served = world.serve().await;
    let body = br#"{"url": "http://10.0.0.1/"}"#;
    let fits = format!("content-length: {}", body.len());
    for (key, more, said) in [
        (served.key.as_str(), "content-length: 4194305".to_owned(), "HTTP/1.1 413"),
        (&served.key, "content-length: 4194305\r\nexpect: 100-continue".to_owned(), "HTTP/1.1 413"),
        ("no-key", fits.clone(), "HTTP/1.1 401"),
        ("no-key", format!("{fits}\r\nexpect: 100-continue"), "HTTP/1.1 401"),
        (&served.key, format!("{fits}\r\nexpect: 100-continue"), "HTTP/1.1 100"),
    ] {
        let mut connection = served.connect().await;
        connection.write_all(head_of_post(key, &more).as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        connection.read_exact(&mut answer).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&answer), said, "{more}");
        if said.ends_with("100") {
            connection.write_all(body).await.unwrap();
            connection.read_exact(&mut [0; 13]).await.unwrap();
            connection.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"HTTP/1.1 200", "nothing is left to send");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_clients_that_never_read_keeps_nobody_away() {
    let world = world(Duration::ZERO).await;
    let served = world.serve().await;
    let requests = "GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".repeat(1000);
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        let connection = served.connect().await;
        // As many as are taken; most clients of the crowd are put out for those that come later.
        let _ = connection.try_write(requests.as_bytes());
        crowd.push(connection);
    }
    assert_eq!(served.get("/health").await.0, 200);
    assert_eq!(served.submit("/v1/check", &json!(["http://a.example/"])).await.0, 200);
    let peak = peak_memory_mib(served.pid());
    assert!(peak <= MOST_MEMORY_MIB, "{peak} MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_gets_one_answer_for_each_connection_and_a_caller_as_many_as_it_asks_for() {
    let world = world(Duration::ZERO).await;
    let served = world.serve().await;
    let request = |key: &str| format!("GET /openapi.json HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\n\r\n");
    let check = |key: &str| {
        head_of_post(key, "content-length: 20").replace("submissions", "check") + r#"["http://a.example"]"#
    };
    for (requests, answers) in
        [(request("").repeat(3), 1), (check("no-key").repeat(3), 1), (check(&served.key).repeat(3), 3)]
    {
        let mut connection = served.connect().await;
        connection.write_all(requests.as_bytes()).await.unwrap();
        let mut said = String::new();
        connection.read_to_string(&mut said).await.unwrap();
        assert_eq!(said.matches("HTTP/1.1 ").count(), answers, "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_idle_or_does_not_read_is_put_out_even_with_a_key() {
    let world = world(Duration::ZERO).await;
    let served = world.serve().await;
    let idle = async {
        let mut connection = served.connect().await;
        connection.read_to_end(&mut Vec::new()).await.unwrap();
    };
    let deaf = async {
        let mut connection = served.connect().await;
        let request = format!(
            "GET /v1/submissions?ids={} HTTP/1.1\r\nhost: x\r\nx-api-key: {}\r\n\r\n",
            "x".repeat(5000),
            served.key
        );
        // Ends when the server has closed the connection.
        while connection.write_all(request.as_bytes()).await.is_ok() {}
    };
    tokio::join!(idle, deaf);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_that_is_no_text_is_refused_and_not_missed() {
    let world = world(Duration::ZERO).await;
    let served = world.serve().await;
    for key in [b"l\xe4uft".as_slice(), "l\u{e4}uft".as_bytes()] {
        let key = reqwest::header::HeaderValue::from_bytes(key).unwrap();
        let request = served.request(reqwest::Method::POST, "/v1/submissions?wait=0");
        let request = request.header("x-api-key", &served.key).header("idempotency-key", key);
        let (status, answer) = read(request.body(r#"["http://a.example/"]"#).send().await.unwrap()).await;
        assert_eq!((status, &answer["type"]), (400, &json!("urn:vmray-bridge:problem:invalid-parameter")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_monitor_may_ask_with_head() {
    let world = world(Duration::ZERO).await;
    let served = world.serve().await;
    let answer = served.request(reqwest::Method::HEAD, "/health").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.text().await.unwrap(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_by_signal_lets_an_answer_out_first() {
    let world = world(Duration::from_millis(300)).await;
    let served = world.serve().await;
    let (pid, key) = (served.pid(), served.key.clone());
    let calling = served.request(reqwest::Method::POST, "/v1/submissions").header("x-api-key", key);
    let calling = tokio::spawn(calling.body(r#"{"url": "http://a.example/"}"#).send());
    until(|| !world.vmray.requests().is_empty()).await;
    signal(pid);
    let (status, answer) = read(calling.await.unwrap().unwrap()).await;
    assert!(status == 202 && answer["batch_id"].is_string(), "{answer}");
    assert_eq!(served.end().await, Some(0));
}

fn signal(pid: u32) {
    let status = std::process::Command::new("kill").args(["-TERM", &pid.to_string()]).status().unwrap();
    assert!(status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_was_made_opens_the_door_and_no_other_does() {
    let mut world = world(Duration::ZERO).await;
    let made = std::process::Command::new(end_to_end::binary::built("vmray-bridge"))
        .args(["key", "new", "soar", "--json"])
        .output()
        .unwrap();
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    world.set("CALLERS", &json!({"soar": {"keys": [made["sha256"]]}}).to_string());
    let mut served: Served = world.serve().await;
    assert_eq!(served.key, "", "no key is made when callers are named");
    assert_eq!(served.submit("/v1/check", &json!(["http://a.example/"])).await.0, 401);
    served.key = made["key"].as_str().unwrap().to_owned();
    assert_eq!(served.submit("/v1/check", &json!(["http://a.example/"])).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_submits_a_file_and_reads_a_table_or_json() {
    let world = world(Duration::ZERO).await;
    let file = world.state_file().with_file_name("urls.txt");
    std::fs::write(&file, "# from the mailbox\nhxxp://evil[.]example/a\nhttp://10.0.0.1/\n").unwrap();
    let path = file.to_str().unwrap();

    let checked = world.bridge(&["submit", "--check", "--json", path]).run().await;
    assert_eq!(checked.json()["counts"]["submit"], 1);
    assert!(world.vmray.submits().is_empty(), "a check sends nothing");

    let submitted = world.bridge(&["submit", "-o", "tags=mailbox", path]).run().await;
    assert_eq!(submitted.code, 0, "{submitted:?}");
    assert!(submitted.stdout.contains("submitted") && submitted.stdout.contains("http://evil.example/a"));
    assert!(submitted.stdout.contains("private_host"));
    assert_eq!(world.vmray.submits()[0].parameters["tags"], "mailbox");

    world.vmray.finish_all();
    let arguments = ["submit", "--json", "--wait", "60", "-"];
    let waited = world.bridge(&arguments).stdin(File::open(&file).unwrap()).run().await;
    let answer = waited.json();
    assert_eq!(answer["results"][0]["verdict"], "malicious", "{answer}");
    assert_eq!(world.vmray.submits().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_file_is_said_with_exit_code_2() {
    let world = world(Duration::ZERO).await;
    let file = world.state_file().with_file_name("urls.txt");
    std::fs::write(&file, "http://a.example/\n").unwrap();
    let path = file.to_str().unwrap();
    for (arguments, said) in [
        (vec!["submit", "/does/not/exist"], "cannot read"),
        (vec!["submit", "-o", "tag=x", path], "tags"),
        (vec!["submit", "-o", "retention_days=61", path], "retention_days"),
        (vec!["submit", "-o", "force=true", "-o", "force=false", path], "given twice"),
    ] {
        let run = world.bridge(&arguments).run().await;
        assert_eq!(run.code, 2, "{run:?}");
        assert!(run.stderr.contains(said), "{run:?}");
    }
    assert!(world.vmray.requests().is_empty());
}
