//! HTTP/1.1 on a socket. What strangers can take is bounded: a body is read only for a caller whose key is known, all
//! bodies together have a limit, every wait for a client ends, and when there are too many strangers the oldest goes.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use submit::Submit;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_io_timeout::TimeoutWriter;

use super::exchange::{Bodies, answer};
use super::places::{CallerPlace, ConnectionPlaces};

/// How long a client may take for the head of a request, or be idle before the next one.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);

/// How long a client may leave an answer unread.
const WRITE_PATIENCE: Duration = Duration::from_secs(15);

/// How long what a client still sends is thrown away after its last answer: a socket that is closed with something
/// unread resets the connection, and the client may never see the answer.
const LINGER: Duration = Duration::from_secs(2);

/// The head of a request, and what is read ahead of a body.
const READ_BUFFER_BYTES: usize = 64 * 1024;

/// How long answers under way are waited for at the end.
const FAREWELL: Duration = Duration::from_secs(10);

/// The pause after a failed accept: too many open files do not go away at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What all connections share.
struct ServerState {
    submit: Arc<Submit>,
    bodies: Bodies,
    places: ConnectionPlaces,
}

/// Serves until `end`, then lets answers under way come to their end.
pub(super) async fn serve(listener: TcpListener, submit: Arc<Submit>, end: impl Future<Output = ()>) {
    let shared =
        Arc::new(ServerState { submit, bodies: Bodies::default(), places: ConnectionPlaces::default() });
    let (ending, is_ending) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut end = pin!(end);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            () = &mut end => break,
        };
        match accepted {
            Ok((stream, _)) => shared
                .places
                .admit(|| connections.spawn(connection(stream, Arc::clone(&shared), is_ending.clone()))),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                // Perhaps no file descriptor was left.
                shared.places.evict();
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    drop(ending);
    let _ = timeout(FAREWELL, async { while connections.join_next().await.is_some() {} }).await;
}

/// Serves one client, from its first byte to its last. A client that breaks off is not worth a log line.
async fn connection(stream: TcpStream, shared: Arc<ServerState>, mut is_ending: watch::Receiver<()>) {
    // Answers are small: waiting for more to send with them would only cost time.
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutWriter::new(stream);
    stream.set_timeout(Some(WRITE_PATIENCE));
    let place = Arc::new(CallerPlace::default());
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let (shared, place) = (Arc::clone(&shared), Arc::clone(&place));
        Box::pin(async move {
            Ok::<hyper::Response<Full<Bytes>>, std::convert::Infallible>(
                answer(&shared.submit, &shared.bodies, &shared.places, &place, request).await,
            )
        })
    });
    let mut http = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .max_buf_size(READ_BUFFER_BYTES)
        .serve_connection(TokioIo::new(Box::pin(stream)), service);
    let mut ended = pin!(async { while is_ending.changed().await.is_ok() {} });
    let mut is_leaving = false;
    let served = poll_fn(|context| {
        if !is_leaving && ended.as_mut().poll(context).is_ready() {
            is_leaving = true;
            Pin::new(&mut http).graceful_shutdown();
        }
        match http.poll_without_shutdown(context) {
            Poll::Ready(result) => Poll::Ready(result),
            Poll::Pending => Poll::Pending,
        }
    })
    .await;
    if served.is_ok() {
        let mut stream = http.into_parts().io.into_inner();
        let _ = stream.shutdown().await;
        let _ = timeout(LINGER, async {
            let mut thrown_away = [0; 4096];
            while stream.read(&mut thrown_away).await.is_ok_and(|bytes| bytes > 0) {}
        })
        .await;
    }
}
