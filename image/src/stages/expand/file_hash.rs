//! The file's SHA-256.

use sha2::{Digest as _, Sha256};

use crate::{Digest, progress::Timed, stages::arrival::Boundary};

/// Takes the file in portion by portion, and stops in the middle of one where its state is wanted: at the end of a frame.
pub(super) struct FileHash {
    hasher: Sha256,
    /// So many bytes of the current portion are in it.
    done: usize,
    times: Timed,
}

impl FileHash {
    /// After what `hasher` has seen.
    pub(super) fn after(hasher: Sha256) -> Self {
        Self {
            hasher,
            done: 0,
            times: Timed::default(),
        }
    }

    pub(super) fn begin_portion(&mut self) {
        self.done = 0;
    }

    /// Takes in the current portion up to `end`.
    pub(super) fn up_to(&mut self, portion: &[u8], end: usize) {
        if let Some(rest) = portion.get(self.done..end) {
            self.times.time(rest.len(), || self.hasher.update(rest));
            self.done = end;
        }
    }

    /// What was taken in is whole frames.
    pub(super) fn boundary(&self, file_bytes: u64) -> Boundary {
        Boundary {
            file_bytes,
            file_hash: self.hasher.clone(),
        }
    }

    pub(super) fn end(self) -> (Digest, Timed) {
        (Digest::of(self.hasher), self.times)
    }
}
