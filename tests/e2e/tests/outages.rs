//! The API server restarted in the middle of an attempt, and away for longer than every backoff and
//! token renewal: bytes go on flowing, the agent waits at its gates on the running system, and the
//! node ends on the new version.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use monok8s_api::reason::ProgressPhase;
use monok8s_e2e::{
    cases, hold,
    objects::{self, LIMIT},
    record,
};
use monok8s_sandbox::{
    cluster::{Cluster, ClusterOptions},
    image_server::{Content, Fault},
    wait,
};
use serde_json::json;

const OLD: &str = "v1.34.1";
const NEW: &str = "v1.34.2";

/// Longer than the longest pause between two tries, of the agent's watch as of everything else.
const AWAY: Duration = Duration::from_secs(35);
/// A token's usual renewal is every few minutes.
const RENEWAL: Duration = Duration::from_secs(2);

fn path(name: &str) -> String {
    format!("/{name}/rootfs.ext4.zst")
}

async fn begin(cluster: &Cluster, name: &str, release: &str, every: Duration) -> Result<()> {
    let (server, image) = (cluster.image_server(), cluster.image(NEW)?);
    server.publish(&path(name), Content::file(&image.file)?);
    if !every.is_zero() {
        server.fault(
            &path(name),
            Fault::Drip {
                bytes: 80 << 10,
                every,
            },
        );
    }
    let progress = objects::by_hand(
        name,
        name,
        image,
        &server.url(&path(name)),
        release,
        &json!({}),
    );
    objects::apply(&cluster.kubectl(), &progress).await
}

fn asked(cluster: &Cluster, name: &str) -> usize {
    cluster
        .image_server()
        .requests()
        .iter()
        .filter(|r| r.path() == path(name))
        .count()
}

/// The API server restarts while bytes flow.
async fn restarted(cluster: &mut Cluster) -> Result<()> {
    let client = cluster.client();
    let name = "restarted";
    begin(cluster, name, "Reboot", Duration::from_millis(300)).await?;
    objects::wait_phase(
        &client,
        name,
        cluster.node(name)?,
        ProgressPhase::Downloading,
    )
    .await?;
    cluster.control_plane_mut().restart_api_server().await?;
    let ended = objects::wait_end(
        &client,
        name,
        cluster.node(name)?,
        ProgressPhase::Completed,
        &[],
    )
    .await?;
    let status = ended.status.unwrap_or_default();
    ensure!((status.attempt, status.retry_count) == (1, 0), "{status:?}");
    ensure!(
        asked(cluster, name) == 1,
        "an API server's restart interrupted the write"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_is_away_delays_an_upgrade_and_spoils_nothing() -> Result<()> {
    let nodes = ["restarted", "away-writing", "away-rebooting"].map(|name| {
        let mut node = cases::node(name);
        node.token_renewal = RENEWAL;
        if name == "away-rebooting" {
            // Time to take the API server away between the switch and the trial boot.
            node.downtime = Duration::from_secs(6);
        }
        node
    });
    let mut cluster = Cluster::start(ClusterOptions {
        nodes: nodes.into(),
        version: OLD.into(),
        images: vec![NEW.into()],
        ..ClusterOptions::default()
    })
    .await?;
    let client = cluster.client();

    restarted(&mut cluster).await?;

    begin(&cluster, "away-rebooting", "Stage", Duration::ZERO).await?;
    let rebooting = cluster.node("away-rebooting")?;
    objects::wait_phase(&client, "away-rebooting", rebooting, ProgressPhase::Staged).await?;
    begin(&cluster, "away-writing", "Reboot", Duration::from_secs(1)).await?;
    objects::wait_phase(
        &client,
        "away-writing",
        cluster.node("away-writing")?,
        ProgressPhase::Downloading,
    )
    .await?;
    let kubectl = cluster.kubectl();
    let release = json!({"release": "Reboot"});
    let release = objects::patch(&kubectl, "away-rebooting", &release);
    hold::rebooting(&client, "away-rebooting", rebooting, release).await?;
    cluster.control_plane_mut().stop_api_server().await;
    cluster.node("away-rebooting")?.start_agent();
    let away = tokio::time::sleep(AWAY);
    ensure!(
        !record::is_proven(cluster.node("away-writing")?),
        "the write ended too early to prove anything"
    );
    let writing = cluster.node("away-writing")?;
    wait::until("the write to end without an API server", LIMIT, || async {
        Ok(record::is_proven(writing).then_some(()))
    })
    .await?;
    let trial = cluster.node("away-rebooting")?.wait_boot(2, LIMIT).await?;
    ensure!(trial.trial, "{trial:?}");
    away.await;
    let boot = cluster
        .node("away-writing")?
        .boot()
        .context("the node is down")?;
    ensure!(
        boot.number == 1,
        "it switched and rebooted without a fresh read: {boot:?}"
    );
    ensure!(
        asked(&cluster, "away-writing") == 1,
        "the image was fetched more than once"
    );
    cluster.control_plane_mut().start_api_server().await?;

    for name in ["away-writing", "away-rebooting"] {
        let node = cluster.node(name)?;
        let ended = objects::wait_end(&client, name, node, ProgressPhase::Completed, &[]).await?;
        ensure!(ended.status.is_some_and(|status| status.attempt == 1));
        objects::wait_runs(&client, node, NEW).await?;
        ensure!(
            node.boot().is_some_and(|boot| boot.number == 2),
            "{name}: {:?}",
            node.boot()
        );
        objects::boots(node, NEW).await?;
    }
    cluster.stop().await
}
