//! What ties the bytes on the medium to those that were decoded.

use crate::buffer::{PIECE, is_zero};

/// What a piece is known by: any collision-resistant digest would do, this one costs least. Zeros are told by looking,
/// which costs less still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    Zeros,
    Digest(blake3::Hash),
}

impl Mark {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let mut marking = Marking::of(bytes);
        marking.step(bytes.len());
        marking.end()
    }
}

/// A piece whose mark is taken little by little, for whoever has more to do with its bytes.
pub(crate) struct Marking<'a> {
    bytes: &'a [u8],
    done: usize,
    /// None while there was nothing but zeros.
    digest: Option<blake3::Hasher>,
}

impl<'a> Marking<'a> {
    pub(crate) fn of(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            done: 0,
            digest: None,
        }
    }

    /// Takes in the next bytes, at most so many, and says which. None: all of them are in.
    pub(crate) fn step(&mut self, most: usize) -> Option<&'a [u8]> {
        let end = self.bytes.len().min(self.done.saturating_add(most));
        let step = &self.bytes[self.done..end];
        if step.is_empty() {
            return None;
        }
        match &mut self.digest {
            Some(digest) => {
                digest.update(step);
            }
            None if is_zero(step) => {}
            none => {
                none.insert(blake3::Hasher::new())
                    .update(&self.bytes[..end]);
            }
        }
        self.done = end;
        Some(step)
    }

    /// The mark of what was taken in.
    pub(crate) fn end(self) -> Mark {
        match self.digest {
            Some(digest) => Mark::Digest(digest.finalize()),
            None => Mark::Zeros,
        }
    }
}

/// The marks of all pieces so far, as one digest. Two devices with the same one hold the same bytes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chain {
    marks: blake3::Hasher,
    /// A piece was not of the full length, so that whoever reads the device later cannot tell how it was cut.
    broken: bool,
}

impl Chain {
    pub(crate) fn add(&mut self, length: usize, mark: Mark) {
        self.broken |= length != PIECE;
        match mark {
            // No input is known whose digest this is.
            Mark::Zeros => self.marks.update(&[0; 32]),
            Mark::Digest(digest) => self.marks.update(digest.as_bytes()),
        };
    }

    /// The digest, where the pieces were all whole.
    pub(crate) fn digest(&self) -> Option<[u8; 32]> {
        (!self.broken).then(|| *self.marks.finalize().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_count_and_kind_matter() {
        let (one, other) = (Mark::of(b"one"), Mark::of(b"other"));
        let zeros = Mark::of(&[0; 100]);
        assert_eq!(zeros, Mark::Zeros);
        let digest = |marks: &[Mark]| {
            let mut chain = Chain::default();
            for mark in marks {
                chain.add(PIECE, *mark);
            }
            chain.digest().unwrap()
        };
        let all = [
            digest(&[]),
            digest(&[zeros]),
            digest(&[zeros, zeros]),
            digest(&[one, other]),
            digest(&[other, one]),
            digest(&[one, zeros]),
        ];
        for (n, digest) in all.iter().enumerate() {
            assert!(!all[..n].contains(digest), "{n}");
        }
    }

    #[test]
    fn little_by_little_or_at_once() {
        let zeros = vec![0; 1000];
        let late = [&zeros[..], &[7; 500]].concat();
        let early = [&[7; 500], &zeros[..]].concat();
        for bytes in [&zeros, &late, &early] {
            for most in [1, 64, 999, 1000, 1001, usize::MAX] {
                let mut marking = Marking::of(bytes);
                let steps: Vec<&[u8]> = std::iter::from_fn(|| marking.step(most)).collect();
                assert_eq!(steps.concat(), *bytes);
                assert_eq!(marking.end(), Mark::of(bytes), "{most}");
            }
        }
        assert_eq!(Mark::of(&late), Mark::Digest(blake3::hash(&late)));
    }

    #[test]
    fn a_short_piece_ends_it() {
        let mut chain = Chain::default();
        chain.add(5, Mark::Zeros);
        chain.add(PIECE, Mark::Zeros);
        assert_eq!(chain.digest(), None);
    }
}
