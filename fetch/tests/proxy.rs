//! Proxies from the environment.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    reason = "a test that cannot go on fails"
)]

use monok8s_fault_server::{FaultServer, Resource};
use monok8s_fetch::{Client, Fetched, Policy};

/// What the process below is: this test, run alone, with a proxy in its environment.
const CHILD: &str = "MONOK8S_FETCH_PROXY_TEST";

/// The environment of a running process cannot safely be changed, hence the second process.
#[tokio::test]
async fn the_proxy_of_the_environment_is_asked() {
    if std::env::var_os(CHILD).is_some() {
        let client = Client::builder()
            .policy(Policy::HTTP_ALLOWED)
            .build()
            .unwrap();
        let place = "http://nowhere.invalid/c".parse().unwrap();
        let fetched = client.document(&place, 100, None).await.unwrap();
        assert!(matches!(fetched, Fetched::Document(document) if document.bytes == "by proxy"));
        return;
    }
    let proxy = FaultServer::builder()
        .at("http://nowhere.invalid/c", Resource::new("by proxy"))
        .start()
        .await
        .unwrap();
    let child = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_proxy_of_the_environment_is_asked"])
        .env(CHILD, "1")
        .env("HTTP_PROXY", proxy.url(""))
        .env_remove("NO_PROXY")
        .env_remove("no_proxy")
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    assert!(
        child.status.success(),
        "{}",
        String::from_utf8_lossy(&child.stdout)
    );
    assert_eq!(proxy.requests().len(), 1);
}
