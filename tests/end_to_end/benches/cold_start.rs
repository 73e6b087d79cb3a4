//! From exec to the first answer, on a stub of Lambda's Runtime API: `submit` beside a function that does nothing.
//!
//! `tests/aws/with-emulators cargo bench -p end_to_end --bench cold_start` prints the table: medians, the two taking turns.

#![allow(clippy::unwrap_used, reason = "a measurement that cannot be made ends the program")]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use end_to_end::http_api::HttpRequest;
use end_to_end::lambda::{Function, Lambda, MINUTES, Program};
use end_to_end::submit::World;
use serde_json::Value;
use simulators::vmray::submit::SubmitOptions;

/// Starts of each function.
const STARTS: usize = 25;

/// The most that `submit` may take, in starts of the other.
const LIMIT: f64 = 15.0;

#[tokio::main]
async fn main() {
    let world = World::new(SubmitOptions::default()).await;
    let hello = Program::At(Path::new(env!("CARGO_BIN_EXE_hello")));
    let hello = Function::new(hello, "hello", &BTreeMap::new(), &[]);
    let event = HttpRequest::get("/health").event();
    // Builds the binaries, and lets the disk's cache be warm for both.
    first_answer(world.api().await, &event).await;
    first_answer(hello.start().await, &event).await;
    let (mut hellos, mut submits) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let started = Instant::now();
        first_answer(hello.start().await, &event).await;
        hellos.push(started.elapsed());
        let started = Instant::now();
        first_answer(world.api().await, &event).await;
        submits.push(started.elapsed());
    }
    let (hello, submit) = (median(hellos), median(submits));
    let ratio = submit.as_secs_f64() / hello.as_secs_f64();
    println!(
        "\nFrom exec to the first answer, the median of {STARTS} starts; `submit` reads its secret from an emulator\n"
    );
    println!("| hello | submit | submit / hello | at most |");
    println!("|---|---|---|---|");
    println!("| {hello:.1?} | {submit:.1?} | {ratio:.1} | {LIMIT} |");
}

async fn first_answer(lambda: Lambda, event: &Value) {
    let answer = lambda.invoke(event.clone(), MINUTES).await.answer();
    assert!(answer.is_object(), "{answer}");
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
