//! A worker that does what its messages say, for the tests of the event source: `ok`, `fail` (named in
//! `batchItemFailures`), `error`, `crash`, `nonsense` (a partial answer that cannot be read), `hang` (the first time).

use serde_json::{Value, json};

type AnyError = Box<dyn std::error::Error>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), AnyError> {
    let api = format!("http://{}/2018-06-01/runtime/invocation", std::env::var("AWS_LAMBDA_RUNTIME_API")?);
    let http = reqwest::Client::builder().no_proxy().build()?;
    loop {
        let next = http.get(format!("{api}/next")).send().await?;
        let id = next.headers()["lambda-runtime-aws-request-id"].to_str()?.to_owned();
        let event: Value = serde_json::from_slice(&next.bytes().await?)?;
        let (end, body) = answer(&event);
        http.post(format!("{api}/{id}/{end}")).body(body.to_string()).send().await?;
    }
}

fn answer(event: &Value) -> (&'static str, Value) {
    let mut failures = Vec::new();
    for record in event["Records"].as_array().into_iter().flatten() {
        match record["body"].as_str() {
            Some("fail") => failures.push(json!({"itemIdentifier": record["messageId"]})),
            Some("nonsense") => failures.push(json!({"itemIdentifier": ""})),
            Some("error") => return ("error", json!({"errorType": "Stub", "errorMessage": "as asked for"})),
            Some("crash") => std::process::exit(1),
            Some("hang") if record["attributes"]["ApproximateReceiveCount"] == "1" => loop {
                std::thread::park();
            },
            _ => {}
        }
    }
    ("response", json!({"batchItemFailures": failures}))
}
