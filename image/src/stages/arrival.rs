//! What the expander sends: the image in its order, and the places from which the rest could be decoded alone.

use sha2::Sha256;

use crate::{
    buffer::Filled,
    error::{Done, InstallError},
    stages::control::Control,
};

/// It comes in order and without gaps.
pub(crate) enum Arrival {
    Block(Filled),
    /// The result of the next batch, in the next of the channels for results, round and round.
    Batch(Position),
    /// All before this is whole frames.
    Boundary(Boundary),
    End,
}

/// How far file and image are, for messages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Position {
    pub(crate) file_bytes: u64,
    pub(crate) image_bytes: u64,
}

impl Position {
    /// The decoder's word on what follows here.
    pub(crate) fn damaged(self, detail: String, control: &Control) -> InstallError {
        InstallError::DecodeFailed {
            file_bytes: self.file_bytes,
            expanded: Done {
                bytes: self.image_bytes,
                total: control.progress().total,
            },
            detail,
        }
    }
}

/// A place in the file from which the rest can be decoded alone.
#[derive(Clone, Debug)]
pub(crate) struct Boundary {
    pub(crate) file_bytes: u64,
    pub(crate) file_hash: Sha256,
}
