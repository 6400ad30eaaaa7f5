//! An API server that answers, but does not want to: 403, 404 and 410 are an API server that is away.

use kube::Api;
use monok8s_api::reason::ProgressPhase;
use monok8s_node_agent::record::{Attempt, Step};
use monok8s_sandbox::{manifests, node::NodeOptions, wait};
use serde_json::json;

use crate::scene::{LIMIT, Scene, drip};

/// How far a node's only attempt is.
fn step(scene: &Scene, name: &str) -> Option<Step> {
    scene.record(name)?.attempts.last().map(Attempt::step)
}

/// Waits until the agent's log since `from` has all of these words in one line.
async fn says(scene: &Scene, name: &str, from: usize, words: &[&str]) {
    scene
        .until(name, &format!("{words:?} in its log"), |_| {
            let log = scene.node(name).agent_log();
            log[from..]
                .lines()
                .any(|line| words.iter().all(|word| line.contains(word)))
        })
        .await;
}

/// One attempt per node: `writes` is in the middle of a slow download, `waits` is staged.
async fn begin(scene: &Scene, writes: &str, waits: &str) {
    for (name, fault) in [(writes, Some(drip())), (waits, None)] {
        let url = scene.serve(name, fault);
        scene
            .progress(
                name,
                json!({"image": scene.image(&url), "release": "Stage"}),
            )
            .await;
        if name == writes {
            scene.phase(writes, ProgressPhase::Downloading).await;
        }
    }
    scene.phase(waits, ProgressPhase::Staged).await;
}

/// The write goes on to its end.
async fn writes_on(scene: &Scene, name: &str) {
    let path = format!("/{name}/rootfs.ext4.zst");
    scene.cluster.image_server().cure(&path);
    wait::until("the end of the write", LIMIT, || async {
        Ok((step(scene, name) == Some(Step::Proven)).then_some(()))
    })
    .await
    .unwrap_or_else(|e| panic!("{e:#}\n{}", scene.node(name).agent_log()));
}

/// Both come to a good end, each in its first attempt.
async fn finish(scene: &Scene, writes: &str, waits: &str) {
    for name in [writes, waits] {
        scene.phase(name, ProgressPhase::Staged).await;
        scene.patch(name, json!({"release": "Reboot"})).await;
    }
    for name in [writes, waits] {
        let status = scene.phase(name, ProgressPhase::Completed).await;
        assert_eq!((status.attempt, status.retry_count), (1, 0), "{name}");
    }
}

/// 403: the agents' role is taken away.
async fn forbidden(scene: &mut Scene) {
    let (writes, waits) = ("403-writes", "403-waits");
    begin(scene, writes, waits).await;
    let kubectl = scene.cluster.kubectl();
    let log = |scene: &Scene| [writes, waits].map(|name| scene.node(name).agent_log().len());
    let from = log(scene);
    kubectl
        .ok(["delete", "clusterrolebinding", "monok8s-node-agent"])
        .await
        .unwrap();
    // A watch that is open stays so, whatever the roles say since.
    let plane = scene.cluster.control_plane_mut();
    plane.restart_api_server().await.unwrap();
    for (name, from) in [writes, waits].into_iter().zip(from) {
        says(scene, name, from, &["watch:", "forbidden"]).await;
    }
    scene.patch(waits, json!({"release": "Reboot"})).await;
    writes_on(scene, writes).await;
    assert_eq!(step(scene, waits), Some(Step::Proven));
    assert_eq!(scene.status(waits).await.phase, ProgressPhase::Staged);
    scene.patch(waits, json!({"release": "Stage"})).await;
    manifests::install(&kubectl).await.unwrap();
    finish(scene, writes, waits).await;
}

/// 404: the kind is not served.
async fn not_served(scene: &mut Scene) {
    let (writes, waits) = ("404-writes", "404-waits");
    begin(scene, writes, waits).await;
    let kubectl = scene.cluster.kubectl();
    let served = async |served: bool| {
        let patch = json!([{"op": "replace", "path": "/spec/versions/0/served", "value": served}]);
        let patch = patch.to_string();
        let kind = "osupgradeprogresses.monok8s.io";
        kubectl
            .ok(["patch", "crd", kind, "--type=json", "-p", patch.as_str()])
            .await
            .unwrap();
    };
    let from = [writes, waits].map(|name| scene.node(name).agent_log().len());
    served(false).await;
    for (name, from) in [writes, waits].into_iter().zip(from) {
        says(scene, name, from, &["watch:", "404"]).await;
    }
    writes_on(scene, writes).await;
    assert_eq!(step(scene, waits), Some(Step::Proven));
    served(true).await;
    let api: Api<monok8s_api::OSUpgradeProgress> = scene.progresses();
    wait::until("the kind to be served", LIMIT, || async {
        Ok(api.get(waits).await.ok())
    })
    .await
    .unwrap();
    finish(scene, writes, waits).await;
}

/// 410: what the watch saw last is older than what the API server remembers.
async fn expired(scene: &mut Scene) {
    let (writes, waits) = ("410-writes", "410-waits");
    begin(scene, writes, waits).await;
    let from = [writes, waits].map(|name| scene.node(name).agent_log().len());
    let plane = scene.cluster.control_plane_mut();
    // One that starts remembers nothing of before.
    plane.restart_api_server().await.unwrap();
    for (name, from) in [writes, waits].into_iter().zip(from) {
        says(scene, name, from, &["watch:", "too old resource version"]).await;
    }
    writes_on(scene, writes).await;
    assert_eq!(step(scene, waits), Some(Step::Proven));
    finish(scene, writes, waits).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_no_deletion() {
    let names = [
        "403-writes",
        "403-waits",
        "404-writes",
        "404-waits",
        "410-writes",
        "410-waits",
    ];
    let nodes = names.map(|name| {
        let mut node = NodeOptions::new(name);
        node.agent_variables = vec![("RUST_LOG".into(), "info,monok8s_node_agent=debug".into())];
        node
    });
    let mut scene = Scene::start(nodes.into()).await;
    forbidden(&mut scene).await;
    not_served(&mut scene).await;
    expired(&mut scene).await;
}
