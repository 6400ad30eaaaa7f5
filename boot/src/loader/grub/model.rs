//! What the shipped `grub.cfg` does with the environment block, as a function.
//!
//! A virtual node's firmware starts slots by this function. That it is what GRUB does with `grub.cfg` is shown by
//! running GRUB's own interpreter over the same blocks (`tests/grub_script.rs`).

use std::path::Path;

use super::envblock::EnvBlock;
use super::{block, variables};
use crate::loader::LoaderError;
use crate::slot::SlotName;

/// What GRUB starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// The slot.
    pub slot: SlotName,
    /// Whether this boot is a trial.
    pub trial: bool,
}

/// What GRUB finds besides the environment block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Surroundings {
    /// `save_env` works: the block's file system can be written to.
    pub can_save: bool,
    /// Slot A's kernel can be loaded.
    pub a_loads: bool,
    /// Slot B's kernel can be loaded.
    pub b_loads: bool,
}

impl Surroundings {
    /// Everything works.
    pub const FINE: Self = Self {
        can_save: true,
        a_loads: true,
        b_loads: true,
    };

    fn loads(self, slot: SlotName) -> bool {
        match slot {
            SlotName::A => self.a_loads,
            SlotName::B => self.b_loads,
        }
    }
}

/// What GRUB starts with this block, and the block as it is then. `None`: it stops at its menu.
///
/// A trial is given up without being started when it cannot be cleared first: it would be started at every boot.
pub fn start(env: &EnvBlock, around: Surroundings) -> (Option<Start>, EnvBlock) {
    let mut env = env.clone();
    let state = variables::state(&env);
    let asked = env.get(variables::TRIAL).is_some_and(|t| !t.is_empty());
    let saved = asked && around.can_save && env.set(variables::TRIAL, "").is_ok();
    let first = state.default.unwrap_or(SlotName::A);
    let candidates = [
        state
            .trial
            .filter(|_| saved)
            .map(|slot| Start { slot, trial: true }),
        Some(Start {
            slot: first,
            trial: false,
        }),
        Some(Start {
            slot: first.other(),
            trial: false,
        }),
    ];
    let may = |s: &Start| state.ok(s.slot) && around.loads(s.slot);
    (candidates.into_iter().flatten().find(may), env)
}

/// Plays GRUB on the environment block in the file `grubenv`: chooses a slot and, for a trial, clears the trial on
/// disk first. `None`: no slot may be started, GRUB stops at its menu.
///
/// A block that cannot be understood is none to GRUB either: without variables it starts slot A.
pub fn power_on(grubenv: &Path, around: Surroundings) -> Result<Option<Start>, LoaderError> {
    let before = match block::read(grubenv) {
        Ok(env) => env,
        Err(LoaderError::Unknown { .. }) => return Ok(start(&EnvBlock::default(), around).0),
        Err(error) => return Err(error),
    };
    let (chosen, after) = start(&before, around);
    if after != before {
        block::write(grubenv, &after)?;
    }
    Ok(chosen)
}

/// Makes the environment block of a new machine that starts `default`; the other slot may not be started until
/// something has been installed in it and `other_ok` says so.
pub fn install(grubenv: &Path, default: SlotName, other_ok: bool) -> Result<(), LoaderError> {
    let full = |e: super::envblock::EnvBlockError| LoaderError::Write {
        path: grubenv.to_path_buf(),
        detail: e.to_string(),
    };
    let mut env = EnvBlock::default();
    env.set(variables::DEFAULT, default.as_str())
        .map_err(full)?;
    env.set(variables::TRIAL, "").map_err(full)?;
    for slot in SlotName::BOTH {
        let ok = slot == default || other_ok;
        env.set(variables::ok(slot), if ok { "1" } else { "0" })
            .map_err(full)?;
    }
    block::create(grubenv, &env)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loader::change;
    use proptest::prelude::*;

    /// The four variables, unset, well-formed or nonsense.
    fn any_block() -> impl Strategy<Value = EnvBlock> {
        let slot = || {
            prop_oneof![
                Just(None),
                Just(Some("")),
                Just(Some("A")),
                Just(Some("B")),
                Just(Some("b"))
            ]
        };
        let flag = || prop_oneof![Just(None), Just(Some("1")), Just(Some("0")), Just(Some(""))];
        (slot(), slot(), flag(), flag()).prop_map(|(default, trial, a, b)| {
            let mut env = EnvBlock::default();
            let values = [
                (variables::DEFAULT, default),
                (variables::TRIAL, trial),
                (variables::ok(SlotName::A), a),
                (variables::ok(SlotName::B), b),
            ];
            for (name, value) in values {
                if let Some(value) = value {
                    env.set(name, value).unwrap();
                }
            }
            env
        })
    }

    fn any_surroundings() -> impl Strategy<Value = Surroundings> {
        (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(can_save, a_loads, b_loads)| {
            Surroundings {
                can_save,
                a_loads,
                b_loads,
            }
        })
    }

    fn any_slot() -> impl Strategy<Value = SlotName> {
        prop_oneof![Just(SlotName::A), Just(SlotName::B)]
    }

    proptest! {
        #[test]
        fn a_slot_that_is_not_ok_is_never_started(env in any_block(), around in any_surroundings()) {
            if let (Some(s), _) = start(&env, around) {
                prop_assert!(variables::state(&env).ok(s.slot));
                prop_assert!(around.loads(s.slot));
            }
        }

        #[test]
        fn a_slot_that_may_be_started_is(env in any_block(), around in any_surroundings()) {
            let state = variables::state(&env);
            let may = SlotName::BOTH.iter().any(|s| state.ok(*s) && around.loads(*s));
            prop_assert_eq!(start(&env, around).0.is_some(), may);
        }

        #[test]
        fn a_trial_is_started_at_most_once(env in any_block(), around in any_surroundings()) {
            let (first, env) = start(&env, around);
            let (second, _) = start(&env, around);
            prop_assert!(!(first.is_some_and(|s| s.trial) && second.is_some_and(|s| s.trial)));
        }

        #[test]
        fn a_trial_that_fails_falls_back_and_stays_there(env in any_block(), slot in any_slot()) {
            let Ok(to) = change::once(variables::state(&env), slot) else { return Ok(()) };
            let mut env = env;
            variables::apply(&mut env, to).unwrap();
            let (first, env) = start(&env, Surroundings::FINE);
            prop_assert_eq!(first, Some(Start { slot, trial: true }));
            let back = Some(Start { slot: slot.other(), trial: false });
            let (second, env) = start(&env, Surroundings::FINE);
            prop_assert_eq!(second, back);
            let (third, _) = start(&env, Surroundings::FINE);
            prop_assert_eq!(third, back);
        }

        #[test]
        fn a_good_slot_is_started_from_then_on(env in any_block(), slot in any_slot()) {
            let mut env = env;
            let to = change::always(variables::state(&env), slot);
            variables::apply(&mut env, to).unwrap();
            // A trial of the other slot, if one was asked for, comes first.
            let (_, env) = start(&env, Surroundings::FINE);
            prop_assert_eq!(start(&env, Surroundings::FINE).0, Some(Start { slot, trial: false }));
        }

        #[test]
        fn a_slot_marked_bad_is_never_started(env in any_block(), slot in any_slot(), around in any_surroundings()) {
            let Ok(to) = change::never(variables::state(&env), slot) else {
                prop_assert!(!variables::state(&env).ok(slot.other()));
                return Ok(());
            };
            let mut env = env;
            variables::apply(&mut env, to).unwrap();
            let (first, env) = start(&env, around);
            prop_assert!(first.is_none_or(|s| s.slot != slot));
            prop_assert!(start(&env, around).0.is_none_or(|s| s.slot != slot));
        }

        #[test]
        fn what_apply_writes_is_what_state_reads(env in any_block(), to in any_block()) {
            let mut wanted = variables::state(&to);
            let mut env = env;
            // A default is never taken away.
            wanted.default = wanted.default.or(variables::state(&env).default);
            variables::apply(&mut env, wanted).unwrap();
            prop_assert_eq!(variables::state(&env), wanted);
        }
    }
}
