//! From the file to the image: hash, decode, and the judgement of sizes.

use std::{
    io,
    sync::mpsc::{Receiver, SyncSender},
};

use sha2::{Digest as _, Sha256};

use crate::{
    Digest, StreamError,
    buffer::{ALIGNMENT, BLOCK, Buffer, Filled, PIECE},
    decode::{Body, Decoder, Format, FrameHeader},
    error::{Done, InstallError},
    progress::{Stage, Timed},
    stages::{
        control::Control,
        receive::Portion,
        side_by_side::{Answer, Batch, Decoded},
    },
};

/// The most that a batch of frames may have before it is decoded. A frame that expands to a block has at most
/// `ZSTD_COMPRESSBOUND` of it, unless its encoder was made to waste space.
pub(crate) const BATCH_LIMIT: usize = BLOCK + (128 << 10);

/// What goes to the writer; it comes in order and without gaps.
pub(crate) enum Arrival {
    Block(Filled),
    /// The result of the next batch, in the next of [`Ends::results`], round and round.
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

/// A place in the file from which the rest can be decoded alone.
#[derive(Clone, Debug)]
pub(crate) struct Boundary {
    pub(crate) file_bytes: u64,
    pub(crate) file_hash: Sha256,
}

/// What is known of the file and of the image's length when the file has ended.
pub(crate) struct Expanded {
    pub(crate) file_digest: Digest,
    pub(crate) file_bytes: u64,
    pub(crate) image_bytes: u64,
    pub(crate) hash_file: Timed,
    pub(crate) decode: Timed,
}

/// What the image's length is held against.
pub(crate) struct Bounds<'a> {
    pub(crate) device: &'a str,
    pub(crate) capacity: u64,
    pub(crate) promised: Option<u64>,
}

/// The channels around this stage.
pub(crate) struct Ends {
    pub(crate) portions: Receiver<Portion>,
    pub(crate) used: SyncSender<Buffer>,
    pub(crate) arrivals: SyncSender<Arrival>,
    pub(crate) empty: Receiver<Buffer>,
    pub(crate) batches: SyncSender<Batch>,
    /// Memory for batches.
    pub(crate) spare: Receiver<Vec<u8>>,
    pub(crate) results: Vec<SyncSender<Decoded>>,
}

/// Where the file and the image begin for this stage.
pub(crate) struct Beginning {
    pub(crate) file_bytes: u64,
    pub(crate) image_bytes: u64,
    pub(crate) file_hash: Sha256,
}

pub(crate) fn expand(
    window_limit: u64,
    beginning: Beginning,
    bounds: &Bounds<'_>,
    ends: &Ends,
    control: &Control,
) -> Option<Expanded> {
    let mut next = ends.portions.recv().ok()?;
    let decoder = match begin(&next, beginning.file_bytes, window_limit) {
        Ok(decoder) => decoder,
        Err(why) => return control.fail(why),
    };
    let mut expander = Expander {
        decoder,
        bounds,
        ends,
        control,
        frames: 0,
        position: Position {
            file_bytes: beginning.file_bytes,
            image_bytes: beginning.image_bytes,
        },
        hasher: beginning.file_hash,
        hashed: 0,
        block: None,
        collected: None,
        body: None,
        boundary: None,
        emptied: None,
        stays: false,
        batches: 0,
        hash_file: Timed::default(),
        decode: Timed::default(),
    };
    while let Portion::Bytes(portion) = next {
        expander.portion(portion.bytes())?;
        // The receiver may be done and gone.
        let _ = ends.used.send(portion.buffer);
        next = ends.portions.recv().ok()?;
    }
    expander.end()?;
    Some(Expanded {
        file_digest: Digest::of(expander.hasher),
        file_bytes: expander.position.file_bytes,
        image_bytes: expander.position.image_bytes,
        hash_file: expander.hash_file,
        decode: expander.decode,
    })
}

/// The decoder for what begins with this portion.
fn begin(first: &Portion, file_bytes: u64, window_limit: u64) -> Result<Decoder, InstallError> {
    if file_bytes > 0 {
        // Boundaries are those of zstd frames.
        return Decoder::between_frames(window_limit).map_err(InstallError::Resources);
    }
    let head = match first {
        Portion::Bytes(portion) => portion.bytes(),
        Portion::End => &[],
    };
    let format = Format::of(head).map_err(|error| match error {
        StreamError::NotAnImage(looks_like) => InstallError::NotAnImage { looks_like },
        other => InstallError::Resources(io::Error::other(other)),
    })?;
    Decoder::new(format, window_limit).map_err(InstallError::Resources)
}

/// Whole frames, and perhaps the beginning of one more, that are decoded in one go.
struct Collected {
    compressed: Vec<u8>,
    content: usize,
    /// Where they begin.
    from: Position,
    /// Where in `compressed` the last frame begins, and what it expands to.
    last: usize,
    last_content: usize,
}

struct Expander<'a> {
    decoder: Decoder,
    bounds: &'a Bounds<'a>,
    ends: &'a Ends,
    control: &'a Control,
    frames: u64,
    /// Up to here the file is used up; what was collected counts as expanded.
    position: Position,
    hasher: Sha256,
    /// So many bytes of the current portion are hashed.
    hashed: usize,
    /// What a frame that is decoded here fills.
    block: Option<Filled>,
    collected: Option<Collected>,
    /// In a frame that is collected.
    body: Option<Body>,
    /// Where the last frame has ended.
    boundary: Option<Boundary>,
    /// Memory for a batch that was not needed after all.
    emptied: Option<Vec<u8>>,
    /// The frame that begins next is decoded here, whatever its header says.
    stays: bool,
    batches: usize,
    hash_file: Timed,
    decode: Timed,
}

impl Expander<'_> {
    /// Takes in a portion of the file to its end.
    fn portion(&mut self, bytes: &[u8]) -> Option<()> {
        self.hashed = 0;
        let mut at = 0;
        loop {
            if self.control.stopped() {
                return None;
            }
            let (taken, more) = if self.body.is_some() {
                self.collect(bytes, at)?
            } else {
                self.stream(bytes, at)?
            };
            at += taken;
            if !more {
                self.hash_to(bytes, at);
                return Some(());
            }
        }
    }

    fn hash_to(&mut self, bytes: &[u8], at: usize) {
        if let Some(rest) = bytes.get(self.hashed..at) {
            self.hash_file.time(rest.len(), || self.hasher.update(rest));
            self.hashed = at;
        }
    }

    /// One step of the decoder here: how much of the portion it took, and whether there is more to do with it.
    fn stream(&mut self, bytes: &[u8], at: usize) -> Option<(usize, bool)> {
        // One byte beyond the bound is decoded, to see whether there is one; it goes nowhere.
        let left = self.bound() - self.position.image_bytes;
        let mut beyond = [0];
        let room = if left == 0 {
            &mut beyond[..]
        } else {
            let block = match &mut self.block {
                Some(block) => block,
                none => none.insert(Filled::from(self.ends.empty.recv().ok()?, 0)),
            };
            if block.length == 0 {
                // Frames that were decoded elsewhere may have come since it was taken.
                block.start = within_page(self.position.image_bytes);
            }
            // Blocks end where pieces do.
            let piece = PIECE as u64 - self.position.image_bytes % PIECE as u64;
            let most = usize::try_from(left.min(piece)).unwrap_or(PIECE);
            let filled = block.start + block.length;
            &mut block.buffer[filled..filled + most]
        };
        let size = room.len();
        let input = &bytes[at..];
        let decoder = &mut self.decoder;
        let step = match self.decode.time(0, || decoder.decode(input, room)) {
            Ok(step) => step,
            Err(error) => return self.control.fail(self.stream_error(error)),
        };
        self.decode.bytes += step.produced as u64;
        self.position.file_bytes += step.consumed as u64;
        if left == 0 && step.produced > 0 {
            return self.control.fail(self.too_long());
        }
        self.position.image_bytes += step.produced as u64;
        if let Some(block) = &mut self.block {
            block.length += step.produced;
            if step.produced > 0 && self.position.image_bytes.is_multiple_of(PIECE as u64) {
                self.send_block()?;
            }
        }
        if step.ended {
            self.frame_ended(bytes, at + step.consumed);
            // Otherwise the frame ends in the middle of a block.
            if self.position.image_bytes.is_multiple_of(PIECE as u64) {
                self.send_boundary()?;
            }
        }
        if let Some(header) = step.frame {
            self.frame(header)?;
        }
        let stopped = step.ended || step.frame.is_some() || step.produced == size;
        Some((step.consumed, stopped || step.consumed < input.len()))
    }

    /// The same for a frame that is decoded elsewhere.
    fn collect(&mut self, bytes: &[u8], at: usize) -> Option<(usize, bool)> {
        let (body, collected) = self.body.as_mut().zip(self.collected.as_mut())?;
        let input = &bytes[at..];
        let walked = match body.walk(input) {
            Ok(walked) => walked,
            Err(error) => return self.control.fail(self.stream_error(error)),
        };
        let taken = &input[..walked.bytes];
        if collected.compressed.len() + taken.len() > BATCH_LIMIT {
            // The frame wastes space. Nothing is wrong with it, but it is not worth memory.
            self.decode_here_after_all()?;
            return Some((0, true));
        }
        collected.compressed.extend_from_slice(taken);
        self.position.file_bytes += taken.len() as u64;
        if walked.ended {
            self.body = None;
            self.position.image_bytes += collected.last_content as u64;
            collected.content += collected.last_content;
            let full = collected.content == BLOCK;
            self.frame_ended(bytes, at + walked.bytes);
            if full {
                self.send_collected()?;
            }
        }
        Some((walked.bytes, walked.ended || walked.bytes < input.len()))
    }

    fn frame_ended(&mut self, bytes: &[u8], at: usize) {
        self.hash_to(bytes, at);
        self.boundary = Some(Boundary {
            file_bytes: self.position.file_bytes,
            file_hash: self.hasher.clone(),
        });
    }

    /// A frame begins: what it says of its size is judged before any of it is decoded, and it is decided where that is.
    fn frame(&mut self, header: FrameHeader) -> Option<()> {
        if std::mem::take(&mut self.stays) {
            return Some(());
        }
        self.frames += 1;
        if let Some(content) = header.content {
            let size = self.position.image_bytes.saturating_add(content);
            match self.bounds.promised {
                Some(promised) if size > promised => {
                    return self.control.fail(InstallError::SizeMismatch {
                        expected: promised,
                        found: size,
                        at_least: true,
                    });
                }
                _ if size > self.bounds.capacity => {
                    return self.control.fail(InstallError::ImageTooLarge {
                        device: self.bounds.device.to_owned(),
                        size: Some(size),
                        capacity: self.bounds.capacity,
                    });
                }
                _ => {}
            }
        }
        if self.bounds.promised.is_none() {
            // The first frame's size is the image's until a second one begins.
            let alone = self.frames == 1 && self.position.image_bytes == 0;
            let total = header.content.filter(|_| alone);
            self.control.update(|p| p.total = total);
        }
        let small = header
            .content
            .and_then(|content| usize::try_from(content).ok())
            .filter(|content| *content <= BLOCK);
        match small {
            Some(content) => self.begin_to_collect(content, header.checksum),
            None => self.send_collected(),
        }
    }

    /// The frame that has begun is decoded beside others.
    fn begin_to_collect(&mut self, content: usize, checksum: bool) -> Option<()> {
        if self.position.image_bytes == 0 && self.first_of_several(content) {
            self.control.hash_the_image();
        }
        // What was decoded here goes first.
        self.send_block()?;
        if let Some(collected) = &self.collected
            && (collected.content + content > BLOCK
                || collected.compressed.len() + most_compressed(content) > BATCH_LIMIT)
        {
            self.send_collected()?;
        }
        let Some(header) = self.decoder.divert() else {
            return self.control.fail(self.damaged("a frame without a header"));
        };
        let header_bytes = header.bytes().len();
        let collected = match &mut self.collected {
            Some(collected) => collected,
            none => none.insert(Collected {
                compressed: match self.emptied.take() {
                    Some(compressed) => compressed,
                    None => self.ends.spare.recv().ok()?,
                },
                content: 0,
                from: Position {
                    file_bytes: self.position.file_bytes - header_bytes as u64,
                    ..self.position
                },
                last: 0,
                last_content: 0,
            }),
        };
        collected.last = collected.compressed.len();
        collected.last_content = content;
        collected.compressed.extend_from_slice(header.bytes());
        self.body = Some(Body::new(checksum));
        Some(())
    }

    /// Whether the image goes on after its first frame. Such a file was packed for this, and then the promised
    /// checksum is likely the image's: its hash runs beside the read-back, and the slot need not be read again.
    fn first_of_several(&self, content: usize) -> bool {
        match self.bounds.promised {
            Some(promised) => promised > content as u64,
            None => content == BLOCK,
        }
    }

    /// Hands out what was collected but for a frame that has not ended.
    fn send_collected(&mut self) -> Option<()> {
        let Some(collected) = self.collected.take() else {
            return Some(());
        };
        let block = Filled::from(
            self.ends.empty.recv().ok()?,
            within_page(collected.from.image_bytes),
        );
        let result = &self.ends.results[self.batches % self.ends.results.len()];
        self.batches += 1;
        let batch = Batch {
            compressed: collected.compressed,
            content: collected.content,
            block,
            answer: Answer::to(result.clone()),
        };
        self.ends.batches.send(batch).ok()?;
        self.ends
            .arrivals
            .send(Arrival::Batch(collected.from))
            .ok()?;
        self.send_boundary()
    }

    /// The frame that is being collected is decoded here; it goes on there with what follows in the file.
    fn decode_here_after_all(&mut self) -> Option<()> {
        self.body = None;
        let mut collected = self.collected.take()?;
        let begun = collected.compressed.split_off(collected.last);
        if collected.last > 0 {
            self.collected = Some(collected);
            self.send_collected()?;
        } else {
            self.emptied = Some(collected.compressed);
        }
        self.stays = true;
        self.position.file_bytes -= begun.len() as u64;
        let mut at = 0;
        loop {
            // The frame does not end in what has come of it.
            let (taken, more) = self.stream(&begun, at)?;
            at += taken;
            if !more {
                return Some(());
            }
        }
    }

    /// Sends off what was decoded here.
    fn send_block(&mut self) -> Option<()> {
        match self.block.take() {
            Some(block) if block.length == 0 => self.block = Some(block),
            Some(block) => self.ends.arrivals.send(Arrival::Block(block)).ok()?,
            None => {}
        }
        Some(())
    }

    fn send_boundary(&mut self) -> Option<()> {
        match self.boundary.take() {
            Some(boundary) => self.ends.arrivals.send(Arrival::Boundary(boundary)).ok(),
            None => Some(()),
        }
    }

    fn end(&mut self) -> Option<()> {
        let whole = match self.body {
            Some(_) => Err(StreamError::Truncated),
            None => self.decoder.finish(),
        };
        if let Err(error) = whole {
            return self.control.fail(self.stream_error(error));
        }
        let image_bytes = self.position.image_bytes;
        if image_bytes == 0 {
            return self.control.fail(InstallError::NotAnImage {
                looks_like: "a compressed file of an empty image",
            });
        }
        if let Some(promised) = self.bounds.promised
            && promised != image_bytes
        {
            return self.control.fail(InstallError::SizeMismatch {
                expected: promised,
                found: image_bytes,
                at_least: false,
            });
        }
        self.send_collected()?;
        self.send_block()?;
        self.control.update(|p| {
            p.stage = Stage::Verifying;
            p.total = Some(image_bytes);
        });
        self.ends.arrivals.send(Arrival::End).ok()
    }

    /// Not one byte more than this reaches the device.
    fn bound(&self) -> u64 {
        let promised = self.bounds.promised.unwrap_or(u64::MAX);
        promised.min(self.bounds.capacity)
    }

    fn too_long(&self) -> InstallError {
        match self.bounds.promised {
            Some(promised) => InstallError::SizeMismatch {
                expected: promised,
                found: self.position.image_bytes + 1,
                at_least: true,
            },
            None => InstallError::ImageTooLarge {
                device: self.bounds.device.to_owned(),
                size: None,
                capacity: self.bounds.capacity,
            },
        }
    }

    fn stream_error(&self, error: StreamError) -> InstallError {
        let detail = match error {
            StreamError::NotAnImage(looks_like) => return InstallError::NotAnImage { looks_like },
            StreamError::WindowTooLarge { window, limit } => {
                return InstallError::WindowTooLarge { window, limit };
            }
            StreamError::Damaged(detail) => detail,
            StreamError::Truncated => "the file ends in the middle of the image".to_owned(),
        };
        self.damaged(detail)
    }

    fn damaged(&self, detail: impl Into<String>) -> InstallError {
        decode_failed(self.position, detail.into(), self.control)
    }
}

/// The decoder's word on what follows this place.
pub(crate) fn decode_failed(at: Position, detail: String, control: &Control) -> InstallError {
    InstallError::DecodeFailed {
        file_bytes: at.file_bytes,
        expanded: Done {
            bytes: at.image_bytes,
            total: control.progress().total,
        },
        detail,
    }
}

/// Where in a page a byte of the image is.
fn within_page(image_bytes: u64) -> usize {
    usize::try_from(image_bytes % ALIGNMENT as u64).unwrap_or(0)
}

/// What encoders make of so many bytes at worst (`ZSTD_COMPRESSBOUND`, generously).
fn most_compressed(content: usize) -> usize {
    content + content / 128 + 1024
}
