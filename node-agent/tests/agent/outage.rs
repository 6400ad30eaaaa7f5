//! An API server that is away.

use std::time::Instant;

use monok8s_api::reason::ProgressPhase;
use monok8s_node_agent::record::Step;
use monok8s_sandbox::{node::NodeOptions, wait};
use serde_json::json;

use crate::scene::{LIMIT, Scene, drip};

/// While the API server is away a write to the slot goes on, the switch waits, and a node that reboots into its trial
/// is confirmed when its agent is back. (Without an API server a node starts no pods, so no agent either.)
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_outlives_its_api_server() {
    let names = ["writes", "staged", "trial"];
    let mut scene = Scene::start(names.map(NodeOptions::new).into()).await;
    let url = scene.serve("writes", Some(drip()));
    scene
        .progress(
            "writes",
            json!({"image": scene.image(&url), "release": "Stage"}),
        )
        .await;
    scene.phase("writes", ProgressPhase::Downloading).await;
    let url = scene.serve("staged", None);
    scene
        .progress(
            "staged",
            json!({"image": scene.image(&url), "release": "Stage"}),
        )
        .await;
    let url = scene.serve("trial", None);
    scene
        .progress(
            "trial",
            json!({"image": scene.image(&url), "release": "Stage"}),
        )
        .await;
    scene.phase("staged", ProgressPhase::Staged).await;
    scene.phase("trial", ProgressPhase::Staged).await;
    scene.node("staged").kill_agent_and_hold().await;
    scene.patch("staged", json!({"release": "Reboot"})).await;

    // The trial boot comes up while there is no API server, and its agent not before.
    scene.node("trial").hold_agent();
    scene.patch("trial", json!({"release": "Reboot"})).await;
    scene.phase("trial", ProgressPhase::Rebooting).await;
    scene.cluster.control_plane_mut().kill_api_server().await;
    scene.node("trial").start_agent();

    scene.cluster.image_server().cure("/writes/rootfs.ext4.zst");
    scene.node("staged").start_agent();
    let step = |name: &str| {
        scene.record(name).and_then(|r| {
            r.attempts
                .last()
                .map(monok8s_node_agent::record::Attempt::step)
        })
    };
    let until = async |name: &str, wanted: Step| {
        let end = Instant::now() + LIMIT;
        while step(name) != Some(wanted) {
            assert!(
                Instant::now() < end,
                "{name} is {:?}:\n{}",
                step(name),
                scene.node(name).agent_log()
            );
            tokio::time::sleep(wait::INTERVAL).await;
        }
    };
    until("writes", Step::Proven).await;
    assert_eq!(
        step("staged"),
        Some(Step::Proven),
        "switched without a fresh read"
    );
    assert_eq!(scene.node("staged").boot().unwrap().number, 1);

    scene
        .cluster
        .control_plane_mut()
        .start_api_server()
        .await
        .unwrap();
    scene.phase("writes", ProgressPhase::Staged).await;
    scene.phase("trial", ProgressPhase::Completed).await;
    scene.phase("staged", ProgressPhase::Completed).await;
}
