//! Real devices: files of this machine and, as root, loop devices with direct I/O.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write as _},
    ops::ControlFlow,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
};

use monok8s_image::{
    Access, ChecksumMatched, Device, HostDevice, InstallError, Options, Start, install_from,
};
use rustix::fs::OFlags;
use support::{FILLER, MIB, compress, expect, image, install_quietly, sha256};

/// A file full of [`FILLER`]. On the disk that cargo builds on: what is in /tmp may be memory, where direct I/O is a
/// pretence.
fn filled(length: usize) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    fs::write(file.path(), vec![FILLER; length]).unwrap();
    file.as_file().sync_all().unwrap();
    file
}

fn open(path: &Path, flags: OFlags) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
}

/// Says that a test is skipped, past the harness, which shows nothing of a test that passes.
fn skipped(why: &[u8]) {
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    let why = String::from_utf8_lossy(why);
    let _ = writeln!(io::stderr(), "skipped: {name}: {}", why.trim());
}

/// A loop device with direct I/O on (on a buffered one a read-back would come from memory and prove nothing).
struct Loop {
    backing: tempfile::NamedTempFile,
    path: PathBuf,
}

impl Loop {
    /// None where this machine gives none to this user; the test then says so and passes.
    fn new(length: usize) -> Option<Self> {
        Self::with_sectors(length, 512)
    }

    fn with_sectors(length: usize, sector: u32) -> Option<Self> {
        let backing = filled(length);
        let losetup = Command::new("losetup")
            .args(["--find", "--show", "--direct-io=on", "--sector-size"])
            .arg(sector.to_string())
            .arg(backing.path())
            .output();
        match losetup {
            Ok(output) if output.status.success() => Some(Self {
                path: String::from_utf8(output.stdout).unwrap().trim().into(),
                backing,
            }),
            Ok(output) => {
                skipped(&output.stderr);
                None
            }
            // Root can install what is missing: `make setup-test` does.
            Err(error) if rustix::process::geteuid().is_root() => {
                panic!("cannot run losetup: {error}; it is in the package mount")
            }
            Err(error) => {
                skipped(error.to_string().as_bytes());
                None
            }
        }
    }

    fn open(&self) -> File {
        open(&self.path, OFlags::EXCL).unwrap()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.path).status();
    }
}

/// Neither a whole number of pages nor of sectors.
const LENGTH: usize = 65 * MIB + 4096 + 300;

#[test]
fn a_loop_device_holds_the_image_and_keeps_the_rest() {
    for sector in [512, 4096] {
        if let Some(device) = Loop::with_sectors(LENGTH.next_multiple_of(MIB), sector) {
            holds_the_image_and_keeps_the_rest(&device);
        }
    }
}

fn holds_the_image_and_keeps_the_rest(device: &Loop) {
    // What was read before must not be what is seen afterwards.
    let mut through_the_cache = open(&device.path, OFlags::empty()).unwrap();
    let mut slot = Vec::new();
    through_the_cache.read_to_end(&mut slot).unwrap();
    assert!(slot.iter().all(|byte| *byte == FILLER));

    let image = image(LENGTH);
    let file = compress(&image);
    let target = HostDevice::new(device.open(), "the slot").unwrap();
    assert_eq!(target.size(), slot.len() as u64);
    let installed = install_quietly(&file, &target, &expect(sha256(&file))).unwrap();
    assert_eq!(installed.access, Access::Direct);

    for mut view in [through_the_cache, target.into_file()] {
        view.seek(SeekFrom::Start(0)).unwrap();
        slot.clear();
        view.read_to_end(&mut slot).unwrap();
        assert!(slot[..LENGTH] == image);
        assert!(slot[LENGTH..].iter().all(|byte| *byte == FILLER));
    }
}

#[test]
fn the_images_own_checksum_is_read_from_the_loop_device() {
    let Some(device) = Loop::new(LENGTH.next_multiple_of(MIB)) else {
        return;
    };
    let image = image(LENGTH);
    let target = HostDevice::new(device.open(), "the slot").unwrap();
    let installed = install_quietly(&compress(&image), &target, &expect(sha256(&image))).unwrap();
    assert_eq!(installed.matched, ChecksumMatched::Image);
    assert_eq!(installed.image_digest, Some(sha256(&image)));
}

/// Some data, 70 MiB of zeros and some data.
fn with_zeros() -> Vec<u8> {
    let mut image = image(75 * MIB);
    image[2 * MIB..72 * MIB].fill(0);
    image
}

#[test]
fn a_loop_device_is_told_to_make_zeros_itself() {
    let Some(device) = Loop::new(76 * MIB) else {
        return;
    };
    let image = with_zeros();
    let file = compress(&image);
    let target = HostDevice::new(device.open(), "the slot").unwrap();
    let installed = install_quietly(&file, &target, &expect(sha256(&image))).unwrap();
    assert_eq!(installed.times.clear.bytes, 70 * MIB as u64);
    assert_eq!(installed.times.write.bytes, 5 * MIB as u64);
    let mut slot = Vec::new();
    target.into_file().read_to_end(&mut slot).unwrap();
    assert!(slot[..image.len()] == image);
    assert!(slot[image.len()..].iter().all(|byte| *byte == FILLER));
}

/// The kernel's own count of what was written to a block device: the seventh field of its `stat`, in sectors of 512
/// bytes whatever the device's (`Documentation/block/stat.rst`).
fn sectors_written(device: &Loop) -> u64 {
    let name = device.path.file_name().unwrap();
    let stat = fs::read_to_string(Path::new("/sys/block").join(name).join("stat")).unwrap();
    stat.split_whitespace().nth(6).unwrap().parse().unwrap()
}

#[test]
fn what_a_loop_device_holds_costs_it_no_write_when_asked() {
    let Some(device) = Loop::new(76 * MIB) else {
        return;
    };
    let mut image = with_zeros();
    let written_for = |image: &[u8]| {
        let before = sectors_written(&device);
        let file = compress(image);
        let target = HostDevice::new(device.open(), "the slot").unwrap();
        let options = Options {
            compare_before_write: true,
            ..Options::default()
        };
        install_from(
            Start::at_the_beginning(),
            &mut &file[..],
            &target,
            &expect(sha256(image)),
            &options,
            &mut |_| ControlFlow::Continue(()),
        )
        .unwrap();
        sectors_written(&device) - before
    };
    let all = written_for(&image);
    assert!(all >= 5 * MIB as u64 / 512, "{all}: nothing is counted");
    assert_eq!(written_for(&image), 0);
    // Two pages that differ, of which one was a zero.
    image[MIB] ^= 1;
    image[40 * MIB + 5] = 1;
    assert_eq!(written_for(&image), 2 * 4096 / 512);
}

#[test]
fn zeros_are_holes_in_a_file() {
    let image = with_zeros();
    let file = compress(&image);
    let slot = filled(76 * MIB);
    let blocks = || slot.as_file().metadata().unwrap().blocks() * 512;
    let before = blocks();
    let target = HostDevice::new(open(slot.path(), OFlags::empty()).unwrap(), "slot.img").unwrap();
    install_quietly(&file, &target, &expect(sha256(&image))).unwrap();
    assert!(before - blocks() >= 69 * MIB as u64);
    assert!(fs::read(slot.path()).unwrap()[..image.len()] == image);
}

/// What `BLKZEROOUT` has made is read back from the medium too.
#[test]
fn a_bit_flipped_among_cleared_zeros_is_caught() {
    let Some(device) = Loop::new(76 * MIB) else {
        return;
    };
    let file = compress(&with_zeros());
    let offset = 40 * MIB as u64 + 5;
    let rotting = BitRot {
        device: HostDevice::new(device.open(), "the slot").unwrap(),
        medium: device.backing.as_file(),
        offset,
        after_flush: 0,
        flushes: AtomicUsize::new(0),
    };
    match install_quietly(&file, &rotting, &expect(sha256(&file))) {
        Err(InstallError::ReadBackMismatch { offset: found, .. }) => {
            assert_eq!(found, 40 * MIB as u64);
        }
        other => panic!("{other:?}"),
    }
}

/// The real device, but after the flush with this number the medium changes one bit behind the kernel's back.
struct BitRot<'a> {
    device: HostDevice,
    medium: &'a File,
    offset: u64,
    after_flush: usize,
    flushes: AtomicUsize,
}

impl Device for BitRot<'_> {
    fn name(&self) -> &str {
        self.device.name()
    }
    fn size(&self) -> u64 {
        self.device.size()
    }
    fn access(&self) -> &Access {
        self.device.access()
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.device.write_at(bytes, offset)
    }
    fn clear_at(&self, offset: u64, length: u64) -> io::Result<()> {
        self.device.clear_at(offset, length)
    }
    fn flush(&self) -> io::Result<()> {
        self.device.flush()?;
        if self.flushes.fetch_add(1, Ordering::Relaxed) == self.after_flush {
            let mut byte = [0];
            self.medium.read_exact_at(&mut byte, self.offset)?;
            byte[0] ^= 4;
            self.medium.write_all_at(&byte, self.offset)?;
            self.medium.sync_all()?;
        }
        Ok(())
    }
    fn read_back_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.device.read_back_at(buffer, offset)
    }
    fn drop_cache(&self) -> io::Result<()> {
        self.device.drop_cache()
    }
}

#[test]
fn a_bit_flipped_on_the_medium_is_caught() {
    let image = image(LENGTH);
    let file = compress(&image);
    // In the first epoch, and in the last sector, which goes another way.
    for (after_flush, offset) in [(0, 3 * MIB as u64 + 17), (1, LENGTH as u64 - 1)] {
        for buffered in [false, true] {
            let Some(device) = Loop::new(LENGTH.next_multiple_of(MIB)) else {
                return;
            };
            let target = if buffered {
                HostDevice::buffered(device.open(), "the slot", "asked for")
            } else {
                HostDevice::new(device.open(), "the slot")
            };
            let rotting = BitRot {
                device: target.unwrap(),
                medium: device.backing.as_file(),
                offset,
                after_flush,
                flushes: AtomicUsize::new(0),
            };
            match install_quietly(&file, &rotting, &expect(sha256(&file))) {
                Err(InstallError::ReadBackMismatch {
                    offset: found,
                    length,
                    ..
                }) => assert!((found..found + length).contains(&offset), "{found}"),
                other => panic!("buffered: {buffered}: {other:?}"),
            }
        }
    }
}

#[test]
fn a_regular_file_is_a_device_too() {
    let image = image(2 * MIB + 300);
    let file = compress(&image);
    let slot = filled(3 * MIB);
    for buffered in [false, true] {
        let opened = open(slot.path(), OFlags::empty()).unwrap();
        let target = if buffered {
            HostDevice::buffered(opened, "slot.img", "asked for")
        } else {
            HostDevice::new(opened, "slot.img")
        }
        .unwrap();
        let installed = install_quietly(&file, &target, &expect(sha256(&file))).unwrap();
        if buffered {
            let why = "asked for".to_owned();
            assert_eq!(installed.access, Access::Buffered { why });
        }
        let now = fs::read(slot.path()).unwrap();
        assert_eq!(now.len(), 3 * MIB);
        assert!(now[..image.len()] == image);
        assert!(now[image.len()..].iter().all(|byte| *byte == FILLER));
    }
}

/// ramfs refuses `O_DIRECT`.
struct Ramfs(tempfile::TempDir);

impl Ramfs {
    fn new() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mount = Command::new("mount")
            .args(["-t", "ramfs", "ramfs"])
            .arg(folder.path())
            .output()
            .unwrap();
        if !mount.status.success() {
            skipped(&mount.stderr);
            return None;
        }
        Some(Self(folder))
    }
}

impl Drop for Ramfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn where_direct_io_is_refused_it_is_said() {
    let Some(ramfs) = Ramfs::new() else {
        return;
    };
    let path = ramfs.0.path().join("slot.img");
    fs::write(&path, vec![FILLER; MIB]).unwrap();
    let image = image(MIB);
    let file = compress(&image);
    let target = HostDevice::new(open(&path, OFlags::empty()).unwrap(), "slot.img").unwrap();
    let installed = install_quietly(&file, &target, &expect(sha256(&file))).unwrap();
    let Access::Buffered { why } = installed.access else {
        panic!("ramfs took O_DIRECT");
    };
    assert!(why.contains("O_DIRECT"), "{why}");
    assert!(fs::read(&path).unwrap() == image);
}

/// A file that ends inside a page and is filled to its last byte.
#[test]
fn a_file_of_any_length_can_be_filled() {
    let image = image(MIB + 4096 + 5);
    let file = compress(&image);
    let slot = filled(image.len());
    let target = HostDevice::new(open(slot.path(), OFlags::empty()).unwrap(), "slot.img").unwrap();
    install_quietly(&file, &target, &expect(sha256(&image))).unwrap();
    assert!(fs::read(slot.path()).unwrap() == image);
}

#[test]
fn what_cannot_be_a_slot_is_refused() {
    let slot = filled(4096);
    let kind = |file| HostDevice::new(file, "slot").unwrap_err().kind();
    let read_only = File::open(slot.path()).unwrap();
    assert_eq!(kind(read_only), io::ErrorKind::PermissionDenied);
    let write_only = OpenOptions::new().write(true).open(slot.path()).unwrap();
    assert_eq!(kind(write_only), io::ErrorKind::PermissionDenied);
    let folder = File::open(env!("CARGO_TARGET_TMPDIR")).unwrap();
    assert_eq!(kind(folder), io::ErrorKind::InvalidInput);
    let null = open(Path::new("/dev/null"), OFlags::empty()).unwrap();
    assert_eq!(kind(null), io::ErrorKind::InvalidInput);
}

/// Whoever looks into the slot next must see the medium, not what somebody has read from it earlier.
#[test]
fn the_cache_can_be_dropped() {
    let Some(device) = Loop::new(MIB) else {
        return;
    };
    let view = open(&device.path, OFlags::empty()).unwrap();
    let byte = || {
        let mut byte = [0];
        view.read_exact_at(&mut byte, 5).unwrap();
        byte[0]
    };
    assert_eq!(byte(), FILLER);
    device.backing.as_file().write_all_at(&[1], 5).unwrap();
    device.backing.as_file().sync_all().unwrap();
    assert_eq!(
        byte(),
        FILLER,
        "this kernel caches nothing: the test proves nothing"
    );
    let target = HostDevice::new(device.open(), "slot").unwrap();
    target.drop_cache().unwrap();
    assert_eq!(byte(), 1);
}

/// The caller goes on with the file that it opened: it must be where it was.
#[test]
fn the_callers_file_stays_where_it_was() {
    let Some(device) = Loop::new(MIB) else {
        return;
    };
    let mut opened = device.open();
    opened.seek(SeekFrom::Start(77)).unwrap();
    let mut back = HostDevice::new(opened, "slot").unwrap().into_file();
    assert_eq!(back.stream_position().unwrap(), 77);
}
