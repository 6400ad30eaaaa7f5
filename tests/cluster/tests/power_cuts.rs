//! The power is cut: everything on the node is gone at once.

use anyhow::{Result, ensure};
use monok8s_api::reason::ProgressPhase;
use monok8s_sandbox::wait;

use crate::{
    bench::LIMIT,
    case::{Attempt, Case},
    interruptions::stalled,
};

/// Nothing had begun, and it begins when it may.
pub(crate) async fn while_pending(case: &Case<'_>) -> Result<()> {
    let attempt = case.begin("Hold", None).await?;
    case.node.power_cut().await?;
    case.release().await?;
    case.node.power_on().await?;
    attempt.completes(2).await
}

/// The old system comes up, and its agent carries on.
pub(crate) async fn while_downloading(case: &Case<'_>) -> Result<()> {
    let attempt = case.begin("Reboot", Some(stalled())).await?;
    case.wait_phase(ProgressPhase::Downloading).await?;
    case.node.power_cut().await?;
    case.cure();
    case.node.power_on().await?;
    attempt.completes(2).await
}

/// What was read back and not noted is proven anew.
pub(crate) async fn while_verifying(case: &Case<'_>) -> Result<()> {
    // The last note before the proof is that the slot is being written; what follows it is to say so
    // in the boot variables too.
    let lock = case.boot_variables()?;
    let attempt = case.begin("Reboot", None).await?;
    wait::until("the write to be announced", LIMIT, || async {
        Ok(case.is_writing().then_some(()))
    })
    .await?;
    // Where the agent puts its record is a pipe that nobody reads, until the power is cut.
    let pipe = "mkfifo /run/unread && : > /var/lib/monok8s/record.json.new && \
                mount --bind /run/unread /var/lib/monok8s/record.json.new";
    case.node.run(["sh", "-c", pipe]).await?;
    drop(lock);
    case.wait_phase(ProgressPhase::Verifying).await?;
    case.node.power_cut().await?;
    case.node.power_on().await?;
    attempt.completes(2).await
}

/// What is proven stays so.
pub(crate) async fn while_staged(case: &Case<'_>) -> Result<()> {
    let attempt = case.begin("Stage", None).await?;
    case.wait_phase(ProgressPhase::Staged).await?;
    case.node.power_cut().await?;
    case.release().await?;
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
    trial(case).await?;
    let lock = case.boot_variables()?;
    case.wait_phase(ProgressPhase::Confirming).await?;
    case.node.power_cut().await?;
    drop(lock);
    case.node.power_on().await?;
    attempt.rolls_back(2).await
}

/// Waits until the node has begun its trial boot.
async fn trial(case: &Case<'_>) -> Result<()> {
    let before = case.node.running()?.number;
    let running = wait::until("the trial boot", LIMIT, || async {
        let now = case.node.running().ok();
        Ok(now.filter(|now| now.number > before))
    })
    .await?;
    ensure!(running.booted.trial, "the boot was no trial: {running:?}");
    Ok(())
}
