//! What is read out of real ext4 file systems, and what hostile ones can do (nothing).
//!
//! Needs the Debian package e2fsprogs; no root.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's own functions"
)]

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use monok8s_boot::Reason;
use monok8s_boot::inspect::{InspectError, Inspected, VERSION_KEYS, inspect};
use proptest::prelude::*;

const OS_RELEASE: &str = "NAME=MonoK8s\nVERSION_ID=1\nIMAGE_VERSION=v1.35.1\n";

/// A file system made from the tree that `fill` makes.
fn image(options: &[&str], fill: impl FnOnce(&Path)) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    for folder in ["etc", "usr/lib", "boot"] {
        fs::create_dir_all(tree.join(folder)).unwrap();
    }
    fill(&tree);
    let image = dir.path().join("slot.img");
    let output = Command::new("mkfs.ext4")
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .args(["-q", "-F"])
        .args(options)
        .arg("-d")
        .args([&tree, &image])
        .arg("8M")
        .output()
        .expect("mkfs.ext4 (Debian package e2fsprogs) is needed");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    (dir, image)
}

fn usual(tree: &Path) {
    fs::write(tree.join("usr/lib/os-release"), OS_RELEASE).unwrap();
    symlink("../usr/lib/os-release", tree.join("etc/os-release")).unwrap();
    fs::write(tree.join("boot/vmlinuz-6.1"), "kernel").unwrap();
    symlink("vmlinuz-6.1", tree.join("boot/vmlinuz")).unwrap();
}

fn version(found: &Inspected) -> Option<&str> {
    found.os_release.version(&VERSION_KEYS)
}

#[test]
fn reads_the_version_of_every_kind_of_file_system() {
    let kinds: [&[&str]; 4] = [
        &[],
        &["-O", "^has_journal"],
        &["-O", "^metadata_csum,^64bit"],
        &["-b", "1024"],
    ];
    for options in kinds {
        let (_dir, image) = image(options, usual);
        let found = inspect(&image, &["/boot/vmlinuz".into()])
            .unwrap_or_else(|e| panic!("{options:?}: {e}"));
        assert_eq!(version(&found), Some("v1.35.1"), "{options:?}");
    }
}

#[test]
fn follows_links_inside_the_image_alone() {
    // Where os-release is, and the version found.
    type Fill = fn(&Path);
    let table: [(&str, Fill, Option<&str>); 8] = [
        (
            "a file",
            |t| fs::write(t.join("etc/os-release"), "VERSION_ID=1.2\n").unwrap(),
            Some("1.2"),
        ),
        (
            "only in /usr/lib",
            |t| fs::write(t.join("usr/lib/os-release"), OS_RELEASE).unwrap(),
            Some("v1.35.1"),
        ),
        (
            "an absolute link",
            |t| {
                fs::write(t.join("usr/lib/os-release"), OS_RELEASE).unwrap();
                symlink("/usr/lib/os-release", t.join("etc/os-release")).unwrap();
            },
            Some("v1.35.1"),
        ),
        (
            "a link out of the root",
            |t| {
                fs::write(t.join("usr/lib/os-release"), OS_RELEASE).unwrap();
                symlink(
                    "../../../../../usr/lib/os-release",
                    t.join("etc/os-release"),
                )
                .unwrap();
            },
            Some("v1.35.1"),
        ),
        (
            "a linked folder",
            |t| {
                fs::remove_dir(t.join("etc")).unwrap();
                fs::create_dir(t.join("config")).unwrap();
                fs::write(t.join("config/os-release"), OS_RELEASE).unwrap();
                symlink("/config", t.join("etc")).unwrap();
            },
            Some("v1.35.1"),
        ),
        (
            "a link to nothing, and a file in /usr/lib",
            |t| {
                fs::write(t.join("usr/lib/os-release"), OS_RELEASE).unwrap();
                symlink("gone", t.join("etc/os-release")).unwrap();
            },
            Some("v1.35.1"),
        ),
        (
            "a loop",
            |t| symlink("os-release", t.join("etc/os-release")).unwrap(),
            None,
        ),
        (
            "a folder",
            |t| fs::create_dir(t.join("etc/os-release")).unwrap(),
            None,
        ),
    ];
    for (name, fill, expected) in table {
        let (_dir, image) = image(&[], fill);
        match (inspect(&image, &[]), expected) {
            (Ok(found), expected) => assert_eq!(version(&found), expected, "{name}"),
            (Err(e), None) => assert!(
                matches!(e.reason(), Reason::NotAnImage | Reason::WrongVersionInImage),
                "{name}: {e}"
            ),
            (Err(e), _) => panic!("{name}: {e}"),
        }
    }
}

#[test]
fn names_the_boot_files_that_are_missing() {
    let (_dir, image) = image(&[], |tree| {
        usual(tree);
        fs::write(tree.join("boot/empty"), "").unwrap();
    });
    let required = [
        "/boot/vmlinuz",
        "/boot/initrd.img",
        "/boot/empty",
        "/boot",
        "relative/file",
    ]
    .map(PathBuf::from);
    match inspect(&image, &required).unwrap_err() {
        error @ InspectError::BootFilesMissing { .. } => {
            assert_eq!(error.reason(), Reason::BootFilesMissing);
            let text = error.to_string();
            assert!(
                text.contains("/boot/initrd.img, /boot/empty, /boot, relative/file"),
                "{text}"
            );
        }
        other => panic!("{other}"),
    }
}

#[test]
fn tells_what_is_no_image() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("slot.img");
    let assert_reason = |reason| assert_eq!(inspect(&file, &[]).unwrap_err().reason(), reason);
    assert_reason(Reason::SlotUnreadable);
    fs::write(&file, "").unwrap();
    assert_reason(Reason::NotAnImage);
    fs::write(&file, vec![0; 1 << 20]).unwrap();
    assert_reason(Reason::NotAnImage);
    let (_dir, whole) = image(&[], usual);
    fs::copy(&whole, &file).unwrap();
    File::options()
        .write(true)
        .open(&file)
        .unwrap()
        .set_len(4 << 20)
        .unwrap();
    assert_reason(Reason::NotAnImage);
    // What the library cannot read is named.
    for (options, says) in [
        (["-O", "inline_data"], "DATA_IN_INODE"),
        (["-I", "128"], "size=128"),
    ] {
        let (_dir, unsupported) = image(&options, usual);
        let error = inspect(&unsupported, &[]).unwrap_err();
        assert_eq!(error.reason(), Reason::NotAnImage);
        assert!(error.to_string().contains(says), "{error}");
    }
    let (_dir, no_version) = image(&[], |_| {});
    assert_eq!(
        inspect(&no_version, &[]).unwrap_err().reason(),
        Reason::WrongVersionInImage
    );
}

/// Sets a number in an inode by the tool that people break file systems with.
fn debugfs(image: &Path, command: &str) {
    let output = Command::new("debugfs")
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .args(["-w", "-R", command])
        .arg(image)
        .output()
        .unwrap();
    assert!(output.status.success());
}

#[test]
fn takes_no_memory_because_a_file_system_says_so() {
    // A file and a link that say they are far longer than this machine's memory.
    let (_dir, long) = image(&[], |t| {
        fs::write(t.join("etc/os-release"), OS_RELEASE).unwrap();
    });
    debugfs(&long, "set_inode_field /etc/os-release size 0x100000000000");
    match inspect(&long, &[]) {
        Ok(found) => assert_eq!(version(&found), Some("v1.35.1")),
        Err(e) => assert_eq!(e.reason(), Reason::NotAnImage, "{e}"),
    }
    let target = "x/".repeat(50) + "y";
    let (_dir, link) = image(&[], |t| symlink(&target, t.join("etc/os-release")).unwrap());
    debugfs(&link, "set_inode_field /etc/os-release size 0x100000000000");
    assert_eq!(
        inspect(&link, &[]).unwrap_err().reason(),
        Reason::NotAnImage
    );

    // A superblock without checksum whose numbers are out of all proportion.
    let (_dir, plain) = image(&["-O", "^metadata_csum"], usual);
    let fields: [(&str, u64, u32); 4] = [
        ("blocks", 4, u32::MAX),
        ("block size", 24, 21),
        ("block size", 24, u32::MAX),
        ("blocks in a group", 32, 0),
    ];
    for (field, at, value) in fields {
        let broken = plain.with_extension("broken");
        fs::copy(&plain, &broken).unwrap();
        let file = File::options().write(true).open(&broken).unwrap();
        file.write_all_at(&value.to_le_bytes(), 1024 + at).unwrap();
        let error = inspect(&broken, &[]).map(drop).unwrap_err();
        assert_eq!(error.reason(), Reason::NotAnImage, "{field}: {error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]
    /// Without checksums, damage reaches every parser of the library.
    #[test]
    fn a_damaged_file_system_never_panics(
        seed in any::<u64>(),
        journal in any::<bool>(),
    ) {
        let options = if journal { "^metadata_csum" } else { "^metadata_csum,^has_journal" };
        let (_dir, image) = image(&["-O", options], usual);
        let whole = fs::read(&image).unwrap();
        // The bytes that say something: what is zero is mostly unused.
        let used: Vec<usize> = (0..whole.len()).filter(|i| whole[*i] != 0).collect();
        let file = File::options().write(true).open(&image).unwrap();
        let mut state = seed | 1;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state >> 16).unwrap()
        };
        for _ in 0..60 {
            let damage: Vec<(u64, u8)> = (0..=random() % 4)
                .map(|_| (used[random() % used.len()], random()))
                .map(|(at, value)| (at as u64, u8::try_from(value & 0xff).unwrap()))
                .collect();
            for (at, value) in &damage {
                file.write_all_at(&[*value], *at).unwrap();
            }
            let _ = inspect(&image, &["/boot/vmlinuz".into()]);
            for (at, _) in &damage {
                let at = usize::try_from(*at).unwrap();
                file.write_all_at(&whole[at..=at], at as u64).unwrap();
            }
        }
    }
}
