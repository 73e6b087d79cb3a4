//! HTTP/1.1 on a socket: reads a request whole, within limits of size and time, and writes the answer.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use runtime::http::Deadline;
use submit::Submit;
use submit::api::MOST_BODY_BYTES;
use submit::api::http::{Request, Response};
use submit::api::problem::{Kind, Problem};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

/// Connections at the same time; more wait to be accepted.
const MOST_CONNECTIONS: usize = 1024;

/// How long a client may take for the head of a request, and for its body.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);
const BODY_PATIENCE: Duration = Duration::from_secs(30);

/// As long as an HTTP API of AWS waits for an answer.
const TIME_FOR_AN_ANSWER: Duration = Duration::from_secs(29);

/// How long answers under way are waited for at the end.
const FAREWELL: Duration = Duration::from_secs(10);

/// The pause after a failed accept: too many open files do not go away at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `end`, then lets answers under way come to their end.
pub(super) async fn serve(listener: TcpListener, submit: Arc<Submit>, end: impl Future<Output = ()>) {
    let connections = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let graceful = GracefulShutdown::new();
    let mut end = std::pin::pin!(end);
    loop {
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&connections).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut end => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let connection = graceful.watch(connection(stream, Arc::clone(&submit)));
        tokio::spawn(async move {
            // A client that breaks off is no news.
            let _ = connection.await;
            drop(place);
        });
    }
    drop(listener);
    let _ = timeout(FAREWELL, graceful.shutdown()).await;
}

fn connection(
    stream: TcpStream,
    submit: Arc<Submit>,
) -> impl hyper_util::server::graceful::GracefulConnection<Error = hyper::Error> {
    // Answers are small: waiting for more to send with them would only cost time.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let submit = Arc::clone(&submit);
        async move { Ok::<_, Infallible>(answer(&submit, request).await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .serve_connection(TokioIo::new(stream), service)
}

async fn answer(submit: &Submit, request: hyper::Request<Incoming>) -> hyper::Response<Full<Bytes>> {
    let response = match read(request).await {
        Ok(request) => submit.handle(&request, Deadline::at(Instant::now() + TIME_FOR_AN_ANSWER)).await,
        // What is still on its way is not read: the connection ends.
        Err(problem) => problem.response().with("connection", "close"),
    };
    written(response)
}

/// Reads a request whole.
async fn read(request: hyper::Request<Incoming>) -> Result<Request, Problem> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, MOST_BODY_BYTES).collect();
    let too_slow = || Problem::new(Kind::RequestTimeout, "the body did not arrive within 30 s");
    let body = timeout(BODY_PATIENCE, body).await.map_err(|_| too_slow())?.map_err(|error| {
        if error.is::<LengthLimitError>() {
            let detail =
                format!("the body has more than {MOST_BODY_BYTES} bytes; send the URLs in several calls");
            Problem::new(Kind::BodyTooLarge, detail)
        } else {
            Problem::new(Kind::InvalidBody, "the body broke off")
        }
    })?;
    let headers = head
        .headers
        .iter()
        .filter_map(|(name, value)| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned())));
    Ok(Request {
        method: head.method.as_str().to_owned(),
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        headers: headers.collect(),
        body: body.to_bytes().to_vec(),
    })
}

fn written(response: Response) -> hyper::Response<Full<Bytes>> {
    let mut builder = hyper::Response::builder().status(response.status);
    for (name, value) in response.headers {
        builder = builder.header(name, value);
    }
    // Every status and header is one of ours.
    builder.body(Full::new(Bytes::from(response.body))).unwrap_or_default()
}
