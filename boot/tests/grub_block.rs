//! GRUB's environment block on disk: what is changed, what is refused, and that GRUB's own tool reads it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's own functions"
)]

mod needs;

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use monok8s_boot::loader::grub::Grub;
use monok8s_boot::loader::grub::envblock::SIZE;
use monok8s_boot::loader::grub::model::{Start, Surroundings, install, power_on};
use monok8s_boot::loader::{LoaderError, LoaderKind};
use monok8s_boot::{BootLoader as _, BootState, Reason, SlotName};

use SlotName::{A, B};

fn machine(other_ok: bool) -> (tempfile::TempDir, PathBuf, Grub) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("grubenv");
    install(&path, A, other_ok).unwrap();
    let grub = Grub::new(&path);
    (dir, path, grub)
}

fn boot(path: &Path) -> Option<Start> {
    power_on(path, Surroundings::FINE).unwrap()
}

const fn normal(slot: SlotName) -> Start {
    Start { slot, trial: false }
}

const fn trial(slot: SlotName) -> Start {
    Start { slot, trial: true }
}

#[test]
fn an_upgrade_that_works() {
    let (_dir, path, grub) = machine(false);
    assert_eq!(grub.kind(), LoaderKind::Grub);
    assert_eq!(
        grub.state().unwrap(),
        BootState {
            default: Some(A),
            trial: None,
            a_ok: true,
            b_ok: false
        }
    );
    assert_eq!(boot(&path), Some(normal(A)));
    grub.mark_unbootable(B).unwrap();
    assert_eq!(boot(&path), Some(normal(A)));
    grub.try_once(B).unwrap();
    assert_eq!(
        grub.state().unwrap(),
        BootState {
            default: Some(A),
            trial: Some(B),
            a_ok: true,
            b_ok: true
        }
    );
    assert_eq!(boot(&path), Some(trial(B)));
    grub.mark_good(B).unwrap();
    assert_eq!(
        grub.state().unwrap(),
        BootState {
            default: Some(B),
            trial: None,
            a_ok: true,
            b_ok: true
        }
    );
    assert_eq!(boot(&path), Some(normal(B)));
}

#[test]
fn an_upgrade_that_does_not() {
    let (_dir, path, grub) = machine(true);
    grub.mark_unbootable(B).unwrap();
    grub.try_once(B).unwrap();
    assert_eq!(boot(&path), Some(trial(B)));
    // It crashes: the firmware starts again, and the old system comes back and says so.
    assert_eq!(boot(&path), Some(normal(A)));
    grub.mark_bad(B).unwrap();
    assert!(!grub.state().unwrap().ok(B));
    assert_eq!(boot(&path), Some(normal(A)));
}

/// A machine that runs on its fallback has the other slot as its default.
#[test]
fn an_upgrade_of_the_default_slot_falls_back_too() {
    let (_dir, path, grub) = machine(true);
    grub.mark_bad(A).unwrap();
    assert_eq!(boot(&path), Some(normal(B)));
    grub.mark_unbootable(A).unwrap();
    grub.try_once(A).unwrap();
    assert_eq!(grub.state().unwrap().default, Some(B));
    assert_eq!(boot(&path), Some(trial(A)));
    assert_eq!(boot(&path), Some(normal(B)));
    assert_eq!(boot(&path), Some(normal(B)));
}

#[test]
fn a_slot_that_can_be_started_is_always_left() {
    let (_dir, path, grub) = machine(false);
    let before = fs::read(&path).unwrap();
    for refused in [grub.mark_bad(A), grub.mark_unbootable(A), grub.try_once(A)] {
        let error = refused.unwrap_err();
        assert_eq!(error.reason(), Reason::BootSwitchFailed);
        assert!(
            error.to_string().contains("slot B is marked bad too"),
            "{error}"
        );
        assert!(
            error.to_string().contains(path.to_str().unwrap()),
            "{error}"
        );
    }
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn a_mark_takes_the_same_slots_trial_away_and_no_other() {
    let (_dir, _path, grub) = machine(true);
    grub.try_once(B).unwrap();
    grub.mark_good(A).unwrap();
    assert_eq!(grub.state().unwrap().trial, Some(B));
    grub.mark_bad(B).unwrap();
    assert_eq!(grub.state().unwrap().trial, None);
    grub.mark_good(B).unwrap();
    assert_eq!(
        grub.state().unwrap(),
        BootState {
            default: Some(B),
            trial: None,
            a_ok: true,
            b_ok: true
        }
    );
}

/// GRUB's `save_env` writes to the disk blocks where it found the file.
#[test]
fn the_block_stays_where_it_is_on_disk() {
    let (_dir, path, grub) = machine(true);
    let before = fs::metadata(&path).unwrap();
    grub.try_once(B).unwrap();
    grub.mark_good(B).unwrap();
    let after = fs::metadata(&path).unwrap();
    assert_eq!((before.ino(), before.len()), (after.ino(), after.len()));
    // A link stays a link.
    let link = path.with_file_name("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    Grub::new(&link).mark_bad(A).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(!grub.state().unwrap().ok(A));
}

#[test]
fn what_is_no_block_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("grubenv");
    let grub = Grub::new(&path);
    let missing = grub.try_once(B).unwrap_err();
    assert_eq!(missing.reason(), Reason::BootLoaderUnknown);
    assert!(
        missing.to_string().contains("there is no such file"),
        "{missing}"
    );
    let torn = {
        let mut block = b"# GRUB Environment Block\nmonok8s_default=A\n".to_vec();
        block.resize(SIZE, b'#');
        block[512..].fill(0);
        block
    };
    for content in [vec![], vec![b'#'; SIZE], torn, vec![b'#'; SIZE + 1]] {
        fs::write(&path, &content).unwrap();
        for refused in [
            grub.state().map(drop),
            grub.try_once(B),
            grub.mark_good(A),
            grub.mark_bad(B),
        ] {
            let error = refused.unwrap_err();
            assert_eq!(error.reason(), Reason::BootLoaderUnknown, "{error}");
            assert!(
                error.to_string().contains(path.to_str().unwrap()),
                "{error}"
            );
        }
        assert_eq!(fs::read(&path).unwrap(), content);
        // GRUB finds no variables either, and starts slot A.
        assert_eq!(boot(&path), Some(normal(A)));
        assert_eq!(fs::read(&path).unwrap(), content);
    }
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(matches!(
        grub.state(),
        Err(LoaderError::Unknown { .. } | LoaderError::Read { .. })
    ));
}

#[test]
fn installing_overwrites_nothing() {
    let (_dir, path, _grub) = machine(true);
    let before = fs::read(&path).unwrap();
    let error = install(&path, B, true).unwrap_err();
    assert_eq!(error.reason(), Reason::BootSwitchFailed);
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn grubs_own_tool_reads_and_changes_the_same_block() {
    if !needs::program("grub-editenv", "grub-common") {
        return;
    }
    let editenv = |path: &Path, args: &[&str]| {
        let output = Command::new("grub-editenv")
            .arg(path)
            .args(args)
            .output()
            .unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("grubenv");
    editenv(&path, &["create"]);
    editenv(
        &path,
        &[
            "set",
            "saved_entry=a\\b",
            "monok8s_default=A",
            "monok8s_a_ok=1",
        ],
    );
    let grub = Grub::new(&path);
    grub.try_once(B).unwrap();
    let listed = editenv(&path, &["list"]);
    let expected = "saved_entry=a\\b\nmonok8s_default=A\nmonok8s_a_ok=1\nmonok8s_trial=B\n";
    assert_eq!(listed, expected);
    editenv(&path, &["set", "monok8s_trial=", "monok8s_b_ok=0"]);
    assert_eq!(
        grub.state().unwrap(),
        BootState {
            default: Some(A),
            trial: None,
            a_ok: true,
            b_ok: false
        }
    );
}

/// Where the file system is read-only the error says so, and nothing changes.
#[test]
fn a_read_only_file_system_is_named() {
    if !rustix::process::geteuid().is_root() {
        needs::skipped("mounting needs root");
        return;
    }
    let (dir, path, _) = machine(true);
    let point = dir.path().join("ro");
    fs::create_dir(&point).unwrap();
    let run = |args: &[&str]| Command::new("mount").args(args).status().unwrap().success();
    let (from, to) = (dir.path().to_str().unwrap(), point.to_str().unwrap());
    if !run(&["--bind", from, to]) {
        needs::skipped("mounting is not allowed here");
        return;
    }
    assert!(run(&["-o", "remount,ro,bind", to]));
    let error = Grub::new(point.join("grubenv")).try_once(B).unwrap_err();
    assert!(Command::new("umount").arg(to).status().unwrap().success());
    assert_eq!(error.reason(), Reason::BootSwitchFailed);
    assert!(error.to_string().contains("read-only"), "{error}");
    assert_eq!(
        File::open(&path).unwrap().metadata().unwrap().len(),
        SIZE as u64
    );
    assert_eq!(Grub::new(&path).state().unwrap().trial, None);
}
