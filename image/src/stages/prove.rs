//! The judgement of what was read back: that it is what was written, and which SHA-256 it has.

use std::sync::mpsc::{Receiver, SyncSender};

use sha2::{Digest as _, Sha256};

use crate::{
    Digest,
    buffer::Buffer,
    error::InstallError,
    progress::Timed,
    stages::{control::Control, read_back::Held},
};

/// Compares every piece with what was written.
pub(crate) fn compare(
    device: &str,
    held: &Receiver<Held>,
    used: &SyncSender<Buffer>,
    control: &Control,
) -> Option<Timed> {
    let mut compare = Timed::default();
    loop {
        let Held::Piece {
            offset,
            bytes,
            written,
        } = held.recv().ok()?
        else {
            return Some(compare);
        };
        let digest = compare.time(bytes.length, || blake3::hash(bytes.bytes()));
        let length = bytes.length as u64;
        if written != Some(digest) {
            return control.fail(InstallError::ReadBackMismatch {
                device: device.to_owned(),
                offset,
                length,
                proven: control.proven(),
            });
        }
        control.update(|p| p.proven = offset + length);
        // The reader may be done and gone.
        let _ = used.send(bytes.buffer);
    }
}

/// The SHA-256 of all pieces.
pub(crate) fn hash(
    held: &Receiver<Held>,
    used: &SyncSender<Buffer>,
    control: &Control,
) -> Option<(Digest, Timed)> {
    let mut hasher = Sha256::new();
    let mut hash_image = Timed::default();
    loop {
        let Held::Piece { offset, bytes, .. } = held.recv().ok()? else {
            return Some((Digest::of(hasher), hash_image));
        };
        hash_image.time(bytes.length, || hasher.update(bytes.bytes()));
        control.update(|p| p.hashed = offset + bytes.length as u64);
        // The reader may be done and gone.
        let _ = used.send(bytes.buffer);
    }
}
