//! A virtual node's folder: what it runs, and what is refused.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's own functions"
)]

use std::fs::{self, File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use monok8s_boot::cmdline::kernel_words;
use monok8s_boot::host::VirtualNode;
use monok8s_boot::{Host as _, Reason, SlotName};

use SlotName::{A, B};

fn node() -> (tempfile::TempDir, VirtualNode) {
    let dir = tempfile::tempdir().unwrap();
    let node = VirtualNode::new(dir.path());
    for folder in ["run", "data", "boot/grub"] {
        fs::create_dir_all(dir.path().join(folder)).unwrap();
    }
    for slot in SlotName::BOTH {
        let path = dir
            .path()
            .join(format!("slot-{}.img", slot.as_str().to_lowercase()));
        File::create(path).unwrap().set_len(1 << 20).unwrap();
    }
    boots(&node, A, A, false);
    (dir, node)
}

fn boots(node: &VirtualNode, active: SlotName, told: SlotName, trial: bool) {
    fs::write(
        node.boot_id_file(),
        "0b7d2c3e-0000-4000-8000-000000000001\n",
    )
    .unwrap();
    fs::write(node.active_file(), format!("{active}\n")).unwrap();
    fs::write(node.cmdline(), kernel_words(told, trial, "/dev/slot")).unwrap();
}

#[test]
fn runs_what_its_firmware_started() {
    let (_dir, node) = node();
    let machine = node.identify().unwrap();
    assert_eq!((machine.active, machine.trial), (A, Some(false)));
    assert_eq!(machine.inactive().device, node.dir().join("slot-b.img"));
    assert_eq!(
        (machine.inactive().size, machine.inactive().part_uuid),
        (1 << 20, None)
    );
    assert_eq!(machine.boot_id, "0b7d2c3e-0000-4000-8000-000000000001");
    boots(&node, B, B, true);
    let machine = node.identify().unwrap();
    assert_eq!((machine.active, machine.trial), (B, Some(true)));
}

#[test]
fn opens_the_inactive_slot_and_locks_it() {
    let (_dir, node) = node();
    let target = node.open_target(B, &node.data()).unwrap();
    (&target.file).write_all(b"new").unwrap();
    assert!(
        fs::read(node.slot_device(B).unwrap())
            .unwrap()
            .starts_with(b"new")
    );
    let busy = node.open_target(B, &node.data()).unwrap_err();
    assert_eq!(busy.reason(), Reason::SlotBusy, "{busy}");
    drop(target);
    node.open_target(B, &node.data()).unwrap();
}

#[test]
fn refuses_with_nothing_written() {
    type Break = fn(&VirtualNode);
    let table: [(&str, SlotName, Break, Reason); 11] = [
        ("the running slot", A, |_| {}, Reason::SlotActive),
        (
            "two answers",
            B,
            |n| boots(n, A, B, false),
            Reason::SlotAmbiguous,
        ),
        (
            "no answer",
            B,
            |n| fs::remove_file(n.active_file()).unwrap(),
            Reason::SlotAmbiguous,
        ),
        (
            "nonsense",
            B,
            |n| fs::write(n.active_file(), "C").unwrap(),
            Reason::SlotAmbiguous,
        ),
        (
            "a silent command line",
            B,
            |n| fs::write(n.cmdline(), "quiet").unwrap(),
            Reason::SlotAmbiguous,
        ),
        (
            "no boot identifier",
            B,
            |n| fs::write(n.boot_id_file(), "").unwrap(),
            Reason::SlotAmbiguous,
        ),
        (
            "no slot",
            B,
            |n| fs::remove_file(n.dir().join("slot-b.img")).unwrap(),
            Reason::SlotNotFound,
        ),
        (
            "a folder",
            B,
            |n| fs::write(n.machine_file(), r#"{"slotB": "data"}"#).unwrap(),
            Reason::SlotNotFound,
        ),
        (
            "the same file twice",
            B,
            |n| {
                fs::remove_file(n.dir().join("slot-b.img")).unwrap();
                symlink("slot-a.img", n.dir().join("slot-b.img")).unwrap();
            },
            Reason::SlotAmbiguous,
        ),
        (
            "read-only",
            B,
            |n| {
                fs::set_permissions(n.dir().join("slot-b.img"), Permissions::from_mode(0o444))
                    .unwrap();
            },
            Reason::SlotReadOnly,
        ),
        (
            "a broken description",
            B,
            |n| fs::write(n.machine_file(), "{").unwrap(),
            Reason::SlotAmbiguous,
        ),
    ];
    for (name, slot, breaks, reason) in table {
        let (_dir, node) = node();
        breaks(&node);
        let error = node.open_target(slot, &node.data()).map(drop).unwrap_err();
        assert_eq!(error.reason(), reason, "{name}: {error}");
        for file in ["slot-a.img", "slot-b.img"] {
            if let Ok(content) = fs::read(node.dir().join(file)) {
                assert!(content.iter().all(|b| *b == 0), "{name}: {file}");
            }
        }
    }
}

#[test]
fn only_what_is_below_data_persists() {
    let (dir, node) = node();
    let state = node.data().join("state");
    fs::create_dir(&state).unwrap();
    node.check_persistent(&node.data()).unwrap();
    node.check_persistent(&state).unwrap();
    symlink(&state, dir.path().join("link")).unwrap();
    node.check_persistent(&dir.path().join("link")).unwrap();
    for outside in ["run", "boot", "gone", "slot-a.img"] {
        let error = node
            .check_persistent(&dir.path().join(outside))
            .unwrap_err();
        assert_eq!(error.reason(), Reason::StateNotPersistent, "{error}");
    }
}
