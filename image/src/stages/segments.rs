//! What of a piece has to be written, and how.

use std::ops::Range;

use crate::buffer::{ALIGNMENT, is_zero};

/// Zeros in a row that are worth a request of their own beside data: fewer travel with the data around them, which
/// costs less than one request more.
pub(crate) const WORTH_CLEARING: usize = 64 << 10;

/// What is done with a part of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// It is written.
    Data,
    /// It is all zeros, and the device is asked to make it so.
    Zeros,
    /// The device holds it already.
    Unchanged,
}

/// Cuts a piece into parts, whole pages but for the last; `held` is what the device holds now, where that is known.
/// Neighbours differ, and all parts together are the piece. `parts` is emptied first.
pub(crate) fn cut(piece: &[u8], held: Option<&[u8]>, parts: &mut Vec<(Range<usize>, Part)>) {
    parts.clear();
    for (number, page) in piece.chunks(ALIGNMENT).enumerate() {
        let start = number * ALIGNMENT;
        let range = start..start + page.len();
        let unchanged = held.is_some_and(|held| held.get(range.clone()) == Some(page));
        push(
            parts,
            range,
            match () {
                () if unchanged => Part::Unchanged,
                // The device clears whole sectors.
                () if page.len() == ALIGNMENT && is_zero(page) => Part::Zeros,
                () => Part::Data,
            },
        );
    }
    merge_short_zeros(parts, piece.len());
}

/// Adds a part, or prolongs the last one.
fn push(parts: &mut Vec<(Range<usize>, Part)>, range: Range<usize>, part: Part) {
    match parts.last_mut() {
        Some((last, of)) if *of == part => last.end = range.end,
        _ => parts.push((range, part)),
    }
}

/// Zeros that are not worth a request become data. A run that touches the piece's edge may go on beyond it and is kept
/// when it is half as long.
fn merge_short_zeros(parts: &mut Vec<(Range<usize>, Part)>, length: usize) {
    let mut kept = 0;
    for at in 0..parts.len() {
        let (range, mut part) = parts[at].clone();
        let at_edge = range.start == 0 || range.end == length;
        let worth = if at_edge {
            WORTH_CLEARING / 2
        } else {
            WORTH_CLEARING
        };
        if part == Part::Zeros && range.len() < worth {
            part = Part::Data;
        }
        if kept > 0 && parts[kept - 1].1 == part {
            parts[kept - 1].0.end = range.end;
        } else {
            parts[kept] = (range, part);
            kept += 1;
        }
    }
    parts.truncate(kept);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PAGE: usize = ALIGNMENT;

    fn parts(piece: &[u8], held: Option<&[u8]>) -> Vec<(Range<usize>, Part)> {
        let mut parts = vec![(9..10, Part::Data)];
        cut(piece, held, &mut parts);
        parts
    }

    /// A letter a page: `d`ata, `z`ero.
    fn pages(letters: &str) -> Vec<u8> {
        let page = |letter| vec![u8::from(letter == 'd') * 9; PAGE];
        letters.chars().flat_map(page).collect()
    }

    #[test]
    fn long_runs_of_zeros_are_cleared_and_short_ones_written() {
        let (data, zeros) = ("d".repeat(3), "z".repeat(WORTH_CLEARING / PAGE));
        let long = pages(&format!("{data}{zeros}{data}"));
        let middle = 3 * PAGE..3 * PAGE + WORTH_CLEARING;
        assert_eq!(
            parts(&long, None),
            [
                (0..middle.start, Part::Data),
                (middle.clone(), Part::Zeros),
                (middle.end..long.len(), Part::Data)
            ]
        );
        let short = pages(&format!("{data}zz{data}"));
        assert_eq!(parts(&short, None), [(0..short.len(), Part::Data)]);
        let only = pages(&zeros);
        assert_eq!(parts(&only, None), [(0..only.len(), Part::Zeros)]);
    }

    #[test]
    fn only_pages_that_differ_are_written() {
        let held = pages("dddzz");
        let mut piece = held.clone();
        piece[PAGE + 5] ^= 1;
        piece.extend([1, 2, 3]);
        let parts = parts(&piece, Some(&held));
        assert_eq!(
            parts,
            [
                (0..PAGE, Part::Unchanged),
                (PAGE..2 * PAGE, Part::Data),
                (2 * PAGE..5 * PAGE, Part::Unchanged),
                (5 * PAGE..5 * PAGE + 3, Part::Data),
            ]
        );
    }

    proptest! {
        /// What is done to the device in the end is the piece, whatever it held.
        #[test]
        fn all_of_the_piece_and_nothing_else(
            pages in prop::collection::vec((0..3_u8, 1..40_usize), 0..12),
            tail in 0..PAGE,
            held in prop::option::of(prop::collection::vec((0..3_u8, 1..40_usize), 0..12)),
        ) {
            let fill = |runs: &[(u8, usize)]| -> Vec<u8> {
                runs.iter().flat_map(|&(byte, count)| vec![byte; count * PAGE]).collect()
            };
            let mut piece = fill(&pages);
            piece.extend(vec![7; tail]);
            let mut device = vec![0xA5; piece.len()];
            let held = held.map(|runs| {
                let mut held = fill(&runs);
                held.resize(piece.len(), 5);
                device.copy_from_slice(&held);
                held
            });
            let mut at = 0;
            let mut last = None;
            for (range, part) in parts(&piece, held.as_deref()) {
                prop_assert_eq!(range.start, at);
                prop_assert!(range.start % PAGE == 0 && !range.is_empty());
                prop_assert_ne!(last, Some(part));
                match part {
                    Part::Data => device[range.clone()].copy_from_slice(&piece[range.clone()]),
                    Part::Zeros => {
                        prop_assert_eq!(range.len() % PAGE, 0);
                        device[range.clone()].fill(0);
                    }
                    Part::Unchanged => {}
                }
                at = range.end;
                last = Some(part);
            }
            prop_assert_eq!(at, piece.len());
            prop_assert_eq!(device, piece);
        }
    }
}
