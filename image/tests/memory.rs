//! The memory of an installation is bounded, whatever the image.
//!
//! In a file, that is a process, of its own: the peak of the resident set is the process's.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::{fs, fs::OpenOptions, io, io::Read, ops::ControlFlow};

use monok8s_image::{HostDevice, Options, Progress, Start, install_from, pack};
use support::{MIB, compress_unsized, expect, gzip, noise, sha256, xz};

/// The peak of this process's resident set, in bytes (`proc_pid_status(5)`).
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    kilobytes << 10
}

/// An image that is not compressed.
fn raw() -> Vec<u8> {
    let mut image = noise(96 * MIB, 5);
    // No text and no other kind.
    image[..4096].fill(0);
    image
}

/// Begins the peak anew at what is resident now (`proc_pid_clear_refs(5)`), and returns it.
fn forget_the_peak() -> u64 {
    fs::write("/proc/self/clear_refs", "5").unwrap();
    peak()
}

/// One test, since the peak is the process's: a stream of one frame in each format, and many small frames that do not
/// compress, which is when most is on its way.
#[test]
fn at_most_64_mib_beyond_the_decoders_window() {
    const LENGTH: u64 = 512 << 20;
    // Level 1's window is 512 KiB.
    let streamed = compress_unsized(io::repeat(9).take(LENGTH));
    let image = noise(160 * MIB, 3);
    let mut packed = Vec::new();
    let go_on = &mut |_: Progress| ControlFlow::Continue(());
    let packing = &mut |_| ControlFlow::Continue(());
    pack(&mut &image[..], &mut packed, 1, packing).unwrap();
    drop(image);
    // Of the same, xz -0 keeps 256 KiB and gzip 32.
    let zeros = || io::repeat(9).take(LENGTH);
    for (file, compare_before_write) in [
        (&streamed, false),
        (&packed, false),
        (&packed, true),
        (&gzip(zeros()), false),
        (&xz(zeros()), false),
        (&raw(), false),
    ] {
        let slot = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        slot.as_file().set_len(LENGTH).unwrap();
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .open(slot.path())
            .unwrap();
        let device = HostDevice::new(opened, "slot").unwrap();
        let before = forget_the_peak();
        let options = Options {
            compare_before_write,
            ..Options::default()
        };
        install_from(
            Start::at_the_beginning(),
            &mut &file[..],
            &device,
            &expect(sha256(file)),
            &options,
            go_on,
        )
        .unwrap();
        let more = peak() - before;
        assert!(more < 64 << 20, "{more} bytes more");
    }
}
