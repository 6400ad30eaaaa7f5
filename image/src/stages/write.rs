//! The image, to the device.

use std::{
    io,
    ops::Range,
    sync::mpsc::{Receiver, SyncSender},
};

use crate::{
    Device,
    buffer::{BLOCK, Buffer, PIECE},
    device::whole::{Failed, clear, read_all, write_all, write_zeros},
    error::InstallError,
    progress::Timed,
    proof::Mark,
    stages::{
        arrival::Boundary,
        control::Control,
        digest::{Marked, Ready},
        segments::{self, Part},
    },
};

/// An epoch is flushed and read back as one: 64 MiB.
pub(crate) const EPOCH: usize = 64 << 20;

/// Where frames are cut so that pieces are small, an epoch ends earlier.
pub(crate) const PIECES_PER_EPOCH: usize = 128;

/// Zeros at hand for a device that cannot clear.
const ZEROS: usize = 1 << 20;

/// What was written where, for the read-back to compare with.
pub(crate) struct Written {
    pub(crate) offset: u64,
    pub(crate) length: usize,
    pub(crate) mark: Mark,
    /// Where this is the end of a frame.
    pub(crate) boundary: Option<Boundary>,
}

/// What goes on to be proven. The lists go round like the buffers.
pub(crate) enum Epoch {
    Written(Vec<Written>),
    End,
}

/// The channels around this stage.
pub(crate) struct Ends {
    pub(crate) ready: Receiver<Ready>,
    pub(crate) used: SyncSender<Buffer>,
    pub(crate) epochs: SyncSender<Epoch>,
    pub(crate) empty: Receiver<Vec<Written>>,
}

#[derive(Default)]
pub(crate) struct Times {
    pub(crate) write: Timed,
    pub(crate) clear: Timed,
    /// Bytes that were found on the device, and reading them.
    pub(crate) unchanged: Timed,
}

/// Writes all that is ready; with `compare` only what the device does not hold already.
pub(crate) fn write(
    device: &dyn Device,
    compare: bool,
    ends: &Ends,
    control: &Control,
) -> Option<Times> {
    let mut writer = Writer {
        device,
        control,
        ends,
        times: Times::default(),
        epoch: ends.empty.recv().ok()?,
        epoch_bytes: 0,
        parts: Vec::new(),
        clearing: None,
        zeros: None,
        held: compare.then(|| Buffer::new(BLOCK)),
    };
    loop {
        if control.stopped() {
            return None;
        }
        match ends.ready.recv().ok()? {
            Ready::Block(block) => writer.block(block)?,
            Ready::Boundary(boundary) => writer.boundary(boundary),
            Ready::End => return writer.end(),
        }
    }
}

struct Writer<'a> {
    device: &'a dyn Device,
    control: &'a Control,
    ends: &'a Ends,
    times: Times,
    epoch: Vec<Written>,
    epoch_bytes: usize,
    parts: Vec<(Range<usize>, Part)>,
    /// Zeros that have come and that the device was not asked for yet.
    clearing: Option<Range<u64>>,
    /// For a device that cannot clear.
    zeros: Option<Buffer>,
    /// For what the device holds before it is written to.
    held: Option<Buffer>,
}

impl Writer<'_> {
    fn block(&mut self, block: Marked) -> Option<()> {
        // An epoch is sent when the next one begins: a boundary belongs to what is before it.
        if self.epoch_bytes >= EPOCH || self.epoch.len() + block.pieces.len() > PIECES_PER_EPOCH {
            self.next_epoch()?;
        }
        let bytes = block.bytes();
        let mut parts = std::mem::take(&mut self.parts);
        segments::cut(bytes, self.held_now(block.offset, bytes.len()), &mut parts);
        for (range, part) in &parts {
            let at = block.offset + range.start as u64;
            match part {
                Part::Data => self.data(&bytes[range.clone()], at)?,
                Part::Zeros => self.zeros(at..at + range.len() as u64)?,
                Part::Unchanged => self.times.unchanged.bytes += range.len() as u64,
            }
        }
        self.parts = parts;
        let mut offset = block.offset;
        for piece in block.pieces.iter().flatten() {
            self.epoch.push(Written {
                offset,
                length: piece.length,
                mark: piece.mark,
                boundary: None,
            });
            offset += piece.length as u64;
        }
        self.epoch_bytes += bytes.len();
        self.control.update(|p| p.written = offset);
        if block.goes_round {
            // The expander may be done and gone.
            let _ = self.ends.used.send(block.buffer);
        }
        Some(())
    }

    fn next_epoch(&mut self) -> Option<()> {
        self.clear()?;
        let full = std::mem::take(&mut self.epoch);
        // Before the wait: the medium is read on as soon as the epoch before this one was read, proven or not.
        self.ends.epochs.send(Epoch::Written(full)).ok()?;
        self.epoch = self.ends.empty.recv().ok()?;
        self.epoch_bytes = 0;
        Some(())
    }

    fn boundary(&mut self, boundary: Boundary) {
        if let Some(last) = self.epoch.last_mut() {
            last.boundary = Some(boundary);
        }
    }

    fn end(mut self) -> Option<Times> {
        self.clear()?;
        self.ends.epochs.send(Epoch::Written(self.epoch)).ok()?;
        self.ends.epochs.send(Epoch::End).ok()?;
        Some(self.times)
    }

    /// What the device holds where the next block goes. One that cannot be read there is written.
    fn held_now(&mut self, offset: u64, length: usize) -> Option<&[u8]> {
        let held = self.held.as_mut()?;
        let device = self.device;
        let read = self
            .times
            .unchanged
            .time(0, || read_all(device, held, length, offset));
        read.is_ok().then(|| &held[..length])
    }

    fn data(&mut self, bytes: &[u8], offset: u64) -> Option<()> {
        self.clear()?;
        let device = self.device;
        let written = self
            .times
            .write
            .time(bytes.len(), || write_all(device, bytes, offset));
        self.judge("write", written)
    }

    /// Zeros that follow each other are cleared in one go.
    fn zeros(&mut self, range: Range<u64>) -> Option<()> {
        match &mut self.clearing {
            Some(clearing) if clearing.end == range.start => clearing.end = range.end,
            _ => {
                self.clear()?;
                self.clearing = Some(range);
            }
        }
        Some(())
    }

    fn clear(&mut self) -> Option<()> {
        let Some(range) = self.clearing.take() else {
            return Some(());
        };
        if let Some(zeros) = &self.zeros {
            let device = self.device;
            let written = self
                .times
                .write
                .time(0, || write_zeros(device, zeros, &range));
            self.times.write.bytes += range.end - range.start;
            return self.judge("write", written);
        }
        let device = self.device;
        let cleared = self.times.clear.time(0, || clear(device, &range));
        match cleared {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                self.zeros = Some(Buffer::new(ZEROS));
                self.clearing = Some(range);
                self.clear()
            }
            Ok(()) => {
                self.times.clear.bytes += range.end - range.start;
                Some(())
            }
            Err(error) => self.judge("clear", Err((range.start, error))),
        }
    }

    fn judge(&self, operation: &'static str, result: Result<(), Failed>) -> Option<()> {
        match result {
            Ok(()) => Some(()),
            Err((offset, error)) => self.control.fail(InstallError::WriteFailed {
                device: self.device.name().to_owned(),
                operation,
                offset,
                proven: self.control.proven(),
                error,
            }),
        }
    }
}

const _: () = assert!(EPOCH.is_multiple_of(PIECE));
