//! The agent killed, and the power cut, in each phase: the attempt is carried on or ends as promised,
//! and the node boots the old system or the whole new one.

use std::{pin::Pin, time::Duration};

use anyhow::{Context, Result, ensure};
use monok8s_api::reason::{ProgressPhase, SlotState};
use monok8s_boot::SlotName;
use monok8s_e2e::{
    cases::{self, case},
    hold,
    objects::{self, LIMIT},
    record,
    served::Served,
};
use monok8s_sandbox::{
    cluster::{Cluster, ClusterOptions},
    image_server::Fault,
    wait,
};
use serde_json::json;

const OLD: &str = "v1.34.1";
const NEW: &str = "v1.34.2";
/// Bytes that come too slowly for the image to be whole within a minute.
const SLOW: Fault = Fault::Drip {
    bytes: 32 << 10,
    every: Duration::from_millis(500),
};

async fn begin<'a>(cluster: &'a Cluster, name: &'static str, release: &str) -> Result<Served<'a>> {
    let served = Served::new(cluster, name, NEW)?;
    served.begin(release).await?;
    Ok(served)
}

async fn begin_slowly<'a>(cluster: &'a Cluster, name: &'static str) -> Result<Served<'a>> {
    let served = Served::faulty(cluster, name, NEW, SLOW)?;
    served.begin("Reboot").await?;
    Ok(served)
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

/// Before its release.
async fn killed_held(cluster: &Cluster, name: &'static str) -> Result<()> {
    let served = begin(cluster, name, "Hold").await?;
    cluster.node(name)?.kill_agent().await;
    ensure!(served.asked() == 0, "a held progress was begun");
    objects::patch(&cluster.kubectl(), name, &json!({"release": "Reboot"})).await?;
    completes(cluster, name, 2).await
}

/// Released and planned, and the API server has not accepted that it begins: not a byte before it has.
async fn killed_at_the_first_gate(cluster: &Cluster, name: &'static str) -> Result<()> {
    let (kubectl, node) = (cluster.kubectl(), cluster.node(name)?);
    let refusal = hold::Refusal::of(kubectl.clone(), name).await?;
    let served = begin(cluster, name, "Hold").await?;
    refusal.wait_heeded(name).await?;
    objects::patch(&kubectl, name, &json!({"release": "Reboot"})).await?;
    for _ in 0..2 {
        wait::until("the attempt to be planned", LIMIT, || async {
            Ok(record::is_planned(node).then_some(()))
        })
        .await
        .with_context(|| objects::log_tail(node))?;
        node.kill_agent().await;
    }
    let waiting = objects::progresses(&cluster.client(), name, name).await?;
    let phase = waiting[0].status.clone().unwrap_or_default().phase;
    ensure!(phase == ProgressPhase::Pending, "{name} is {phase}");
    ensure!(
        served.asked() == 0 && !record::is_writing(node),
        "it began without the API server's word"
    );
    refusal.end().await?;
    completes(cluster, name, 2).await
}

async fn killed_downloading(cluster: &Cluster, name: &'static str) -> Result<()> {
    let served = begin_slowly(cluster, name).await?;
    let node = cluster.node(name)?;
    for kill in 1..=3 {
        served.wait_asked(kill).await?;
        objects::wait_phase(&cluster.client(), name, node, ProgressPhase::Downloading).await?;
        node.kill_agent().await;
    }
    served.wait_asked(4).await?;
    served.cure();
    // The answer that is under way still drips; a last kill makes the agent ask anew.
    node.kill_agent().await;
    completes(cluster, name, 2).await
}

/// The slot is read back and nobody has noted it: it is written once more.
async fn killed_verifying(cluster: &Cluster, name: &'static str) -> Result<()> {
    let node = cluster.node(name)?;
    let served = Served::new(cluster, name, NEW)?;
    let held = hold::before_the_proof(node, served.begin("Reboot")).await?;
    objects::wait_phase(&cluster.client(), name, node, ProgressPhase::Verifying).await?;
    held.kill().await?;
    completes(cluster, name, 2).await?;
    ensure!(served.asked() > 1, "a slot that was not proven was trusted");
    Ok(())
}

async fn killed_staged(cluster: &Cluster, name: &'static str) -> Result<()> {
    let served = begin(cluster, name, "Stage").await?;
    let node = cluster.node(name)?;
    objects::wait_phase(&cluster.client(), name, node, ProgressPhase::Staged).await?;
    let before = served.asked();
    node.kill_agent().await;
    objects::patch(&cluster.kubectl(), name, &json!({"release": "Reboot"})).await?;
    completes(cluster, name, 2).await?;
    ensure!(before == served.asked(), "a proven slot was fetched again");
    Ok(())
}

async fn killed_rebooting(cluster: &Cluster, name: &'static str) -> Result<()> {
    let (client, node) = (cluster.client(), cluster.node(name)?);
    let begin = async { begin(cluster, name, "Reboot").await.map(drop) };
    hold::rebooting(&client, name, node, begin).await?;
    node.kill_agent().await;
    node.start_agent();
    completes(cluster, name, 2).await
}

/// Twice in the trial boot, before the new slot is the default.
async fn killed_confirming(cluster: &Cluster, name: &'static str) -> Result<()> {
    let (client, node) = (cluster.client(), cluster.node(name)?);
    let begin = async { begin(cluster, name, "Reboot").await.map(drop) };
    let lock = hold::confirming(&client, name, node, begin).await?;
    let first = node.agent_pid();
    node.kill_agent().await;
    wait::until("the agent to run again", LIMIT, || async {
        let now = node.agent_pid();
        Ok((now.is_some() && now != first).then_some(()))
    })
    .await?;
    node.kill_agent().await;
    drop(lock);
    completes(cluster, name, 2).await
}

/// Killed again and again at ever other moments until it is done. The pauses grow, so that every
/// phase has its end.
async fn killed_all_the_time(cluster: &Cluster, name: &'static str) -> Result<()> {
    begin(cluster, name, "Reboot").await?;
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
    let served = begin_slowly(cluster, name).await?;
    let node = cluster.node(name)?;
    served.wait_asked(1).await?;
    node.power_cut().await?;
    served.cure();
    let boot = node.power_on().await?;
    ensure!(
        boot.slot == SlotName::A,
        "a half-written slot was booted: {boot:?}"
    );
    completes(cluster, name, 3).await
}

async fn cut_staged(cluster: &Cluster, name: &'static str) -> Result<()> {
    begin(cluster, name, "Stage").await?;
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
    begin(cluster, name, "Reboot").await?;
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
    let (client, node) = (cluster.client(), cluster.node(name)?);
    let begin = async { begin(cluster, name, "Reboot").await.map(drop) };
    let lock = hold::confirming(&client, name, node, begin).await?;
    node.kill_agent_and_hold().await;
    drop(lock);
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
    begin(cluster, name, "Reboot").await?;
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
        "cut-confirming",
        "killed-confirming",
        "killed-at-the-first-gate",
        "killed-held",
        "killed-downloading",
        "killed-verifying",
        "killed-staged",
        "killed-rebooting",
        "killed-all-the-time",
        "cut-downloading",
        "cut-staged",
        "cut-rebooting",
        "trial-fails",
    ];
    let nodes = names.map(|name| {
        let mut node = cases::node(name);
        if name == "cut-rebooting" {
            // The agent says Rebooting and asks for the reboot a moment later. This one is reset by
            // hand; here the request goes nowhere.
            node.agent_arguments
                .push("--reboot=command:/bin/true".into());
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
    let cases = names.map(|name| {
        let does: Pin<Box<dyn Future<Output = Result<()>>>> = match name {
            "killed-held" => Box::pin(killed_held(&cluster, name)),
            "killed-at-the-first-gate" => Box::pin(killed_at_the_first_gate(&cluster, name)),
            "killed-downloading" => Box::pin(killed_downloading(&cluster, name)),
            "killed-verifying" => Box::pin(killed_verifying(&cluster, name)),
            "killed-staged" => Box::pin(killed_staged(&cluster, name)),
            "killed-rebooting" => Box::pin(killed_rebooting(&cluster, name)),
            "killed-confirming" => Box::pin(killed_confirming(&cluster, name)),
            "killed-all-the-time" => Box::pin(killed_all_the_time(&cluster, name)),
            "cut-downloading" => Box::pin(cut_downloading(&cluster, name)),
            "cut-staged" => Box::pin(cut_staged(&cluster, name)),
            "cut-rebooting" => Box::pin(cut_rebooting(&cluster, name)),
            "cut-confirming" => Box::pin(cut_confirming(&cluster, name)),
            _ => Box::pin(trial_fails(&cluster, name)),
        };
        case(name, does)
    });
    cases::all(cases.into()).await?;
    cluster.stop().await
}
