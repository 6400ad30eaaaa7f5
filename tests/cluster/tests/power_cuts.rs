//! The power is cut: everything on the node is gone at once.

use std::fs::File;

use anyhow::{Context, Result, ensure};
use monok8s_api::reason::ProgressPhase;
use monok8s_sandbox::wait;
use rustix::fs::{FlockOperation, flock};
use serde_json::json;

use crate::{
    bench::LIMIT,
    case::{Attempt, Case},
    interruptions::stalled,
};

/// The old system comes up, and its agent carries on.
pub(crate) async fn while_downloading(case: &Case<'_>) -> Result<()> {
    let attempt = case.begin("Reboot", Some(stalled())).await?;
    case.wait_phase(ProgressPhase::Downloading).await?;
    case.node.power_cut().await?;
    case.cure();
    case.node.power_on().await?;
    attempt.completes(2).await
}

/// What is proven stays so.
pub(crate) async fn while_staged(case: &Case<'_>) -> Result<()> {
    let attempt = case.begin("Stage", None).await?;
    case.wait_phase(ProgressPhase::Staged).await?;
    case.node.power_cut().await?;
    let release = json!({"release": "Reboot"});
    monok8s_e2e::objects::patch(&case.bench.kubectl, &case.progress_name(), &release).await?;
    case.node.power_on().await?;
    attempt.completes(2).await
}

/// The trial was for one boot: the next one is the old system's.
pub(crate) async fn before_the_new_system_is_up(case: &Case<'_>) -> Result<()> {
    let attempt = case.begin("Reboot", None).await?;
    trial(case).await?;
    case.node.power_cut().await?;
    case.node.power_on().await?;
    attempt.rolls_back(2).await
}

/// As long as it is not confirmed it is a trial.
pub(crate) async fn while_confirming(case: &Case<'_>) -> Result<()> {
    let attempt: Attempt<'_> = case.begin("Reboot", None).await?;
    let pid = trial(case).await?;
    // Who wants to change the boot variables waits for this lock; the firmware does not ask.
    let path = format!("/proc/{pid}/root/boot/grub/grubenv");
    let lock = File::open(&path).with_context(|| format!("cannot open {path}"))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive).context("somebody has the lock")?;
    case.wait_phase(ProgressPhase::Confirming).await?;
    case.node.power_cut().await?;
    drop(lock);
    case.node.power_on().await?;
    attempt.rolls_back(2).await
}

/// Waits until the node has begun its trial boot, and returns its first process.
async fn trial(case: &Case<'_>) -> Result<u32> {
    let before = case.node.running()?.number;
    let running = wait::until("the trial boot", LIMIT, || async {
        let now = case.node.running().ok();
        Ok(now.filter(|now| now.number > before))
    })
    .await?;
    ensure!(running.booted.trial, "the boot was no trial: {running:?}");
    Ok(running.pid)
}
