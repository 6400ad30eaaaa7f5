//! Proxies from the environment.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    reason = "a test that cannot go on fails"
)]

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use monok8s_fault_server::{FaultServer, Resource, Tls, Tunnels};
use monok8s_fetch::{Client, Fetched, Policy};
use tokio::net::TcpListener;

/// What the processes below are told: the URL to fetch.
const PLACE: &str = "MONOK8S_FETCH_PROXY_TEST";
/// And a file of certificates to trust, or nothing.
const CA_FILE: &str = "MONOK8S_FETCH_PROXY_TEST_CA";

/// The environment of a running process cannot safely be changed: this is the other process, this
/// test program run for this test alone. By itself it has nothing to do.
#[tokio::test]
async fn in_a_process_of_its_own() {
    let Ok(place) = std::env::var(PLACE) else {
        return;
    };
    let mut builder = Client::builder().policy(Policy::HTTP_ALLOWED);
    if let Some(path) = std::env::var_os(CA_FILE) {
        builder = builder.ca_file(path.as_ref()).unwrap();
    }
    let client = builder.build().unwrap();
    let place = place.parse().unwrap();
    let fetched = client.document(&place, 100, None).await.unwrap();
    assert!(matches!(fetched, Fetched::Document(d) if d.bytes == "here"));
}

/// Fetches a URL in a process with these variables, and no others about proxies.
async fn fetch(place: &str, ca_pem: Option<&str>, variables: &[(&str, &str)]) {
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap());
    child
        .args(["--exact", "in_a_process_of_its_own"])
        .env(PLACE, place)
        .kill_on_drop(true);
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
        child.env_remove(name).env_remove(name.to_lowercase());
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    if let Some(ca_pem) = ca_pem {
        std::fs::write(file.path(), ca_pem).unwrap();
        child.env(CA_FILE, file.path());
    }
    child.envs(variables.iter().copied());
    let output = child.output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
}

#[tokio::test]
async fn plain_http_is_asked_of_the_proxy() {
    let proxy = FaultServer::builder()
        .at("http://nowhere.invalid/c", Resource::new("here"))
        .start()
        .await
        .unwrap();
    let to_proxy = proxy.url("");
    for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY"] {
        fetch("http://nowhere.invalid/c", None, &[(name, &to_proxy)]).await;
    }
    assert_eq!(proxy.requests().len(), 3);
}

#[tokio::test]
async fn https_goes_through_a_tunnel_and_the_proxy_sees_the_host_alone() {
    let server = FaultServer::builder()
        .tls(Tls::default().names(&["images.invalid"]))
        .at("/c", Resource::new("here"))
        .start()
        .await
        .unwrap();
    let proxy = Tunnels::start(server.address()).await.unwrap();
    let place = "https://images.invalid/c?key=hush";
    fetch(place, server.ca_pem(), &[("HTTPS_PROXY", &proxy.url())]).await;
    assert_eq!(proxy.asked(), ["CONNECT images.invalid:443 HTTP/1.1"]);
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn no_proxy_names_who_is_asked_directly() {
    let file = || Resource::new("here");
    let plain = FaultServer::builder().at("/c", file()).start();
    let secure = FaultServer::builder()
        .tls(Tls::default())
        .at("/c", file())
        .start();
    let (plain, secure) = (plain.await.unwrap(), secure.await.unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = format!("http://{}", listener.local_addr().unwrap());
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    for direct in ["127.0.0.1", "127.0.0.0/8", "example.com,127.0.0.1"] {
        let variables = [("HTTP_PROXY", proxy.as_str()), ("NO_PROXY", direct)];
        fetch(&plain.url("/c"), None, &variables).await;
    }
    assert_eq!(plain.requests().len(), 3);
    let port = secure.address().port();
    for (host, direct) in [("127.0.0.1", "127.0.0.1"), ("localhost", "localhost")] {
        let variables = [("HTTPS_PROXY", proxy.as_str()), ("NO_PROXY", direct)];
        let place = format!("https://{host}:{port}/c");
        fetch(&place, secure.ca_pem(), &variables).await;
    }
    assert_eq!(secure.requests().len(), 2);
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}
