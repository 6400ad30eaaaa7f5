//! From the medium: what was written, flushed and read back, piece by piece.

use std::sync::mpsc::{Receiver, SyncSender};

use crate::{
    Device,
    buffer::{Buffer, Filled, PIECE},
    device::whole::read_all,
    error::InstallError,
    progress::Timed,
    proof::Mark,
    stages::{
        arrival::Boundary,
        control::Control,
        write::{Epoch, Written},
    },
};

/// What the medium holds.
#[allow(
    clippy::large_enum_variant,
    reason = "nearly all are pieces, and nothing is allocated for one"
)]
pub(crate) enum Held {
    Piece(Piece),
    /// An epoch has been read back. Its list goes back to the writer when it is proven.
    Epoch(Vec<Written>),
    End,
}

pub(crate) struct Piece {
    pub(crate) offset: u64,
    pub(crate) bytes: Filled,
    /// What it should be, where it was just written.
    pub(crate) written: Option<Mark>,
    /// Where this is the end of a frame.
    pub(crate) boundary: Option<Boundary>,
}

impl Piece {
    /// Where it ends on the device.
    pub(crate) fn end(&self) -> u64 {
        self.offset + self.bytes.length as u64
    }
}

#[derive(Default)]
pub(crate) struct Times {
    pub(crate) flush: Timed,
    pub(crate) read_back: Timed,
}

/// Reads the medium into buffers that go round with whoever looks at them.
pub(crate) struct Medium<'a> {
    pub(crate) device: &'a dyn Device,
    pub(crate) control: &'a Control,
    pub(crate) held: SyncSender<Held>,
    pub(crate) empty: Receiver<Buffer>,
    pub(crate) times: Times,
}

impl Medium<'_> {
    /// Flushes and reads back each epoch that was written, while the next one is being written.
    pub(crate) fn follow(mut self, epochs: &Receiver<Epoch>) -> Option<Times> {
        loop {
            let Epoch::Written(mut epoch) = epochs.recv().ok()? else {
                self.held.send(Held::End).ok()?;
                return Some(self.times);
            };
            let length = epoch.iter().map(|written| written.length).sum();
            if let Err(error) = self.times.flush.time(length, || self.device.flush()) {
                return self.control.fail(InstallError::WriteFailed {
                    device: self.device.name().to_owned(),
                    operation: "flush",
                    offset: epoch.first().map_or(0, |written| written.offset),
                    proven: self.control.proven(),
                    error,
                });
            }
            for written in epoch.drain(..) {
                let Written {
                    offset,
                    length,
                    mark,
                    boundary,
                } = written;
                self.piece(offset, length, Some(mark), boundary)?;
            }
            self.held.send(Held::Epoch(epoch)).ok()?;
        }
    }

    /// Reads the first `length` bytes once more.
    pub(crate) fn read_again(mut self, length: u64) -> Option<()> {
        let mut offset = 0;
        while offset < length {
            let wanted = usize::try_from(length - offset).unwrap_or(PIECE).min(PIECE);
            self.piece(offset, wanted, None, None)?;
            offset += wanted as u64;
        }
        self.held.send(Held::End).ok()
    }

    fn piece(
        &mut self,
        offset: u64,
        length: usize,
        written: Option<Mark>,
        boundary: Option<Boundary>,
    ) -> Option<()> {
        if self.control.stopped() {
            return None;
        }
        let mut buffer = self.empty.recv().ok()?;
        let read = self.times.read_back.time(length, || {
            read_all(self.device, &mut buffer, length, offset)
        });
        if let Err((offset, error)) = read {
            return self.control.fail(InstallError::ReadBackFailed {
                device: self.device.name().to_owned(),
                offset,
                proven: self.control.proven(),
                error,
            });
        }
        let piece = Piece {
            offset,
            bytes: Filled {
                buffer,
                start: 0,
                length,
            },
            written,
            boundary,
        };
        self.held.send(Held::Piece(piece)).ok()
    }
}
