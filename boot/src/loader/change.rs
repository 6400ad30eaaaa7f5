//! What each change does to the boot loader's variables: policy, the same for every loader that has these variables.

use super::BootState;
use crate::slot::SlotName;

/// A change would leave nothing that may be started when the next boot fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "slot {slot} is marked bad too, so that no slot could be started: mark the running slot good first"
)]
pub(super) struct NothingLeft {
    /// The slot that would have to be fallen back to.
    pub(super) slot: SlotName,
}

/// `slot` is not to be started any more.
pub(super) fn never(state: BootState, slot: SlotName) -> Result<BootState, NothingLeft> {
    require(state, slot.other())?;
    let trial = state.trial.filter(|t| *t != slot);
    Ok(with_ok(BootState { trial, ..state }, slot, false))
}

/// `slot` is started once.
///
/// The default becomes the other slot where it is not: a machine that runs on its fallback has the slot on trial as
/// its default, and would start it again and again when the trial fails.
pub(super) fn once(state: BootState, slot: SlotName) -> Result<BootState, NothingLeft> {
    require(state, slot.other())?;
    let state = with_ok(state, slot, true);
    Ok(BootState {
        default: Some(slot.other()),
        trial: Some(slot),
        ..state
    })
}

/// `slot` is started from now on.
pub(super) fn always(state: BootState, slot: SlotName) -> BootState {
    let trial = state.trial.filter(|t| *t != slot);
    with_ok(
        BootState {
            default: Some(slot),
            trial,
            ..state
        },
        slot,
        true,
    )
}

fn require(state: BootState, slot: SlotName) -> Result<(), NothingLeft> {
    if state.ok(slot) {
        Ok(())
    } else {
        Err(NothingLeft { slot })
    }
}

fn with_ok(state: BootState, slot: SlotName, ok: bool) -> BootState {
    match slot {
        SlotName::A => BootState { a_ok: ok, ..state },
        SlotName::B => BootState { b_ok: ok, ..state },
    }
}
