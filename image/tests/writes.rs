//! What is not written: zeros, and what the device holds already.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::ops::ControlFlow;

use monok8s_image::{InstallError, Installed, Options, Start, install_from};
use support::{FILLER, Fault, MIB, Memory, compress, expect, image, install_quietly, sha256};

/// Data, a long run of zeros across the end of an epoch, data, a short run, and a tail of zeros that is no whole page.
fn with_zeros() -> (Vec<u8>, u64) {
    let mut bytes = image(70 * MIB + 100);
    // The first page of `image` is zeros.
    bytes[..4096].fill(1);
    bytes[3 * MIB..67 * MIB].fill(0);
    bytes[68 * MIB..68 * MIB + 8192].fill(0);
    bytes[69 * MIB..].fill(0);
    (bytes, (64 + 1) * MIB as u64)
}

fn install_comparing(file: &[u8], device: &Memory) -> Result<Installed, InstallError> {
    let options = Options {
        compare_before_write: true,
        ..Options::default()
    };
    install_from(
        Start::at_the_beginning(),
        &mut &file[..],
        device,
        &expect(sha256(file)),
        &options,
        &mut |_| ControlFlow::Continue(()),
    )
}

#[test]
fn runs_of_zeros_are_cleared_not_written() {
    let (image, zeros) = with_zeros();
    let file = compress(&image);
    let device = Memory::new(71 * MIB);
    let installed = install_quietly(&file, &device, &expect(sha256(&file))).unwrap();
    assert_eq!(device.cleared(), zeros);
    assert_eq!(device.written(), image.len() as u64 - zeros);
    assert_eq!(installed.times.clear.bytes, zeros);
    let medium = device.medium();
    assert!(medium[..image.len()] == image);
    assert!(medium[image.len()..].iter().all(|byte| *byte == FILLER));
    // All of it was read back, zeros too.
    assert_eq!(device.read() / MIB as u64, 70);
}

#[test]
fn a_device_that_cannot_clear_is_written_zeros() {
    let (image, _) = with_zeros();
    let file = compress(&image);
    let device = Memory::with(71 * MIB, &[Fault::CannotClear]);
    install_quietly(&file, &device, &expect(sha256(&file))).unwrap();
    assert_eq!(device.written(), image.len() as u64);
    assert!(device.medium()[..image.len()] == image);
}

/// It said that it had cleared, and a read says otherwise.
#[test]
fn zeros_are_read_back_like_data() {
    let (image, _) = with_zeros();
    let file = compress(&image);
    for fault in [
        Fault::ClearsNothing,
        Fault::Loses(10 * MIB as u64),
        Fault::Flips(30 * MIB as u64, 1),
    ] {
        let device = Memory::with(71 * MIB, &[fault]);
        let error = install_quietly(&file, &device, &expect(sha256(&file))).unwrap_err();
        assert!(
            matches!(error, InstallError::ReadBackMismatch { .. }),
            "{fault:?}: {error}"
        );
    }
    let device = Memory::with(71 * MIB, &[Fault::ClearFails(20 * MIB as u64)]);
    match install_quietly(&file, &device, &expect(sha256(&file))).unwrap_err() {
        InstallError::WriteFailed {
            operation, offset, ..
        } => assert_eq!((operation, offset), ("clear", 3 * MIB as u64)),
        other => panic!("{other}"),
    }
}

#[test]
fn what_the_device_holds_costs_no_writes_when_asked() {
    let (image, _) = with_zeros();
    let file = compress(&image);
    let device = Memory::new(71 * MIB).holding(&image);
    let installed = install_comparing(&file, &device).unwrap();
    assert_eq!((device.written(), device.cleared()), (0, 0));
    assert_eq!(installed.times.unchanged.bytes, image.len() as u64);
    assert!(device.medium()[..image.len()] == image);

    let mut before = image.clone();
    for at in [0, 5 * MIB, 68 * MIB + 9000, image.len() - 1] {
        before[at] ^= 1;
    }
    let device = Memory::new(71 * MIB).holding(&before);
    install_comparing(&file, &device).unwrap();
    // Four pages, one of which ends with the image.
    assert_eq!(device.written() + device.cleared(), 3 * 4096 + 100);
    assert!(device.medium()[..image.len()] == image);

    // And not when not asked.
    let device = Memory::new(71 * MIB).holding(&image);
    install_quietly(&file, &device, &expect(sha256(&file))).unwrap();
    assert!(device.written() > 0);
}

/// A sector that cannot be read may still be written.
#[test]
fn what_cannot_be_compared_is_written() {
    let image = image(24 * MIB);
    let file = compress(&image);
    let device = Memory::with(24 * MIB, &[Fault::ReadFails(12 * MIB as u64)]).holding(&image);
    let error = install_comparing(&file, &device).unwrap_err();
    assert!(
        matches!(error, InstallError::ReadBackFailed { .. }),
        "{error}"
    );
    // What is written at once, of what comes before the byte and with it: 4 MiB at the most.
    let written = device.written() + device.cleared();
    assert!((1..=4 * MIB as u64).contains(&written), "{written}");
}
