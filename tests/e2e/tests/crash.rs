//! The agent killed, and the power cut, in each phase: the attempt is carried on or ends as promised,
//! and the node boots the old system or the whole new one.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use monok8s_api::reason::{ProgressPhase, SlotState};
use monok8s_boot::SlotName;
use monok8s_e2e::{
    cases::{self, case},
    objects::{self, LIMIT},
};
use monok8s_sandbox::{
    cluster::{Cluster, ClusterOptions},
    image_server::{Content, Fault},
    wait,
};
use serde_json::json;

const OLD: &str = "v1.34.1";
const NEW: &str = "v1.34.2";
const DOWNTIME: Duration = Duration::from_secs(3);

async fn begin(cluster: &Cluster, name: &str, release: &str, slow: bool) -> Result<()> {
    let path = path(name);
    let (server, image) = (cluster.image_server(), cluster.image(NEW)?);
    server.publish(&path, Content::file(&image.file)?);
    if slow {
        server.fault(
            &path,
            Fault::Drip {
                bytes: 64 << 10,
                every: Duration::from_millis(100),
            },
        );
    }
    let progress = objects::by_hand(name, name, image, &server.url(&path), release, &json!({}));
    objects::apply(&cluster.kubectl(), &progress).await
}

fn path(name: &str) -> String {
    format!("/{name}/rootfs.ext4.zst")
}

/// Waits until bytes of the case's image have been asked for.
async fn wait_asked(cluster: &Cluster, name: &str, times: usize) -> Result<()> {
    wait::until("the image to be asked for", LIMIT, || async {
        let asked = cluster
            .image_server()
            .requests()
            .iter()
            .filter(|r| r.path() == path(name))
            .count();
        Ok((asked >= times).then_some(()))
    })
    .await
}

/// Completed in the first attempt, with as few boots as an upgrade needs.
async fn completes(cluster: &Cluster, name: &str, boots: u64) -> Result<()> {
    let node = cluster.node(name)?;
    let ended =
        objects::wait_end(&cluster.client(), name, node, ProgressPhase::Completed, &[]).await?;
    let status = ended.status.unwrap_or_default();
    ensure!(
        (status.attempt, status.retry_count) == (1, 0),
        "{name}: {status:?}"
    );
    let boot = node.boot().context("the node is down")?;
    ensure!(
        boot.number == boots,
        "{name}: booted {} times instead of {boots}",
        boot.number
    );
    objects::wait_slot(&cluster.client(), node, "B", &SlotState::Good).await?;
    objects::boots(node, NEW).await
}

async fn rolls_back(cluster: &Cluster, name: &str) -> Result<()> {
    let node = cluster.node(name)?;
    objects::wait_end(
        &cluster.client(),
        name,
        node,
        ProgressPhase::RolledBack,
        &["FellBack"],
    )
    .await?;
    objects::wait_slot(&cluster.client(), node, "B", &SlotState::Bad).await?;
    objects::wait_runs(&cluster.client(), node, OLD).await?;
    objects::boots(node, OLD).await
}

async fn killed_downloading(cluster: &Cluster, name: &'static str) -> Result<()> {
    begin(cluster, name, "Reboot", true).await?;
    let node = cluster.node(name)?;
    for kill in 1..=3 {
        wait_asked(cluster, name, kill).await?;
        objects::wait_phase(&cluster.client(), name, node, ProgressPhase::Downloading).await?;
        node.kill_agent().await;
    }
    wait_asked(cluster, name, 4).await?;
    cluster.image_server().cure(&path(name));
    // The answer that is under way still drips; a last kill makes the agent ask anew.
    node.kill_agent().await;
    completes(cluster, name, 2).await
}

async fn killed_staged(cluster: &Cluster, name: &'static str) -> Result<()> {
    begin(cluster, name, "Stage", false).await?;
    let node = cluster.node(name)?;
    objects::wait_phase(&cluster.client(), name, node, ProgressPhase::Staged).await?;
    let before = cluster
        .image_server()
        .requests()
        .iter()
        .filter(|r| r.path() == path(name))
        .count();
    node.kill_agent().await;
    objects::patch(&cluster.kubectl(), name, &json!({"release": "Reboot"})).await?;
    completes(cluster, name, 2).await?;
    let after = cluster
        .image_server()
        .requests()
        .iter()
        .filter(|r| r.path() == path(name))
        .count();
    ensure!(before == after, "a proven slot was fetched again");
    Ok(())
}

async fn killed_rebooting(cluster: &Cluster, name: &'static str) -> Result<()> {
    begin(cluster, name, "Reboot", false).await?;
    let node = cluster.node(name)?;
    objects::wait_phase(&cluster.client(), name, node, ProgressPhase::Rebooting).await?;
    node.kill_agent().await;
    completes(cluster, name, 2).await
}

async fn killed_confirming(cluster: &Cluster, name: &'static str) -> Result<()> {
    begin(cluster, name, "Reboot", false).await?;
    let node = cluster.node(name)?;
    node.wait_boot(2, LIMIT).await?;
    node.kill_agent().await;
    completes(cluster, name, 2).await
}

/// Killed again and again at ever other moments until it is done. The pauses grow, so that every
/// phase has its end.
async fn killed_all_the_time(cluster: &Cluster, name: &'static str) -> Result<()> {
    begin(cluster, name, "Reboot", false).await?;
    let (client, node) = (cluster.client(), cluster.node(name)?);
    for kill in 1..30 {
        tokio::time::sleep(Duration::from_millis(kill * 97)).await;
        let found = objects::progresses(&client, name, name).await?;
        if found
            .iter()
            .any(|p| p.status.as_ref().is_some_and(|s| s.phase.is_terminal()))
        {
            break;
        }
        node.kill_agent().await;
    }
    completes(cluster, name, 2).await
}

async fn cut_downloading(cluster: &Cluster, name: &'static str) -> Result<()> {
    begin(cluster, name, "Reboot", true).await?;
    let node = cluster.node(name)?;
    wait_asked(cluster, name, 1).await?;
    node.power_cut().await?;
    cluster.image_server().cure(&path(name));
    let boot = node.power_on().await?;
    ensure!(
        boot.slot == SlotName::A,
        "a half-written slot was booted: {boot:?}"
    );
    completes(cluster, name, 3).await
}

async fn cut_staged(cluster: &Cluster, name: &'static str) -> Result<()> {
    begin(cluster, name, "Stage", false).await?;
    let node = cluster.node(name)?;
    objects::wait_phase(&cluster.client(), name, node, ProgressPhase::Staged).await?;
    let boot = node.reset().await?;
    ensure!(
        boot.slot == SlotName::A,
        "a slot that was not released was booted: {boot:?}"
    );
    objects::patch(&cluster.kubectl(), name, &json!({"release": "Reboot"})).await?;
    completes(cluster, name, 3).await
}

/// The power goes after the switch: the next start is the trial.
async fn cut_rebooting(cluster: &Cluster, name: &'static str) -> Result<()> {
    begin(cluster, name, "Reboot", false).await?;
    let node = cluster.node(name)?;
    objects::wait_phase(&cluster.client(), name, node, ProgressPhase::Rebooting).await?;
    let boot = node.reset().await?;
    ensure!(
        boot.slot == SlotName::B && boot.trial,
        "the trial boot was not tried: {boot:?}"
    );
    completes(cluster, name, 2).await
}

/// The power goes during the trial, before it is confirmed: the trial is over.
async fn cut_confirming(cluster: &Cluster, name: &'static str) -> Result<()> {
    begin(cluster, name, "Reboot", false).await?;
    let node = cluster.node(name)?;
    objects::wait_phase(&cluster.client(), name, node, ProgressPhase::Rebooting).await?;
    node.kill_agent_and_hold().await;
    let trial = node.reset().await?;
    ensure!(
        trial.slot == SlotName::B && trial.trial,
        "the trial boot was not tried: {trial:?}"
    );
    let after = node.reset().await?;
    ensure!(
        after.slot == SlotName::A,
        "an unconfirmed trial was booted twice: {after:?}"
    );
    node.start_agent();
    rolls_back(cluster, name).await
}

/// The new system never comes up; the retry finds a machine on which it does.
async fn trial_fails(cluster: &Cluster, name: &'static str) -> Result<()> {
    let node = cluster.node(name)?;
    node.fail_trial_boots(1);
    begin(cluster, name, "Reboot", false).await?;
    rolls_back(cluster, name).await?;
    objects::patch(&cluster.kubectl(), name, &json!({"retryNonce": "again"})).await?;
    let completed =
        objects::wait_phase(&cluster.client(), name, node, ProgressPhase::Completed).await?;
    let status = completed.status.unwrap_or_default();
    ensure!((status.attempt, status.retry_count) == (2, 1), "{status:?}");
    objects::boots(node, NEW).await
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_killed_the_old_or_the_whole_new_system_boots() -> Result<()> {
    let names = [
        "killed-downloading",
        "killed-staged",
        "killed-rebooting",
        "killed-confirming",
        "killed-all-the-time",
        "cut-downloading",
        "cut-staged",
        "cut-rebooting",
        "cut-confirming",
        "trial-fails",
    ];
    let nodes = names.map(|name| {
        let mut node = cases::node(name);
        if name.starts_with("cut-") && (name.ends_with("rebooting") || name.ends_with("confirming"))
        {
            // The agent says Rebooting and asks for the reboot a moment later. These are reset by
            // hand; here the request goes nowhere.
            node.agent_arguments
                .push("--reboot=command:/bin/true".into());
        } else if name.ends_with("rebooting") {
            node.downtime = DOWNTIME;
        }
        node
    });
    let cluster = Cluster::start(ClusterOptions {
        nodes: nodes.into(),
        version: OLD.into(),
        images: vec![NEW.into()],
        ..ClusterOptions::default()
    })
    .await?;
    cases::all(vec![
        case(
            "killed-downloading",
            killed_downloading(&cluster, "killed-downloading"),
        ),
        case("killed-staged", killed_staged(&cluster, "killed-staged")),
        case(
            "killed-rebooting",
            killed_rebooting(&cluster, "killed-rebooting"),
        ),
        case(
            "killed-confirming",
            killed_confirming(&cluster, "killed-confirming"),
        ),
        case(
            "killed-all-the-time",
            killed_all_the_time(&cluster, "killed-all-the-time"),
        ),
        case(
            "cut-downloading",
            cut_downloading(&cluster, "cut-downloading"),
        ),
        case("cut-staged", cut_staged(&cluster, "cut-staged")),
        case("cut-rebooting", cut_rebooting(&cluster, "cut-rebooting")),
        case("cut-confirming", cut_confirming(&cluster, "cut-confirming")),
        case("trial-fails", trial_fails(&cluster, "trial-fails")),
    ])
    .await?;
    cluster.stop().await
}
