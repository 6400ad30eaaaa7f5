//! The image in whole pages, and the marks that what is read back must have.

use std::sync::mpsc::{Receiver, SyncSender};

use crate::{
    buffer::{ALIGNMENT, BLOCK, Buffer, Filled, PIECE},
    progress::Timed,
    proof::Mark,
    stages::{
        arrival::{Arrival, Boundary},
        control::Control,
        side_by_side::Decoded,
    },
};

/// A block has whole pages of a block at most, so that it lies in no more pieces than this.
const PIECES_IN_A_BLOCK: usize = BLOCK / PIECE + 1;

/// What goes to the writer.
pub(crate) enum Ready {
    Block(Marked),
    /// A piece ends here, and a frame too.
    Boundary(Boundary),
    End,
}

/// Whole pages that follow each other; the image's last ones may end within one.
pub(crate) struct Marked {
    pub(crate) buffer: Buffer,
    /// Where they begin in the buffer.
    pub(crate) start: usize,
    /// Where on the device.
    pub(crate) offset: u64,
    /// The pieces, or the parts of pieces, that they are. None where a block was all in one page: only the writer gives
    /// buffers back, so that whoever waits for one sees that it has failed.
    pub(crate) pieces: [Option<Piece>; PIECES_IN_A_BLOCK],
    /// The buffer is one of those that go round.
    pub(crate) goes_round: bool,
}

/// What is read back as one.
#[derive(Clone, Copy)]
pub(crate) struct Piece {
    pub(crate) length: usize,
    pub(crate) mark: Mark,
}

impl Marked {
    pub(crate) fn bytes(&self) -> &[u8] {
        let pieces = self.pieces.iter().flatten();
        let length: usize = pieces.map(|piece| piece.length).sum();
        &self.buffer[self.start..self.start + length]
    }
}

/// The channels around this stage.
pub(crate) struct Ends {
    pub(crate) arrivals: Receiver<Arrival>,
    /// Where batches are waited for, in turn.
    pub(crate) results: Vec<Receiver<Decoded>>,
    pub(crate) ready: SyncSender<Ready>,
}

/// Hands on all that arrives from `offset` on.
pub(crate) fn digest(offset: u64, ends: &Ends, control: &Control) -> Option<Timed> {
    let mut digester = Digester {
        ends,
        offset,
        tail: Buffer::new(ALIGNMENT),
        tail_length: 0,
        times: Timed::default(),
    };
    let mut results = ends.results.iter().cycle();
    loop {
        if control.stopped() {
            return None;
        }
        match ends.arrivals.recv().ok()? {
            Arrival::Block(block) => digester.block(block)?,
            Arrival::Batch(from) => match results.next()?.recv().ok()? {
                Ok(block) => digester.block(block)?,
                Err(detail) => return control.fail(from.damaged(detail, control)),
            },
            Arrival::Boundary(boundary) => digester.boundary(boundary)?,
            Arrival::End => return digester.end(),
        }
    }
}

struct Digester<'a> {
    ends: &'a Ends,
    /// Up to here all was handed on: whole pages.
    offset: u64,
    /// What came after them.
    tail: Buffer,
    tail_length: usize,
    times: Timed,
}

impl Digester<'_> {
    /// Hands on the pages of a block, the part of a page that came before it in front, and keeps the part of a page at its
    /// end for the next one.
    fn block(&mut self, mut block: Filled) -> Option<()> {
        let start = block.start - self.tail_length;
        block.buffer[start..block.start].copy_from_slice(&self.tail[..self.tail_length]);
        let end = block.start + block.length;
        let pages = start + (end - start) / ALIGNMENT * ALIGNMENT;
        self.tail_length = end - pages;
        self.tail[..self.tail_length].copy_from_slice(&block.buffer[pages..end]);
        self.ready(block.buffer, start, pages, true)
    }

    fn ready(&mut self, buffer: Buffer, start: usize, end: usize, goes_round: bool) -> Option<()> {
        let mut marked = Marked {
            buffer,
            start,
            offset: self.offset,
            pieces: [None; PIECES_IN_A_BLOCK],
            goes_round,
        };
        let mut at = start;
        for piece in &mut marked.pieces {
            let before = usize::try_from(self.offset % PIECE as u64).unwrap_or(0);
            let length = (PIECE - before).min(end - at);
            if length == 0 {
                break;
            }
            let bytes = &marked.buffer[at..at + length];
            let mark = self.times.time(length, || Mark::of(bytes));
            *piece = Some(Piece { length, mark });
            at += length;
            self.offset += length as u64;
        }
        self.ends.ready.send(Ready::Block(marked)).ok()
    }

    /// Of interest is a boundary at which a piece ends.
    fn boundary(&mut self, boundary: Boundary) -> Option<()> {
        if self.tail_length == 0 && self.offset.is_multiple_of(PIECE as u64) {
            self.ends.ready.send(Ready::Boundary(boundary)).ok()?;
        }
        Some(())
    }

    fn end(mut self) -> Option<Timed> {
        if self.tail_length > 0 {
            let tail = std::mem::replace(&mut self.tail, Buffer::new(0));
            self.ready(tail, 0, self.tail_length, false)?;
        }
        self.ends.ready.send(Ready::End).ok()?;
        Some(self.times)
    }
}
