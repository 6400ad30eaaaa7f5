//! The memory of an installation is bounded, whatever the image.
//!
//! In a file, that is a process, of its own: the peak of the resident set is the process's.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::{fs, fs::OpenOptions, io, io::Read};

use monok8s_image::HostDevice;
use support::{compress_unsized, expect, install_quietly, sha256};

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

#[test]
fn at_most_64_mib_beyond_the_decoders_window() {
    const LENGTH: u64 = 512 << 20;
    // Level 1's window is 512 KiB.
    let file = compress_unsized(io::repeat(9).take(LENGTH));
    let slot = tempfile::NamedTempFile::new().unwrap();
    slot.as_file().set_len(LENGTH).unwrap();
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .open(slot.path())
        .unwrap();
    let device = HostDevice::new(opened, "slot").unwrap();
    let before = peak();
    install_quietly(&file, &device, &expect(sha256(&file))).unwrap();
    let more = peak() - before;
    assert!(more < 64 << 20, "{more} bytes more");
}
