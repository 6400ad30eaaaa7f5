//! Every way in which an installation can go wrong, one at a time, on a device of memory.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod support;

use std::{
    io::{self, Read},
    ops::ControlFlow,
    sync::mpsc,
};

use monok8s_image::{
    ChecksumMatched, Digest, Done, Expectation, InstallError, Progress, Stage, WindowLimit, install,
};
use support::{
    ConnectionReset, FILLER, Fault, MIB, Memory, Portions, compress, compress_unsized, expect,
    gzip, image, install_quietly, noise, recorder, sha256, xz,
};

/// An epoch is 64 MiB; this is two of them and a piece that is neither a whole MiB nor a whole sector.
const LENGTH: usize = 130 * MIB + 1234;

/// Read back and compared as one.
const PIECE: u64 = 2 * MIB as u64;

#[test]
fn the_slot_holds_the_image_and_the_rest_is_left_alone() {
    let image = image(LENGTH);
    let file = compress(&image);
    let device = Memory::new(LENGTH + MIB);
    let mut seen = Vec::new();
    let installed = install(
        &mut &file[..],
        &device,
        &expect(sha256(&file)),
        &mut recorder(&mut seen),
    )
    .unwrap();

    assert_eq!(installed.matched, ChecksumMatched::File);
    assert_eq!(installed.file_digest, sha256(&file));
    assert_eq!(installed.image_digest, None);
    assert_eq!(installed.file_bytes, file.len() as u64);
    assert_eq!(installed.image_bytes, LENGTH as u64);
    let medium = device.medium();
    assert!(medium[..LENGTH] == image);
    assert!(medium[LENGTH..].iter().all(|byte| *byte == FILLER));
    assert_eq!(device.written(), LENGTH as u64);

    assert_eq!(seen[0], Progress::default());
    let last = Progress {
        stage: Stage::Verifying,
        file_bytes: file.len() as u64,
        written: LENGTH as u64,
        proven: LENGTH as u64,
        hashed: 0,
        total: Some(LENGTH as u64),
    };
    assert_eq!(*seen.last().unwrap(), last);
    for pair in seen.windows(2) {
        let counts = |p: &Progress| [p.file_bytes, p.written, p.proven];
        assert!((0..3).all(|n| counts(&pair[0])[n] <= counts(&pair[1])[n]));
        assert!(pair[1].proven <= pair[1].written);
        assert_ne!(pair[0], pair[1]);
    }
}

/// Each epoch is proven before the one after next is begun, not all at the end.
#[test]
fn read_back_trails_by_epochs() {
    let image = image(LENGTH);
    let device = Memory::new(LENGTH);
    install_quietly(&compress(&image), &device, &expect(sha256(&image))).unwrap();
    // Three epochs and the end.
    assert_eq!(device.flushes(), 4);

    let device = Memory::with(LENGTH, &[Fault::Flips(1000, 3)]);
    let file = compress(&image);
    let error = install_quietly(&file, &device, &expect(sha256(&file))).unwrap_err();
    let InstallError::ReadBackMismatch {
        device: name,
        offset,
        length,
        proven,
    } = error
    else {
        panic!("{error}");
    };
    assert_eq!((&*name, offset, length), ("/dev/faulty3", 0, PIECE));
    assert_eq!(
        proven,
        Done {
            bytes: 0,
            total: Some(LENGTH as u64)
        }
    );
}

#[test]
fn the_checksum_may_be_the_images() {
    let image = image(3 * MIB + 5);
    let device = Memory::new(4 * MIB);
    let mut seen = Vec::new();
    let installed = install(
        &mut &compress(&image)[..],
        &device,
        &expect(sha256(&image)),
        &mut recorder(&mut seen),
    )
    .unwrap();
    assert_eq!(installed.matched, ChecksumMatched::Image);
    assert_eq!(installed.image_digest, Some(sha256(&image)));
    assert_eq!(seen.last().unwrap().hashed, image.len() as u64);
}

#[test]
fn another_checksum_is_a_mismatch_that_names_all_three() {
    let image = image(MIB);
    let file = compress(&image);
    let expected = Digest([7; 32]);
    let device = Memory::new(MIB);
    let error = install_quietly(&file, &device, &expect(expected)).unwrap_err();
    let InstallError::ChecksumMismatch { .. } = error else {
        panic!("{error}");
    };
    let message = error.to_string();
    for digest in [expected, sha256(&file), sha256(&image)] {
        assert!(message.contains(&digest.to_string()), "{message}");
    }
}

/// An empty ext4 file system of 4 MiB.
fn ext4() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("root.ext4");
    std::fs::File::create(&path)
        .unwrap()
        .set_len(4 << 20)
        .unwrap();
    let status = std::process::Command::new("mkfs.ext4")
        .arg("-q")
        .arg(&path)
        .status()
        .unwrap();
    assert!(status.success());
    std::fs::read(&path).unwrap()
}

/// One image in every format, as one frame and as two.
fn formats(image: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let (one, other) = image.split_at(image.len() / 3);
    vec![
        ("zstd", compress(image)),
        ("zstd frames", [compress(one), compress(other)].concat()),
        ("gzip", gzip(image)),
        ("gzip members", [gzip(one), gzip(other)].concat()),
        ("xz", xz(image)),
        (
            "xz streams",
            [&xz(one)[..], &[0; 4], &xz(other), &[0; 8]].concat(),
        ),
        ("uncompressed", image.to_vec()),
    ]
}

#[test]
fn every_format_is_told_by_its_content_and_proven_by_either_checksum() {
    for image in [ext4(), image(3 * MIB + 5)] {
        for (format, file) in formats(&image) {
            for (checksum, matched) in [
                (sha256(&file), ChecksumMatched::File),
                (sha256(&image), ChecksumMatched::Image),
            ] {
                let device = Memory::new(5 * MIB);
                let mut source = Portions::new(&file, vec![1, 700, 100_000]);
                let installed = install(&mut source, &device, &expect(checksum), &mut |_| {
                    ControlFlow::Continue(())
                })
                .unwrap();
                if file != image {
                    assert_eq!(installed.matched, matched, "{format}");
                }
                assert_eq!(installed.file_bytes, file.len() as u64);
                assert_eq!(installed.image_bytes, image.len() as u64);
                assert!(device.medium()[..image.len()] == image, "{format}");
            }
        }
    }
}

#[test]
fn what_is_no_image_is_named_and_nothing_is_written() {
    let mut disk = vec![0; MIB];
    disk[510..520].copy_from_slice(b"\x55\xAAEFI PART");
    let html = b"<!DOCTYPE html><html><body>Please log in</body></html>";
    let long_html = [&html[..], &vec![b' '; 100_000]].concat();
    let table: [(&[u8], &str); 12] = [
        (html, "the server sent HTML"),
        (&long_html, "the server sent HTML"),
        (b"{\"error\": \"no such image\"}", "JSON"),
        (&[b'x'; 10_000], "text"),
        (b"BZh91AY&SY\0\0\0", "bzip2"),
        (&disk, "partition table"),
        (&ext4()[..4000], "too short"),
        (b"", "empty file"),
        (&compress(b""), "empty image"),
        (&gzip(&b""[..]), "empty image"),
        (&xz(&b""[..]), "empty image"),
        (b"\x50\x2A\x4D\x18\x04\0\0\0abcd", "skippable frames only"),
    ];
    for (file, word) in table {
        let device = Memory::new(8 * MIB);
        // Byte by byte: what a file is must not depend on how it comes.
        let mut source = Portions::new(file, vec![1, 700]);
        let error = install(&mut source, &device, &expect(sha256(file)), &mut |_| {
            ControlFlow::Continue(())
        })
        .unwrap_err();
        let InstallError::NotAnImage { looks_like } = error else {
            panic!("{word}: {error}");
        };
        assert!(looks_like.contains(word), "{looks_like} for {word}");
        assert_eq!(device.written(), 0);
    }
}

/// Where the file ends early nobody can take it for whole, and the message says how far it came. Of an image that is not
/// compressed only the promises tell.
#[test]
fn a_file_of_any_format_that_ends_early_is_told() {
    let image = image(2 * MIB);
    for (format, file) in formats(&image) {
        let cut = &file[..file.len() - 9];
        let device = Memory::new(2 * MIB);
        let promised = Expectation {
            size: Some(image.len() as u64),
            ..expect(sha256(&file))
        };
        match (format, install_quietly(cut, &device, &promised)) {
            ("uncompressed", Err(InstallError::SizeMismatch { found, .. })) => {
                assert_eq!(found, cut.len() as u64);
            }
            // What is missing is no whole number of zeros.
            (
                _,
                Err(InstallError::DecodeFailed {
                    file_bytes,
                    detail,
                    expanded,
                }),
            ) => {
                assert_eq!(file_bytes, cut.len() as u64, "{format}");
                assert!(detail.contains("ends"), "{format}: {detail}");
                assert_eq!(expanded.total, promised.size, "{format}");
            }
            (format, other) => panic!("{format}: {other:?}"),
        }
    }
    let error = install_quietly(
        &image[..image.len() - 1],
        &Memory::new(2 * MIB),
        &expect(sha256(&image)),
    );
    assert!(
        matches!(error, Err(InstallError::ChecksumMismatch { .. })),
        "{error:?}"
    );
}

#[test]
fn what_follows_an_image_of_any_format_is_refused() {
    let image = image(2 * MIB);
    for (format, file) in formats(&image) {
        let followed = [&file, &b"\n<html>"[..]].concat();
        let device = Memory::new(3 * MIB);
        let promised = Expectation {
            size: Some(image.len() as u64),
            ..expect(sha256(&image))
        };
        match (format, install_quietly(&followed, &device, &promised)) {
            ("uncompressed", Err(InstallError::SizeMismatch { .. }))
            | (_, Err(InstallError::DecodeFailed { .. })) => {}
            (format, other) => panic!("{format}: {other:?}"),
        }
    }
}

#[test]
fn a_cut_file_fails_to_decode() {
    let image = image(2 * MIB);
    let file = compress(&image);
    for length in [4, 5, file.len() / 2, file.len() - 1] {
        let cut = &file[..length];
        let error = install_quietly(cut, &Memory::new(2 * MIB), &expect(sha256(cut))).unwrap_err();
        let InstallError::DecodeFailed {
            file_bytes, detail, ..
        } = error
        else {
            panic!("{error}");
        };
        assert_eq!(file_bytes, length as u64);
        assert!(detail.contains("ends"), "{detail}");
    }
}

#[test]
fn a_damaged_file_fails_to_decode() {
    let image = image(2 * MIB);
    let mut file = compress(&image);
    let middle = file.len() / 2;
    file[middle] ^= 0x10;
    let error = install_quietly(&file, &Memory::new(2 * MIB), &expect(sha256(&file))).unwrap_err();
    assert!(
        matches!(error, InstallError::DecodeFailed { .. }),
        "{error}"
    );
}

#[test]
fn a_size_that_is_wrong_is_found_as_early_as_it_can_be() {
    let image = image(2 * MIB);
    let promise = |file: &[u8], size| Expectation {
        size: Some(size),
        ..expect(sha256(file))
    };
    let try_it = |file: &[u8], size| {
        let device = Memory::new(4 * MIB);
        match install_quietly(file, &device, &promise(file, size)) {
            Err(InstallError::SizeMismatch {
                expected,
                found,
                at_least,
            }) => {
                assert_eq!(expected, size);
                (found, at_least, device.written())
            }
            other => panic!("{other:?}"),
        }
    };
    let length = image.len() as u64;
    // The frame's header says more than was promised: before the first byte.
    assert_eq!(try_it(&compress(&image), length - 1), (length, true, 0));
    // The header does not say: at the bound.
    let unsized_file = compress_unsized(&image[..]);
    let (found, at_least, written) = try_it(&unsized_file, length - 1);
    assert_eq!((found, at_least), (length, true));
    assert!(written < length);
    // Less than promised: at the end, whatever the header says.
    for file in [compress(&image), unsized_file] {
        let (found, at_least, _) = try_it(&file, length + 1);
        assert_eq!((found, at_least), (length, false));
    }
}

#[test]
fn an_image_larger_than_the_slot_is_refused_with_both_sizes() {
    let image = image(2 * MIB);
    let capacity = image.len() - 1;
    let file = compress(&image);
    let sized = Expectation {
        size: Some(image.len() as u64),
        ..expect(sha256(&file))
    };
    let unsized_file = compress_unsized(&image[..]);
    let known = Some(image.len() as u64);
    for (file, expectation, expected_size) in [
        // By the catalog's word (the reader is not even asked), by the frame's, at the bound.
        (&file, &sized, known),
        (&file, &expect(sha256(&file)), known),
        (&unsized_file, &expect(sha256(&unsized_file)), None),
    ] {
        let device = Memory::new(capacity);
        match install_quietly(file, &device, expectation) {
            Err(
                error @ InstallError::ImageTooLarge {
                    size,
                    capacity: slot,
                    ..
                },
            ) => {
                assert_eq!((size, slot), (expected_size, capacity as u64));
                let message = error.to_string();
                assert!(message.contains(&capacity.to_string()), "{message}");
                assert!(message.contains("/dev/faulty3"), "{message}");
            }
            other => panic!("{other:?}"),
        }
        if expected_size.is_some() {
            assert_eq!(device.written(), 0);
        }
    }
}

/// The second frame is the one that is too much.
#[test]
fn frames_are_added_up() {
    let image = image(2 * MIB);
    let file = [compress(&image), compress(&image)].concat();
    let device = Memory::new(3 * MIB);
    match install_quietly(&file, &device, &expect(sha256(&file))) {
        Err(InstallError::ImageTooLarge { size, .. }) => assert_eq!(size, Some(4 * MIB as u64)),
        other => panic!("{other:?}"),
    }
    let device = Memory::new(4 * MIB);
    install_quietly(&file, &device, &expect(sha256(&file))).unwrap();
    assert!(device.medium() == [&image[..], &image[..]].concat());
}

/// A small frame whose file is larger than any memory that is there for it: a header for every byte.
#[test]
fn a_frame_that_wastes_space_is_decoded_all_the_same() {
    let wasted = noise(2 * MIB, 5);
    // RFC 8878: magic number, single segment with four bytes of content size, raw blocks.
    let mut frame = vec![0x28, 0xB5, 0x2F, 0xFD, 0xA0];
    frame.extend((wasted.len() as u32).to_le_bytes());
    for (at, byte) in wasted.iter().enumerate() {
        let last = u8::from(at + 1 == wasted.len());
        frame.extend([1 << 3 | last, 0, 0, *byte]);
    }
    assert!(frame.len() > 8 * MIB);
    let small = image(MIB + 5);
    let file = [&compress(&small)[..], &frame, &compress(&small), &frame].concat();
    let whole = [&small[..], &wasted, &small, &wasted].concat();
    let device = Memory::new(whole.len());
    let installed = install_quietly(&file, &device, &expect(sha256(&file))).unwrap();
    assert_eq!(installed.file_bytes, file.len() as u64);
    assert!(device.medium() == whole);
}

#[test]
fn a_bomb_is_stopped_at_the_bound() {
    // Memory panics when it is written past its end.
    let zeros = || io::repeat(0).take(256 << 20);
    for bomb in [compress_unsized(zeros()), gzip(zeros()), xz(zeros())] {
        assert!(bomb.len() < 4 * MIB);
        let device = Memory::new(16 * MIB);
        let error = install_quietly(&bomb, &device, &expect(sha256(&bomb))).unwrap_err();
        assert!(
            matches!(error, InstallError::ImageTooLarge { size: None, .. }),
            "{error}"
        );
        let device = Memory::new(16 * MIB);
        let promised = Expectation {
            size: Some(8 * MIB as u64),
            ..expect(sha256(&bomb))
        };
        let error = install_quietly(&bomb, &device, &promised).unwrap_err();
        assert!(
            matches!(error, InstallError::SizeMismatch { .. }),
            "{error}"
        );
        assert!(device.written() <= 8 * MIB as u64);
    }
}

#[test]
fn a_window_over_the_limit_is_refused_before_the_first_byte() {
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(28).unwrap();
    io::copy(&mut io::repeat(1).take(1 << 20), &mut encoder).unwrap();
    let file = encoder.finish().unwrap();
    let device = Memory::new(2 * MIB);
    match install_quietly(&file, &device, &expect(sha256(&file))) {
        Err(InstallError::WindowTooLarge { window, limit }) => {
            assert_eq!((window, limit), (256 << 20, 128 << 20));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(device.written(), 0);

    install_quietly(&file, &device, &wider_for(&file)).unwrap();

    // xz asks for a dictionary.
    let mut options = liblzma::stream::LzmaOptions::new_preset(0).unwrap();
    options.dict_size(192 << 20);
    let mut filters = liblzma::stream::Filters::new();
    filters.lzma2(&options);
    let check = liblzma::stream::Check::Crc64;
    let stream = liblzma::stream::Stream::new_stream_encoder(&filters, check).unwrap();
    let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
    io::copy(&mut io::repeat(1).take(1 << 20), &mut encoder).unwrap();
    let file = encoder.finish().unwrap();
    let device = Memory::new(2 * MIB);
    match install_quietly(&file, &device, &expect(sha256(&file))) {
        Err(InstallError::WindowTooLarge { window, limit }) => {
            assert_eq!((window, limit), (192 << 20, 128 << 20));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(device.written(), 0);
    install_quietly(&file, &device, &wider_for(&file)).unwrap();
}

fn wider_for(file: &[u8]) -> Expectation {
    Expectation {
        window_limit: WindowLimit(256 << 20),
        ..expect(sha256(file))
    }
}

#[test]
fn a_device_that_fails_to_write_is_named_with_offset_and_bytes() {
    let image = image(70 * MIB);
    let file = compress(&image);
    for at in [0, 4096, 66 * MIB as u64 + 512] {
        for (fault, kind) in [
            (Fault::WriteFails(at), "os error 5"),
            (Fault::WritesNothing(at), "write zero"),
        ] {
            let device = Memory::with(70 * MIB, &[fault]);
            let error = install_quietly(&file, &device, &expect(sha256(&file))).unwrap_err();
            let message = error.to_string();
            let InstallError::WriteFailed {
                operation, offset, ..
            } = error
            else {
                panic!("{error}");
            };
            assert_eq!(operation, "write");
            // One that takes nothing refuses the whole request.
            let block = at / (2 * PIECE) * (2 * PIECE);
            assert!(offset == at || (offset == block && kind == "write zero"));
            for word in [
                "/dev/faulty3",
                &offset.to_string(),
                "of 73400320 bytes",
                kind,
            ] {
                assert!(message.contains(word), "{word} is not in: {message}");
            }
        }
    }
}

#[test]
fn short_and_interrupted_writes_and_reads_are_carried_on() {
    let mut image = image(2 * MIB + 77);
    image[MIB..MIB + MIB / 2].fill(0);
    let file = compress(&image);
    let faults = [
        Fault::ShortWrites(100_001),
        Fault::ShortReads(50_003),
        Fault::Interrupts,
    ];
    let device = Memory::with(3 * MIB, &faults);
    install_quietly(&file, &device, &expect(sha256(&image))).unwrap();
    assert!(device.medium()[..image.len()] == image);
}

#[test]
fn a_flush_that_fails() {
    let image = image(66 * MIB);
    let file = compress(&image);
    for number in [0, 1] {
        let device = Memory::with(66 * MIB, &[Fault::FlushFails(number)]);
        let error = install_quietly(&file, &device, &expect(sha256(&file))).unwrap_err();
        let InstallError::WriteFailed {
            operation, offset, ..
        } = error
        else {
            panic!("{error}");
        };
        assert_eq!(
            (operation, offset),
            ("flush", number as u64 * 64 * MIB as u64)
        );
    }
}

/// Writes were accepted and flushes said that they worked.
#[test]
fn a_device_that_loses_what_it_accepted_is_caught() {
    let image = image(66 * MIB);
    let file = compress(&image);
    for fault in [
        Fault::FlushLoses(0),
        Fault::Loses(5),
        Fault::Loses(65 * MIB as u64),
    ] {
        let device = Memory::with(66 * MIB, &[fault]);
        let error = install_quietly(&file, &device, &expect(sha256(&file))).unwrap_err();
        assert!(
            matches!(error, InstallError::ReadBackMismatch { .. }),
            "{fault:?}: {error}"
        );
    }
}

#[test]
fn a_medium_that_changes_or_misplaces_is_caught_wherever_it_does() {
    let image = image(4 * MIB + 100);
    let file = compress(&image);
    for at in [0, 4095, MIB as u64, PIECE, 4 * MIB as u64 + 99] {
        for fault in [Fault::Flips(at, 0), Fault::Misplaced(at)] {
            let device = Memory::with(5 * MIB, &[fault]);
            let error = install_quietly(&file, &device, &expect(sha256(&file))).unwrap_err();
            let InstallError::ReadBackMismatch { offset, .. } = error else {
                panic!("{fault:?}: {error}");
            };
            assert_eq!(offset, at / PIECE * PIECE);
        }
    }
}

#[test]
fn a_device_that_cannot_be_read_proves_nothing() {
    let image = image(4 * MIB);
    let file = compress(&image);
    let device = Memory::with(4 * MIB, &[Fault::ReadFails(PIECE)]);
    match install_quietly(&file, &device, &expect(sha256(&file))) {
        Err(InstallError::ReadBackFailed { offset, proven, .. }) => {
            assert_eq!(offset, PIECE);
            assert!(proven.bytes <= offset);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_sources_own_error_comes_through() {
    let image = image(4 * MIB);
    let file = compress(&image);
    for fails_at in [0, 1, file.len() / 2, file.len()] {
        let mut source = Portions::new(&file, vec![1000, 3]);
        source.fails_at = Some(fails_at);
        let device = Memory::new(4 * MIB);
        let error = install(&mut source, &device, &expect(sha256(&file)), &mut |_| {
            ControlFlow::Continue(())
        })
        .unwrap_err();
        let InstallError::Source { file_bytes, error } = error else {
            panic!("{error}");
        };
        assert_eq!(file_bytes, fails_at as u64);
        let own = error.get_ref().unwrap().downcast_ref();
        assert_eq!(own, Some(&ConnectionReset));
    }
}

/// A panic of the caller's code comes out on the calling thread; nothing waits for ever.
#[test]
fn a_source_that_panics_takes_nothing_with_it() {
    struct Panics;
    impl Read for Panics {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            panic!("of the source");
        }
    }
    let caught = std::panic::catch_unwind(|| {
        let device = Memory::new(MIB);
        install(&mut Panics, &device, &expect(Digest([0; 32])), &mut |_| {
            ControlFlow::Continue(())
        })
    });
    let panic = caught.unwrap_err();
    assert_eq!(panic.downcast_ref(), Some(&"of the source"));
}

#[test]
fn cancelled_before_the_first_byte_nothing_is_read_or_written() {
    struct Untouched;
    impl Read for Untouched {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            panic!("it was read");
        }
    }
    let device = Memory::new(MIB);
    let error = install(
        &mut Untouched,
        &device,
        &expect(Digest([0; 32])),
        &mut |_| ControlFlow::Break(()),
    )
    .unwrap_err();
    assert!(matches!(error, InstallError::Cancelled { .. }), "{error}");
    assert_eq!(device.written(), 0);
}

/// The reader gives half the file and then waits for the cancellation, so that there is no race to win.
#[test]
fn cancelled_in_the_middle_it_stops() {
    struct Half<'a> {
        half: &'a [u8],
        cancelled: mpsc::Receiver<()>,
    }
    impl Read for Half<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.half.is_empty() {
                self.cancelled.recv().unwrap();
            }
            self.half.read(buffer)
        }
    }
    // Nothing compresses, so that half the file is more than what is on its way to the first write.
    let image = noise(32 * MIB, 6);
    let file = compress(&image);
    let (cancel, cancelled) = mpsc::channel();
    let mut source = Half {
        half: &file[..file.len() / 2],
        cancelled,
    };
    let device = Memory::new(32 * MIB);
    let mut calls_after = 0;
    let mut broke = false;
    let error = install(
        &mut source,
        &device,
        &expect(sha256(&file)),
        &mut |progress| {
            calls_after += usize::from(broke);
            if progress.written > 0 {
                broke = true;
                cancel.send(()).unwrap();
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        },
    )
    .unwrap_err();
    match error {
        InstallError::Cancelled { written } => {
            assert!(written.bytes > 0 && written.bytes < image.len() as u64);
        }
        other => panic!("{other}"),
    }
    assert_eq!(calls_after, 0);
}

/// A cancellation counts even when everything is done by the time it is seen.
#[test]
fn the_observers_last_word_counts() {
    let image = image(MIB);
    let file = compress(&image);
    let error = install(
        &mut &file[..],
        &Memory::new(MIB),
        &expect(sha256(&file)),
        &mut |progress| {
            if progress.total == Some(progress.proven) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        },
    )
    .unwrap_err();
    assert!(matches!(error, InstallError::Cancelled { .. }), "{error}");
}

/// Before the promise is known to hold, the total is what the only frame says; with a second one nobody knows.
#[test]
fn the_total_is_shown_only_while_it_is_known() {
    let (one, two) = (image(MIB), image(2 * MIB));
    let totals = |file: &[u8], size| {
        let mut seen = Vec::new();
        let expectation = Expectation {
            size,
            ..expect(sha256(file))
        };
        let device = Memory::new(4 * MIB);
        install(
            &mut &file[..],
            &device,
            &expectation,
            &mut recorder(&mut seen),
        )
        .unwrap();
        seen.iter().map(|p| p.total).collect::<Vec<_>>()
    };
    let both = [compress(&one), compress(&two)].concat();
    let sum = Some(3 * MIB as u64);
    assert_eq!(*totals(&both, None).last().unwrap(), sum);
    assert!(totals(&both, sum).iter().all(|total| *total == sum));
    assert!(
        totals(&both, None)
            .iter()
            .all(|total| *total != Some(2 * MIB as u64))
    );
}
