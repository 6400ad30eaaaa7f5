//! The same promises over HTTP/2, where one connection carries several requests and a stream breaks
//! off without it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    dead_code,
    reason = "a test that cannot go on fails; the support module is shared and used in parts"
)]

mod support;

use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, server::SendResponse};
use http::{Request, Response};
use monok8s_fault_server::Tls;
use monok8s_fetch::{Client, Kind};
use support::{IMPATIENT, builder, noise, read, request};
use tokio::{net::TcpListener, task::JoinSet};

const SIZE: usize = 200_000;
const LONG: Duration = Duration::from_secs(30);

/// What the n-th request, counted from 0, is answered with.
type Answer = fn(usize, &Request<h2::RecvStream>, SendResponse<Bytes>);

/// A server whose connections and streams count requests together; the client that trusts it.
async fn serve(answer: Answer) -> (String, Client, JoinSet<()>) {
    let (tls, ca) = Tls::default().acceptor(&["h2"]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = format!("https://{}/i", listener.local_addr().unwrap());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut asked = 0;
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let stream = tls.accept(stream).await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((request, respond))) = connection.accept().await {
                answer(asked, &request, respond);
                asked += 1;
                if asked == GO_AWAY {
                    connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                }
            }
        }
    });
    let client = builder()
        .timing(IMPATIENT)
        .ca_pem(&ca)
        .unwrap()
        .build()
        .unwrap();
    (place, client, tasks)
}

/// The request after which the connection is closed with GOAWAY.
const GO_AWAY: usize = 3;

fn head(status: u16, length: usize) -> http::response::Builder {
    Response::builder()
        .status(status)
        .header("etag", "\"a\"")
        .header("content-length", length)
}

/// Bytes `from..to` of a file that ends after `SIZE`; then a reset, unless that is the end.
fn send(from: usize, to: usize, mut respond: SendResponse<Bytes>) {
    let response = if from == 0 {
        head(200, SIZE)
    } else {
        let range = format!("bytes {from}-{}/{SIZE}", SIZE - 1);
        head(206, SIZE - from).header("content-range", range)
    };
    let mut body = respond
        .send_response(response.body(()).unwrap(), false)
        .unwrap();
    body.send_data(noise(SIZE)[from..to].to_vec().into(), to == SIZE)
        .unwrap();
    if to < SIZE {
        // What is queued goes out first only if something waits for it to.
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            body.send_reset(Reason::INTERNAL_ERROR);
        });
    }
}

fn first(request: &Request<h2::RecvStream>) -> usize {
    let range = request
        .headers()
        .get("range")
        .map(|value| value.to_str().unwrap());
    let first = range.and_then(|text| text.strip_prefix("bytes=")?.strip_suffix('-'));
    first.map_or(0, |number| number.parse().unwrap())
}

#[tokio::test]
async fn a_broken_stream_resumes() {
    let (place, client, _server) = serve(|asked, request, respond| {
        let from = first(request);
        match asked {
            0 => send(from, 30_000, respond),
            // Said nothing, then reset.
            1 => drop(respond),
            // GOAWAY after this one.
            2 => send(from, 60_000, respond),
            _ => send(from, SIZE, respond),
        }
    })
    .await;
    let (request, events) = request(&place, LONG);
    let (bytes, starts) = read(&client, request).await.unwrap();
    assert!(bytes == noise(SIZE));
    assert_eq!(starts, 1);
    assert!(events.retries().len() >= 2, "{:?}", events.retries());
}

#[tokio::test]
async fn a_silent_stream_is_a_stall() {
    let (place, client, _server) = serve(|_, _, mut respond| {
        let body = respond
            .send_response(head(200, SIZE).body(()).unwrap(), false)
            .unwrap();
        // Kept open, and silent.
        tokio::spawn(async move {
            tokio::time::sleep(LONG).await;
            drop(body);
        });
    })
    .await;
    let (request, _) = request(&place, Duration::from_millis(100));
    let error = read(&client, request).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable);
    assert!(error.to_string().contains("stalled: 0 bytes"), "{error}");
}
