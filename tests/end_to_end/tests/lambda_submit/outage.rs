//! VMRay is away, busy, or does not know the key: calls are accepted, and finished when it is back.

use std::collections::BTreeSet;

use end_to_end::http_api::HttpRequest;
use end_to_end::queue::Counts;
use end_to_end::submit::{NEXT_VMRAY_KEY, VMRAY_KEY, World, secret, url};
use serde_json::json;
use simulators::faults::Fault;
use simulators::vmray::submit::SubmitOptions;
use simulators::vmray::{VmrayOptions, VmraySimulator};
use tokio::net::TcpSocket;

use crate::scene::{POST, Scene, counts, each, metrics, submission, urls};

const HOSTS: [&str; 4] = ["a", "b", "c", "evil-d"];

fn delays(world: &World) -> Vec<u64> {
    let sent = world.queue().sent();
    sent.iter().filter(|sent| sent.body.contains("chunk") && sent.delay > 0).map(|sent| sent.delay).collect()
}

#[tokio::test]
async fn a_call_during_an_outage_is_accepted_and_finished_after_it() {
    // Bound and not listening: connections are refused, and nobody else gets the port.
    let closed = TcpSocket::new_v4().unwrap();
    closed.set_reuseaddr(true).unwrap();
    closed.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = closed.local_addr().unwrap().port();
    let server = format!("http://127.0.0.1:{port}");
    let scene = Scene::of(Scene::world(SubmitOptions::default()).await, &[("VMRAY_SERVER", &server)]).await;

    let accepted = scene.ask(submission(&urls(&HOSTS))).await;
    assert_eq!((accepted.status, counts(&accepted.json())), (202, json!({"pending": 4})));
    scene.work().await;
    for _ in 0..8 {
        scene.work_later().await;
    }
    // The guard's message goes the same way as the call's.
    let delays: BTreeSet<_> = delays(&scene.world).into_iter().collect();
    assert_eq!(delays, [5, 10, 20, 40, 80, 160, 320, 640, 900].into(), "longer and longer");
    assert_eq!(metrics(&scene.worker)["VmrayUnavailable"], 1);
    let waiting = scene.look(&accepted.json()).await;
    assert_eq!(counts(&waiting), json!({"pending": 4}), "VMRay cannot have got them");
    assert_eq!(each(&waiting, "error_code")[0], "not_sent");

    drop(closed);
    let options = VmrayOptions { port, api_keys: vec![VMRAY_KEY.to_owned()], ..VmrayOptions::default() };
    let vmray = VmraySimulator::start(options).await.unwrap();
    scene.work_later().await;
    assert_eq!(vmray.posts().values().collect::<Vec<_>>(), [&1; 4]);
    vmray.finish_all();
    assert_eq!(scene.look(&accepted.json()).await["done"], true);
    assert_eq!(scene.world.queue().counts().await, Counts::default(), "nothing is left to be done");
}

#[tokio::test]
async fn a_long_outage_costs_vmray_few_requests() {
    let scene = Scene::with(SubmitOptions::default(), &[("SUBMIT_CONCURRENCY", "1")]).await;
    scene.world.vmray.faults().add(Fault::on("*").status(503));
    let hosts: Vec<_> = (0..60).map(|n| format!("h{n}")).collect();
    let hosts: Vec<_> = hosts.iter().map(String::as_str).collect();
    scene.submit(&urls(&hosts)).await;
    scene.work().await;
    let posts = scene.world.vmray.submits().len();
    assert!(posts <= 3, "three failures in a row are an outage: {posts}");
    scene.world.vmray.faults().clear();
    scene.work_it_off().await;
    let stored: usize = hosts.iter().map(|host| scene.world.vmray.stored_of(&url(host)).len()).sum();
    assert_eq!(stored, 60);
}

#[tokio::test]
async fn a_short_retry_after_is_waited_for() {
    let scene = Scene::new().await;
    scene.world.vmray.faults().add(Fault::on(POST).once().throttle(1));
    let batch = scene.submit(&urls(&["a"])).await;
    scene.work().await;
    assert_eq!(counts(&scene.look(&batch).await), json!({"submitted": 1}));
    let submits = scene.world.vmray.submits();
    let pause = submits[1].at - submits[0].at;
    assert!(submits.len() == 2 && pause.num_milliseconds() >= 1000, "{pause}");
    assert_eq!(scene.world.vmray.stored_of(&url("a")).len(), 1);
}

#[tokio::test]
async fn during_a_long_retry_after_vmray_is_left_alone_and_no_worker_waits() {
    let scene = Scene::with(SubmitOptions::default(), &[("SUBMIT_CONCURRENCY", "2")]).await;
    scene.world.vmray.faults().add(Fault::on(POST).throttle(120));
    let batch = scene.submit(&urls(&["a", "b", "c", "d", "e"])).await;
    let started = std::time::Instant::now();
    scene.work().await;
    assert!(started.elapsed().as_secs() < 20, "the message comes again instead: {:?}", started.elapsed());
    let posts = scene.world.vmray.submits().len();
    assert!(posts <= 2, "only those that were under way: {posts}");
    let delays = delays(&scene.world);
    assert!(delays.len() == 1 && delays[0] >= 119, "{delays:?}");
    assert_eq!(counts(&scene.look(&batch).await), json!({"pending": 5}));
    scene.world.vmray.faults().clear();
    scene.work_later().await;
    assert_eq!(counts(&scene.look(&batch).await), json!({"submitted": 5}));
    assert_eq!(scene.world.vmray.stats()["server"]["stored"], 5);
}

#[tokio::test]
async fn a_rotated_key_is_read_again_and_used() {
    let scene = Scene::new().await;
    let batch = scene.submit(&urls(&["a", "b"])).await;
    scene.world.aws.rotate_secret(&secret(NEXT_VMRAY_KEY)).await;
    scene.world.vmray.set_api_keys(&[NEXT_VMRAY_KEY]);
    scene.work().await;
    assert_eq!(counts(&scene.look(&batch).await), json!({"submitted": 2}));
    assert_eq!(metrics(&scene.worker)["VmrayUnauthorized"], 0);
    assert_eq!(scene.world.vmray.stats()["server"]["stored"], 2);
}

#[tokio::test]
async fn without_a_valid_key_urls_wait_and_the_operator_is_told() {
    let mut scene = Scene::new().await;
    scene.world.vmray.set_api_keys(&[NEXT_VMRAY_KEY]);
    let batch = scene.submit(&urls(&HOSTS)).await;
    scene.work().await;
    assert_eq!(counts(&scene.look(&batch).await), json!({"pending": 4}));
    let told = metrics(&scene.worker);
    assert_eq!((&told["VmrayUnauthorized"], &told["VmrayUnavailable"]), (&json!(1), &json!(0)));
    assert!(scene.worker.stdout().contains(scene.world.aws.secret_arn()), "the secret is named");
    assert_eq!(delays(&scene.world), [5]);
    assert_eq!(scene.world.vmray.stats()["server"]["stored"], 0);

    scene.world.aws.rotate_secret(&secret(NEXT_VMRAY_KEY)).await;
    // The next cold start; a warm process reads the secret again at most every 30 s.
    scene.worker = scene.world.worker().await;
    scene.work_later().await;
    assert_eq!(counts(&scene.look(&batch).await), json!({"submitted": 4}));
    assert_eq!(scene.world.vmray.stats()["server"]["stored"], 4);
}

#[tokio::test]
async fn a_key_that_is_refused_while_verdicts_are_asked_for_is_told_to_the_operator() {
    let mut scene = Scene::new().await;
    let batch = scene.submit(&urls(&HOSTS)).await;
    scene.work().await;
    scene.look(&batch).await;
    assert_eq!(metrics(&scene.api)["VmrayUnauthorized"], 0);
    scene.world.vmray.set_api_keys(&[NEXT_VMRAY_KEY]);
    // The look before has asked already, and does so again only after a pause.
    scene.api = scene.world.api().await;
    scene.look(&batch).await;
    assert!(metrics(&scene.api)["VmrayUnauthorized"].as_u64() > Some(0));
}

#[tokio::test]
async fn answers_of_the_api_do_not_need_vmray() {
    let scene = Scene::new().await;
    let batch = scene.submit(&urls(&["a"])).await;
    scene.work().await;
    scene.world.vmray.faults().add(Fault::on("*").status(500));
    let unasked = scene.look(&batch).await;
    assert_eq!(
        (counts(&unasked), &unasked["quota"]),
        (json!({"submitted": 1}), unasked.get("quota").unwrap())
    );
    assert_eq!(scene.ask(HttpRequest::get("/health")).await.status, 200);
}
