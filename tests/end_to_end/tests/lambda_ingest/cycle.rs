//! What each kind of event brings about, and what the function answers and prints.

use end_to_end::aws::dynamodb_local_endpoint;
use end_to_end::lambda::{MINUTES, World, estate, position, schedule};
use serde_json::json;
use simulators::vmray::VmrayOptions;

/// A schedule event brings everything, and the next one finds nothing new.
async fn a_full_cycle(world: &World) {
    let lambda = world.lambda().await;
    let first = lambda.invoke(schedule(), MINUTES).await.answer();
    assert_eq!(first["status"], "done", "{first}");
    assert_eq!((&first["submissions"], &first["samples"]), (&json!(5), &json!(5)));
    assert_eq!(first["position"], position(5));
    assert_eq!(world.arrived(1..=5), [1, 2, 3, 4, 5]);
    {
        let platform = world.opencti.platform();
        assert_eq!(platform.knowledge().mismatched_ids(), []);
        assert!(platform.knowledge().rejected().is_empty());
    }
    let works = world.opencti.platform().works().len();

    let second = lambda.invoke(schedule(), MINUTES).await.answer();
    assert_eq!(second["status"], "done", "{second}");
    assert_eq!((&second["submissions"], &second["objects"]), (&json!(0), &json!(0)));
    assert_eq!(second["position"], position(5));
    let calls = second["calls"]["vmray"].as_u64().unwrap() + second["calls"]["opencti"].as_u64().unwrap();
    assert!(calls <= 8, "nothing new costs {calls} calls");
    assert_eq!(world.opencti.platform().works().len(), works, "no work was opened for nothing");
}

#[tokio::test]
async fn a_schedule_event_brings_everything_and_the_next_one_finds_nothing_new() {
    a_full_cycle(&World::new(estate(5)).await).await;
}

#[tokio::test]
async fn a_full_cycle_on_awss_own_dynamodb_engine() {
    let Some(endpoint) = dynamodb_local_endpoint() else { return };
    let world = World::on(Some(endpoint), VmrayOptions { estate: estate(5), ..VmrayOptions::default() }).await;
    a_full_cycle(&world).await;
}
