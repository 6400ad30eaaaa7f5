//! The expander's other end: blocks of the image, in its order.

use std::sync::mpsc::{Receiver, SyncSender};

use super::collected::Collected;
use crate::{
    buffer::{ALIGNMENT, BLOCK, Buffer, Filled},
    stages::{
        arrival::{Arrival, Boundary, Position},
        side_by_side::{Answer, Batch, Decoded},
    },
};

/// The channels towards the decoders and the writer. None from a method: the other end is gone.
pub(crate) struct Output {
    pub(crate) arrivals: SyncSender<Arrival>,
    pub(crate) empty: Receiver<Buffer>,
    pub(crate) batches: SyncSender<Batch>,
    /// Memory for batches.
    pub(crate) spare: Receiver<Vec<u8>>,
    pub(crate) results: Vec<SyncSender<Decoded>>,
}

/// What is on its way to them.
pub(super) struct Outgoing<'a> {
    output: &'a Output,
    /// What a frame that is decoded here fills.
    block: Option<Filled>,
    /// Batches that were sent.
    batches: usize,
    /// Memory for a batch that was not needed after all.
    emptied: Option<Vec<u8>>,
}

impl<'a> Outgoing<'a> {
    pub(super) fn to(output: &'a Output) -> Self {
        Self {
            output,
            block: None,
            batches: 0,
            emptied: None,
        }
    }

    /// Where the image's next bytes go: at most `left`, and no further than to the next multiple of a block.
    pub(super) fn room(&mut self, image_bytes: u64, left: u64) -> Option<&mut [u8]> {
        let block = match &mut self.block {
            Some(block) => block,
            none => none.insert(Filled::from(self.output.empty.recv().ok()?, 0)),
        };
        if block.length == 0 {
            // Frames that were decoded elsewhere may have come since it was taken.
            block.start = within_page(image_bytes);
        }
        let to_the_end = BLOCK as u64 - image_bytes % BLOCK as u64;
        let most = usize::try_from(left.min(to_the_end)).unwrap_or(BLOCK);
        let filled = block.start + block.length;
        Some(&mut block.buffer[filled..filled + most])
    }

    /// So many bytes were put there, up to this one of the image.
    pub(super) fn filled(&mut self, bytes: usize, image_bytes: u64) -> Option<()> {
        if let Some(block) = &mut self.block {
            block.length += bytes;
        }
        if bytes > 0 && image_bytes.is_multiple_of(BLOCK as u64) {
            self.send_block()?;
        }
        Some(())
    }

    /// Sends off what was decoded here.
    pub(super) fn send_block(&mut self) -> Option<()> {
        match self.block.take() {
            Some(block) if block.length == 0 => self.block = Some(block),
            Some(block) => self.send(Arrival::Block(block))?,
            None => {}
        }
        Some(())
    }

    pub(super) fn send_boundary(&self, boundary: Boundary) -> Option<()> {
        self.send(Arrival::Boundary(boundary))
    }

    pub(super) fn end(&self) -> Option<()> {
        self.send(Arrival::End)
    }

    fn send(&self, arrival: Arrival) -> Option<()> {
        self.output.arrivals.send(arrival).ok()
    }

    /// Memory for frames that begin here.
    pub(super) fn collect(&mut self, from: Position) -> Option<Collected> {
        let compressed = match self.emptied.take() {
            Some(compressed) => compressed,
            None => self.output.spare.recv().ok()?,
        };
        Some(Collected::new(compressed, from))
    }

    /// Hands out what was collected to be decoded; where nothing was, keeps the memory.
    pub(super) fn send_batch(&mut self, collected: Collected) -> Option<()> {
        if collected.compressed.is_empty() {
            self.emptied = Some(collected.compressed);
            return Some(());
        }
        let buffer = self.output.empty.recv().ok()?;
        let block = Filled::from(buffer, within_page(collected.from.image_bytes));
        let results = &self.output.results;
        let result = &results[self.batches % results.len()];
        self.batches += 1;
        let batch = Batch {
            compressed: collected.compressed,
            content: collected.content,
            block,
            answer: Answer::to(result.clone()),
        };
        self.output.batches.send(batch).ok()?;
        self.send(Arrival::Batch(collected.from))?;
        collected
            .boundary
            .map_or(Some(()), |boundary| self.send_boundary(boundary))
    }
}

/// Where in a page a byte of the image is.
fn within_page(image_bytes: u64) -> usize {
    usize::try_from(image_bytes % ALIGNMENT as u64).unwrap_or(0)
}
