//! Catalogs from a ConfigMap and from a URL, and foreign objects, on a real control plane.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure here is a failed test"
)]

mod cluster;

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use cluster::{ALONE, Cluster, IN_TURN, catalog};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use monok8s_api::{OSUpgradeProgress, names};
use monok8s_fault_server::{Fault, FaultServer, Resource, Tls};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
};

/// The line that the message gives, added where it says.
#[tokio::test(flavor = "multi_thread")]
async fn a_config_map_is_read_once_the_role_says_so() {
    a_config_map_is_read_once(&["-n", "mono-system", "patch", "role", "controller"]).await;
}

/// The same line in the `ClusterRole`, as `MonoK8s`'s page says.
#[tokio::test(flavor = "multi_thread")]
async fn a_config_map_is_read_once_the_cluster_role_says_so() {
    a_config_map_is_read_once(&["patch", "clusterrole", "monok8s-controller"]).await;
}

async fn a_config_map_is_read_once(grant: &[&str]) {
    let mut cluster = Cluster::start(2).await;
    let _replica = cluster.controller("only", ALONE).await;
    cluster.begin();
    cluster
        .apply(
            "up",
            json!({"version": "stable", "catalog": {"configMap": "images-cm"}}),
        )
        .await;
    cluster.until_accepted_is("up", "CatalogForbidden").await;
    let status = cluster.upgrades().get("up").await.unwrap().status.unwrap();
    let line = "- {apiGroups: [\"\"], resources: [configmaps], verbs: [get]}";
    assert!(status.message.contains(line), "{}", status.message);
    assert_eq!(status.phase.as_str(), "Pending");

    // What the message says is what helps.
    let rule = json!({"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]});
    let patch = json!([{"op": "add", "path": "/rules/-", "value": rule}]).to_string();
    cluster
        .plane
        .kubectl()
        .ok([grant, &["--type=json", "-p", &patch]].concat())
        .await
        .unwrap();
    cluster.until_accepted_is("up", "ConfigMapNotFound").await;
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "mono-system");
    let map: ConfigMap = serde_json::from_value(json!({
        "metadata": {"name": "images-cm"},
        "data": {"whatever": catalog(&["v1.35.1"])},
    }))
    .unwrap();
    maps.create(&PostParams::default(), &map).await.unwrap();
    cluster.until_phase_is("up", "Completed").await;
    cluster.assert_nothing_broken();
    let told = cluster.told_until("up", "Completed").await;
    assert_eq!(
        told,
        [
            "CatalogForbidden",
            "ConfigMapNotFound",
            "Accepted",
            "Draining",
            "Draining",
            "Completed"
        ]
    );
    cluster.end().await;
}

/// A server of one document, which counts how often it was sent and how often it was not.
struct Served {
    text: Mutex<String>,
    sent: AtomicUsize,
    not_modified: AtomicUsize,
}

async fn serve(listener: TcpListener, served: Arc<Served>) {
    while let Ok((stream, _)) = listener.accept().await {
        let served = served.clone();
        tokio::spawn(async move {
            let (reader, mut writer) = stream.into_split();
            let mut lines = BufReader::new(reader).lines();
            let mut known = None;
            while let Ok(Some(line)) = lines.next_line().await {
                let lower = line.to_ascii_lowercase();
                if let Some(tag) = lower.strip_prefix("if-none-match:") {
                    known = Some(tag.trim().to_owned());
                }
                if !line.is_empty() {
                    continue;
                }
                let text = served.text.lock().unwrap().clone();
                let tag = format!("\"{}\"", text.len());
                let answer = if known.take().as_ref() == Some(&tag) {
                    served.not_modified.fetch_add(1, Ordering::SeqCst);
                    format!("HTTP/1.1 304 Not Modified\r\nETag: {tag}\r\n\r\n")
                } else {
                    served.sent.fetch_add(1, Ordering::SeqCst);
                    format!(
                        "HTTP/1.1 200 OK\r\nContent-Type: text/yaml\r\nETag: {tag}\r\nContent-Length: {}\r\n\r\n{text}",
                        text.len()
                    )
                };
                if writer.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_is_read_with_conditional_requests_and_a_changed_image_halts() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!(
        "http://{}/catalog.yaml?token=hush",
        listener.local_addr().unwrap()
    );
    let served = Arc::new(Served {
        text: Mutex::new(catalog(&["v1.34.6", "v1.35.1"])),
        sent: AtomicUsize::new(0),
        not_modified: AtomicUsize::new(0),
    });
    let serving = tokio::spawn(serve(listener, served.clone()));

    let mut cluster = Cluster::start(2).await;
    let strict = cluster.controller("strict", IN_TURN).await;
    cluster.begin();
    cluster
        .apply("up", json!({"version": "stable", "catalog": {"url": url}}))
        .await;
    cluster.until_accepted_is("up", "InvalidSource").await;
    assert_eq!(
        served.sent.load(Ordering::SeqCst),
        0,
        "http was asked all the same"
    );
    strict.process.kill().await;

    let flags = [IN_TURN, &["--allow-http-catalogs"]].concat();
    let replica = cluster.controller("lenient", &flags).await;
    cluster.agents.running.store(false, Ordering::SeqCst);
    cluster.until_accepted_is("up", "Resolved").await;
    // On a slow machine it may be read again before that.
    cluster.until_released(1).await;
    assert_eq!(served.sent.load(Ordering::SeqCst), 1);

    // The image that was handed out is another one now: the second node is not released.
    let changed = catalog(&["v1.34.6", "v1.35.1"]).replacen(&"ab".repeat(32), &"cd".repeat(32), 2)
        + "# longer\n";
    *served.text.lock().unwrap() = changed;
    // A reading is good for two seconds, and nothing tells from outside when they are over.
    tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
    cluster.agents.running.store(true, Ordering::SeqCst);
    // Read again before the next hop, which is when the first node has arrived.
    cluster
        .until("up", "ImageChanged", |u| {
            let conditions = u.status.as_ref().map(|s| s.conditions.as_slice());
            conditions
                .and_then(|c| monok8s_api::condition::find(c, "Progressing"))
                .is_some_and(|c| c.reason == "ImageChanged")
        })
        .await;
    assert_eq!(cluster.seen.lock().unwrap().released.len(), 1);
    let status = cluster.upgrades().get("up").await.unwrap().status.unwrap();
    assert!(monok8s_api::condition::find(&status.conditions, "CatalogChanged").is_some());

    // While it waits for a change it asks again, and the server need not send it all again.
    monok8s_sandbox::wait::until("a conditional request", cluster::PATIENCE, || async {
        Ok((served.not_modified.load(Ordering::SeqCst) > 0).then_some(()))
    })
    .await
    .unwrap();
    // The old one is put back: it goes on.
    *served.text.lock().unwrap() = catalog(&["v1.34.6", "v1.35.1"]);
    cluster.until_phase_is("up", "Completed").await;
    cluster.assert_nothing_broken();
    for text in [
        replica.log(),
        serde_json::to_string(&cluster.upgrades().get("up").await.unwrap().status).unwrap(),
    ] {
        assert!(!text.contains("hush"), "the query was shown");
    }
    serving.abort();
    cluster.end().await;
}

/// Nobody touches a rejected upgrade again: what it was rejected for changes, and it goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_rejection_ends_with_its_cause() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/catalog.yaml", listener.local_addr().unwrap());
    let served = Arc::new(Served {
        text: Mutex::new("images: 7\n".to_owned()),
        sent: AtomicUsize::new(0),
        not_modified: AtomicUsize::new(0),
    });
    let serving = tokio::spawn(serve(listener, served.clone()));
    let mut cluster = Cluster::start(1).await;
    let flags = [ALONE, &["--allow-http-catalogs"]].concat();
    let _replica = cluster.controller("only", &flags).await;
    cluster.begin();

    cluster
        .apply("up", json!({"version": "v1.35.1", "catalog": {"url": url}}))
        .await;
    cluster.until_accepted_is("up", "InvalidCatalog").await;
    // A catalog again, and not yet the version that is wanted.
    *served.text.lock().unwrap() = catalog(&["v1.34.6"]);
    cluster.until_accepted_is("up", "VersionNotInCatalog").await;
    cluster.until_phase_is("up", "Rejected").await;
    assert!(cluster.seen.lock().unwrap().released.is_empty());
    *served.text.lock().unwrap() = catalog(&["v1.34.6", "v1.35.1"]);
    cluster.until_phase_is("up", "Completed").await;
    let up = cluster.upgrades().get("up").await.unwrap();
    assert_eq!(up.metadata.generation, Some(1));
    assert_eq!(up.status.unwrap().revision, Some(1));

    // Without a catalog to be read again, so that it is the node alone that has it judged again.
    cluster
        .upgrades()
        .delete("up", &DeleteParams::default())
        .await
        .unwrap();
    cluster
        .apply(
            "older",
            json!({"version": "v1.34.6", "catalog": {"inline": catalog(&["v1.34.6"])}}),
        )
        .await;
    cluster.until_accepted_is("older", "Downgrade").await;
    cluster.until_phase_is("older", "Rejected").await;
    cluster.add_node("n1", "v1.34.1").await;
    cluster.until_phase_is("older", "Completed").await;
    let nodes = cluster.upgrades().get("older").await.unwrap().status;
    let nodes = nodes.unwrap().nodes.unwrap();
    assert_eq!((nodes.selected, nodes.completed, nodes.refused), (2, 1, 1));
    cluster.assert_nothing_broken();
    serving.abort();
    cluster.end().await;
}

/// A catalog over TLS from a server whose authority only `--ca-file` vouches for, and from another
/// path of it a redirect to the same catalog without TLS.
#[tokio::test(flavor = "multi_thread")]
async fn a_private_authority_is_trusted_by_a_flag_and_tls_is_never_left() {
    let text = catalog(&["v1.34.6", "v1.35.1"]);
    let plain = FaultServer::start(text.clone(), Vec::new()).await.unwrap();
    let away = Fault::Redirect(plain.url("/catalog.yaml?token=hush"));
    let server = FaultServer::builder()
        .tls(Tls::default())
        .at("/catalog.yaml", Resource::new(text))
        .at("/away", Resource::new("").forever(away))
        .start()
        .await
        .unwrap();
    let mut cluster = Cluster::start(1).await;
    let spec = |path: &str| json!({"version": "stable", "catalog": {"url": server.url(path)}});

    let distrustful = cluster.controller("distrustful", IN_TURN).await;
    cluster.begin();
    cluster.apply("up", spec("/catalog.yaml")).await;
    cluster.until_accepted_is("up", "CatalogUnreachable").await;
    let status = cluster.upgrades().get("up").await.unwrap().status.unwrap();
    assert!(status.message.contains("certificate"), "{}", status.message);
    assert!(server.requests().is_empty(), "it was asked all the same");
    distrustful.process.kill().await;

    let ca = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(ca.path(), server.ca_pem().unwrap()).unwrap();
    let ca_file = format!("--ca-file={}", ca.path().display());
    let flags = [IN_TURN, &["--allow-http-catalogs", &ca_file]].concat();
    let trusting = cluster.controller("trusting", &flags).await;
    cluster.until_phase_is("up", "Completed").await;

    // Plain http is allowed, and all the same a redirect does not get there from https.
    cluster.apply("away", spec("/away")).await;
    cluster.until_accepted_is("away", "InvalidSource").await;
    let status = cluster.upgrades().get("away").await.unwrap().status;
    let status = status.unwrap();
    assert_eq!(status.phase.as_str(), "Rejected");
    assert!(status.message.contains("https"), "{}", status.message);
    assert!(plain.requests().is_empty(), "the redirect was followed");
    for text in [trusting.log(), status.message] {
        assert!(!text.contains("hush"), "the query was shown");
    }
    cluster.end().await;
}

#[test]
fn a_ca_file_that_cannot_be_used_is_told_at_once() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let missing = file.path().with_extension("missing");
    for (path, text, told) in [
        (file.path(), "", "holds no PEM certificate"),
        (
            file.path(),
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "certificate 1 of",
        ),
        (&missing, "", "cannot read the CA file"),
    ] {
        std::fs::write(file.path(), text).unwrap();
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_controller"))
            .arg("--ca-file")
            .arg(path)
            // There is no API server to be found either, but that comes later.
            .env("KUBECONFIG", "/nonexistent")
            .output()
            .unwrap();
        assert!(!output.status.success());
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(said.contains(told), "{said}");
        assert!(said.contains(path.to_str().unwrap()), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_object_under_a_computed_name_is_reported_and_left_alone() {
    let mut cluster = Cluster::start(1).await;
    cluster
        .apply(
            "up",
            json!({"version": "v1.35.1", "catalog": {"inline": catalog(&["v1.35.1"])}}),
        )
        .await;
    let upgrade = cluster.upgrades().get("up").await.unwrap();
    let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(cluster.client.clone());
    let node = nodes.get("n0").await.unwrap();
    let version: monok8s_api::Version = "v1.35.1".parse().unwrap();
    let name = names::progress(&upgrade.uid().unwrap(), 1, &node.uid().unwrap(), &version);
    let foreign: OSUpgradeProgress = serde_json::from_value(json!({
        "apiVersion": "monok8s.io/v1alpha1", "kind": "OSUpgradeProgress",
        "metadata": {"name": name},
        "spec": {"sourceRef": {"name": "up"}, "nodeName": "somewhere-else", "release": "Hold"},
    }))
    .unwrap();
    let foreign = cluster
        .progresses()
        .create(&PostParams::default(), &foreign)
        .await
        .unwrap();
    let _replica = cluster.controller("only", ALONE).await;
    cluster.begin();
    cluster
        .until("up", "the message to name the node", |u| {
            u.status
                .as_ref()
                .is_some_and(|s| s.message.contains("foreign object") && s.message.contains("n0"))
        })
        .await;
    let told = cluster.told_until("up", "NameTaken").await;
    assert_eq!(
        told.iter().filter(|r| *r == "NameTaken").count(),
        1,
        "{told:?}"
    );
    let now = cluster.progresses().get(&name).await.unwrap();
    assert_eq!(now.resource_version(), foreign.resource_version());
    // Once it is out of the way, the rollout goes on.
    cluster
        .progresses()
        .delete(&name, &DeleteParams::default())
        .await
        .unwrap();
    cluster.until_phase_is("up", "Completed").await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_people_write_is_never_taken_from_them() {
    let mut cluster = Cluster::start(1).await;
    let _replica = cluster.controller("only", ALONE).await;
    cluster.begin();
    cluster.agents.running.store(false, Ordering::SeqCst);
    cluster
        .apply("up", json!({"version": "v1.35.1", "paused": true, "catalog": {"inline": catalog(&["v1.35.1"])}}))
        .await;
    cluster.until_phase_is("up", "Accepted").await;
    let progresses = cluster.progresses();
    let name = monok8s_sandbox::wait::until("a progress", cluster::PATIENCE, || async {
        let all = progresses.list(&ListParams::default()).await?;
        Ok(all.items.first().map(ResourceExt::name_any))
    })
    .await
    .unwrap();
    let patch = json!({"spec": {"retryNonce": "by-hand", "cancel": true}});
    progresses
        .patch(&name, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .unwrap();
    // The controller writes to the same object: the rollout's download settings.
    cluster
        .apply("up", json!({"version": "v1.35.1", "download": {"retryFor": "1m"}, "catalog": {"inline": catalog(&["v1.35.1"])}}))
        .await;
    let progress = monok8s_sandbox::wait::until("the copy", cluster::PATIENCE, || async {
        let progress = progresses.get(&name).await?;
        Ok((progress.spec.download.retry_for.to_string() == "1m").then_some(progress))
    })
    .await
    .unwrap();
    assert_eq!(progress.spec.retry_nonce, "by-hand");
    assert!(progress.spec.cancel);
    cluster.end().await;
}
