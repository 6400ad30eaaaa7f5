//! A failure halts the rollout; `kubectl patch … retryNonce` cures it.

use anyhow::{Context, Result, ensure};
use kube::ResourceExt as _;
use monok8s_api::{
    OSUpgradeProgress, condition,
    osupgradeprogress::Release,
    reason::{ProgressPhase, UpgradePhase},
};
use monok8s_e2e::objects::{self, entry};
use monok8s_sandbox::{
    cluster::{Cluster, ClusterOptions},
    image_server::Fault,
    node::NodeOptions,
};
use serde_json::json;

const OLD: &str = "v1.34.1";
const NEW: &str = "v1.34.2";

/// Waits until the upgrade has failed on one node, sees that nothing more was released, and returns
/// the failed progress once it waits for a retry.
async fn halted(cluster: &Cluster, path: &str) -> Result<OSUpgradeProgress> {
    let client = cluster.client();
    let failed = objects::wait_upgrade_phase(&client, "halts", UpgradePhase::Failed).await?;
    let status = failed.status.context("no status")?;
    for (type_, truth, reason) in [
        ("Progressing", "False", "TooManyFailures"),
        ("Degraded", "True", "NodesFailed"),
        ("Completed", "False", "NodesFailed"),
    ] {
        let found = condition::find(&status.conditions, type_);
        ensure!(
            found.is_some_and(|c| c.status == truth && c.reason == reason),
            "{type_}: {:?}",
            status.conditions
        );
    }
    ensure!(status.failures.len() == 1, "{:?}", status.failures);
    let failure = &status.failures[0];
    ensure!(
        failure.reason == "DownloadNotFound" && failure.message.contains("404"),
        "{failure:?}"
    );
    let asked = cluster
        .image_server()
        .requests()
        .iter()
        .filter(|request| request.path() == path)
        .count();
    ensure!(asked == 1, "{asked} requests: the rollout was not halted");
    // The controller takes the release back, so that a retry waits for its turn.
    objects::wait_progress(
        &client,
        "halts",
        cluster.node(&failure.node_name)?,
        "release: Hold",
        |p| {
            p.spec.release == Release::Hold
                && p.status
                    .as_ref()
                    .is_some_and(|s| s.phase == ProgressPhase::Failed)
        },
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_halts_the_rollout_until_it_is_retried() -> Result<()> {
    let cluster = Cluster::start(ClusterOptions {
        nodes: ["node-1", "node-2", "node-3"].map(NodeOptions::new).into(),
        version: OLD.into(),
        images: vec![NEW.into()],
        ..ClusterOptions::default()
    })
    .await?;
    let (kubectl, client) = (cluster.kubectl(), cluster.client());
    let image = cluster.image(NEW)?;
    let server = cluster.image_server();
    let url = server.publish_image(image)?;
    let path = format!("/{}", image.file_name());
    server.fault(&path, Fault::status(404));
    let catalog = format!(
        "images:\n{}",
        entry(NEW, &url, &image.file_sha256, Some(image.size))
    );
    let upgrade = json!({
        "apiVersion": "monok8s.io/v1alpha1", "kind": "OSUpgrade", "metadata": {"name": "halts"},
        "spec": {"version": NEW, "catalog": {"inline": catalog}},
    });
    objects::apply(&kubectl, &upgrade).await?;

    let held = halted(&cluster, &path).await?;
    let node = cluster.node(&held.spec.node_name)?;
    server.cure(&path);
    let patched = kubectl
        .ok([
            "patch",
            "osupgradeprogress",
            &held.name_any(),
            "--type",
            "merge",
            "-p",
            r#"{"spec":{"retryNonce":"retry-1"}}"#,
        ])
        .await?;
    ensure!(patched.contains("patched"), "{patched}");
    kubectl
        .ok([
            "wait",
            "--for=condition=Completed",
            "osupgrade/halts",
            "--timeout=280s",
        ])
        .await
        .with_context(|| objects::fleet(&cluster))?;
    let retried = objects::progresses(&client, "halts", node.name()).await?;
    let status = retried[0].status.clone().context("no status")?;
    ensure!(
        retried.len() == 1 && retried[0].name_any() == held.name_any(),
        "a retry made another progress"
    );
    ensure!((status.attempt, status.retry_count) == (2, 1), "{status:?}");
    ensure!(
        status.observed_retry_nonce == "retry-1" && status.failure_reason.is_empty(),
        "{status:?}"
    );
    for node in cluster.nodes() {
        objects::wait_runs(&client, node, NEW).await?;
        let boot = node.boot().context("the node is down")?;
        ensure!(
            boot.number == 2,
            "{} was booted {} times for one upgrade",
            node.name(),
            boot.number
        );
    }
    let conditions = objects::wait_upgrade(&client, "halts", "Degraded to be False", |status| {
        condition::find(&status.conditions, "Degraded").is_some_and(|c| c.status == "False")
    })
    .await?;
    ensure!(
        conditions.status.is_some_and(|s| s.failures.is_empty()),
        "failures are still shown"
    );
    cluster.stop().await
}

/// A nonce that is there from the start is no retry, and one that comes while the attempt runs has no
/// effect but to be noted.
#[tokio::test(flavor = "multi_thread")]
async fn a_nonce_at_the_wrong_time_is_noted_and_nothing_more() -> Result<()> {
    let cluster = Cluster::start(ClusterOptions {
        nodes: vec![NodeOptions::new("node-1")],
        version: OLD.into(),
        images: vec![NEW.into()],
        ..ClusterOptions::default()
    })
    .await?;
    let (kubectl, client) = (cluster.kubectl(), cluster.client());
    let node = cluster.node("node-1")?;
    let image = cluster.image(NEW)?;
    let url = cluster.image_server().publish_image(image)?;
    let progress = objects::by_hand(
        "nonce",
        node.name(),
        image,
        &url,
        "Stage",
        &json!({"retryNonce": "from-the-start"}),
    );
    objects::apply(&kubectl, &progress).await?;
    let staged = objects::wait_phase(&client, "nonce", node, ProgressPhase::Staged).await?;
    let status = staged.status.clone().unwrap_or_default();
    ensure!(status.attempt == 1 && status.retry_count == 0, "{status:?}");
    ensure!(
        status.observed_retry_nonce == "from-the-start",
        "{status:?}"
    );

    objects::patch(
        &kubectl,
        &staged.name_any(),
        &json!({"retryNonce": "too-early"}),
    )
    .await?;
    objects::wait_progress(&client, "nonce", node, "the nonce to be noted", |p| {
        p.status
            .as_ref()
            .is_some_and(|s| s.observed_retry_nonce == "too-early")
    })
    .await?;
    objects::patch(&kubectl, &staged.name_any(), &json!({"release": "Reboot"})).await?;
    let ended = objects::wait_end(&client, "nonce", node, ProgressPhase::Completed, &[]).await?;
    let status = ended.status.unwrap_or_default();
    ensure!((status.attempt, status.retry_count) == (1, 0), "{status:?}");
    objects::boots(node, NEW).await?;
    cluster.stop().await
}
