//! Between power-on and the system: the boot partition is mounted, and the shipped `grub.cfg` decides.

use std::fs;

use anyhow::{Context, Result, bail};
use monok8s_sandbox::firmware::{self, Outcome, Running};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::machine::Machine;

/// Powers the machine on, in a mount namespace that is the node's already. Where no system comes up
/// this fails, and `console` has been told why.
pub fn power_on(machine: &Machine, console: impl FnMut(&str)) -> Result<Running> {
    let view = machine.firmware();
    let boot = view.dir().join("boot");
    fs::create_dir_all(&boot).context("no folder for the boot partition")?;
    mount(&machine.boot, &boot, "ext4", MountFlags::empty(), None)
        .with_context(|| format!("cannot mount {}", machine.boot.display()))?;
    let outcome = firmware::power_on(&view, |start| start.trial && machine.trial_hangs(), console);
    unmount(&boot, UnmountFlags::empty()).context("cannot unmount the boot partition")?;
    match outcome? {
        Outcome::Up(running) => Ok(running),
        Outcome::Stuck(why) => bail!("{why}"),
    }
}
