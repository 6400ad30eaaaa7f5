//! Small frames, decoded beside each other, each in one go.
//!
//! The expander collects frames as they come from the network and gives each batch of them a block before it hands
//! the batch out. So blocks are given out in the order of the image, and a batch that waits for one never waits for a
//! later batch.

use std::sync::{
    Mutex, PoisonError,
    mpsc::{Receiver, SyncSender},
};

use crate::{buffer::Filled, progress::Timed};

/// Frames that were collected and the block for their content.
pub(crate) struct Batch {
    pub(crate) compressed: Vec<u8>,
    /// How much they expand to is said by their headers.
    pub(crate) content: usize,
    pub(crate) block: Filled,
    /// Where the result is waited for.
    pub(crate) answer: Answer,
}

/// A block of the image, or what the decoder says.
pub(crate) type Decoded = Result<Filled, String>;

/// Whoever waits for a result gets one, a panic included.
pub(crate) struct Answer(Option<SyncSender<Decoded>>);

impl Answer {
    pub(crate) fn to(waiting: SyncSender<Decoded>) -> Self {
        Self(Some(waiting))
    }

    fn give(mut self, decoded: Decoded) {
        if let Some(waiting) = self.0.take() {
            // The writer may have failed.
            let _ = waiting.send(decoded);
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(waiting) = self.0.take() {
            let _ = waiting.try_send(Err("the decoder gave up".to_owned()));
        }
    }
}

/// Decodes batches until there are no more.
pub(crate) fn decode(
    batches: &Mutex<Receiver<Batch>>,
    used: &SyncSender<Vec<u8>>,
) -> Option<Timed> {
    let mut times = Timed::default();
    let mut decompressor = zstd::bulk::Decompressor::default();
    loop {
        // Whoever waits holds the lock; the others wait for the lock.
        let next = batches
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .recv();
        let Ok(Batch {
            mut compressed,
            content,
            mut block,
            answer,
        }) = next
        else {
            return Some(times);
        };
        let room = &mut block.buffer[block.start..block.start + content];
        let decoded = times.time(content, || {
            decompressor.decompress_to_buffer(&compressed, room)
        });
        compressed.clear();
        // The expander may be done and gone.
        let _ = used.send(compressed);
        let decoded = match decoded {
            Ok(length) if length == content => {
                block.length = length;
                Ok(block)
            }
            Ok(length) => Err(format!("{length} bytes instead of {content}")),
            Err(error) => Err(error.to_string()),
        };
        answer.give(decoded);
    }
}
