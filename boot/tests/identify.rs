//! Which slot a machine runs, over made-up `/proc`, `/sys` and `/dev` folders with real partition tables in them: no
//! root needed, and every way a root can be stacked can be described.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's own functions"
)]

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use monok8s_boot::host::RealMachine;
use monok8s_boot::{Host as _, Machine, Reason, Roots, SlotError, SlotName};

const UUID_A: &str = "aaaaaaaa-0000-4000-8000-00000000000a";
const UUID_B: &str = "bbbbbbbb-0000-4000-8000-00000000000b";

/// A machine that is only described.
struct Fake {
    dir: tempfile::TempDir,
}

impl Fake {
    /// One disk, called `disk`, number 259:0: an EFI system partition, the slots, a data partition, numbered 1 to 4
    /// and called `disk` + `infix` + number.
    fn new(disk: &str, infix: &str) -> Self {
        let fake = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        for folder in [
            "proc/1",
            "proc/sys/kernel/random",
            "dev",
            "sys/class/block",
            "sys/dev/block",
        ] {
            fs::create_dir_all(fake.path(folder)).unwrap();
        }
        fake.write(
            "proc/sys/kernel/random/boot_id",
            "8f2b1d7c-0000-4000-8000-000000000001\n",
        );
        fake.add_disk(disk, infix, 259, ["rootfs-a", "rootfs-b"], [UUID_A, UUID_B]);
        fake.root("ext4", "259:2", "/dev/root", "rw");
        fake.cmdline("root=PARTLABEL=rootfs-a monok8s.slot=A");
        fake
    }

    fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    fn write(&self, below: &str, text: &str) {
        fs::write(self.path(below), text).unwrap();
    }

    fn cmdline(&self, text: &str) {
        self.write("proc/cmdline", text);
    }

    fn root(&self, fs_type: &str, dev: &str, source: &str, options: &str) {
        self.mounts(&format!(
            "27 1 {dev} / / rw,relatime shared:1 - {fs_type} {source} {options}\n"
        ));
    }

    fn mounts(&self, table: &str) {
        self.write("proc/1/mountinfo", table);
    }

    fn add_disk(&self, disk: &str, infix: &str, major: u32, labels: [&str; 2], uuids: [&str; 2]) {
        let image = self.path("dev").join(disk);
        File::create(&image).unwrap().set_len(16 << 20).unwrap();
        let mut table = gpt::GptConfig::new().writable(true).create(&image).unwrap();
        let linux = gpt::partition_types::LINUX_FS;
        let parts = [
            ("", gpt::partition_types::EFI),
            (labels[0], linux.clone()),
            (labels[1], linux.clone()),
            ("data", linux),
        ];
        for (label, kind) in parts {
            table.add_partition(label, 2 << 20, kind, 0, None).unwrap();
        }
        let mut entries = table.partitions().clone();
        for (number, uuid) in [(2, uuids[0]), (3, uuids[1])] {
            entries.get_mut(&number).unwrap().part_guid = uuid.parse().unwrap();
        }
        table.update_partitions(entries.clone()).unwrap();
        table.write().unwrap();
        let folder = format!("sys/devices/pci0000:00/{disk}");
        self.device(&folder, disk, (major, 0), 16 << 20);
        fs::create_dir(self.path(&folder).join("queue")).unwrap();
        self.write(&format!("{folder}/queue/logical_block_size"), "512\n");
        for (number, entry) in entries {
            let name = format!("{disk}{infix}{number}");
            let part = format!("{folder}/{name}");
            self.device(
                &part,
                &name,
                (major, number),
                (entry.last_lba - entry.first_lba + 1) * 512,
            );
            self.write(&format!("{part}/partition"), &format!("{number}\n"));
            self.write(&format!("{part}/start"), &format!("{}\n", entry.first_lba));
            fs::write(self.path("dev").join(&name), "").unwrap();
        }
    }

    fn device(&self, folder: &str, name: &str, (major, minor): (u32, u32), size: u64) {
        for sub in ["holders", "slaves"] {
            fs::create_dir_all(self.path(folder).join(sub)).unwrap();
        }
        self.write(&format!("{folder}/dev"), &format!("{major}:{minor}\n"));
        self.write(&format!("{folder}/size"), &format!("{}\n", size / 512));
        self.write(&format!("{folder}/ro"), "0\n");
        self.write(
            &format!("{folder}/uevent"),
            &format!("MAJOR={major}\nMINOR={minor}\nDEVNAME={name}\n"),
        );
        symlink(
            self.path(folder),
            self.path("sys/class/block").join(name.replace('/', "!")),
        )
        .unwrap();
        symlink(
            self.path(folder),
            self.path("sys/dev/block").join(format!("{major}:{minor}")),
        )
        .unwrap();
    }

    /// A device-mapper device over others, named by their folders.
    fn mapped(&self, minor: u32, over: &[&str]) {
        let folder = format!("sys/devices/virtual/block/dm-{minor}");
        self.device(&folder, &format!("dm-{minor}"), (252, minor), 2 << 20);
        fs::write(self.path("dev").join(format!("dm-{minor}")), "").unwrap();
        for below in over {
            let name = Path::new(below).file_name().unwrap();
            symlink(
                self.path(below),
                self.path(&folder).join("slaves").join(name),
            )
            .unwrap();
        }
    }

    fn looped(&self, minor: u32, file: &str) {
        let folder = format!("sys/devices/virtual/block/loop{minor}");
        self.device(&folder, &format!("loop{minor}"), (7, minor), 2 << 20);
        fs::create_dir(self.path(&folder).join("loop")).unwrap();
        self.write(&format!("{folder}/loop/backing_file"), &format!("{file}\n"));
    }

    fn identify(&self, a: &str, b: &str) -> Result<Machine, SlotError> {
        let address = |text: &str| match text.strip_prefix('@') {
            // A device of this made-up machine.
            Some(name) => monok8s_boot::SlotAddress::Path(self.path("dev").join(name)),
            None => text.parse().unwrap(),
        };
        RealMachine::new(Roots::under(self.dir.path()), address(a), address(b)).identify()
    }

    fn by_label(&self) -> Result<Machine, SlotError> {
        self.identify("PARTLABEL=rootfs-a", "PARTLABEL=rootfs-b")
    }
}

fn assert_refused(result: Result<Machine, SlotError>, reason: Reason, says: &str) {
    let error = result.unwrap_err();
    assert_eq!(error.reason(), reason, "{error}");
    assert!(
        error.to_string().contains(says),
        "{says:?} is not in: {error}"
    );
}

#[test]
fn finds_slots_by_every_kind_of_address_and_name() {
    for (disk, infix) in [
        ("sda", ""),
        ("vda", ""),
        ("nvme0n1", "p"),
        ("mmcblk0", "p"),
        ("loop9", "p"),
        ("odd3", "part"),
    ] {
        let fake = Fake::new(disk, infix);
        let (node_a, node_b) = (format!("@{disk}{infix}2"), format!("@{disk}{infix}3"));
        let addresses = [
            (
                "PARTLABEL=rootfs-a".to_owned(),
                "PARTLABEL=rootfs-b".to_owned(),
            ),
            (
                format!("PARTUUID={UUID_A}"),
                format!("PARTUUID={}", UUID_B.to_uppercase()),
            ),
            (node_a, node_b),
        ];
        for (a, b) in addresses {
            let machine = fake.identify(&a, &b).unwrap();
            assert_eq!(machine.active, SlotName::A);
            assert_eq!(
                machine.active().device,
                fake.path(&format!("dev/{disk}{infix}2"))
            );
            assert_eq!(
                machine.inactive().device,
                fake.path(&format!("dev/{disk}{infix}3"))
            );
            assert_eq!(machine.inactive().part_uuid, Some(UUID_B.parse().unwrap()));
            assert_eq!(machine.inactive().size, 2 << 20);
            assert_eq!(machine.boot_id, "8f2b1d7c-0000-4000-8000-000000000001");
            assert_eq!(machine.trial, None);
        }
    }
}

/// Stacks the root of a made-up machine on slot B.
type Stack<'f> = &'f dyn Fn(&Fake);

#[test]
fn follows_the_root_to_its_partition() {
    let b = "sys/devices/pci0000:00/sda/sda3";
    let hash = "sys/devices/pci0000:00/sda/sda4";
    // Each: how the root is stacked on slot B.
    let verity = |f: &Fake| {
        f.mapped(0, &[b, hash]);
        f.root("ext4", "252:0", "/dev/mapper/root", "ro");
    };
    let crypt_on_lvm = |f: &Fake| {
        f.mapped(0, &[b]);
        f.mapped(1, &["sys/devices/virtual/block/dm-0"]);
        f.root("xfs", "252:1", "/dev/mapper/root", "rw");
    };
    let overlay = |f: &Fake| {
        f.mounts(
            "20 1 0:30 / / rw - overlay root rw,lowerdir=/ro,upperdir=/rw/up,workdir=/rw/work\n\
             21 20 259:3 / /ro ro - squashfs /dev/sda3 ro\n22 20 0:31 / /rw rw - tmpfs tmpfs rw\n",
        );
    };
    let overlay_over_verity = |f: &Fake| {
        f.mapped(0, &[b]);
        f.mounts(
            "20 1 0:30 / / rw - overlay root rw,lowerdir=/ro,upperdir=/data/up,workdir=/data/work\n\
             21 20 252:0 / /ro ro - ext4 /dev/dm-0 ro\n22 20 259:4 / /data rw - ext4 /dev/sda4 rw\n",
        );
    };
    let image_in_the_slot = |f: &Fake| {
        f.looped(3, "/slot/rootfs.squashfs");
        f.mounts("20 1 7:3 / / ro - squashfs /dev/loop3 ro\n21 20 259:3 / /slot rw - ext4 /dev/sda3 rw\n");
    };
    let btrfs = |f: &Fake| f.root("btrfs", "0:33", "/dev/sda3", "rw,subvol=/root");
    let cases: [(&str, Stack<'_>); 6] = [
        ("verity", &verity),
        ("crypt on LVM", &crypt_on_lvm),
        ("overlay", &overlay),
        ("overlay over verity", &overlay_over_verity),
        ("image in the slot", &image_in_the_slot),
        ("btrfs", &btrfs),
    ];
    for (name, stack) in cases {
        let fake = Fake::new("sda", "");
        fake.cmdline("root=/dev/mapper/none monok8s.slot=B monok8s.trial=1");
        stack(&fake);
        let machine = fake.by_label().unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(
            (machine.active, machine.trial),
            (SlotName::B, Some(true)),
            "{name}"
        );
        // The same root with the other slot on the command line is believed by nobody.
        fake.cmdline("monok8s.slot=A");
        assert_refused(fake.by_label(), Reason::SlotAmbiguous, "monok8s.slot=A");
    }
}

#[test]
fn the_command_line_must_agree() {
    let after_esp = format!("root=PARTUUID={UUID_A}/PARTNROFF=0");
    let uuid_b = format!("root=PARTUUID={UUID_B} monok8s.slot=A");
    let next = format!("root=PARTUUID={UUID_A}/PARTNROFF=1");
    // What the kernel was told, and what is said when that is not slot A, which is mounted.
    let table: [(&str, Option<&str>); 15] = [
        ("monok8s.slot=A", None),
        ("root=PARTLABEL=rootfs-a", None),
        (&after_esp, None),
        ("root=/dev/vda2", None),
        ("root=UUID=1234 monok8s.slot=A", None),
        ("root=PARTLABEL=rootfs-a monok8s.slot=A", None),
        ("root=PARTLABEL=rootfs-b", Some("root=PARTLABEL=rootfs-b")),
        ("root=PARTLABEL=gone", Some("root=PARTLABEL=gone")),
        (
            "root=PARTLABEL=data monok8s.slot=A",
            Some("root=PARTLABEL=data"),
        ),
        (&uuid_b, Some(UUID_B)),
        (&next, Some("root=PARTUUID")),
        ("root=/dev/vda3 monok8s.slot=A", Some("root=/dev/vda3")),
        ("monok8s.slot=C", Some("\"C\"")),
        ("monok8s.slot=A monok8s.slot=B", Some("both slots")),
        (
            "root=UUID=1234 quiet",
            Some("install the shipped boot loader configuration"),
        ),
    ];
    let fake = Fake::new("vda", "");
    for (line, refusal) in table {
        // The made-up machine's devices are below its own /dev.
        fake.cmdline(line);
        match refusal {
            None => assert_eq!(
                fake.by_label()
                    .unwrap_or_else(|e| panic!("{line}: {e}"))
                    .active,
                SlotName::A
            ),
            Some(says) => assert_refused(fake.by_label(), Reason::SlotAmbiguous, says),
        }
    }
    fs::remove_file(fake.path("proc/cmdline")).unwrap();
    assert_refused(fake.by_label(), Reason::SlotAmbiguous, "proc/cmdline");
}

#[test]
fn a_root_that_is_no_slot_is_ambiguous() {
    let table = [
        ("259:4", "neither slot A"),
        ("0:2", "no block device"),
        ("259:0", "neither slot A"),
        ("8:99", "could not be read"),
    ];
    for (dev, says) in table {
        let fake = Fake::new("vda", "");
        fake.root("ext4", dev, "rootfs", "rw");
        assert_refused(fake.by_label(), Reason::SlotAmbiguous, says);
    }
    let both = Fake::new("vda", "");
    both.mapped(
        0,
        &[
            "sys/devices/pci0000:00/vda/vda2",
            "sys/devices/pci0000:00/vda/vda3",
        ],
    );
    both.root("ext4", "252:0", "/dev/dm-0", "rw");
    assert_refused(both.by_label(), Reason::SlotAmbiguous, "both slots");
    let hidden = Fake::new("vda", "");
    hidden.mounts(
        "20 1 0:30 / / rw - overlay root rw,lowerdir=/initramfs/ro,upperdir=/initramfs/rw\n",
    );
    assert_refused(hidden.by_label(), Reason::SlotAmbiguous, "no block device");
    let none = Fake::new("vda", "");
    none.mounts("");
    assert_refused(none.by_label(), Reason::SlotAmbiguous, "hostPID");
}

#[test]
fn a_slot_that_is_not_certain_is_refused() {
    let fake = Fake::new("vda", "");
    let table = [
        (
            "PARTLABEL=rootfs-a",
            "PARTLABEL=gone",
            Reason::SlotNotFound,
            "PARTLABEL=gone",
        ),
        ("PARTLABEL=rootfs-a", "@vdz9", Reason::SlotNotFound, "vdz9"),
        (
            "PARTLABEL=rootfs-a",
            "@vda",
            Reason::SlotActive,
            "a whole disk",
        ),
        (
            "PARTLABEL=rootfs-a",
            "@vda2",
            Reason::SlotAmbiguous,
            "the same partition",
        ),
        (
            &format!("PARTUUID={UUID_A}"),
            "PARTLABEL=rootfs-a",
            Reason::SlotAmbiguous,
            "the same partition",
        ),
    ];
    for (a, b, reason, says) in table {
        assert_refused(fake.identify(a, b), reason, says);
    }
}

#[test]
fn two_partitions_with_one_label_are_ambiguous() {
    let one_disk = Fake::new("vda", "");
    let image = one_disk.path("dev/vda");
    let mut table = gpt::GptConfig::new().writable(true).open(&image).unwrap();
    let mut entries = table.partitions().clone();
    entries.get_mut(&4).unwrap().name = "rootfs-b".to_owned();
    table.update_partitions(entries).unwrap();
    table.write().unwrap();
    assert_refused(
        one_disk.by_label(),
        Reason::SlotAmbiguous,
        "2 partitions are PARTLABEL=rootfs-b",
    );

    // A copy of the disk, put into the machine: labels and GUIDs are both there twice.
    let copy = Fake::new("vda", "");
    copy.add_disk("vdb", "", 260, ["rootfs-a", "rootfs-b"], [UUID_A, UUID_B]);
    assert_refused(copy.by_label(), Reason::SlotAmbiguous, "vdb2");
    let by_uuid = copy.identify(&format!("PARTUUID={UUID_A}"), &format!("PARTUUID={UUID_B}"));
    assert_refused(by_uuid, Reason::SlotAmbiguous, "vdb2");
}

#[test]
fn the_table_on_the_disk_counts_and_not_the_kernels_memory_of_it() {
    // The disk was partitioned again since the kernel read its table.
    let fake = Fake::new("vda", "");
    fake.write("sys/devices/pci0000:00/vda/vda3/start", "9999\n");
    assert_refused(fake.by_label(), Reason::SlotNotFound, "run partx -u");
    assert_refused(
        fake.identify("PARTLABEL=rootfs-a", "@vda3"),
        Reason::SlotAmbiguous,
        "run partx -u",
    );

    // The label moved to another partition.
    let moved = Fake::new("vda", "");
    let mut table = gpt::GptConfig::new()
        .writable(true)
        .open(moved.path("dev/vda"))
        .unwrap();
    let mut entries = table.partitions().clone();
    entries.get_mut(&3).unwrap().name = "old".to_owned();
    entries.get_mut(&4).unwrap().name = "rootfs-b".to_owned();
    table.update_partitions(entries).unwrap();
    table.write().unwrap();
    assert_eq!(
        moved.by_label().unwrap().inactive().device,
        moved.path("dev/vda4")
    );

    // A damaged table names nothing.
    let damaged = Fake::new("vda", "");
    let image = File::options()
        .write(true)
        .open(damaged.path("dev/vda"))
        .unwrap();
    std::os::unix::fs::FileExt::write_all_at(&image, b"X", 1024 + 60).unwrap();
    assert_refused(damaged.by_label(), Reason::SlotNotFound, "damaged");
}

#[test]
fn a_disk_that_the_kernel_offers_no_partitions_of_is_somebody_elses() {
    // A virtual machine's disk in a file behind a loop device holds the same labels.
    let fake = Fake::new("vda", "");
    fake.looped(0, "/images/guest.img");
    fs::copy(fake.path("dev/vda"), fake.path("dev/loop0")).unwrap();
    assert_eq!(fake.by_label().unwrap().active, SlotName::A);
}
