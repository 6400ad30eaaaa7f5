//! Buffers that direct I/O accepts, and the pools they circulate in.

use std::{
    io::{self, Read},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
};

use crate::kernel::Mapping;

/// What offsets, lengths and addresses are multiples of: a page. No block device that Linux drives with 4 KiB pages
/// asks for more of an address; one with larger sectors asks more of lengths, which [`PIECE`] satisfies.
pub(crate) const ALIGNMENT: usize = 4096;

/// Expanded bytes that are digested, read back and compared at once. A multiple of every sector size.
pub(crate) const PIECE: usize = 2 << 20;

/// Expanded bytes that travel at once from the decoder to the device, at most: a device has its requests side by side
/// where one call asks for several of them. A frame that is no larger is decoded
/// in one go, beside others. What `pack` makes of an image is cut into frames of this size.
pub(crate) const BLOCK: usize = 4 << 20;

/// Bytes of the file that travel at once.
pub(crate) const FILE_PIECE: usize = 256 << 10;

/// Memory of a fixed length that begins at a multiple of [`ALIGNMENT`], and in huge pages where it is long: what is
/// digested, written and read back goes through these, and pages of 4 KiB cost a sixth of an installation's time.
pub(crate) type Buffer = Mapping;

/// A buffer and which part of it is filled.
#[derive(Debug)]
pub(crate) struct Filled {
    pub(crate) buffer: Buffer,
    pub(crate) start: usize,
    pub(crate) length: usize,
}

impl Filled {
    /// Nothing yet, to be filled from `start` on.
    pub(crate) fn from(buffer: Buffer, start: usize) -> Self {
        Self {
            buffer,
            start,
            length: 0,
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.start + self.length]
    }
}

/// Whether there is nothing but zeros.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    // Without a branch per byte, so that it is done in wide registers; most data is told by its first line.
    bytes
        .chunks(64)
        .all(|line| line.iter().fold(0, |seen, byte| seen | byte) == 0)
}

/// Reads until `room` is full or the source ends; how much there was, and why it was no more where that is an error.
pub(crate) fn fill(source: &mut dyn Read, room: &mut [u8]) -> (usize, io::Result<()>) {
    let mut length = 0;
    while length < room.len() {
        match source.read(&mut room[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (length, Err(error)),
        }
    }
    (length, Ok(()))
}

/// The two ends of a circle of `count` things: who needs one takes it from the receiver, who has used it gives it back to
/// the sender. Each end sees that the other is gone.
pub(crate) fn circle<T>(count: usize, make: impl Fn() -> T) -> (SyncSender<T>, Receiver<T>) {
    let (give, take) = sync_channel(count);
    for _ in 0..count {
        // There is room for all of them, and the receiver is right here.
        let _ = give.send(make());
    }
    (give, take)
}

/// A circle of buffers.
pub(crate) fn pool(count: usize, length: usize) -> (SyncSender<Buffer>, Receiver<Buffer>) {
    circle(count, || Buffer::new(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_stay_so() {
        let buffers: Vec<Buffer> = (1..20).map(|n| Buffer::new(n * 1000)).collect();
        for (n, buffer) in (1..20).zip(&buffers) {
            assert_eq!(buffer.len(), n * 1000);
            assert_eq!(buffer.as_ptr().addr() % ALIGNMENT, 0);
        }
    }
}
