//! Stopping an attempt by `spec.cancel` or by deleting its objects, in each phase: before the switch
//! the agent stops on the old system, after it the trial is finished.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kube::{Api, ResourceExt as _};
use monok8s_api::{
    OSNode,
    reason::{ProgressPhase, SlotState},
};
use monok8s_e2e::{
    cases::{self, case},
    objects::{self, entry},
};
use monok8s_sandbox::{
    cluster::{Cluster, ClusterOptions},
    image_server::{Content, Fault},
    node::Node,
    wait,
};
use serde_json::json;

const OLD: &str = "v1.34.1";
const NEW: &str = "v1.34.2";

/// Long enough to act while a node is down, between the switch and the trial boot.
const DOWNTIME: Duration = Duration::from_secs(6);

/// Serves the case's own image so that each answer stands still after a part of it.
fn slow(cluster: &Cluster, name: &str) -> Result<String> {
    let path = serve(cluster, name)?;
    cluster
        .image_server()
        .fault(&path, Fault::StallAfter(3 << 20));
    Ok(cluster.image_server().url(&path))
}

fn serve(cluster: &Cluster, name: &str) -> Result<String> {
    let path = format!("/{name}/rootfs.ext4.zst");
    cluster
        .image_server()
        .publish(&path, Content::file(&cluster.image(NEW)?.file)?);
    Ok(path)
}

/// A hand-made progress of the case's name for the case's node.
async fn begin(cluster: &Cluster, name: &str, url: &str, release: &str) -> Result<()> {
    let progress = objects::by_hand(name, name, cluster.image(NEW)?, url, release, &json!({}));
    objects::apply(&cluster.kubectl(), &progress).await
}

/// Waits until the node's OSNode tells how the attempt ended, its progress being gone.
async fn wait_told(
    cluster: &Cluster,
    node: &Node,
    progress: &str,
    phase: ProgressPhase,
) -> Result<()> {
    let api: Api<OSNode> = Api::all(cluster.client());
    wait::until(
        &format!("OSNode {} to tell of {progress}: {phase}", node.name()),
        objects::LIMIT,
        || async {
            let status = api.get(node.name()).await?.status.unwrap_or_default();
            let told = status
                .last_result
                .is_some_and(|last| last.progress == progress && last.phase == phase);
            Ok(told.then_some(()))
        },
    )
    .await
    .with_context(|| objects::log_tail(node))
}

/// Waits until slot B is being written.
async fn wait_writing(cluster: &Cluster, name: &str) -> Result<()> {
    objects::wait_slot(
        &cluster.client(),
        cluster.node(name)?,
        "B",
        &SlotState::Writing,
    )
    .await
}

/// The slot was left as expected, and the node runs and boots its old system.
async fn stopped(cluster: &Cluster, name: &str, expected: SlotState) -> Result<()> {
    objects::wait_slot(&cluster.client(), cluster.node(name)?, "B", &expected).await?;
    stays(cluster, name).await
}

/// The node runs and boots its old system.
async fn stays(cluster: &Cluster, name: &str) -> Result<()> {
    let node = cluster.node(name)?;
    ensure!(
        node.boot().is_some_and(|boot| boot.number == 1),
        "{name}: it was rebooted: {:?}",
        node.boot()
    );
    objects::boots(node, OLD).await
}

async fn cancel_held(cluster: &Cluster) -> Result<()> {
    let name = "cancel-held";
    let url = cluster.image_server().url(&serve(cluster, name)?);
    begin(cluster, name, &url, "Hold").await?;
    objects::patch(&cluster.kubectl(), name, &json!({"cancel": true})).await?;
    objects::wait_end(
        &cluster.client(),
        name,
        cluster.node(name)?,
        ProgressPhase::Cancelled,
        &[],
    )
    .await?;
    stopped(cluster, name, SlotState::Empty).await
}

/// Cancelled while bytes flow; then the cancel is taken back together with a nonce.
async fn cancel_downloading(cluster: &Cluster) -> Result<()> {
    let name = "cancel-downloading";
    let url = slow(cluster, name)?;
    begin(cluster, name, &url, "Reboot").await?;
    wait_writing(cluster, name).await?;
    objects::patch(&cluster.kubectl(), name, &json!({"cancel": true})).await?;
    let (client, node) = (cluster.client(), cluster.node(name)?);
    objects::wait_end(&client, name, node, ProgressPhase::Cancelled, &[]).await?;
    stopped(cluster, name, SlotState::Bad).await?;

    cluster
        .image_server()
        .cure(&format!("/{name}/rootfs.ext4.zst"));
    objects::patch(
        &cluster.kubectl(),
        name,
        &json!({"cancel": false, "retryNonce": "again"}),
    )
    .await?;
    objects::wait_phase(&client, name, node, ProgressPhase::Completed).await?;
    objects::boots(node, NEW).await
}

async fn cancel_staged(cluster: &Cluster) -> Result<()> {
    let name = "cancel-staged";
    let url = cluster.image_server().url(&serve(cluster, name)?);
    begin(cluster, name, &url, "Stage").await?;
    let (client, node) = (cluster.client(), cluster.node(name)?);
    objects::wait_phase(&client, name, node, ProgressPhase::Staged).await?;
    objects::patch(&cluster.kubectl(), name, &json!({"cancel": true})).await?;
    objects::wait_end(&client, name, node, ProgressPhase::Cancelled, &[]).await?;
    stopped(cluster, name, SlotState::Bad).await
}

async fn cancel_rebooting(cluster: &Cluster) -> Result<()> {
    let name = "cancel-rebooting";
    let url = cluster.image_server().url(&serve(cluster, name)?);
    begin(cluster, name, &url, "Reboot").await?;
    let (client, node) = (cluster.client(), cluster.node(name)?);
    objects::wait_phase(&client, name, node, ProgressPhase::Rebooting).await?;
    objects::patch(&cluster.kubectl(), name, &json!({"cancel": true})).await?;
    let ended = objects::wait_end(&client, name, node, ProgressPhase::Completed, &[]).await?;
    let message = ended.status.unwrap_or_default().message;
    ensure!(
        message.contains("cancel"),
        "the message does not say that the cancel was ignored: {message}"
    );
    objects::boots(node, NEW).await
}

async fn delete_downloading(cluster: &Cluster) -> Result<()> {
    let name = "delete-downloading";
    let url = slow(cluster, name)?;
    begin(cluster, name, &url, "Reboot").await?;
    wait_writing(cluster, name).await?;
    cluster
        .kubectl()
        .ok(["delete", "osupgradeprogress", name])
        .await?;
    wait_told(cluster, cluster.node(name)?, name, ProgressPhase::Cancelled).await?;
    stopped(cluster, name, SlotState::Bad).await
}

async fn delete_staged(cluster: &Cluster) -> Result<()> {
    let name = "delete-staged";
    let url = cluster.image_server().url(&serve(cluster, name)?);
    begin(cluster, name, &url, "Stage").await?;
    let node = cluster.node(name)?;
    objects::wait_phase(&cluster.client(), name, node, ProgressPhase::Staged).await?;
    cluster
        .kubectl()
        .ok(["delete", "osupgradeprogress", name])
        .await?;
    wait_told(cluster, node, name, ProgressPhase::Cancelled).await?;
    stopped(cluster, name, SlotState::Bad).await
}

async fn delete_rebooting(cluster: &Cluster) -> Result<()> {
    let name = "delete-rebooting";
    let url = cluster.image_server().url(&serve(cluster, name)?);
    begin(cluster, name, &url, "Reboot").await?;
    let node = cluster.node(name)?;
    objects::wait_phase(&cluster.client(), name, node, ProgressPhase::Rebooting).await?;
    cluster
        .kubectl()
        .ok(["delete", "osupgradeprogress", name])
        .await?;
    wait_told(cluster, node, name, ProgressPhase::Completed).await?;
    objects::boots(node, NEW).await
}

/// An upgrade of the controller's own; returns its progress's name once it is in `phase`.
async fn upgrade(
    cluster: &Cluster,
    name: &'static str,
    url: &str,
    phase: ProgressPhase,
) -> Result<String> {
    let image = cluster.image(NEW)?;
    let catalog = format!(
        "images:\n{}",
        entry(NEW, url, &image.file_sha256, Some(image.size))
    );
    let upgrade = objects::upgrade(name, NEW, name, &objects::inline(catalog));
    objects::apply(&cluster.kubectl(), &upgrade).await?;
    let progress = objects::wait_phase(&cluster.client(), name, cluster.node(name)?, phase).await?;
    Ok(progress.name_any())
}

async fn delete_upgrade_pending(cluster: &Cluster) -> Result<()> {
    let name = "upgrade-pending";
    let image = cluster.image(NEW)?;
    let url = cluster.image_server().url(&serve(cluster, name)?);
    let catalog = format!(
        "images:\n{}",
        entry(NEW, &url, &image.file_sha256, Some(image.size))
    );
    let mut upgrade = objects::upgrade(name, NEW, name, &objects::inline(catalog));
    upgrade["spec"]["paused"] = json!(true);
    objects::apply(&cluster.kubectl(), &upgrade).await?;
    let (client, node) = (cluster.client(), cluster.node(name)?);
    let made = objects::wait_progress(&client, name, node, "a held progress", |_| true).await?;
    cluster.kubectl().ok(["delete", "osupgrade", name]).await?;
    wait_gone(cluster, &made.name_any()).await?;
    stays(cluster, name).await
}

async fn delete_upgrade_downloading(cluster: &Cluster) -> Result<()> {
    let name = "upgrade-downloading";
    let url = slow(cluster, name)?;
    let progress = upgrade(cluster, name, &url, ProgressPhase::Downloading).await?;
    wait_writing(cluster, name).await?;
    cluster.kubectl().ok(["delete", "osupgrade", name]).await?;
    wait_gone(cluster, &progress).await?;
    wait_told(
        cluster,
        cluster.node(name)?,
        &progress,
        ProgressPhase::Cancelled,
    )
    .await?;
    stopped(cluster, name, SlotState::Bad).await
}

async fn delete_upgrade_rebooting(cluster: &Cluster) -> Result<()> {
    let name = "upgrade-rebooting";
    let url = cluster.image_server().url(&serve(cluster, name)?);
    let progress = upgrade(cluster, name, &url, ProgressPhase::Rebooting).await?;
    cluster.kubectl().ok(["delete", "osupgrade", name]).await?;
    wait_told(
        cluster,
        cluster.node(name)?,
        &progress,
        ProgressPhase::Completed,
    )
    .await?;
    objects::boots(cluster.node(name)?, NEW).await
}

/// The garbage collector follows the owner reference.
async fn wait_gone(cluster: &Cluster, progress: &str) -> Result<()> {
    let kubectl = cluster.kubectl();
    kubectl
        .ok([
            "wait",
            "--for=delete",
            "--timeout=120s",
            &format!("osupgradeprogress/{progress}"),
        ])
        .await
        .map(|_| ())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_is_stopped_before_the_switch_and_finished_after_it() -> Result<()> {
    let names = [
        "cancel-held",
        "cancel-downloading",
        "cancel-staged",
        "cancel-rebooting",
        "delete-downloading",
        "delete-staged",
        "delete-rebooting",
        "upgrade-pending",
        "upgrade-downloading",
        "upgrade-rebooting",
    ];
    let nodes = names.map(|name| {
        let mut node = cases::node(name);
        if name.ends_with("rebooting") {
            node.downtime = DOWNTIME;
        }
        node
    });
    let cluster = Cluster::start(ClusterOptions {
        nodes: nodes.into(),
        version: OLD.into(),
        images: vec![NEW.into()],
        // Several answers that stand still, so that no attempt ends by itself meanwhile.
        image_payload: 14 << 20,
        ..ClusterOptions::default()
    })
    .await?;
    cases::all(vec![
        case("cancel-held", cancel_held(&cluster)),
        case("cancel-downloading", cancel_downloading(&cluster)),
        case("cancel-staged", cancel_staged(&cluster)),
        case("cancel-rebooting", cancel_rebooting(&cluster)),
        case("delete-downloading", delete_downloading(&cluster)),
        case("delete-staged", delete_staged(&cluster)),
        case("delete-rebooting", delete_rebooting(&cluster)),
        case("upgrade-pending", delete_upgrade_pending(&cluster)),
        case("upgrade-downloading", delete_upgrade_downloading(&cluster)),
        case("upgrade-rebooting", delete_upgrade_rebooting(&cluster)),
    ])
    .await?;
    cluster.stop().await
}
