//! Small frames of the file as it comes, gathered until they are worth a decoder's while.

use crate::{
    StreamError,
    buffer::BLOCK,
    decode::{Body, Diverted},
    stages::arrival::{Boundary, Position},
};

/// The most that a batch of frames may have before it is decoded. A frame that expands to a block has at most
/// `ZSTD_COMPRESSBOUND` of it, unless its encoder was made to waste space.
pub(crate) const BATCH_LIMIT: usize = BLOCK + (128 << 10);

/// Whole frames, and perhaps the beginning of one more, that are decoded in one go.
pub(super) struct Collected {
    /// The frames as they are in the file.
    pub(super) compressed: Vec<u8>,
    /// What the whole ones expand to, in bytes.
    pub(super) content: usize,
    /// Where they begin.
    pub(super) from: Position,
    /// Where the last whole one ends.
    pub(super) boundary: Option<Boundary>,
    begun: Option<Begun>,
}

/// A frame that has not ended.
struct Begun {
    /// Where it begins in what was collected.
    at: usize,
    content: usize,
    body: Body,
}

/// What came of a part of the file.
pub(super) enum Taken {
    /// So many bytes of it belong to the frame, which has not ended.
    More(usize),
    /// The frame ends after so many bytes, and expands to so many.
    Ended { bytes: usize, content: usize },
    /// The frame wastes space. Nothing is wrong with it, but it is not worth memory.
    Wasteful,
}

impl Collected {
    pub(super) fn new(compressed: Vec<u8>, from: Position) -> Self {
        Self {
            compressed,
            content: 0,
            from,
            boundary: None,
            begun: None,
        }
    }

    pub(super) fn in_frame(&self) -> bool {
        self.begun.is_some()
    }

    /// Whether a frame with so much content goes in beside what is there.
    pub(super) fn has_room_for(&self, content: usize) -> bool {
        self.content + content <= BLOCK
            && self.compressed.len() + most_compressed(content) <= BATCH_LIMIT
    }

    pub(super) fn begin(&mut self, header: &Diverted, content: usize, checksum: bool) {
        self.begun = Some(Begun {
            at: self.compressed.len(),
            content,
            body: Body::new(checksum),
        });
        self.compressed.extend_from_slice(header.bytes());
    }

    /// Takes what belongs to the frame that has begun.
    pub(super) fn take(&mut self, input: &[u8]) -> Result<Taken, StreamError> {
        let Some(begun) = &mut self.begun else {
            return Ok(Taken::More(0));
        };
        let walked = begun.body.walk(input)?;
        if self.compressed.len() + walked.bytes > BATCH_LIMIT {
            return Ok(Taken::Wasteful);
        }
        self.compressed.extend_from_slice(&input[..walked.bytes]);
        if !walked.ended {
            return Ok(Taken::More(walked.bytes));
        }
        let content = begun.content;
        self.content += content;
        self.begun = None;
        Ok(Taken::Ended {
            bytes: walked.bytes,
            content,
        })
    }

    /// Gives back what has come of the frame that has begun, its header included.
    pub(super) fn give_back(&mut self) -> Vec<u8> {
        match self.begun.take() {
            Some(begun) => self.compressed.split_off(begun.at),
            None => Vec::new(),
        }
    }
}

/// What encoders make of so many bytes at worst (`ZSTD_COMPRESSBOUND`, generously).
fn most_compressed(content: usize) -> usize {
    content + content / 128 + 1024
}
