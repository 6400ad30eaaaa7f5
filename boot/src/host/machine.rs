//! The real machine.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;

use super::Host;
use super::locate::{Partition, Partitions};
use super::running;
use crate::cmdline::CommandLine;
use crate::device_number::DevNum;
use crate::inspect::{self, InspectError, OsRelease};
use crate::persist::{self, NotPersistent};
use crate::roots::Roots;
use crate::running_root;
use crate::slot::{Machine, SlotAddress, SlotError, SlotName};
use crate::table;
use crate::target::{self, Protected, Target};

/// The machine this process runs on, or in a pod of.
#[derive(Clone, Debug)]
pub struct RealMachine {
    roots: Roots,
    a: SlotAddress,
    b: SlotAddress,
}

/// Both slots with their devices, and everything that was needed to tell which one runs.
struct Identified {
    machine: Machine,
    a: Partition,
    b: Partition,
    root: BTreeSet<DevNum>,
}

impl RealMachine {
    /// A machine whose slots are at these addresses, observed through `roots`.
    pub fn new(roots: Roots, a: SlotAddress, b: SlotAddress) -> Self {
        Self { roots, a, b }
    }

    fn look(&self) -> Result<Identified, SlotError> {
        let boot_id = self.boot_id()?;
        let (partitions, a, b) = self.slots()?;
        let root = running_root::leaves(&self.roots)?;
        let line: CommandLine = running::command_line(&self.roots.proc.join("cmdline"))?;
        let active = running::active(&self.roots, &partitions, (&a, &b), &root, &line)?;
        let machine = Machine {
            active,
            a: a.slot(SlotName::A),
            b: b.slot(SlotName::B),
            boot_id,
            trial: line.trial,
        };
        Ok(Identified {
            machine,
            a,
            b,
            root,
        })
    }

    /// That `file` is on a file system that is there whichever slot runs: neither in one of them nor on the running
    /// root. A file that is not there is in none. The error says what it is on instead, and what to do.
    pub(crate) fn outside_slots(&self, file: &Path) -> Result<(), String> {
        let mount_it = "mount the partition that the boot loader reads it from";
        if std::fs::metadata(file).is_err_and(|e| e.kind() == ErrorKind::NotFound) {
            return Ok(());
        }
        let behind = target::devices_behind(&self.roots, file).map_err(|e| e.to_string())?;
        if behind.is_empty() {
            return Err(format!(
                "it is on no block device of this machine: {mount_it}"
            ));
        }
        // Without slots it is still known not to be on the running root.
        if let Ok((_, a, b)) = self.slots() {
            for (slot, part) in [(SlotName::A, &a), (SlotName::B, &b)] {
                if behind.contains(&part.device.dev) {
                    return Err(format!(
                        "it is inside slot {slot}, where the other slot does not see it and an upgrade overwrites it: \
                         {mount_it}"
                    ));
                }
            }
        }
        let root = running_root::leaves(&self.roots).map_err(|e| e.to_string())?;
        if root.iter().any(|dev| behind.contains(dev)) {
            return Err(format!(
                "it is on the running root, which the other slot does not see: {mount_it}"
            ));
        }
        Ok(())
    }

    /// Both slots' partitions, which are different ones.
    fn slots(&self) -> Result<(Partitions, Partition, Partition), SlotError> {
        let partitions = Partitions::scan(&self.roots)?;
        let a = partitions.find(&self.roots, SlotName::A, &self.a)?.clone();
        let b = partitions.find(&self.roots, SlotName::B, &self.b)?.clone();
        if a.device.dev == b.device.dev {
            return Err(SlotError::Ambiguous(format!(
                "slot A ({}) and slot B ({}) are the same partition, {}",
                self.a,
                self.b,
                a.device.node.display()
            )));
        }
        Ok((partitions, a, b))
    }
}

impl Host for RealMachine {
    fn identify(&self) -> Result<Machine, SlotError> {
        self.look().map(|found| found.machine)
    }

    fn boot_id(&self) -> Result<String, SlotError> {
        super::read_boot_id(&self.roots.proc.join("sys/kernel/random/boot_id"))
    }

    fn running_os(&self) -> Result<OsRelease, InspectError> {
        inspect::running_os_release(&self.roots)
    }

    fn open_target(&self, slot: SlotName, state_dir: &Path) -> Result<Target, SlotError> {
        let found = self.look()?;
        let (part, other) = match slot {
            SlotName::A => (&found.a, &found.b),
            SlotName::B => (&found.b, &found.a),
        };
        let mut protected = Protected::default();
        protected.add(found.root, "the running root");
        protected.add(
            BTreeSet::from([other.device.dev]),
            format!("slot {}", slot.other()),
        );
        let behind_state = target::devices_behind(&self.roots, state_dir)?;
        protected.add(
            behind_state,
            format!("the data partition, on which {} is", state_dir.display()),
        );
        if part.entry.type_uuid == table::EFI_SYSTEM {
            protected.add(
                BTreeSet::from([part.device.dev]),
                "the EFI system partition",
            );
        }
        let target = target::claim(&self.roots, part.slot(slot), &part.device, &protected)?;
        // The claim keeps everyone else away from now on. What was looked up before it must still be so.
        let now = self.look()?;
        if now.machine == found.machine {
            Ok(target)
        } else {
            Err(SlotError::Ambiguous(format!(
                "slot {slot}: the machine's partitions changed while it was opened"
            )))
        }
    }

    fn check_persistent(&self, dir: &Path) -> Result<(), NotPersistent> {
        // Without slots the folder is still known not to be on the running root.
        let slots = self.slots().map_or_else(
            |_| Vec::new(),
            |(_, a, b)| vec![(SlotName::A, a.device.dev), (SlotName::B, b.device.dev)],
        );
        persist::check(&self.roots, dir, &slots)
    }
}
