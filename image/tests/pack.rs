//! Packing: a standard file, the same every time, that says of itself what it is.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests"
)]

mod support;

use std::{
    io::{self, Read, Write},
    ops::ControlFlow,
    process::{Command, Stdio},
};

use monok8s_image::{
    ChecksumMatched, InspectError, InstallError, PackError, Packed, SeekEntry, SeekTable,
    WindowLimit, inspect, pack, read_seek_table, write_seek_table,
};
use support::{MIB, Memory, compress, expect, image, install_quietly, sha256};

fn packed(image: &[u8]) -> (Vec<u8>, Packed) {
    let mut file = Vec::new();
    let packed = pack(&mut &image[..], &mut file, 3, &mut |_| {
        ControlFlow::Continue(())
    })
    .unwrap();
    (file, packed)
}

/// Not a whole number of frames, pages or sectors.
const LENGTH: usize = 21 * MIB + 777;

#[test]
fn plain_zstd_expands_it() {
    let image = image(LENGTH);
    let (file, said) = packed(&image);
    let mut zstd = Command::new("zstd")
        .args(["-d", "-c", "-q"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = zstd.stdin.take().unwrap();
    let writing = std::thread::spawn({
        let file = file.clone();
        move || stdin.write_all(&file).unwrap()
    });
    let mut expanded = Vec::new();
    zstd.stdout
        .take()
        .unwrap()
        .read_to_end(&mut expanded)
        .unwrap();
    writing.join().unwrap();
    assert!(zstd.wait().unwrap().success());
    assert!(expanded == image);
    assert_eq!(
        said,
        Packed {
            image_bytes: LENGTH as u64,
            file_bytes: file.len() as u64,
            frames: 6,
            image_digest: sha256(&image),
            file_digest: sha256(&file),
        }
    );
}

#[test]
fn the_same_image_makes_the_same_file() {
    let image = image(LENGTH);
    let (first, _) = packed(&image);
    for _ in 0..3 {
        assert!(packed(&image).0 == first);
    }
}

/// Each frame can be decoded alone, from where the table says that it is.
#[test]
fn the_seek_table_tells_where_the_frames_are() {
    let image = image(LENGTH);
    let (file, _) = packed(&image);
    let (entries, length) = read_seek_table(&file).unwrap();
    let (mut from, mut expanded) = (0, 0);
    for entry in &entries {
        let frame = &file[from..from + entry.compressed as usize];
        let content = zstd::bulk::decompress(frame, 4 * MIB).unwrap();
        assert_eq!(content.len(), entry.expanded as usize);
        assert!(content == image[expanded..expanded + content.len()]);
        let last = frame.last_chunk().unwrap();
        assert_eq!(entry.checksum, Some(u32::from_le_bytes(*last)));
        from += frame.len();
        expanded += content.len();
    }
    assert_eq!((from + length, expanded), (file.len(), image.len()));
}

#[test]
fn it_installs_by_either_checksum_and_reads_the_slot_once() {
    let image = image(LENGTH);
    let (file, said) = packed(&image);
    for (checksum, matched) in [
        (said.image_digest, ChecksumMatched::Image),
        (said.file_digest, ChecksumMatched::File),
    ] {
        let device = Memory::new(LENGTH + MIB);
        let installed = install_quietly(&file, &device, &expect(checksum)).unwrap();
        assert_eq!(installed.matched, matched);
        assert_eq!(installed.image_digest, Some(said.image_digest));
        assert!(device.medium()[..LENGTH] == image);
        assert_eq!(device.read(), LENGTH.next_multiple_of(4096) as u64);
    }
}

#[test]
fn inspected_it_is_what_was_packed() {
    let image = image(LENGTH);
    let (file, said) = packed(&image);
    let mut expanded = Vec::new();
    let found = inspect(&mut &file[..], WindowLimit::default(), &mut expanded).unwrap();
    assert!(expanded == image);
    assert_eq!(found.image_digest, said.image_digest);
    assert_eq!(found.file_digest, said.file_digest);
    assert_eq!(
        (found.frames, found.complete_frames, found.largest_frame),
        (6, 6, 4 * MIB as u64)
    );
    assert!(found.window <= 4 * MIB as u64);
    assert_eq!(found.seek_table, SeekTable::Right);

    let (file, sink) = (compress(&image), &mut io::sink());
    let found = inspect(&mut &file[..], WindowLimit::default(), sink).unwrap();
    assert_eq!((found.frames, found.seek_table), (1, SeekTable::None));
}

#[test]
fn a_seek_table_that_lies_is_told_and_proves_nothing() {
    let image = image(LENGTH);
    let (file, _) = packed(&image);
    let (entries, length) = read_seek_table(&file).unwrap();
    let frames = &file[..file.len() - length];
    let lies: [fn(&mut Vec<SeekEntry>); 5] = [
        |entries| entries[0].expanded ^= 1,
        // The sum stays.
        |entries| {
            entries[1].compressed += 5;
            entries[2].compressed -= 5;
        },
        |entries| entries[3].checksum = Some(7),
        |entries| entries.truncate(4),
        |entries| entries.push(entries[0]),
    ];
    for (number, lie) in lies.into_iter().enumerate() {
        let mut entries = entries.clone();
        lie(&mut entries);
        let file = [frames, &write_seek_table(&entries)].concat();
        let found = inspect(&mut &file[..], WindowLimit::default(), &mut io::sink()).unwrap();
        assert_eq!(found.seek_table, SeekTable::Wrong, "{number}");
        // What is installed does not depend on it.
        let device = Memory::new(LENGTH);
        let installed = install_quietly(&file, &device, &expect(sha256(&image))).unwrap();
        assert_eq!(installed.matched, ChecksumMatched::Image, "{number}");
        assert!(device.medium() == image, "{number}");
    }
    // One without checksums says less and is no lie.
    let without = |entry: &SeekEntry| SeekEntry {
        checksum: None,
        ..*entry
    };
    let entries: Vec<_> = entries.iter().map(without).collect();
    let file = [frames, &write_seek_table(&entries)].concat();
    let found = inspect(&mut &file[..], WindowLimit::default(), &mut io::sink()).unwrap();
    assert_eq!(found.seek_table, SeekTable::Right);
}

/// A table that is right of frames that are not what was packed: the image's checksum decides.
#[test]
fn right_checksums_in_a_seek_table_are_no_proof() {
    let mut other = image(LENGTH);
    let promised = sha256(&other);
    other[9 * MIB] ^= 1;
    let (file, _) = packed(&other);
    let error = install_quietly(&file, &Memory::new(LENGTH), &expect(promised)).unwrap_err();
    assert!(
        matches!(error, InstallError::ChecksumMismatch { .. }),
        "{error}"
    );
}

#[test]
fn what_is_no_image_is_not_inspected() {
    let html = b"<!DOCTYPE html>";
    let error = inspect(&mut &html[..], WindowLimit::default(), &mut io::sink()).unwrap_err();
    assert!(error.to_string().contains("HTML"), "{error}");
    let (file, _) = packed(&image(LENGTH));
    let cut = inspect(
        &mut &file[..file.len() / 2],
        WindowLimit::default(),
        &mut io::sink(),
    );
    assert!(matches!(cut, Err(InspectError::Stream { .. })));
}

struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other("broken"))
    }
}

#[test]
fn what_cannot_be_packed() {
    let pack = |image: &mut (dyn Read + Send), file: &mut dyn Write, level, stop| {
        let go_on = if stop {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        };
        pack(image, file, level, &mut |_| go_on).unwrap_err()
    };
    let image = image(9 * MIB);
    let error = pack(&mut io::empty(), &mut io::sink(), 3, false);
    assert!(matches!(error, PackError::Empty), "{error}");
    let error = pack(&mut (&image[..]).chain(Broken), &mut io::sink(), 3, false);
    assert!(
        matches!(error, PackError::Read { image_bytes, .. } if image_bytes == 9 * MIB as u64),
        "{error}"
    );
    let error = pack(&mut &image[..], &mut &mut [0; 10][..], 3, false);
    assert!(
        matches!(error, PackError::Write { file_bytes: 0, .. }),
        "{error}"
    );
    let error = pack(&mut &image[..], &mut io::sink(), 3, true);
    assert!(matches!(error, PackError::Cancelled), "{error}");
    let error = pack(&mut &image[..], &mut io::sink(), 99, false);
    assert!(matches!(error, PackError::NoSuchLevel { .. }), "{error}");
}
