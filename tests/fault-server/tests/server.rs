//! The server as a plain socket sees it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    reason = "a test that cannot go on fails"
)]

use std::{net::SocketAddr, process::Stdio};

use monok8s_fault_server::{Content, Fault, FaultServer, Resource};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

const CONTENT: &str = "0123456789";

/// Head and body of an answer; the connection is closed by the server or after `Connection: close`
/// worth of silence, so the body is read by its length.
async fn ask(address: SocketAddr, head: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    // Half-closed: the server serves what it has read and goes.
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    let body = answer.split_off(end + 4);
    (String::from_utf8(answer).unwrap(), body)
}

#[tokio::test]
async fn ranges_and_conditions() {
    let server = FaultServer::start(CONTENT, Vec::new()).await.unwrap();
    let tag = Content::from(CONTENT).tag().to_owned();
    for (fields, status, body) in [
        (String::new(), "200", CONTENT),
        ("Range: bytes=4-".into(), "206", "456789"),
        ("Range: bytes=4-5".into(), "206", "45"),
        ("Range: bytes=4-99".into(), "206", "456789"),
        ("Range: bytes=5-4".into(), "200", CONTENT),
        ("Range: bytes=10-".into(), "416", ""),
        (
            format!("Range: bytes=4-\r\nIf-Range: {tag}"),
            "206",
            "456789",
        ),
        (
            "Range: bytes=4-\r\nIf-Range: \"other\"".into(),
            "200",
            CONTENT,
        ),
        (format!("If-None-Match: {tag}"), "304", ""),
        ("If-None-Match: \"other\"".into(), "200", CONTENT),
    ] {
        let request = format!("GET /x HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n");
        let (head, found) = ask(server.address(), &request).await;
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status}")),
            "{fields}: {head}"
        );
        assert_eq!(found, body.as_bytes(), "{fields}");
    }
    let (head, body) = ask(server.address(), "HEAD / HTTP/1.1\r\n\r\n").await;
    assert!(
        head.contains("Content-Length: 10") && body.is_empty(),
        "{head}"
    );
    assert_eq!(server.requests().len(), 11);
}

#[tokio::test]
async fn one_connection_serves_several_requests() {
    let server = FaultServer::start(CONTENT, Vec::new()).await.unwrap();
    let two = "GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n";
    let (_, rest) = ask(server.address(), two).await;
    let rest = String::from_utf8(rest).unwrap();
    assert_eq!(rest.matches(CONTENT).count(), 2, "{rest}");
}

#[tokio::test]
async fn faults_are_taken_one_per_request_and_per_path() {
    let server = FaultServer::builder()
        .at("/a", Resource::new(CONTENT).faults([Fault::FlipBit(3)]))
        .at(
            "/b",
            Resource::new(CONTENT)
                .faults([Fault::TruncateAfter(4)])
                .forever(Fault::status(500)),
        )
        .at("/chunked", Resource::new(CONTENT).without_length())
        .start()
        .await
        .unwrap();
    let address = server.address();
    let get = |path: &'static str| async move {
        let request = format!("GET {path}?query HTTP/1.1\r\n\r\n");
        let (head, body) = ask(address, &request).await;
        (head[9..12].to_owned(), String::from_utf8(body).unwrap())
    };
    for (path, status, body) in [
        ("/b", "200", "0123"),
        ("/a", "200", "0122456789"),
        ("/a", "200", CONTENT),
        ("/b", "500", ""),
        ("/b", "500", ""),
        ("/chunked", "200", "a\r\n0123456789\r\n0\r\n\r\n"),
        ("/other", "404", ""),
    ] {
        assert_eq!(
            get(path).await,
            (status.to_owned(), body.to_owned()),
            "{path}"
        );
    }
}

#[tokio::test]
async fn the_program_serves_files_by_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("image.zst");
    std::fs::write(&file, CONTENT).unwrap();
    let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_fault-server"))
        .arg(&file)
        .args(["--listen", "127.0.0.1:0", "--fault", "truncate-after=4"])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let place = lines.next_line().await.unwrap().unwrap();
    let address = place
        .strip_prefix("http://")
        .and_then(|rest| rest.strip_suffix("/image.zst"))
        .unwrap();
    let request = "GET /image.zst HTTP/1.1\r\n\r\n";
    let (_, first) = ask(address.parse().unwrap(), request).await;
    let (_, second) = ask(address.parse().unwrap(), request).await;
    assert_eq!((&*first, &*second), (&b"0123"[..], CONTENT.as_bytes()));
    child.kill().await.unwrap();
}
