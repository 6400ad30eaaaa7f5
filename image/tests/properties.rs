//! Whatever the format, the frames, the portions in which the file comes, the promises and the faults of the device: the slot
//! holds the image and everything promised is true, or the result is an error. Never a false success.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "tests"
)]

mod support;

use std::ops::ControlFlow;

use monok8s_image::{
    ChecksumMatched, Digest, Expectation, Format, InstallError, Options, Start, WindowLimit,
    install_from,
};
use proptest::{prelude::*, sample::Index};
use support::{
    FILLER, Fault, MIB, Memory, Portions, compress, compress_unsized, gzip, image, sha256, xz,
};

/// One frame: its content's length, whether its header says so, whether something follows that is passed over. (A gzip
/// member does not say, and nothing may follow it; an xz stream is followed by zeros.)
type Frame = (usize, bool, bool);

fn format() -> impl Strategy<Value = Format> {
    prop_oneof![
        3 => Just(Format::Zstd),
        1 => Just(Format::Gzip),
        1 => Just(Format::Xz),
        1 => Just(Format::Raw),
    ]
}

fn encode(format: Format, content: &[u8], sized: bool, followed: bool) -> Vec<u8> {
    let (mut frame, follows) = match format {
        Format::Zstd if sized => (compress(content), &b"\x53\x2A\x4D\x18\x03\0\0\0foo"[..]),
        Format::Zstd => (compress_unsized(content), &b"\x53\x2A\x4D\x18\0\0\0\0"[..]),
        Format::Gzip => (gzip(content), &[][..]),
        Format::Xz => (xz(content), &[0; 8][..]),
        Format::Raw => (content.to_vec(), &[][..]),
    };
    if followed {
        frame.extend(follows);
    }
    frame
}

#[derive(Clone, Copy, Debug)]
enum Promise {
    File,
    Image,
    Neither,
}

#[derive(Clone, Copy, Debug)]
enum Damage {
    None,
    Cut(Index),
    Flip(Index, u8),
    SourceFails(Index),
}

fn frames() -> impl Strategy<Value = Vec<Frame>> {
    let length = prop_oneof![
        0..10_usize,
        4090..4100_usize,
        Just(MIB),
        (4 * MIB - 1)..(4 * MIB + 2),
        (MIB - 2)..(MIB + 2),
        0..(2 * MIB)
    ];
    prop::collection::vec((length, any::<bool>(), any::<bool>()), 1..5)
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        3 => Just(Damage::None),
        1 => any::<Index>().prop_map(Damage::Cut),
        1 => (any::<Index>(), 0..8_u8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        1 => any::<Index>().prop_map(Damage::SourceFails),
    ]
}

fn faults() -> impl Strategy<Value = Vec<Fault>> {
    let at = 0..(4 * MIB as u64);
    let one = prop_oneof![
        at.clone().prop_map(Fault::WriteFails),
        at.clone().prop_map(Fault::WritesNothing),
        (1..MIB).prop_map(Fault::ShortWrites),
        (4096..MIB).prop_map(Fault::ShortReads),
        (0..2_usize).prop_map(Fault::FlushFails),
        (0..2_usize).prop_map(Fault::FlushLoses),
        at.clone().prop_map(Fault::Loses),
        (at.clone(), 0..8_u8).prop_map(|(at, bit)| Fault::Flips(at, bit)),
        at.clone().prop_map(Fault::ReadFails),
        at.clone().prop_map(Fault::Misplaced),
        Just(Fault::CannotClear),
        Just(Fault::Interrupts),
        Just(Fault::ClearsNothing),
        at.prop_map(Fault::ClearFails),
    ];
    prop_oneof![2 => Just(vec![]), 3 => prop::collection::vec(one, 1..3)]
}

fn is_harmless(fault: &Fault) -> bool {
    matches!(
        fault,
        Fault::ShortWrites(_) | Fault::ShortReads(_) | Fault::CannotClear | Fault::Interrupts
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_image_or_an_error(
        format in format(),
        frames in frames(),
        portions in prop::collection::vec(prop_oneof![1..50_usize, 1..300_000_usize], 1..6),
        promise in prop_oneof![2 => Just(Promise::File), 2 => Just(Promise::Image), 1 => Just(Promise::Neither)],
        size_off_by in prop_oneof![3 => Just(None), 3 => Just(Some(0)), 1 => (-5000_i64..5000).prop_map(Some)],
        slack in prop_oneof![4 => 0..10_000_i64, 1 => -3_000..0_i64],
        damage in damage(),
        faults in faults(),
        zeros in prop::collection::vec((any::<Index>(), 1..300_000_usize), 0..4),
        compare_before_write in any::<bool>(),
        held in any::<bool>(),
    ) {
        let mut file = Vec::new();
        let mut content = Vec::new();
        for (number, (length, sized, followed)) in frames.into_iter().enumerate() {
            let mut part = image(length);
            if let Some(byte) = part.last_mut() { *byte = number as u8; }
            let some = !part.is_empty();
            for (at, length) in zeros.iter().filter(|_| some) {
                let at = at.index(part.len());
                let end = (at + length).min(part.len());
                part[at..end].fill(0);
            }
            file.extend(encode(format, &part, sized, followed));
            content.extend(part);
        }
        let whole_file = file.clone();
        let checksum = match promise {
            Promise::File => sha256(&file),
            Promise::Image => sha256(&content),
            Promise::Neither => Digest([3; 32]),
        };
        match damage {
            // An uncompressed image may have no byte to be damaged.
            Damage::Cut(_) | Damage::Flip(..) if file.is_empty() => {}
            Damage::Cut(at) => file.truncate(at.index(file.len())),
            Damage::Flip(at, bit) => { let at = at.index(file.len()); file[at] ^= 1 << bit }
            Damage::None | Damage::SourceFails(_) => {}
        }
        let mut source = Portions::new(&file, portions);
        if let Damage::SourceFails(at) = damage { source.fails_at = Some(at.index(whole_file.len().max(1))); }
        let capacity = usize::try_from(content.len() as i64 + slack).unwrap_or(0);
        let mut device = Memory::with(capacity, &faults);
        if held {
            // Most of it from an earlier time.
            let mut before = content[..content.len().min(capacity)].to_vec();
            before.iter_mut().step_by(77_777).for_each(|byte| *byte ^= 1);
            device = device.holding(&before);
        }
        let expectation = Expectation {
            checksum,
            size: size_off_by.map(|off| u64::try_from(content.len() as i64 + off).unwrap_or(0)),
            window_limit: WindowLimit::default(),
        };

        let options = Options { compare_before_write, ..Options::default() };
        let go_on = &mut |_| ControlFlow::Continue(());
        let result = install_from(Start::at_the_beginning(), &mut source, &device, &expectation, &options, go_on);

        let medium = device.medium();
        match &result {
            Ok(installed) => {
                prop_assert!(medium[..content.len()] == content, "a false success");
                prop_assert_eq!(installed.image_bytes, content.len() as u64);
                prop_assert!(medium[content.len()..].iter().all(|byte| *byte == FILLER));
                // A file that was changed in a way that decodes to the same image (its skippable frames, a gzip header's time) is told
                // from the promised one by its digest; the image's promise holds all the same.
                match installed.matched {
                    ChecksumMatched::File => {
                        prop_assert!(file == whole_file);
                        // Not compressed, the two are one.
                        prop_assert!(matches!(promise, Promise::File) || (format == Format::Raw && matches!(promise, Promise::Image)));
                    }
                    ChecksumMatched::Image => prop_assert!(matches!(promise, Promise::Image)),
                }
                prop_assert!(expectation.size.is_none_or(|size| size == content.len() as u64));
                prop_assert!(slack >= 0);
            }
            Err(error) => {
                let unhurt = matches!(damage, Damage::None) && faults.iter().all(is_harmless);
                let promises_hold = !matches!(promise, Promise::Neither) && size_off_by.unwrap_or(0) == 0;
                let least = if format == Format::Raw { 4096 } else { 1 };
                let fits = slack >= 0 && content.len() >= least;
                prop_assert!(!(unhurt && promises_hold && fits), "a false failure: {error}");
                prop_assert!(!matches!(error, InstallError::Cancelled { .. } | InstallError::Resources(_)), "{error}");
            }
        }
    }
}
