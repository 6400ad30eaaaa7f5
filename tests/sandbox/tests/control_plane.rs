//! The real control plane: comes up, keeps its rules, is stopped and started.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::time::{Duration, Instant};

use k8s_openapi::api::{authentication::v1::SelfSubjectReview, core::v1::Node};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
};
use monok8s_sandbox::{
    assets::Assets,
    control_plane::{self, BoundNode, ControlPlane, Options},
    kubeconfig, scratch,
};
use tempfile::TempDir;

async fn start() -> (TempDir, ControlPlane) {
    let folder = scratch::folder("control-plane").unwrap();
    let assets = Assets::find(|line| eprintln!("{line}")).await.unwrap();
    let begin = Instant::now();
    let plane = ControlPlane::start(&assets, folder.path(), Options::default())
        .await
        .unwrap();
    eprintln!("up in {:?}", begin.elapsed());
    (folder, plane)
}

async fn who(client: &Client) -> kube::Result<k8s_openapi::api::authentication::v1::UserInfo> {
    let api: Api<SelfSubjectReview> = Api::all(client.clone());
    let review = api
        .create(&PostParams::default(), &SelfSubjectReview::default())
        .await?;
    Ok(review.status.unwrap().user_info.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn it_answers_survives_a_restart_and_leaves_nothing() {
    let (_folder, mut plane) = start().await;
    let kubectl = plane.kubectl();
    let text = kubectl.ok(["version", "-o", "json"]).await.unwrap();
    assert!(text.contains("serverVersion"), "{text}");
    kubectl
        .ok(["create", "configmap", "kept", "--from-literal=a=b"])
        .await
        .unwrap();

    plane.kill_api_server().await;
    assert!(
        !kubectl
            .run(["get", "--raw", "/readyz"])
            .await
            .unwrap()
            .success()
    );
    plane.start_api_server().await.unwrap();
    kubectl.ok(["get", "configmap", "kept"]).await.unwrap();
    plane.restart_api_server().await.unwrap();
    kubectl.ok(["get", "configmap", "kept"]).await.unwrap();
    assert!(plane.api_server_cpu().unwrap() > Duration::ZERO);

    let pid = plane.api_server_pid().unwrap();
    plane.stop().await;
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_bound_to_a_node_and_dies_with_it() {
    let (folder, plane) = start().await;
    let client = plane.client().await.unwrap();
    let nodes: Api<Node> = Api::all(client.clone());
    let mut node = Node::default();
    node.metadata.name = Some("node-1".into());
    let node = nodes.create(&PostParams::default(), &node).await.unwrap();
    let bound = BoundNode {
        name: "node-1".into(),
        uid: node.metadata.uid.unwrap(),
    };
    let hour = Duration::from_secs(3600);
    let token = plane
        .mint_token("default", "default", Some(&bound), hour)
        .await
        .unwrap();

    let (file, config) = (
        folder.path().join("token"),
        folder.path().join("kubeconfig"),
    );
    kubeconfig::secret_file(&file, &token.token).unwrap();
    plane.write_token_kubeconfig(&config, &file).unwrap();
    let bearer = control_plane::client(&config).await.unwrap();
    let user = who(&bearer).await.unwrap();
    assert_eq!(
        user.username.as_deref(),
        Some("system:serviceaccount:default:default")
    );
    let extra = user.extra.unwrap();
    assert_eq!(extra["authentication.kubernetes.io/node-name"], ["node-1"]);

    nodes
        .delete("node-1", &DeleteParams::default())
        .await
        .unwrap();
    monok8s_sandbox::wait::until("the token's end", Duration::from_secs(60), || async {
        Ok(who(&bearer).await.is_err().then_some(()))
    })
    .await
    .unwrap();
    plane.stop().await;
}
