//! The variables that the shipped `grub.cfg` reads, and how a change of them is made safe.

use super::envblock::{EnvBlock, EnvBlockError};
use crate::loader::BootState;
use crate::slot::SlotName;

/// The slot started when there is no trial: `A` or `B`.
pub const DEFAULT: &str = "monok8s_default";
/// The slot started once: `A`, `B`, or empty.
pub const TRIAL: &str = "monok8s_trial";

/// Whether a slot may be started: `0` is never, everything else is yes.
pub fn ok(slot: SlotName) -> &'static str {
    match slot {
        SlotName::A => "monok8s_a_ok",
        SlotName::B => "monok8s_b_ok",
    }
}

/// What the block says, as `grub.cfg` understands it.
pub fn state(env: &EnvBlock) -> BootState {
    let slot = |name| env.get(name).and_then(|v| v.parse::<SlotName>().ok());
    let may_start = |s| env.get(ok(s)) != Some("0");
    BootState {
        default: slot(DEFAULT),
        trial: slot(TRIAL),
        a_ok: may_start(SlotName::A),
        b_ok: may_start(SlotName::B),
    }
}

/// Sets the variables that differ in `to`; the others stay as they are written.
pub fn apply(env: &mut EnvBlock, to: BootState) -> Result<(), EnvBlockError> {
    let from = state(env);
    if let Some(default) = to.default
        && from.default != to.default
    {
        env.set(DEFAULT, default.as_str())?;
    }
    if from.trial != to.trial {
        env.set(TRIAL, to.trial.map_or("", SlotName::as_str))?;
    }
    for slot in SlotName::BOTH {
        if from.ok(slot) != to.ok(slot) {
            env.set(ok(slot), if to.ok(slot) { "1" } else { "0" })?;
        }
    }
    Ok(())
}
