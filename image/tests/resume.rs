//! Killed, and gone on with.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod support;

use std::{ops::ControlFlow, sync::OnceLock};

use monok8s_image::{
    Checkpoint, CheckpointError, ChecksumMatched, Device, Digest, Expectation, InstallError,
    Installed, Observer, Options, Progress, Stage, Start, install_from, pack, read_seek_table,
};
use proptest::{prelude::*, sample::Index};
use support::{Fault, MIB, Memory, Portions, compress, expect, gzip, image, noise, sha256, xz};

const EPOCH: u64 = 64 * MIB as u64;

/// Two and a half epochs, half of it zeros, the rest of it noise; and packed.
fn sample() -> &'static (Vec<u8>, Vec<u8>) {
    static SAMPLE: OnceLock<(Vec<u8>, Vec<u8>)> = OnceLock::new();
    SAMPLE.get_or_init(|| {
        let mut image = noise(160 * MIB + 333, 1);
        for part in image.chunks_mut(10 * MIB) {
            let half = part.len() / 2;
            part[..half].fill(0);
        }
        let file = packed(&image);
        (image, file)
    })
}

fn packed(image: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    pack(&mut &image[..], &mut file, 1, &mut |_| {
        ControlFlow::Continue(())
    })
    .unwrap();
    file
}

/// What an agent keeps on its disk.
#[derive(Default)]
struct Keeper {
    kept: Vec<Vec<u8>>,
    last: Progress,
}

impl Observer for Keeper {
    fn progress(&mut self, progress: Progress) -> ControlFlow<()> {
        self.last = progress;
        ControlFlow::Continue(())
    }

    fn checkpoint(&mut self, checkpoint: &Checkpoint) {
        self.kept.push(checkpoint.to_bytes());
    }
}

const BINDING: &[u8] = b"uid, attempt 1, checksum, partition";

fn options() -> Options {
    Options {
        binding: Some(BINDING.to_vec()),
        ..Options::default()
    }
}

/// One run: from the last checkpoint if there is one, until the source fails or to the end.
fn run(
    file: &[u8],
    device: &dyn Device,
    checksum: Digest,
    fails_at: Option<usize>,
    keeper: &mut Keeper,
) -> Result<Installed, InstallError> {
    let start = match keeper.kept.last() {
        Some(kept) => verify(kept, device).unwrap(),
        None => Start::at_the_beginning(),
    };
    let from = start.file_bytes() as usize;
    let mut source = Portions::new(&file[from..], vec![70_000]);
    source.fails_at = fails_at.map(|at| at.saturating_sub(from));
    install_from(
        start,
        &mut source,
        device,
        &expect(checksum),
        &options(),
        keeper,
    )
}

fn verify(kept: &[u8], device: &dyn Device) -> Result<Start, CheckpointError> {
    let go_on = &mut |_| ControlFlow::Continue(());
    Start::verify(Checkpoint::from_bytes(kept)?, device, BINDING, go_on)
}

#[test]
fn a_checkpoint_for_each_proven_epoch() {
    let (image, file) = sample();
    let device = Memory::new(image.len());
    let mut keeper = Keeper::default();
    run(file, &device, sha256(image), None, &mut keeper).unwrap();
    let (entries, _) = read_seek_table(file).unwrap();
    for (kept, epoch) in keeper.kept.iter().zip(1..) {
        let checkpoint = Checkpoint::from_bytes(kept).unwrap();
        assert!(checkpoint.image_bytes() <= epoch * EPOCH);
        // Where a frame ends.
        let mut place = (0, 0);
        for entry in &entries {
            if place.1 < checkpoint.image_bytes() {
                place.0 += u64::from(entry.compressed);
                place.1 += u64::from(entry.expanded);
            }
        }
        assert_eq!(place, (checkpoint.file_bytes(), checkpoint.image_bytes()));
    }
    let last = Checkpoint::from_bytes(keeper.kept.last().unwrap()).unwrap();
    assert!(last.image_bytes() >= 2 * EPOCH);
}

#[test]
fn one_large_frame_and_other_formats_have_no_place_to_go_on_from() {
    let image = image(70 * MIB + 5);
    let halves = image.split_at(68 * MIB);
    let members = [gzip(halves.0), gzip(halves.1)].concat();
    let streams = [xz(halves.0), xz(halves.1)].concat();
    for file in [compress(&image), members, streams, image.clone()] {
        let device = Memory::new(image.len());
        let mut keeper = Keeper::default();
        run(&file, &device, sha256(&image), None, &mut keeper).unwrap();
        assert!(keeper.kept.is_empty());
    }
}

/// Nobody asked for them.
#[test]
fn without_a_binding_there_are_no_checkpoints() {
    let (image, file) = sample();
    let device = Memory::new(image.len());
    let mut keeper = Keeper::default();
    install_from(
        Start::at_the_beginning(),
        &mut &file[..],
        &device,
        &expect(sha256(image)),
        &Options::default(),
        &mut keeper,
    )
    .unwrap();
    assert!(keeper.kept.is_empty());
}

#[test]
fn either_checksum_is_proven_after_a_crash() {
    let (image, file) = sample();
    for (checksum, matched) in [
        (sha256(image), ChecksumMatched::Image),
        (sha256(file), ChecksumMatched::File),
    ] {
        let device = Memory::new(image.len());
        let mut keeper = Keeper::default();
        let cut = file.len() - 1000;
        run(file, &device, checksum, Some(cut), &mut keeper).unwrap_err();
        device.power_cut();
        let written = device.written() + device.cleared();
        let installed = run(file, &device, checksum, None, &mut keeper).unwrap();
        assert_eq!(installed.matched, matched);
        assert_eq!(installed.file_digest, sha256(file));
        assert_eq!(installed.image_digest, Some(sha256(image)));
        assert_eq!(installed.image_bytes, image.len() as u64);
        assert_eq!(installed.file_bytes, file.len() as u64);
        assert!(installed.resumed_at >= EPOCH);
        let again = device.written() + device.cleared() - written;
        assert_eq!(again, image.len() as u64 - installed.resumed_at);
        assert!(device.medium() == *image);
        assert_eq!(keeper.last.hashed, image.len() as u64);
        assert_eq!(keeper.last.stage, Stage::Verifying);
    }
}

#[test]
fn a_checkpoint_is_believed_only_where_it_is_true() {
    let (image, file) = sample();
    let device = Memory::new(image.len());
    let mut keeper = Keeper::default();
    run(
        file,
        &device,
        sha256(image),
        Some(file.len() - 1),
        &mut keeper,
    )
    .unwrap_err();
    let kept = keeper.kept.last().unwrap();
    verify(kept, &device).unwrap();

    let checkpoint = || Checkpoint::from_bytes(kept).unwrap();
    let go_on = &mut |_| ControlFlow::Continue(());
    let error = Start::verify(checkpoint(), &device, b"another", go_on).unwrap_err();
    assert!(matches!(error, CheckpointError::AnotherInstallation));
    let smaller = Memory::new(checkpoint().image_bytes() as usize - 1);
    let error = verify(kept, &smaller).unwrap_err();
    assert!(matches!(error, CheckpointError::DeviceDiffers { .. }));
    for at in [0, checkpoint().image_bytes() as usize - 1] {
        device.change(at);
        let error = verify(kept, &device).unwrap_err();
        assert!(
            matches!(error, CheckpointError::DeviceDiffers { .. }),
            "{error}"
        );
        device.change(at);
    }
    // Beyond it nothing is claimed.
    if let Some(beyond) = (checkpoint().image_bytes() as usize..image.len()).next() {
        device.change(beyond);
    }
    verify(kept, &device).unwrap();
    let unreadable = Memory::with(image.len(), &[Fault::ReadFails(5)]);
    let error = verify(kept, &unreadable).unwrap_err();
    assert!(matches!(
        error,
        CheckpointError::Device(InstallError::ReadBackFailed { offset: 0, .. })
    ));
    let stop = &mut |_| ControlFlow::Break(());
    let error = Start::verify(checkpoint(), &device, BINDING, stop).unwrap_err();
    assert!(matches!(
        error,
        CheckpointError::Device(InstallError::Cancelled { .. })
    ));
}

/// A server that now has another file, of which the checkpoint knows nothing.
#[test]
fn going_on_with_another_file_is_never_a_success() {
    let (image, file) = sample();
    let mut other = image.clone();
    *other.last_mut().unwrap() ^= 1;
    for (other, checksum) in [
        (packed(&other), sha256(image)),
        (packed(&noise(160 * MIB, 2)), sha256(file)),
    ] {
        let device = Memory::new(image.len());
        let mut keeper = Keeper::default();
        run(file, &device, checksum, Some(file.len() - 1), &mut keeper).unwrap_err();
        let error = run(&other, &device, checksum, None, &mut keeper).unwrap_err();
        assert!(
            matches!(
                error,
                InstallError::ChecksumMismatch { .. } | InstallError::DecodeFailed { .. }
            ),
            "{error}"
        );
    }
}

/// Another promise than the one that the checkpoint was made under.
#[test]
fn more_than_was_promised_is_not_gone_on_from() {
    let (image, file) = sample();
    let device = Memory::new(image.len());
    let mut keeper = Keeper::default();
    let cut = Some(file.len() - 1);
    run(file, &device, sha256(image), cut, &mut keeper).unwrap_err();
    let start = verify(keeper.kept.last().unwrap(), &device).unwrap();
    let (resumed_at, written) = (start.image_bytes(), device.written());
    let promised = Expectation {
        size: Some(resumed_at - 1),
        ..expect(sha256(image))
    };
    let mut source = &file[start.file_bytes() as usize..];
    let error = install_from(
        start,
        &mut source,
        &device,
        &promised,
        &options(),
        &mut keeper,
    )
    .unwrap_err();
    assert!(
        matches!(error, InstallError::SizeMismatch { found, .. } if found == resumed_at),
        "{error}"
    );
    assert_eq!(device.written(), written);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4, ..ProptestConfig::default() })]

    /// Killed again and again, at any byte of the file, with and without the power failing: it comes to its end, and a
    /// crash costs at most two epochs and what is in flight.
    #[test]
    fn killed_again_and_again(kills in prop::collection::vec((any::<Index>(), any::<bool>()), 1..6), file_checksum in any::<bool>()) {
        let (image, file) = sample();
        let checksum = if file_checksum { sha256(file) } else { sha256(image) };
        let device = Memory::new(image.len());
        let mut keeper = Keeper::default();
        let (entries, _) = read_seek_table(file).unwrap();
        for (at, power) in kills {
            let at = at.index(file.len());
            let error = run(file, &device, checksum, Some(at), &mut keeper);
            prop_assert!(error.is_err());
            if power { device.power_cut(); }
            // What had come of the image by then.
            let (mut from, mut come) = (0, 0);
            for entry in &entries {
                from += entry.compressed as usize;
                if from <= at { come += u64::from(entry.expanded); }
            }
            let proven = keeper.kept.last().map_or(0, |kept| Checkpoint::from_bytes(kept).unwrap().image_bytes());
            // Blocks between decoder and writer, and what came of the file; half of this image is zeros.
            let in_flight = 40 * MIB as u64 + 2 * 4 * MIB as u64;
            prop_assert!(come.saturating_sub(proven) <= 2 * EPOCH + in_flight, "{come} of {proven}");
        }
        let installed = run(file, &device, checksum, None, &mut keeper).unwrap();
        prop_assert_eq!(installed.image_digest, Some(sha256(image)));
        prop_assert!(device.medium() == *image);
    }
}
