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
use monok8s_boot::SlotName;
use monok8s_sandbox::{
    cluster::{Cluster, ClusterOptions},
    node::{NodeOptions, Storage},
    skip, wait,
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

/// The whole path on a disk with a GPT, as a real machine has it.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_a_partitioned_disk_is_upgraded() {
    if !Storage::Partitions.available() {
        skip::say("partitions on a loop device are not to be had here");
        return;
    }
    let node = NodeOptions {
        storage: Storage::Partitions,
        ..NodeOptions::new("node-1")
    };
    let images = vec!["v1.35.1".to_owned()];
    let options = ClusterOptions {
        nodes: vec![node],
        images,
        ..ClusterOptions::default()
    };
    let cluster = Cluster::start(options).await.unwrap();
    let catalog = cluster.catalog(&["v1.34.1", "v1.35.1"]).unwrap();
    let upgrade = serde_json::json!({
        "apiVersion": "monok8s.io/v1alpha1",
        "kind": "OSUpgrade",
        "metadata": {"name": "all"},
        "spec": {"version": "stable", "catalog": {"inline": catalog}},
    });
    let kubectl = cluster.kubectl();
    kubectl.apply(&upgrade.to_string()).await.unwrap();
    let wait = [
        "wait",
        "--for=condition=Completed",
        "osupgrade/all",
        "--timeout=240s",
    ];
    let outcome = kubectl.ok(wait).await;
    let node = cluster.node("node-1").unwrap();
    outcome.unwrap_or_else(|error| panic!("{error:#}\n{}", node.agent_log()));

    let boot = node.boot().unwrap();
    assert_eq!((boot.slot, boot.version.as_str()), (SlotName::B, "1.35.1"));
    let observed = Api::<OSNode>::all(cluster.client())
        .get("node-1")
        .await
        .unwrap()
        .status
        .unwrap();
    for slot in &observed.slots {
        let device = node.slot_device(slot.name.parse().unwrap()).unwrap();
        assert_eq!(slot.device, device.to_str().unwrap());
        assert_eq!(slot.partition_uuid.len(), 36, "{slot:?}");
    }
    assert_eq!(observed.slots.len(), 2);
    cluster.stop().await.unwrap();
}
