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
        if is_zero(bytes) {
            Self::Zeros
        } else {
            Self::Digest(blake3::hash(bytes))
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
    fn a_short_piece_ends_it() {
        let mut chain = Chain::default();
        chain.add(5, Mark::Zeros);
        chain.add(PIECE, Mark::Zeros);
        assert_eq!(chain.digest(), None);
    }
}
