//! A virtual node without slots, for tests and for the benchmark.

use std::{fs, path::PathBuf};

use monok8s_boot::{SlotName, cmdline::kernel_words, host::VirtualNode, loader::grub::model};

/// One that runs slot A, in a folder that is made.
pub fn running_slot_a(folder: impl Into<PathBuf>) -> VirtualNode {
    let node = VirtualNode::new(folder.into());
    for folder in ["run", "data", "boot/grub"] {
        fs::create_dir_all(node.dir().join(folder)).unwrap();
    }
    let boot_id = "0b7d2c3e-0000-4000-8000-000000000001\n";
    fs::write(node.boot_id_file(), boot_id).unwrap();
    fs::write(node.active_file(), "A\n").unwrap();
    let words = kernel_words(SlotName::A, false, "/dev/slot");
    fs::write(node.cmdline(), words).unwrap();
    model::install(&node.grubenv(), SlotName::A, false).unwrap();
    node
}
