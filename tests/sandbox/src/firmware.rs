//! What a machine does between power and its system: choose a slot as the shipped `grub.cfg` does,
//! load its kernel, start it, and reset when it does not come up.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use monok8s_boot::{
    SlotName, cmdline,
    host::VirtualNode,
    inspect::{self, OsRelease, VERSION_KEYS},
    loader::grub::model::{self, Start, Surroundings},
};

/// Where `grub.cfg` looks for a slot's kernel unless told otherwise.
pub const KERNEL: &str = "/boot/vmlinuz";

/// Resets after which a machine that never comes up is left alone.
const RESETS: u32 = 5;

/// A system that came up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// What was started.
    pub start: Start,
    /// What its file system says about itself.
    pub os_release: OsRelease,
    /// How often the firmware chose a slot until then, 1 when the first came up.
    pub attempts: u32,
}

impl Running {
    /// Its version as its os-release writes it; empty when it carries none.
    pub fn version(&self) -> &str {
        self.os_release.version(&VERSION_KEYS).unwrap_or_default()
    }
}

/// Where power-on led.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A system runs.
    Up(Running),
    /// None does, and somebody must come and look: why.
    Stuck(String),
}

/// Powers a machine on. `hangs` tells of a start whether it comes to nothing, as a kernel that
/// panics or a watchdog that barks; `console` is told what a screen would show.
pub fn power_on(
    machine: &VirtualNode,
    mut hangs: impl FnMut(Start) -> bool,
    mut console: impl FnMut(&str),
) -> Result<Outcome> {
    for attempt in 1..=RESETS {
        let surroundings = Surroundings {
            can_save: true,
            a_loads: kernel_loads(machine, SlotName::A),
            b_loads: kernel_loads(machine, SlotName::B),
        };
        let chosen = model::power_on(&machine.grubenv(), surroundings)
            .context("GRUB cannot use its variables")?;
        let Some(start) = chosen else {
            console("neither slot can be started, GRUB stays at its menu");
            return Ok(Outcome::Stuck("neither slot can be started".into()));
        };
        let trial = if start.trial { ", a trial" } else { "" };
        console(&format!("starting slot {}{trial}", start.slot));
        if hangs(start) {
            console("the system does not come up, reset");
            continue;
        }
        match inspect::inspect(&device(machine, start.slot)?, &[]) {
            Ok(found) => {
                return Ok(Outcome::Up(Running {
                    start,
                    os_release: found.os_release,
                    attempts: attempt,
                }));
            }
            Err(error) => console(&format!("the system does not come up, reset: {error}")),
        }
    }
    console("no system came up, switched off");
    Ok(Outcome::Stuck(format!(
        "no system came up after {RESETS} resets"
    )))
}

/// The kernel command line that `grub.cfg` passes.
pub fn command_line(start: Start, root: &Path) -> String {
    let words = cmdline::kernel_words(start.slot, start.trial, &root.display().to_string());
    format!("BOOT_IMAGE={KERNEL} {words}\n")
}

/// The file or block device of a slot.
pub fn device(machine: &VirtualNode, slot: SlotName) -> Result<PathBuf> {
    machine
        .slot_device(slot)
        .with_context(|| format!("slot {slot} is nowhere"))
}

fn kernel_loads(machine: &VirtualNode, slot: SlotName) -> bool {
    device(machine, slot).is_ok_and(|device| {
        use inspect::InspectError::{BootFilesMissing, NotAFileSystem, Unreadable};
        let found = inspect::inspect(&device, &[PathBuf::from(KERNEL)]);
        !matches!(
            found,
            Err(BootFilesMissing { .. } | NotAFileSystem { .. } | Unreadable { .. })
        )
    })
}
