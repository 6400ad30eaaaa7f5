//! A Node deleted and made again is another Node: what was made for the old one never touches it.

use anyhow::{Context, Result, ensure};
use kube::ResourceExt as _;
use monok8s_api::reason::{ProgressPhase, SlotState, UpgradePhase};
use monok8s_e2e::{
    cases::{self, case},
    objects,
    served::Served,
};
use monok8s_sandbox::cluster::{Cluster, ClusterOptions};
use serde_json::json;

const OLD: &str = "v1.34.1";
const NEW: &str = "v1.34.2";

/// A rollout that waits while the Node is replaced goes on with the new one.
async fn replaced_while_held(cluster: &Cluster) -> Result<()> {
    let name = "held";
    let (kubectl, client, node) = (cluster.kubectl(), cluster.client(), cluster.node(name)?);
    let mut upgrade = Served::new(cluster, name, NEW)?.upgrade();
    upgrade["spec"]["paused"] = json!(true);
    objects::apply(&kubectl, &upgrade).await?;
    let old = objects::wait_progress(&client, name, node, "a held progress", |_| true).await?;
    let old_uid = old
        .spec
        .node_uid
        .clone()
        .context("the controller's progress has no nodeUID")?;

    let new_uid = node.recreate_object().await?;
    ensure!(new_uid != old_uid, "the Node is still the same");
    let new = objects::wait_progress(&client, name, node, "a progress for the new Node", |p| {
        p.spec.node_uid.as_deref() == Some(&new_uid)
    })
    .await?;
    ensure!(new.name_any() != old.name_any(), "one name for two Nodes");
    kubectl
        .ok([
            "wait",
            "--for=delete",
            "--timeout=240s",
            &format!("osupgradeprogress/{}", old.name_any()),
        ])
        .await?;

    upgrade["spec"]["paused"] = json!(false);
    objects::apply(&kubectl, &upgrade).await?;
    objects::wait_upgrade_phase(&client, name, UpgradePhase::Completed).await?;
    objects::boots(node, NEW).await
}

/// One that is released, for a Node that is no more, ends without a byte.
async fn released_for_another(cluster: &Cluster) -> Result<()> {
    let name = "released";
    let (client, node) = (cluster.client(), cluster.node(name)?);
    let other = json!({"nodeUID": "00000000-0000-4000-8000-000000000000"});
    let served = Served::new(cluster, name, NEW)?;
    served.begin_with("Reboot", &other).await?;
    let ended = objects::wait_end(
        &client,
        name,
        node,
        ProgressPhase::Failed,
        &["NodeReplaced"],
    )
    .await?;
    let status = ended.status.unwrap_or_default();
    ensure!(
        status.bytes_done == 0,
        "{} bytes were written for another Node",
        status.bytes_done
    );
    objects::wait_slot(&client, node, "B", &SlotState::Empty).await?;
    objects::boots(node, OLD).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_made_again_is_another_node() -> Result<()> {
    let cluster = Cluster::start(ClusterOptions {
        nodes: cases::nodes(&["held", "released"]),
        version: OLD.into(),
        images: vec![NEW.into()],
        ..ClusterOptions::default()
    })
    .await?;
    cases::all(vec![
        case("held", replaced_while_held(&cluster)),
        case("released", released_for_another(&cluster)),
    ])
    .await?;
    cluster.stop().await
}
