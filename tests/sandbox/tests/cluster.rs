//! Agents and controllers on the sandbox's cluster are run as pods would be.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::{fs, time::Duration};

use kube::Api;
use monok8s_api::OSNode;
use monok8s_sandbox::{
    cluster::{Cluster, ClusterOptions},
    node::NodeOptions,
    wait,
};

const LIMIT: Duration = Duration::from_secs(60);

async fn becomes<T: PartialEq>(what: &str, mut now: impl FnMut() -> T, not: &T) {
    let changed = || {
        let now = now();
        async move { Ok((now != *not).then_some(())) }
    };
    wait::until(what, LIMIT, changed).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_get_fresh_tokens_and_are_started_again() {
    let node = NodeOptions {
        token_renewal: Duration::from_secs(1),
        ..NodeOptions::new("node-1")
    };
    let options = ClusterOptions {
        nodes: vec![node],
        controllers: 2,
        ..ClusterOptions::default()
    };
    let cluster = Cluster::start(options).await.unwrap();
    let folder = cluster.folder().to_path_buf();
    let node = cluster.node("node-1").unwrap();

    // Renewed while the same agent runs.
    let pid = node.agent_pid().unwrap();
    let token = || fs::read(node.agent_kubeconfig().with_file_name("agent.token")).unwrap();
    becomes("a fresh token", token, &token()).await;
    assert_eq!(node.agent_pid(), Some(pid));

    // Killed, it is started again.
    node.kill_agent().await;
    becomes("another agent", || node.agent_pid().unwrap_or(pid), &pid).await;

    // Held, it is not, until it may.
    node.stop_agent().await;
    assert_eq!(node.agent_pid(), None);
    node.start_agent();
    becomes("the agent to run", || node.agent_pid(), &None).await;

    // Another Node object: another token, and an OSNode that belongs to it.
    let uid = node.recreate_object().await.unwrap();
    let observed: Api<OSNode> = Api::all(cluster.client());
    wait::until("an OSNode of the new Node", LIMIT, || async {
        let found = observed
            .get_opt("node-1")
            .await?
            .and_then(|object| object.status);
        Ok(found
            .is_some_and(|status| status.node_uid == uid)
            .then_some(()))
    })
    .await
    .unwrap();

    // So with controllers.
    let controller = &cluster.controllers()[0];
    let pid = controller.pid().unwrap();
    controller.kill().await;
    becomes(
        "another controller",
        || controller.pid().unwrap_or(pid),
        &pid,
    )
    .await;

    cluster.stop().await.unwrap();
    assert!(!folder.exists());
}
