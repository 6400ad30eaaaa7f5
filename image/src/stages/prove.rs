//! The judgement of what was read back: that it is what was written, and which SHA-256 it has.

use std::sync::mpsc::{Receiver, SyncSender};

use sha2::{Digest as _, Sha256};

use crate::{
    buffer::Buffer,
    checkpoint::Checkpoint,
    error::InstallError,
    progress::Timed,
    proof::{Chain, Mark, Marking},
    stages::{
        control::Control,
        medium::{Held, Piece},
        write::Written,
    },
};

/// Both digests are taken of so many bytes in turn: they stay in the core's own cache from the first to the second.
const STEP: usize = 128 << 10;

/// Where the medium's pieces are looked at, and all that is known of them.
pub(crate) struct Prover<'a> {
    pub(crate) control: &'a Control,
    pub(crate) held: Receiver<Held>,
    pub(crate) used: SyncSender<Buffer>,
    pub(crate) seen: Seen,
}

/// What the pieces so far are.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) chain: Chain,
    /// Their SHA-256, where it is wanted.
    pub(crate) image_hash: Sha256,
    pub(crate) compare: Timed,
    pub(crate) hash_image: Timed,
}

impl Prover<'_> {
    /// Compares every piece with what was written. At the end of an epoch in which a frame ended where a piece did, there
    /// is a checkpoint, if somebody has given it a binding.
    pub(crate) fn compare(
        mut self,
        device: &str,
        binding: Option<[u8; 32]>,
        proven: &SyncSender<Vec<Written>>,
    ) -> Option<Seen> {
        let mut checkpoint = None;
        loop {
            match self.held.recv().ok()? {
                Held::Piece(mut piece) => {
                    let mark = self.look(&piece);
                    if piece.written != Some(mark) {
                        return self.control.fail(InstallError::ReadBackMismatch {
                            device: device.to_owned(),
                            offset: piece.offset,
                            length: piece.bytes.length as u64,
                            proven: self.control.proven(),
                        });
                    }
                    let end = piece.end();
                    self.control.update(|p| p.proven = end);
                    if let Some(boundary) = piece.boundary.take()
                        && let Some((binding, chain)) = binding.zip(self.seen.chain.digest())
                    {
                        checkpoint = Some(Checkpoint {
                            binding,
                            file_bytes: boundary.file_bytes,
                            image_bytes: end,
                            chain,
                            file_hash: boundary.file_hash,
                        });
                    }
                    self.give_back(piece);
                }
                Held::Epoch(list) => {
                    if let Some(checkpoint) = checkpoint.take() {
                        self.control.checkpoint(checkpoint);
                    }
                    // The writer may be done and gone.
                    let _ = proven.send(list);
                }
                Held::End => return Some(self.seen),
            }
        }
    }

    /// Looks at every piece; there is nothing to compare it with.
    pub(crate) fn read(mut self) -> Option<Seen> {
        loop {
            match self.held.recv().ok()? {
                Held::Piece(piece) => {
                    self.look(&piece);
                    self.give_back(piece);
                }
                Held::Epoch(_) => {}
                Held::End => return Some(self.seen),
            }
        }
    }

    fn look(&mut self, piece: &Piece) -> Mark {
        let seen = &mut self.seen;
        // Decided before the first piece was written.
        let hashes_the_image = self.control.hashes_the_image();
        let mut marking = Marking::of(piece.bytes.bytes());
        while let Some(step) = seen.compare.time(0, || marking.step(STEP)) {
            seen.compare.bytes += step.len() as u64;
            if hashes_the_image {
                let hasher = &mut seen.image_hash;
                seen.hash_image.time(step.len(), || hasher.update(step));
            }
        }
        let mark = seen.compare.time(0, || marking.end());
        seen.chain.add(piece.bytes.length, mark);
        if hashes_the_image {
            self.control.update(|p| p.hashed = piece.end());
        }
        mark
    }

    fn give_back(&self, piece: Piece) {
        // The reader may be done and gone.
        let _ = self.used.send(piece.bytes.buffer);
    }
}
