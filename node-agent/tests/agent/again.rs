//! A Node that is deleted and made again while the agent's pod stays.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ObjectMeta, PostParams},
};
use monok8s_api::{OSNode, reason::SlotState};
use monok8s_boot::{BootLoader as _, SlotName, loader::grub::Grub};
use monok8s_node_agent::record::Step;
use monok8s_sandbox::{node::NodeOptions, wait};
use serde_json::json;

use crate::scene::{LIMIT, Scene, drip};

/// A node whose agent asks often for its Node, and keeps the token that the test gives it.
fn node(name: &str) -> NodeOptions {
    let mut node = NodeOptions::new(name);
    node.agent_arguments = vec!["--recheck-interval=1s".into()];
    node.token_renewal = Duration::from_secs(3600);
    node
}

/// Gives the agent the token of a pod, as a DaemonSet's agent has one: a Node's own dies with it.
async fn give_pod_token(scene: &Scene, name: &str) {
    let pod = format!("node-agent-{name}");
    scene
        .apply(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": pod, "namespace": "mono-system"},
            "spec": {"nodeName": name, "serviceAccountName": "node-agent", "tolerations": [{"operator": "Exists"}],
                     "containers": [{"name": "node-agent", "image": "none"}]},
        }))
        .await;
    let kubectl = scene.cluster.kubectl();
    let ask = [
        "create",
        "token",
        "node-agent",
        "-n",
        "mono-system",
        "--bound-object-kind=Pod",
    ];
    let bound = format!("--bound-object-name={pod}");
    let token = kubectl
        .ok([&ask[..], &[bound.as_str()]].concat())
        .await
        .unwrap();
    let file = scene
        .node(name)
        .agent_kubeconfig()
        .with_file_name("agent.token");
    std::fs::write(file, token.trim()).unwrap();
    let before = scene.node(name).agent_pid();
    scene.node(name).kill_agent().await;
    wait::until("the agent with the pod's token", LIMIT, || async {
        let pid = scene.node(name).agent_pid();
        Ok((pid.is_some() && pid != before).then_some(()))
    })
    .await
    .unwrap();
}

/// Another Node of the same name; the agent's process is left alone. Returns both UIDs.
async fn make_again(scene: &Scene, name: &str) -> (String, String) {
    let nodes: Api<NodeObject> = Api::all(scene.cluster.client());
    let old = nodes.get(name).await.unwrap();
    nodes.delete(name, &DeleteParams::default()).await.unwrap();
    let new = NodeObject {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(old.labels().clone().into_iter().collect()),
            ..ObjectMeta::default()
        },
        ..NodeObject::default()
    };
    let new = wait::until("the new Node", LIMIT, || async {
        Ok(nodes.create(&PostParams::default(), &new).await.ok())
    });
    (old.uid().unwrap(), new.await.unwrap().uid().unwrap())
}

async fn os_node_when(
    scene: &Scene,
    name: &str,
    what: &str,
    wanted: impl Fn(&OSNode) -> bool,
) -> OSNode {
    let api: Api<OSNode> = Api::all(scene.cluster.client());
    let found = wait::until(what, LIMIT, || async {
        Ok(api.get_opt(name).await?.filter(|object| wanted(object)))
    });
    found
        .await
        .unwrap_or_else(|e| panic!("{e:#}\n{}", scene.node(name).agent_log()))
}

fn owner(object: &OSNode) -> Option<&str> {
    let owner = object.metadata.owner_references.as_ref()?.first()?;
    Some(owner.uid.as_str())
}

fn node_uid(object: &OSNode) -> Option<&str> {
    Some(object.status.as_ref()?.node_uid.as_str())
}

/// The OSNode goes with its Node, and comes again owned by the new one.
async fn idle(scene: &Scene) {
    let name = "idle";
    give_pod_token(scene, name).await;
    let before = os_node_when(scene, name, "its OSNode", |_| true).await;
    let pid = scene.node(name).agent_pid();
    let (old, new) = make_again(scene, name).await;
    assert_eq!(owner(&before), Some(old.as_str()));
    let after = os_node_when(scene, name, "an OSNode of the new Node", |o| {
        owner(o) == Some(&new) && node_uid(o) == Some(&new)
    })
    .await;
    assert_ne!(before.uid(), after.uid());
    assert_eq!(scene.node(name).agent_pid(), pid, "it was another agent");
}

/// An OSNode that is to go with its Node but is not gone yet is written for the new Node, and looked for again.
async fn doomed(scene: &Scene) {
    let name = "doomed";
    let api: Api<OSNode> = Api::all(scene.cluster.client());
    give_pod_token(scene, name).await;
    let kubectl = scene.cluster.kubectl();
    let finalizers = async |what: &str| {
        let patch = format!("{{\"metadata\":{{\"finalizers\":{what}}}}}");
        kubectl
            .ok([
                "patch",
                "osnode",
                name,
                "--type=merge",
                "-p",
                patch.as_str(),
            ])
            .await
            .unwrap();
    };
    finalizers("[\"tests.monok8s.io/stay\"]").await;
    let before = api.get(name).await.unwrap();
    let (_, new) = make_again(scene, name).await;
    let written = os_node_when(scene, name, "the old OSNode to tell of the new Node", |o| {
        node_uid(o) == Some(&new) && o.metadata.deletion_timestamp.is_some()
    })
    .await;
    assert_eq!(written.uid(), before.uid());
    finalizers("[]").await;
    os_node_when(scene, name, "an OSNode of the new Node", |o| {
        owner(o) == Some(&new) && node_uid(o) == Some(&new)
    })
    .await;
}

/// A write for the Node that was is stopped, and the slot left marked bad.
async fn busy(scene: &Scene) {
    let name = "busy";
    give_pod_token(scene, name).await;
    let nodes: Api<NodeObject> = Api::all(scene.cluster.client());
    let uid = nodes.get(name).await.unwrap().uid().unwrap();
    let url = scene.serve(name, Some(drip()));
    scene
        .progress(name, json!({"image": scene.image(&url), "nodeUID": uid}))
        .await;
    scene
        .until(name, "a write", |_| {
            let record = scene.record(name);
            record.is_some_and(|r| r.under_way().is_some_and(|a| a.step() == Step::Writing))
        })
        .await;
    let (old, new) = make_again(scene, name).await;
    let status = scene.fails(name, "NodeReplaced").await;
    for word in [old.as_str(), new.as_str(), "slot B is left marked bad"] {
        assert!(status.message.contains(word), "{}", status.message);
    }
    let record = scene.record(name).unwrap();
    assert!(record.under_way().is_none());
    assert_eq!(record.slots[&SlotName::B].state, SlotState::Bad);
    let loader = Grub::new(scene.node(name).machine().grubenv());
    let state = loader.state().unwrap();
    assert!(
        !state.b_ok && state.a_ok && state.trial.is_none(),
        "{state:?}"
    );
    // Nothing more is written.
    let written = std::fs::read(scene.node(name).slot_device(SlotName::B).unwrap()).unwrap();
    scene.cluster.image_server().cure("/busy/rootfs.ext4.zst");
    scene.progress("busy-2", json!({"nodeName": name})).await;
    scene.fails("busy-2", "SourceNotFound").await;
    let now = std::fs::read(scene.node(name).slot_device(SlotName::B).unwrap()).unwrap();
    assert!(written == now, "it went on writing");
}

/// Made for a Node that is no more: nothing is written.
async fn stranger(scene: &Scene) {
    let name = "stranger";
    let uid = "11111111-2222-3333-4444-555555555555";
    let url = scene.serve(name, None);
    scene
        .progress(name, json!({"image": scene.image(&url), "nodeUID": uid}))
        .await;
    let status = scene.fails(name, "NodeReplaced").await;
    assert!(status.message.contains(uid), "{}", status.message);
    assert!(scene.slot_b_is_untouched(name));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_made_again_is_another_one() {
    let names = ["idle", "doomed", "busy", "stranger"];
    let scene = Scene::start(names.map(node).into()).await;
    tokio::join!(idle(&scene), doomed(&scene), busy(&scene), stranger(&scene));
}
