//! The judgement of what was read back: that it is what was written, and which SHA-256 it has.

use std::sync::mpsc::{Receiver, SyncSender};

use sha2::{Digest as _, Sha256};

use crate::{
    buffer::Buffer,
    checkpoint::Checkpoint,
    error::InstallError,
    progress::Timed,
    proof::{Chain, Mark},
    stages::{
        control::Control,
        medium::{Held, Piece},
        write::Written,
    },
};

/// Compares every piece with what was written and hands it on. At the end of an epoch in which a frame ended where a
/// piece did, there is a checkpoint, if somebody has given it a binding.
pub(crate) fn compare(
    device: &str,
    mut chain: Chain,
    binding: Option<[u8; 32]>,
    held: &Receiver<Held>,
    looked_at: &SyncSender<Held>,
    proven: &SyncSender<Vec<Written>>,
    control: &Control,
) -> Option<Timed> {
    let mut compare = Timed::default();
    let mut checkpoint = None;
    loop {
        match held.recv().ok()? {
            Held::Piece(mut piece) => {
                let length = piece.bytes.length;
                let mark = compare.time(length, || Mark::of(piece.bytes.bytes()));
                if piece.written != Some(mark) {
                    return control.fail(InstallError::ReadBackMismatch {
                        device: device.to_owned(),
                        offset: piece.offset,
                        length: length as u64,
                        proven: control.proven(),
                    });
                }
                chain.add(length, mark);
                let end = piece.offset + length as u64;
                control.update(|p| p.proven = end);
                if let Some(boundary) = piece.boundary.take()
                    && let Some((binding, chain)) = binding.zip(chain.digest())
                {
                    checkpoint = Some(Checkpoint {
                        binding,
                        file_bytes: boundary.file_bytes,
                        image_bytes: end,
                        chain,
                        file_hash: boundary.file_hash,
                    });
                }
                looked_at.send(Held::Piece(piece)).ok()?;
            }
            Held::Epoch(list) => {
                if let Some(checkpoint) = checkpoint.take() {
                    control.checkpoint(checkpoint);
                }
                // The writer may be done and gone.
                let _ = proven.send(list);
            }
            Held::End => {
                looked_at.send(Held::End).ok()?;
                return Some(compare);
            }
        }
    }
}

/// The marks of all pieces, which are handed on.
pub(crate) fn chain(held: &Receiver<Held>, looked_at: &SyncSender<Held>) -> Option<Chain> {
    let mut chain = Chain::default();
    loop {
        let held = held.recv().ok()?;
        if let Held::Piece(piece) = &held {
            chain.add(piece.bytes.length, Mark::of(piece.bytes.bytes()));
        }
        let ended = matches!(held, Held::End);
        looked_at.send(held).ok()?;
        if ended {
            return Some(chain);
        }
    }
}

/// The SHA-256 of all pieces, where it is wanted, after those that went into `hasher` before. The pieces' way ends here.
pub(crate) fn hash(
    mut hasher: Sha256,
    held: &Receiver<Held>,
    used: &SyncSender<Buffer>,
    control: &Control,
) -> Option<(Sha256, Timed)> {
    let mut hash_image = Timed::default();
    loop {
        match held.recv().ok()? {
            Held::Piece(Piece { offset, bytes, .. }) => {
                // Decided before the first piece was written.
                if control.hashes_the_image() {
                    hash_image.time(bytes.length, || hasher.update(bytes.bytes()));
                    control.update(|p| p.hashed = offset + bytes.length as u64);
                }
                // The reader may be done and gone.
                let _ = used.send(bytes.buffer);
            }
            Held::Epoch(_) => {}
            Held::End => return Some((hasher, hash_image)),
        }
    }
}
