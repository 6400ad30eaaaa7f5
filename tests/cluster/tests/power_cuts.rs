//! The power is cut: everything on the node is gone at once.

use std::fs;

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

/// Switched, and not rebooted yet: the next boot is the trial, and whoever cuts the power has only
/// saved the agent the reboot.
pub(crate) async fn while_rebooting(case: &Case<'_>) -> Result<()> {
    let attempt = cut_between_switch_and_reboot(case).await?;
    let running = case.node.power_on().await?;
    ensure!(running.booted.trial, "the boot was no trial: {running:?}");
    attempt.completes(1).await
}

/// The same, and the new system does not start.
pub(crate) async fn while_rebooting_into_nothing(case: &Case<'_>) -> Result<()> {
    let attempt = cut_between_switch_and_reboot(case).await?;
    case.node.fail_trial_boots(1)?;
    case.node.power_on().await?;
    attempt.rolls_back(1).await
}

async fn cut_between_switch_and_reboot<'a>(case: &'a Case<'_>) -> Result<Attempt<'a>> {
    let bus = case.silent_bus()?;
    let attempt = case.begin("Reboot", None).await?;
    let _asked = bus.asked().await?;
    // Said before it is asked for.
    case.wait_phase(ProgressPhase::Rebooting).await?;
    attempt.not_rebooted()?;
    let variables = fs::read_to_string(case.node.path("/boot/grub/grubenv")?)?;
    let trial = format!("monok8s_trial={}\n", attempt.other_slot());
    ensure!(variables.contains(&trial), "{variables}");
    case.node.power_cut().await?;
    Ok(attempt)
}

/// The trial was for one boot: the next one is the old system's.
pub(crate) async fn before_the_new_system_is_up(case: &Case<'_>) -> Result<()> {
    case.node.hold_kubelet_at_boot()?;
    let attempt = case.begin("Reboot", None).await?;
    attempt.trial().await?;
    case.node.power_cut().await?;
    case.node.power_on().await?;
    attempt.rolls_back(2).await
}

/// As long as it is not confirmed it is a trial.
pub(crate) async fn while_confirming(case: &Case<'_>) -> Result<()> {
    case.node.hold_kubelet_at_boot()?;
    let attempt = case.begin("Reboot", None).await?;
    attempt.trial().await?;
    // Without its kubelet there is no agent yet that would have confirmed it.
    let lock = case.boot_variables()?;
    case.node.set_kubelet_running(true).await?;
    case.wait_phase(ProgressPhase::Confirming).await?;
    case.node.power_cut().await?;
    drop(lock);
    case.node.power_on().await?;
    attempt.rolls_back(2).await
}
