//! The image, to the device.

use std::{
    io,
    ops::Range,
    sync::mpsc::{Receiver, SyncSender},
};

use crate::{
    Device,
    buffer::{ALIGNMENT, Buffer, Filled, PIECE},
    error::InstallError,
    progress::Timed,
    proof::Mark,
    stages::{
        control::Control,
        expand::{Arrival, Boundary, decode_failed},
        medium::read_all,
        segments::{self, Part},
        side_by_side::Decoded,
    },
};

/// An epoch is flushed and read back as one: 64 MiB.
pub(crate) const EPOCH: usize = 64 << 20;

/// Where frames are cut so that pieces are small, an epoch ends earlier.
pub(crate) const PIECES_PER_EPOCH: usize = 128;

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
    pub(crate) arrivals: Receiver<Arrival>,
    /// Where batches are waited for, in turn.
    pub(crate) results: Vec<Receiver<Decoded>>,
    pub(crate) used: SyncSender<Buffer>,
    pub(crate) epochs: SyncSender<Epoch>,
    pub(crate) empty: Receiver<Vec<Written>>,
}

#[derive(Default)]
pub(crate) struct Times {
    pub(crate) digest: Timed,
    pub(crate) write: Timed,
    pub(crate) clear: Timed,
    /// Bytes that were found on the device, and reading them.
    pub(crate) unchanged: Timed,
}

/// Writes all that arrives from `offset` on; with `compare` only what the device does not hold already.
pub(crate) fn write(
    device: &dyn Device,
    offset: u64,
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
        offset,
        tail: Buffer::new(ALIGNMENT),
        tail_length: 0,
        parts: Vec::new(),
        clearing: None,
        zeros: None,
        held: compare.then(|| Buffer::new(PIECE)),
    };
    let mut results = ends.results.iter().cycle();
    loop {
        if control.stopped() {
            return None;
        }
        match ends.arrivals.recv().ok()? {
            Arrival::Block(block) => writer.block(block)?,
            Arrival::Batch(from) => match results.next()?.recv().ok()? {
                Ok(block) => writer.block(block)?,
                Err(detail) => return control.fail(decode_failed(from, detail, control)),
            },
            Arrival::Boundary(boundary) => writer.boundary(boundary),
            Arrival::End => return writer.end(),
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
    /// Up to here all is written, but for what is being cleared: whole pages.
    offset: u64,
    /// What came after them.
    tail: Buffer,
    tail_length: usize,
    parts: Vec<(Range<usize>, Part)>,
    /// Zeros that have come and that the device was not asked for yet.
    clearing: Option<Range<u64>>,
    /// For a device that cannot clear.
    zeros: Option<Buffer>,
    /// For what the device holds before it is written to.
    held: Option<Buffer>,
}

impl Writer<'_> {
    /// Writes the pages of a block, the piece of a page that came before it in front, and keeps the piece of a page at
    /// its end for the next one.
    fn block(&mut self, mut block: Filled) -> Option<()> {
        let start = block.start - self.tail_length;
        block.buffer[start..block.start].copy_from_slice(&self.tail[..self.tail_length]);
        let end = block.start + block.length;
        let pages = start + (end - start) / ALIGNMENT * ALIGNMENT;
        self.tail_length = end - pages;
        self.tail[..self.tail_length].copy_from_slice(&block.buffer[pages..end]);
        let mut at = start;
        while at < pages {
            let before = usize::try_from(self.offset % PIECE as u64).unwrap_or(0);
            let length = (PIECE - before).min(pages - at);
            self.piece(&block.buffer[at..at + length])?;
            at += length;
        }
        // The expander may be done and gone.
        let _ = self.ends.used.send(block.buffer);
        Some(())
    }

    /// Of interest is a boundary at which a piece ends.
    fn boundary(&mut self, boundary: Boundary) {
        if self.tail_length == 0
            && self.offset.is_multiple_of(PIECE as u64)
            && let Some(last) = self.epoch.last_mut()
        {
            last.boundary = Some(boundary);
        }
    }

    fn end(mut self) -> Option<Times> {
        if self.tail_length > 0 {
            let tail = std::mem::replace(&mut self.tail, Buffer::new(0));
            self.piece(&tail[..self.tail_length])?;
        }
        self.clear()?;
        self.ends.epochs.send(Epoch::Written(self.epoch)).ok()?;
        self.ends.epochs.send(Epoch::End).ok()?;
        Some(self.times)
    }

    fn piece(&mut self, bytes: &[u8]) -> Option<()> {
        // An epoch is sent when the next one begins: a boundary belongs to what is before it.
        if self.epoch_bytes >= EPOCH || self.epoch.len() >= PIECES_PER_EPOCH {
            self.clear()?;
            let empty = self.ends.empty.recv().ok()?;
            let full = std::mem::replace(&mut self.epoch, empty);
            self.ends.epochs.send(Epoch::Written(full)).ok()?;
            self.epoch_bytes = 0;
        }
        let mark = self.times.digest.time(bytes.len(), || Mark::of(bytes));
        let mut parts = std::mem::take(&mut self.parts);
        segments::cut(bytes, self.held_now(bytes.len()), &mut parts);
        for (range, part) in &parts {
            let at = self.offset + range.start as u64;
            match part {
                Part::Data => self.data(&bytes[range.clone()], at)?,
                Part::Zeros => self.zeros(at..at + range.len() as u64)?,
                Part::Unchanged => self.times.unchanged.bytes += range.len() as u64,
            }
        }
        self.parts = parts;
        self.epoch.push(Written {
            offset: self.offset,
            length: bytes.len(),
            mark,
            boundary: None,
        });
        self.epoch_bytes += bytes.len();
        self.offset += bytes.len() as u64;
        self.control.update(|p| p.written = self.offset);
        Some(())
    }

    /// What the device holds where the next piece goes. One that cannot be read there is written.
    fn held_now(&mut self, length: usize) -> Option<&[u8]> {
        let held = self.held.as_mut()?;
        let (device, offset) = (self.device, self.offset);
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
        let cleared = self
            .times
            .clear
            .time(0, || device.clear_at(range.start, range.end - range.start));
        match cleared {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                self.zeros = Some(Buffer::new(PIECE));
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

    fn judge(&self, operation: &'static str, result: Result<(), (u64, io::Error)>) -> Option<()> {
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

fn write_zeros(
    device: &dyn Device,
    zeros: &[u8],
    range: &Range<u64>,
) -> Result<(), (u64, io::Error)> {
    let mut offset = range.start;
    while offset < range.end {
        let length = usize::try_from(range.end - offset).unwrap_or(usize::MAX);
        let length = length.min(zeros.len());
        write_all(device, &zeros[..length], offset)?;
        offset += length as u64;
    }
    Ok(())
}

/// Writes everything; on failure the place of the first byte that was not written.
fn write_all(device: &dyn Device, bytes: &[u8], offset: u64) -> Result<(), (u64, io::Error)> {
    let mut done = 0;
    while done < bytes.len() {
        let at = offset + done as u64;
        match device.write_at(&bytes[done..], at) {
            Ok(0) => return Err((at, io::ErrorKind::WriteZero.into())),
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err((at, error)),
        }
    }
    Ok(())
}
