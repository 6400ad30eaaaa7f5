//! Every refusal to overwrite a partition, on real loop devices with a real partition table: what is refused, and that
//! not a byte of the whole disk changed.
//!
//! Needs root and the Debian packages util-linux, mount and e2fsprogs. Where that is not to be had, each test says so
//! and does nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's own functions"
)]

mod needs;

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use monok8s_boot::host::{RealMachine, VirtualNode};
use monok8s_boot::loader::grub::{Grub, model};
use monok8s_boot::{BootLoader, Host, Reason, Roots, SlotAddress, SlotError, SlotName, Target};
use sha2::{Digest as _, Sha256};

const MIB: u64 = 1 << 20;

/// Runs a tool; `None` when it is missing or refuses.
fn tool(name: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(name)
        .args(args)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| {
            panic!("cannot run {name}: {error}; `make setup-test` installs it")
        });
    if !output.status.success() {
        println!(
            "{name} {args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        return None;
    }
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn must(name: &str, args: &[&str]) -> String {
    tool(name, args).unwrap_or_else(|| panic!("{name} {args:?} failed"))
}

/// A disk behind a loop device: an EFI system partition, two slots and a data partition.
struct LoopDisk {
    dir: tempfile::TempDir,
    node: String,
    /// Labels of the slots, this disk's own: other tests have disks too.
    labels: [String; 2],
    mounted: Vec<PathBuf>,
    /// Where the kernel may write while a test looks.
    not_ours: std::ops::Range<usize>,
}

impl LoopDisk {
    fn make() -> Option<Self> {
        Self::make_with(|_| {})
    }

    fn make_with(change: impl FnOnce(&mut gpt::GptDisk<File>)) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            needs::skipped("loop devices need root");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("disk.img");
        File::create(&image).unwrap().set_len(24 * MIB).unwrap();
        let mut table = gpt::GptConfig::new().writable(true).create(&image).unwrap();
        let unique = &table.guid().simple().to_string()[..8];
        let labels = [format!("a-{unique}"), format!("b-{unique}")];
        let linux = gpt::partition_types::LINUX_FS;
        let parts = [
            ("esp", 2, gpt::partition_types::EFI),
            (&labels[0], 4, linux.clone()),
            (&labels[1], 4, linux.clone()),
            ("data", 8, linux),
        ];
        for (label, size, kind) in parts {
            table
                .add_partition(label, size * MIB, kind, 0, Some(2048))
                .unwrap();
        }
        change(&mut table);
        // Without it nobody else takes the table for one.
        let blocks = u32::try_from(24 * MIB / 512).unwrap();
        let mbr = gpt::mbr::ProtectiveMBR::with_lb_size(blocks - 1);
        mbr.overwrite_lba0(table.device_mut()).unwrap();
        table.write().unwrap();
        let Some(node) = tool("losetup", &["--find", "--show", image.to_str().unwrap()]) else {
            needs::skipped("no loop device is to be had");
            return None;
        };
        let disk = Self {
            dir,
            node,
            labels,
            mounted: Vec::new(),
            not_ours: 0..0,
        };
        // A kernel without a parser for these tables has to be told of the partitions; others do not mind.
        must("partx", &["--update", &disk.node]);
        let proc = disk.dir.path().join("proc");
        fs::create_dir_all(proc.join("1")).unwrap();
        fs::create_dir_all(proc.join("sys/kernel/random")).unwrap();
        fs::write(
            proc.join("sys/kernel/random/boot_id"),
            "8f2b1d7c-0000-4000-8000-000000000001\n",
        )
        .unwrap();
        symlink("/proc/swaps", proc.join("swaps")).unwrap();
        disk.boots(2, "A");
        Some(disk)
    }

    /// The node of one of its partitions.
    fn part(&self, number: u32) -> String {
        format!("{}p{number}", self.node)
    }

    /// Makes its partition `number` the root of a machine's first process, with `slot` on the command line.
    fn boots(&self, number: u32, slot: &str) {
        let name = self.part(number).replace("/dev/", "");
        let dev = fs::read_to_string(format!("/sys/class/block/{name}/dev")).unwrap();
        let table = format!("27 1 {} / / rw - ext4 /dev/root rw\n", dev.trim());
        fs::write(self.dir.path().join("proc/1/mountinfo"), table).unwrap();
        fs::write(
            self.dir.path().join("proc/cmdline"),
            format!("monok8s.slot={slot}\n"),
        )
        .unwrap();
    }

    /// This machine's `/sys` and `/dev` and processes, with a first process whose root is on this disk.
    fn roots(&self) -> Roots {
        let proc = self.dir.path().join("proc");
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            if name != "1" && name.bytes().all(|b| b.is_ascii_digit()) {
                // Made for each look, so that processes started meanwhile are there.
                let _ = symlink(entry.path(), proc.join(name));
            }
        }
        Roots {
            proc,
            ..Roots::default()
        }
    }

    fn machine(&self, a: &str, b: &str) -> RealMachine {
        let address = |text: &str| text.parse::<SlotAddress>().unwrap();
        RealMachine::new(self.roots(), address(a), address(b))
    }

    fn label(&self, slot: usize) -> String {
        format!("PARTLABEL={}", self.labels[slot])
    }

    fn default_machine(&self) -> RealMachine {
        self.machine(&self.label(0), &self.label(1))
    }

    /// A folder on no partition of this disk.
    fn elsewhere(&self) -> &Path {
        self.dir.path()
    }

    /// Mounts a new file system that holds the folder `monok8s`. Read-only (`ro`), nothing but a test changes it.
    fn mount(&mut self, number: u32, mode: &str) -> PathBuf {
        let tree = self.dir.path().join(format!("tree{number}"));
        fs::create_dir_all(tree.join("monok8s")).unwrap();
        must(
            "mkfs.ext4",
            &["-q", "-F", "-d", tree.to_str().unwrap(), &self.part(number)],
        );
        let point = self.dir.path().join(format!("mnt{number}"));
        fs::create_dir(&point).unwrap();
        must(
            "mount",
            &["-o", mode, &self.part(number), point.to_str().unwrap()],
        );
        self.mounted.push(point.clone());
        point
    }

    /// SHA-256 of every byte of the disk, as the loop device's file has it, but those that are `not_ours`.
    fn hash(&self) -> [u8; 32] {
        rustix::fs::sync();
        let mut file = File::open(self.dir.path().join("disk.img")).unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        bytes[self.not_ours.clone()].fill(0);
        Sha256::digest(&bytes).into()
    }

    /// Asserts that opening slot `slot` is refused, and that nothing was written.
    fn assert_refused(
        &self,
        host: &dyn Host,
        slot: SlotName,
        state: &Path,
        reason: Reason,
        says: &str,
    ) {
        let before = self.hash();
        let error = host.open_target(slot, state).map(|t| t.slot).unwrap_err();
        assert_eq!(error.reason(), reason, "{error}");
        assert!(
            error.to_string().contains(says),
            "{says:?} is not in: {error}"
        );
        assert_eq!(self.hash(), before, "{error}");
    }

    /// Asserts that opening slot `slot` works, that it is `number`, and that what is written is seen by the hash: so
    /// that an equal hash means something.
    fn assert_opened(&self, host: &dyn Host, slot: SlotName, number: u32) {
        let before = self.hash();
        let target = when_free(|| host.open_target(slot, self.elsewhere()));
        assert_eq!(target.slot.device, Path::new(&self.part(number)));
        assert_eq!(self.hash(), before, "opening alone wrote something");
        write(&target, b"a new system");
        assert_ne!(self.hash(), before);
    }
}

/// Opens as soon as nobody has claimed the device. A process that another test is just starting has this test's open
/// files until its program runs, and with them their claim.
fn when_free<T, E: std::fmt::Display>(open: impl Fn() -> Result<T, E>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match open() {
            Ok(opened) => return opened,
            Err(e) => assert!(Instant::now() < deadline, "{e}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn write(target: &Target, bytes: &[u8]) {
    (&target.file).write_all(bytes).unwrap();
    target.file.sync_all().unwrap();
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        for point in &self.mounted {
            tool("umount", &[point.to_str().unwrap()]);
        }
        tool("partx", &["--delete", &self.node]);
        tool("losetup", &["--detach", &self.node]);
    }
}

#[test]
fn opens_the_inactive_slot() {
    let Some(disk) = LoopDisk::make() else { return };
    disk.assert_opened(&disk.default_machine(), SlotName::B, 3);
    disk.boots(3, "B");
    disk.assert_opened(&disk.default_machine(), SlotName::A, 2);
}

#[test]
fn refuses_the_running_root() {
    let Some(disk) = LoopDisk::make() else { return };
    let (machine, state) = (disk.default_machine(), disk.elsewhere());
    disk.assert_refused(
        &machine,
        SlotName::A,
        state,
        Reason::SlotActive,
        "the running root",
    );
    disk.boots(3, "B");
    disk.assert_refused(
        &disk.default_machine(),
        SlotName::B,
        state,
        Reason::SlotActive,
        "the running root",
    );
    // What the root and what the boot loader said do not agree: neither is opened.
    disk.boots(2, "B");
    for slot in SlotName::BOTH {
        disk.assert_refused(
            &disk.default_machine(),
            slot,
            state,
            Reason::SlotAmbiguous,
            "monok8s.slot=B",
        );
    }
}

#[test]
fn refuses_the_data_partition() {
    let Some(mut disk) = LoopDisk::make() else {
        return;
    };
    let state = disk.mount(4, "ro").join("monok8s");
    let machine = disk.machine(&disk.label(0), &disk.part(4));
    disk.assert_refused(
        &machine,
        SlotName::B,
        &state,
        Reason::SlotActive,
        "the data partition",
    );
}

#[test]
fn refuses_the_efi_system_partition() {
    let Some(disk) = LoopDisk::make() else { return };
    let machine = disk.machine(&disk.label(0), &disk.part(1));
    disk.assert_refused(
        &machine,
        SlotName::B,
        disk.elsewhere(),
        Reason::SlotActive,
        "the EFI system partition",
    );
}

#[test]
fn refuses_a_whole_disk() {
    let Some(disk) = LoopDisk::make() else { return };
    let machine = disk.machine(&disk.label(0), &disk.node);
    disk.assert_refused(
        &machine,
        SlotName::B,
        disk.elsewhere(),
        Reason::SlotActive,
        "a whole disk",
    );
}

#[test]
fn refuses_a_mounted_slot() {
    let Some(mut disk) = LoopDisk::make() else {
        return;
    };
    disk.mount(3, "ro");
    let says = "mounted at";
    disk.assert_refused(
        &disk.default_machine(),
        SlotName::B,
        disk.elsewhere(),
        Reason::SlotBusy,
        says,
    );
}

/// A process with a mount namespace of its own, which ends with this value.
struct Namespace(Child);

impl Namespace {
    fn mounting(device: &str, point: &Path) -> Self {
        let script = format!(
            "mount -o ro {device} {} && echo mounted && read end",
            point.display()
        );
        let mut child = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "mounted\n");
        Self(child)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

#[test]
fn refuses_a_slot_mounted_in_another_namespace() {
    let Some(disk) = LoopDisk::make() else { return };
    must("mkfs.ext4", &["-q", "-F", &disk.part(3)]);
    let point = disk.dir.path().join("hidden");
    fs::create_dir(&point).unwrap();
    let elsewhere = Namespace::mounting(&disk.part(3), &point);
    assert!(
        !fs::read_to_string("/proc/self/mountinfo")
            .unwrap()
            .contains(point.to_str().unwrap())
    );
    let says = format!(
        "mounted at {} (process {})",
        point.display(),
        elsewhere.0.id()
    );
    disk.assert_refused(
        &disk.default_machine(),
        SlotName::B,
        disk.elsewhere(),
        Reason::SlotBusy,
        &says,
    );
    drop(elsewhere);
    disk.assert_opened(&disk.default_machine(), SlotName::B, 3);
}

#[test]
fn refuses_swap() {
    let Some(mut disk) = LoopDisk::make() else {
        return;
    };
    // As small as it can be: ten pages, of which all but the first are the kernel's to write to.
    must("mkswap", &[&disk.part(3), "40"]);
    let table = gpt::GptConfig::new().open(&disk.node).unwrap();
    let start = usize::try_from(table.partitions()[&3].first_lba * 512).unwrap();
    disk.not_ours = start + 4096..start + 40 * 1024;
    if tool("swapon", &[&disk.part(3)]).is_none() {
        needs::skipped("this kernel takes no swap");
        return;
    }
    let says = "is in use: swap";
    let refused = std::panic::catch_unwind(|| {
        disk.assert_refused(
            &disk.default_machine(),
            SlotName::B,
            disk.elsewhere(),
            Reason::SlotBusy,
            says,
        );
    });
    must("swapoff", &[&disk.part(3)]);
    refused.unwrap();
}

#[test]
fn refuses_a_slot_behind_another_device() {
    let Some(disk) = LoopDisk::make() else { return };
    let over = must(
        "losetup",
        &["--find", "--show", "--read-only", &disk.part(3)],
    );
    let refused = std::panic::catch_unwind(|| {
        let says = format!("behind {over}");
        disk.assert_refused(
            &disk.default_machine(),
            SlotName::B,
            disk.elsewhere(),
            Reason::SlotBusy,
            &says,
        );
    });
    must("losetup", &["--detach", &over]);
    refused.unwrap();
}

#[test]
fn refuses_a_slot_that_another_process_has_claimed() {
    let Some(disk) = LoopDisk::make() else { return };
    let machine = disk.default_machine();
    let first = when_free(|| machine.open_target(SlotName::B, disk.elsewhere()));
    disk.assert_refused(
        &machine,
        SlotName::B,
        disk.elsewhere(),
        Reason::SlotBusy,
        "has claimed it",
    );
    drop(first);
    let claim = || {
        File::options()
            .read(true)
            .custom_flags(libc::O_EXCL)
            .open(disk.part(3))
    };
    let claimed = when_free(claim);
    disk.assert_refused(
        &machine,
        SlotName::B,
        disk.elsewhere(),
        Reason::SlotBusy,
        "has claimed it",
    );
    drop(claimed);
    disk.assert_opened(&machine, SlotName::B, 3);
}

#[test]
fn refuses_a_read_only_slot() {
    let Some(disk) = LoopDisk::make() else { return };
    must("blockdev", &["--setro", &disk.part(3)]);
    let machine = disk.default_machine();
    disk.assert_refused(
        &machine,
        SlotName::B,
        disk.elsewhere(),
        Reason::SlotReadOnly,
        "read-only",
    );
    must("blockdev", &["--setrw", &disk.part(3)]);
    must("blockdev", &["--setro", &disk.node]);
    disk.assert_refused(
        &machine,
        SlotName::B,
        disk.elsewhere(),
        Reason::SlotReadOnly,
        &disk.node,
    );
    must("blockdev", &["--setrw", &disk.node]);
    disk.assert_opened(&machine, SlotName::B, 3);
}

#[test]
fn refuses_two_partitions_with_one_label() {
    let same = |table: &mut gpt::GptDisk<File>| {
        let mut entries = table.partitions().clone();
        entries.get_mut(&4).unwrap().name = entries[&3].name.clone();
        table.update_partitions(entries).unwrap();
    };
    let Some(disk) = LoopDisk::make_with(same) else {
        return;
    };
    let says = "2 partitions are PARTLABEL=";
    disk.assert_refused(
        &disk.default_machine(),
        SlotName::B,
        disk.elsewhere(),
        Reason::SlotAmbiguous,
        says,
    );
    // By its GUID the same partition is certain.
    let table = gpt::GptConfig::new().open(&disk.node).unwrap();
    let uuid = |number| format!("PARTUUID={}", table.partitions()[&number].part_guid);
    disk.assert_opened(&disk.machine(&uuid(2), &uuid(3)), SlotName::B, 3);
}

#[test]
fn refuses_a_slot_that_is_not_there() {
    let Some(disk) = LoopDisk::make() else { return };
    let state = disk.elsewhere();
    let gone = disk.machine(&disk.label(0), "PARTLABEL=no-such-slot");
    disk.assert_refused(
        &gone,
        SlotName::B,
        state,
        Reason::SlotNotFound,
        "PARTLABEL=no-such-slot",
    );
    // The table has it, the kernel has no device for it.
    must("partx", &["--delete", "--nr", "3", &disk.node]);
    disk.assert_refused(
        &disk.default_machine(),
        SlotName::B,
        state,
        Reason::SlotNotFound,
        "run partx -u",
    );
}

#[test]
fn a_record_in_a_slot_does_not_persist() {
    let Some(mut disk) = LoopDisk::make() else {
        return;
    };
    let inside = disk.mount(3, "rw");
    let says = |dir: &Path| {
        disk.default_machine()
            .check_persistent(dir)
            .map_err(|e| e.to_string())
    };
    assert!(says(&inside).unwrap_err().contains("inside slot B"));
    let data = disk.mount(4, "rw");
    let says = |dir: &Path| {
        disk.default_machine()
            .check_persistent(dir)
            .map_err(|e| e.to_string())
    };
    assert_eq!(says(&data), Ok(()));
    assert!(
        says(&data.join("gone"))
            .unwrap_err()
            .contains("cannot be looked at")
    );
    must("mount", &["-o", "remount,ro", data.to_str().unwrap()]);
    assert!(says(&data).unwrap_err().contains("read-only"));
    must("mount", &["-o", "remount,rw", data.to_str().unwrap()]);
    // A folder in memory, and one on an overlay over the data partition.
    let point = disk.dir.path().join("other");
    fs::create_dir(&point).unwrap();
    must("mount", &["-t", "tmpfs", "tmpfs", point.to_str().unwrap()]);
    disk.mounted.push(point.clone());
    let error = disk.default_machine().check_persistent(&point).unwrap_err();
    assert!(error.to_string().contains("tmpfs"), "{error}");
    assert_eq!(error.reason(), Reason::StateNotPersistent);
    let over = disk.dir.path().join("over");
    for folder in [&over, &data.join("up"), &data.join("work")] {
        fs::create_dir(folder).unwrap();
    }
    let d = data.display();
    let layers = format!("lowerdir={d},upperdir={d}/up,workdir={d}/work");
    must(
        "mount",
        &[
            "-t",
            "overlay",
            "over",
            "-o",
            &layers,
            over.to_str().unwrap(),
        ],
    );
    let error = disk
        .default_machine()
        .check_persistent(&over)
        .unwrap_err()
        .to_string();
    must("umount", &[over.to_str().unwrap()]);
    assert!(error.contains("overlay"), "{error}");
    // The running root, though it is no slot.
    disk.boots(4, "A");
    let error = disk
        .default_machine()
        .check_persistent(&data)
        .unwrap_err()
        .to_string();
    assert!(error.contains("running root"), "{error}");
}

/// Where the boot partition is not mounted, an image's own folder of the same name shows: GRUB reads nothing there.
#[test]
fn an_environment_block_that_an_image_brought_along_is_not_grubs() {
    let Some(mut disk) = LoopDisk::make() else {
        return;
    };
    let block_on = |disk: &mut LoopDisk, number: u32| {
        let path = disk.mount(number, "rw").join("grubenv");
        model::install(&path, SlotName::A, false).unwrap();
        path
    };
    let refused = |disk: &LoopDisk, path: &Path, says: &str| {
        let before = fs::read(path).unwrap();
        let grub = Grub::of(&disk.default_machine(), path);
        for error in [
            grub.state().unwrap_err(),
            grub.mark_unbootable(SlotName::B).unwrap_err(),
            grub.try_once(SlotName::B).unwrap_err(),
            grub.mark_good(SlotName::B).unwrap_err(),
        ] {
            assert_eq!(error.reason(), Reason::BootLoaderUnknown);
            assert!(error.to_string().contains(says), "{error}");
        }
        assert_eq!(fs::read(path).unwrap(), before);
    };
    for (number, says) in [(2, "inside slot A"), (3, "inside slot B")] {
        let inside = block_on(&mut disk, number);
        refused(&disk, &inside, says);
    }
    let beside = block_on(&mut disk, 4);
    let grub = Grub::of(&disk.default_machine(), &beside);
    assert!(!grub.state().unwrap().b_ok);
    grub.try_once(SlotName::B).unwrap();
    assert_eq!(grub.state().unwrap().trial, Some(SlotName::B));
    let absent = Grub::of(&disk.default_machine(), beside.with_file_name("absent"));
    let error = absent.state().unwrap_err().to_string();
    assert!(error.contains("there is no such file"), "{error}");
    // A boot folder that is no mount point is on the running root, whatever that is.
    disk.boots(4, "A");
    refused(&disk, &beside, "on the running root");
    let memory = disk.dir.path().join("memory");
    fs::create_dir(&memory).unwrap();
    must("mount", &["-t", "tmpfs", "tmpfs", memory.to_str().unwrap()]);
    disk.mounted.push(memory.clone());
    model::install(&memory.join("grubenv"), SlotName::A, false).unwrap();
    refused(&disk, &memory.join("grubenv"), "on no block device");
}

#[test]
fn a_virtual_node_on_partitions_is_as_careful() {
    let Some(disk) = LoopDisk::make() else { return };
    let dir = disk.dir.path().join("node");
    for folder in ["run", "data"] {
        fs::create_dir_all(dir.join(folder)).unwrap();
    }
    let node = VirtualNode::new(&dir);
    fs::write(node.boot_id_file(), "1\n").unwrap();
    fs::write(node.active_file(), "A\n").unwrap();
    fs::write(node.cmdline(), "monok8s.slot=A").unwrap();
    let slots = |a: &str, b: &str| {
        fs::write(
            node.machine_file(),
            format!(r#"{{"slotA": "{a}", "slotB": "{b}", "name": "n"}}"#),
        )
        .unwrap();
    };
    slots(&disk.label(0), &disk.label(1));
    disk.assert_refused(
        &node,
        SlotName::A,
        &node.data(),
        Reason::SlotActive,
        "the running root",
    );
    disk.assert_opened(&node, SlotName::B, 3);
    slots(&disk.label(0), &disk.part(1));
    disk.assert_refused(
        &node,
        SlotName::B,
        &node.data(),
        Reason::SlotActive,
        "the EFI system partition",
    );
    slots(&disk.label(0), &disk.part(2));
    disk.assert_refused(
        &node,
        SlotName::B,
        &node.data(),
        Reason::SlotAmbiguous,
        "are the same",
    );
}

#[test]
fn a_virtual_node_on_loop_devices() {
    let Some(disk) = LoopDisk::make() else { return };
    let file = disk.dir.path().join("b.img");
    File::create(&file).unwrap().set_len(MIB).unwrap();
    let over = must("losetup", &["--find", "--show", file.to_str().unwrap()]);
    let opened: Result<(), SlotError> = (|| {
        let dir = disk.dir.path().join("node");
        for folder in ["run", "data"] {
            fs::create_dir_all(dir.join(folder)).unwrap();
        }
        let node = VirtualNode::new(&dir);
        fs::write(node.boot_id_file(), "1\n").unwrap();
        fs::write(node.active_file(), "A\n").unwrap();
        fs::write(node.cmdline(), "monok8s.slot=A").unwrap();
        fs::write(dir.join("slot-a.img"), vec![0; 4096]).unwrap();
        fs::write(node.machine_file(), format!(r#"{{"slotB": "{over}"}}"#)).unwrap();
        let target = node.open_target(SlotName::B, &node.data())?;
        assert_eq!((target.slot.size, target.slot.part_uuid), (MIB, None));
        write(&target, b"here");
        // The file behind a loop device is in use.
        fs::write(
            node.machine_file(),
            format!(r#"{{"slotB": "{}"}}"#, file.display()),
        )
        .unwrap();
        drop(target);
        let error = node
            .open_target(SlotName::B, &node.data())
            .map(drop)
            .unwrap_err();
        assert_eq!(error.reason(), Reason::SlotBusy, "{error}");
        Ok(())
    })();
    must("losetup", &["--detach", &over]);
    opened.unwrap();
    assert!(fs::read(&file).unwrap().starts_with(b"here"));
}
