//! `ctl image write` on a real machine's way: partitions of a disk with a GPT, found by their labels.
//!
//! The disk is a loop device with direct I/O, the machine this one but for its first process, whose root is on that disk.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    unreachable_pub,
    reason = "shared functions of tests"
)]

mod images;

use std::{
    fs::{self, File},
    io::Read as _,
    os::unix::fs::{MetadataExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use images::{SIZE, complained, ctl, folder, packed, said};
use monok8s_boot::{
    BootLoader as _, SlotName,
    loader::grub::{Grub, model},
};
use serde_json::Value;

/// Runs a tool that `make setup-test` installs.
fn run(tool: &str, args: &[&str]) -> Output {
    Command::new(tool)
        .args(args)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .unwrap_or_else(|error| panic!("cannot run {tool}: {error}"))
}

fn must(tool: &str, args: &[&str]) -> String {
    let output = run(tool, args);
    assert!(output.status.success(), "{tool} {args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// An EFI system partition, two slots, and a partition that is too small.
struct Disk {
    root: PathBuf,
    node: String,
    mounted: Option<PathBuf>,
    unique: u32,
}

impl Disk {
    /// None where this machine gives no loop device to this user; the test then says so and passes.
    fn new(folder: &Path) -> Option<Self> {
        let skipped = |why: &str| {
            eprintln!("skipped: {}", why.trim());
            None
        };
        if fs::metadata("/proc/self").unwrap().uid() != 0 {
            return skipped("loop devices need root");
        }
        let file = folder.join("disk.img");
        File::create(&file).unwrap().set_len(64 << 20).unwrap();
        let file = file.to_str().unwrap();
        // Other tests have disks too.
        let unique = std::process::id();
        let labels = ["esp", "a", "b", "small"].map(|name| format!("{name}-{unique}"));
        let [esp, a, b, small] = labels.each_ref().map(|label| format!(":{label}"));
        must(
            "sgdisk",
            &[
                "--clear",
                "--new=1:0:+2M",
                "--typecode=1:ef00",
                &format!("--change-name=1{esp}"),
                "--new=2:0:+25M",
                &format!("--change-name=2{a}"),
                "--new=3:0:+25M",
                &format!("--change-name=3{b}"),
                "--new=4:0:+2M",
                &format!("--change-name=4{small}"),
                file,
            ],
        );
        let losetup = run("losetup", &["--find", "--show", "--direct-io=on", file]);
        if !losetup.status.success() {
            return skipped(&String::from_utf8_lossy(&losetup.stderr));
        }
        let disk = Self {
            root: folder.join("root"),
            node: String::from_utf8(losetup.stdout).unwrap().trim().to_owned(),
            mounted: None,
            unique,
        };
        // A kernel without a parser for these tables has to be told of the partitions; others do not mind.
        must("partx", &["--update", &disk.node]);
        disk.machine();
        Some(disk)
    }

    fn part(&self, number: u32) -> String {
        format!("{}p{number}", self.node)
    }

    fn label(&self, name: &str) -> String {
        format!("PARTLABEL={name}-{}", self.unique)
    }

    /// This machine, with a first process that runs slot A.
    fn machine(&self) {
        let proc = self.root.join("proc");
        fs::create_dir_all(proc.join("1")).unwrap();
        fs::create_dir_all(proc.join("sys/kernel/random")).unwrap();
        fs::create_dir_all(self.root.join("boot/grub")).unwrap();
        let boot_id = "8f2b1d7c-0000-4000-8000-000000000001\n";
        fs::write(proc.join("sys/kernel/random/boot_id"), boot_id).unwrap();
        fs::write(proc.join("cmdline"), "monok8s.slot=A\n").unwrap();
        let name = self.part(2).replace("/dev/", "");
        let dev = fs::read_to_string(format!("/sys/class/block/{name}/dev")).unwrap();
        let table = format!("27 1 {} / / rw - ext4 /dev/root rw\n", dev.trim());
        fs::write(proc.join("1/mountinfo"), table).unwrap();
        symlink("/proc/swaps", proc.join("swaps")).unwrap();
        symlink("/sys", self.root.join("sys")).unwrap();
        symlink("/dev", self.root.join("dev")).unwrap();
        model::install(&self.grubenv(), SlotName::A, false).unwrap();
    }

    fn grubenv(&self) -> PathBuf {
        self.root.join("boot/grub/grubenv")
    }

    /// Asks for `device` to be written, with this one for slot B.
    fn write(&self, folder: &Path, device: &str, slot_b: &str, checksum: &str) -> Output {
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            if name != "1" && name.bytes().all(|byte| byte.is_ascii_digit()) {
                // Made for each look, so that processes started meanwhile are there.
                let _ = symlink(entry.path(), self.root.join("proc").join(name));
            }
        }
        let (root, grubenv) = (self.root.to_str().unwrap(), self.grubenv());
        let args = [
            "image",
            "write",
            "rootfs.ext4.zst",
            device,
            "--checksum",
            checksum,
            "--host-root",
            root,
            "--grubenv",
            grubenv.to_str().unwrap(),
            "--slot-a",
            &self.label("a"),
            "--slot-b",
            slot_b,
            "--state-dir",
            ".",
            "-o",
            "json",
        ];
        ctl(folder, &args)
    }

    /// Every byte of the disk.
    fn bytes(&self) -> Vec<u8> {
        must("sync", &[]);
        let mut bytes = Vec::new();
        let file = self.root.with_file_name("disk.img");
        File::open(file).unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    }

    fn mount(&mut self, number: u32, point: PathBuf) {
        fs::create_dir(&point).unwrap();
        // Read-only, so that nothing but a test changes it.
        must(
            "mount",
            &["-o", "ro", &self.part(number), point.to_str().unwrap()],
        );
        self.mounted = Some(point);
    }

    fn unmount(&mut self) {
        if let Some(point) = self.mounted.take() {
            must("umount", &[point.to_str().unwrap()]);
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Some(point) = &self.mounted {
            run("umount", &[point.to_str().unwrap()]);
        }
        run("partx", &["--delete", &self.node]);
        run("losetup", &["--detach", &self.node]);
    }
}

#[test]
fn every_wrong_device_is_refused_and_the_right_one_is_written() {
    let (folder, image) = folder();
    let folder = folder.path();
    let Some(mut disk) = Disk::new(folder) else {
        return;
    };
    let entry = packed(folder);
    let checksum = entry["checksum"].as_str().unwrap().to_owned();
    let grub = Grub::new(disk.grubenv());
    grub.mark_good(SlotName::B).unwrap();
    grub.mark_good(SlotName::A).unwrap();
    must("mkfs.ext4", &["-q", "-F", &disk.part(3)]);
    disk.mount(3, folder.join("mounted"));

    let before = disk.bytes();
    let b = disk.label("b");
    let refused = |device: &str, slot_b: &str, why: &str| {
        let complaint = complained(&disk.write(folder, device, slot_b, &checksum));
        assert!(complaint.contains(why), "{why} is not in: {complaint}");
        assert!(disk.bytes() == before, "{complaint}");
        assert!(grub.state().unwrap().ok(SlotName::B), "{complaint}");
    };
    refused("A", &b, "the running root");
    refused(&disk.part(2), &b, "the running root");
    refused("B", &b, "mounted at");
    refused(&disk.part(3), &b, "mounted at");
    refused("B", &disk.part(1), "the EFI system partition");
    refused("B", &disk.node, "whole disk");
    refused("B", &disk.label("nowhere"), "no partition is");
    refused(&disk.node, &b, "neither slot");
    refused(&disk.part(4), &b, "neither slot");
    refused("rootfs.ext4", &b, "neither slot");
    let (text, code) = said(&disk.write(folder, "B", &disk.label("small"), &checksum));
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("does not fit"), "{text}");
    assert!(disk.bytes() == before && grub.state().unwrap().ok(SlotName::B));

    disk.unmount();
    let (text, code) = said(&disk.write(folder, &disk.part(3), &b, &checksum));
    assert_eq!(code, 0, "{text}");
    let outcome: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&outcome["slot"], &outcome["access"], &outcome["version"]),
        (&"B".into(), &"direct I/O".into(), &"v1.35.1".into())
    );
    let state = grub.state().unwrap();
    assert!(!state.ok(SlotName::B) && state.ok(SlotName::A));
    assert_eq!((state.default, state.trial), (Some(SlotName::A), None));
    // The slot holds the image, and nothing else of the disk has changed.
    let start = fs::read_to_string(format!(
        "/sys/class/block/{}/start",
        disk.part(3).replace("/dev/", "")
    ));
    let start = start.unwrap().trim().parse::<usize>().unwrap() * 512;
    let end = start + usize::try_from(SIZE).unwrap();
    let after = disk.bytes();
    assert!(after[start..end] == fs::read(&image).unwrap());
    assert!(after[..start] == before[..start] && after[end..] == before[end..]);
}
