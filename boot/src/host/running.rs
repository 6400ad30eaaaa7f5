//! Which slot runs: where the first process's root comes from, and what the boot loader said.

use std::collections::BTreeSet;

use super::locate::{Partition, Partitions};
use crate::blockdev::BlockDevices;
use crate::cmdline::{CommandLine, RootArgument};
use crate::device_number::DevNum;
use crate::roots::Roots;
use crate::slot::{SlotError, SlotName};

/// The command line the running kernel was given.
pub(crate) fn command_line(path: &std::path::Path) -> Result<CommandLine, SlotError> {
    let bytes = std::fs::read(path).map_err(|source| SlotError::Unreadable {
        what: "the kernel command line".to_owned(),
        path: path.to_path_buf(),
        source,
    })?;
    Ok(CommandLine::parse(&String::from_utf8_lossy(&bytes)))
}

/// The slot that runs, when the root and the command line agree on it.
pub(crate) fn active(
    roots: &Roots,
    partitions: &Partitions,
    (a, b): (&Partition, &Partition),
    root: &BTreeSet<DevNum>,
    line: &CommandLine,
) -> Result<SlotName, SlotError> {
    let name_of = |p: &Partition| {
        [(SlotName::A, a), (SlotName::B, b)]
            .into_iter()
            .find(|(_, s)| s.device.dev == p.device.dev)
            .map(|(n, _)| n)
    };
    let mounted: Vec<SlotName> = root
        .iter()
        .filter_map(|dev| partitions.by_number(*dev).and_then(name_of))
        .collect();
    let behind = || {
        root.iter()
            .map(|dev| describe(roots, *dev))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let running = match mounted.as_slice() {
        [one] => *one,
        [] => {
            return Err(SlotError::Ambiguous(format!(
                "the running root is on {}, which is neither slot A ({}) nor slot B ({})",
                if root.is_empty() {
                    "no block device".to_owned()
                } else {
                    behind()
                },
                a.device.node.display(),
                b.device.node.display(),
            )));
        }
        _ => {
            return Err(SlotError::Ambiguous(format!(
                "the running root is on both slots: {}",
                behind()
            )));
        }
    };

    let mut told = false;
    if let Some(slot) = line.slot().map_err(SlotError::Ambiguous)? {
        told = true;
        if slot != running {
            return Err(disagree(
                running,
                &behind(),
                &format!("monok8s.slot={slot}"),
            ));
        }
    }
    if let Some((text, meant)) = line
        .root
        .as_ref()
        .and_then(|r| root_argument(roots, partitions, r))
    {
        told = true;
        if !meant.iter().any(|p| name_of(p) == Some(running)) {
            return Err(disagree(running, &behind(), &text));
        }
    }
    if told {
        Ok(running)
    } else {
        Err(SlotError::Ambiguous(format!(
            "the running root is slot {running} ({}), but the kernel command line says neither monok8s.slot= nor a \
             root= that tells the slots apart: install the shipped boot loader configuration",
            behind()
        )))
    }
}

/// What `root=` says, and the partitions it means; `None` when it cannot tell one slot from the other.
fn root_argument<'p>(
    roots: &Roots,
    partitions: &'p Partitions,
    root: &RootArgument,
) -> Option<(String, Vec<&'p Partition>)> {
    match root {
        RootArgument::PartUuid(uuid, offset) => Some((
            format!("root=PARTUUID={uuid}"),
            partitions.by_uuid(*uuid, *offset).into_iter().collect(),
        )),
        RootArgument::PartLabel(label) => Some((
            format!("root=PARTLABEL={label}"),
            partitions.by_label(label),
        )),
        RootArgument::Path(path) => {
            // A mapped device (dm-verity) stands for what it is made of; a name that is gone says nothing.
            let devices = BlockDevices::new(roots);
            let leaves = devices
                .by_node(path)
                .and_then(|d| devices.leaves(d.dev, &[]))
                .ok()?;
            let meant: Vec<_> = leaves
                .iter()
                .filter_map(|dev| partitions.by_number(*dev))
                .collect();
            (!meant.is_empty()).then(|| (format!("root={}", path.display()), meant))
        }
        RootArgument::Other(_) => None,
    }
}

fn disagree(running: SlotName, behind: &str, text: &str) -> SlotError {
    SlotError::Ambiguous(format!(
        "the running root is slot {running} ({behind}), but the kernel command line says {text}"
    ))
}

fn describe(roots: &Roots, dev: DevNum) -> String {
    match BlockDevices::new(roots).by_number(dev) {
        Ok(device) => device.node.display().to_string(),
        Err(_) => format!("device {dev}"),
    }
}
