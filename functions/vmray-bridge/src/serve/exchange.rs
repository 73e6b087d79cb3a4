//! One request and its answer: the head decides, before a byte of the body is read.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper::http::request::Parts;
use runtime::http::Deadline;
use submit::Submit;
use submit::api::MOST_BODY_BYTES;
use submit::api::body::BodyError;
use submit::api::http::{Request, Response, text_of_header};
use submit::api::problem::{Problem, ProblemKind};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::places::{CallerPlace, ConnectionPlaces};

/// How long a client may take for a body.
const BODY_PATIENCE: Duration = Duration::from_secs(30);

/// As long as an HTTP API of AWS waits for an answer.
const TIME_FOR_AN_ANSWER: Duration = Duration::from_secs(29);

/// The memory that bodies may take together: eight of the largest.
const MOST_BYTES_OF_BODIES: usize = 8 * MOST_BODY_BYTES;

/// What is left of the memory for bodies, a permit for each byte.
pub(super) struct Bodies(Arc<Semaphore>);

impl Default for Bodies {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MOST_BYTES_OF_BODIES)))
    }
}

pub(super) async fn answer(
    submit: &Submit,
    bodies: &Bodies,
    places: &ConnectionPlaces,
    place: &CallerPlace,
    request: hyper::Request<Incoming>,
) -> hyper::Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let has_body = !body.is_end_stream();
    let mut request = without_body(&head);
    let answered = async {
        let admitted = submit.admit(&request, time_for_an_answer()).await?;
        let mut memory = None;
        if admitted.caller().is_some() {
            if !places.has_shown_key(place) {
                return Err(Problem::unavailable().response());
            }
            let read = bodies.read(body).await.map_err(|problem| problem.response())?;
            (request.body, memory) = (read.0, Some(read.1));
        }
        let response = submit.answer_to(admitted, &request, time_for_an_answer()).await;
        drop(memory);
        Ok(response)
    };
    let (response, is_read) = match answered.await {
        Ok(response) => (response, true),
        Err(refusal) => (refusal, !has_body),
    };
    // What is still on its way is not read, and a stranger gets one answer: many that wait for each other on one
    // connection would cost as much as the stranger likes.
    let goes_on = is_read && place.is_callers();
    written(if goes_on { response } else { response.with("connection", "close") })
}

fn time_for_an_answer() -> Deadline {
    Deadline::at(Instant::now() + TIME_FOR_AN_ANSWER)
}

impl Bodies {
    /// Reads a body whole. Its memory is free again when the permit is dropped.
    async fn read(&self, body: Incoming) -> Result<(Vec<u8>, OwnedSemaphorePermit), Problem> {
        let until = Instant::now() + BODY_PATIENCE;
        // What a client does not announce may be as long as any.
        let most = body.size_hint().exact().and_then(|bytes| usize::try_from(bytes).ok());
        let most = most.unwrap_or(MOST_BODY_BYTES).min(MOST_BODY_BYTES);
        let reserve = Arc::clone(&self.0).acquire_many_owned(u32::try_from(most).unwrap_or(u32::MAX));
        let Ok(Ok(mut memory)) = timeout_at(until, reserve).await else {
            return Err(Problem::unavailable());
        };
        let too_slow = || Problem::new(ProblemKind::RequestTimeout, "the body did not arrive within 30 s");
        let body = timeout_at(until, collect(body)).await.map_err(|_| too_slow())??;
        drop(memory.split(most.saturating_sub(body.len())));
        Ok((body, memory))
    }
}

async fn collect(mut body: Incoming) -> Result<Vec<u8>, Problem> {
    let mut read = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Problem::new(ProblemKind::InvalidBody, "the body broke off"))?;
        let Ok(data) = frame.into_data() else { continue };
        if read.len() + data.len() > MOST_BODY_BYTES {
            return Err(BodyError::TooLarge { limit: MOST_BODY_BYTES }.into());
        }
        read.extend_from_slice(&data);
    }
    Ok(read)
}

fn without_body(head: &Parts) -> Request {
    let headers = head.headers.iter();
    let headers = headers.map(|(name, value)| (name.as_str().to_owned(), text_of_header(value.as_bytes())));
    Request {
        method: head.method.as_str().to_owned(),
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        headers: headers.collect(),
        body: Vec::new(),
    }
}

fn written(response: Response) -> hyper::Response<Full<Bytes>> {
    let mut builder = hyper::Response::builder().status(response.status);
    for (name, value) in response.headers {
        builder = builder.header(name, value);
    }
    // All statuses and headers are written in this program, so building never fails.
    builder.body(Full::new(Bytes::from(response.body))).unwrap_or_default()
}
