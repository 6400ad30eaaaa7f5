//! From the file to the image: hash, decode, and the judgement of sizes.
//!
//! A frame is decoded here, into blocks, or is collected as it is ([`Collected`]) to be decoded beside others
//! ([`crate::stages::side_by_side`]): which, is decided by its header, in [`Expander::frame_begins`].

mod bounds;
mod collected;
mod file_hash;
mod output;

use std::{
    io,
    sync::mpsc::{Receiver, SyncSender},
};

use sha2::Sha256;

pub(crate) use bounds::Bounds;
pub(crate) use collected::BATCH_LIMIT;
use collected::{Collected, Taken};
use file_hash::FileHash;
use output::Outgoing;
pub(crate) use output::Output;

use crate::{
    Digest, StreamError, WindowLimit,
    buffer::{BLOCK, Buffer, PIECE},
    decode::{Decoder, Format, FrameHeader},
    error::InstallError,
    progress::{Stage, Timed},
    stages::{arrival::Position, control::Control, receive::Portion},
};

/// The file as it comes, and where its buffers go back to.
pub(crate) struct Input {
    pub(crate) portions: Receiver<Portion>,
    pub(crate) used: SyncSender<Buffer>,
}

/// Where the file and the image begin for this stage.
pub(crate) struct Beginning {
    pub(crate) file_bytes: u64,
    pub(crate) image_bytes: u64,
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

pub(crate) fn expand(
    window_limit: WindowLimit,
    beginning: Beginning,
    bounds: &Bounds<'_>,
    input: &Input,
    output: &Output,
    control: &Control,
) -> Option<Expanded> {
    let mut next = input.portions.recv().ok()?;
    let decoder = match decoder(&next, beginning.file_bytes, window_limit) {
        Ok(decoder) => decoder,
        Err(why) => return control.fail(why),
    };
    let mut expander = Expander {
        decoder,
        bounds,
        control,
        position: Position {
            file_bytes: beginning.file_bytes,
            image_bytes: beginning.image_bytes,
        },
        hash: FileHash::after(beginning.file_hash),
        frames: 0,
        collected: None,
        stays: false,
        outgoing: Outgoing::to(output),
        decode: Timed::default(),
    };
    while let Portion::Bytes(portion) = next {
        expander.portion(portion.bytes())?;
        // The receiver may be done and gone.
        let _ = input.used.send(portion.buffer);
        next = input.portions.recv().ok()?;
    }
    expander.end()?;
    let (file_digest, hash_file) = expander.hash.end();
    Some(Expanded {
        file_digest,
        file_bytes: expander.position.file_bytes,
        image_bytes: expander.position.image_bytes,
        hash_file,
        decode: expander.decode,
    })
}

/// The decoder for what begins with this portion.
fn decoder(
    first: &Portion,
    file_bytes: u64,
    window_limit: WindowLimit,
) -> Result<Decoder, InstallError> {
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

/// A part of the file, and how much of it is used up.
struct Part<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Part<'a> {
    fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }
}

/// Whether there is more to do with a part of the file.
#[derive(PartialEq)]
enum Then {
    GoOn,
    NextPart,
}

struct Expander<'a> {
    decoder: Decoder,
    bounds: &'a Bounds<'a>,
    control: &'a Control,
    /// Up to here the file is used up; what was collected counts as expanded.
    position: Position,
    hash: FileHash,
    frames: u64,
    collected: Option<Collected>,
    /// The frame that begins next is decoded here, whatever its header says.
    stays: bool,
    outgoing: Outgoing<'a>,
    decode: Timed,
}

impl Expander<'_> {
    fn portion(&mut self, bytes: &[u8]) -> Option<()> {
        self.hash.begin_portion();
        let mut part = Part { bytes, at: 0 };
        loop {
            if self.control.stopped() {
                return None;
            }
            let then = if self.collected.as_ref().is_some_and(Collected::in_frame) {
                self.collect(&mut part)?
            } else {
                self.decode_here(&mut part)?
            };
            if then == Then::NextPart {
                self.hash.up_to(bytes, part.at);
                return Some(());
            }
        }
    }

    /// One step of the decoder here.
    fn decode_here(&mut self, part: &mut Part<'_>) -> Option<Then> {
        // One byte beyond the bound is decoded, to see whether there is one; it goes nowhere.
        let left = self.bounds.most() - self.position.image_bytes;
        let mut beyond = [0];
        let room = match left {
            0 => &mut beyond[..],
            _ => self.outgoing.room(self.position.image_bytes, left)?,
        };
        let size = room.len();
        let decoder = &mut self.decoder;
        let step = match self.decode.time(0, || decoder.decode(part.rest(), room)) {
            Ok(step) => step,
            Err(error) => return self.refuse(error),
        };
        part.at += step.consumed;
        self.decode.bytes += step.produced as u64;
        self.position.file_bytes += step.consumed as u64;
        if left == 0 && step.produced > 0 {
            return self.control.fail(self.bounds.exceeded());
        }
        self.position.image_bytes += step.produced as u64;
        self.outgoing
            .filled(step.produced, self.position.image_bytes)?;
        if step.ended && self.position.image_bytes.is_multiple_of(PIECE as u64) {
            self.hash.up_to(part.bytes, part.at);
            self.outgoing.send_block()?;
            self.outgoing
                .send_boundary(self.hash.boundary(self.position.file_bytes))?;
        }
        if let Some(header) = step.frame {
            self.frame_begins(header)?;
        }
        let stopped = step.ended || step.frame.is_some() || step.produced == size;
        Some(if stopped || !part.rest().is_empty() {
            Then::GoOn
        } else {
            Then::NextPart
        })
    }

    /// The same for a frame that is decoded elsewhere.
    fn collect(&mut self, part: &mut Part<'_>) -> Option<Then> {
        let collected = self.collected.as_mut()?;
        match collected.take(part.rest()) {
            Err(error) => return self.refuse(error),
            Ok(Taken::Wasteful) => self.decode_here_after_all()?,
            Ok(Taken::More(bytes)) => {
                part.at += bytes;
                self.position.file_bytes += bytes as u64;
                return Some(Then::NextPart);
            }
            Ok(Taken::Ended { bytes, content }) => {
                part.at += bytes;
                self.position.file_bytes += bytes as u64;
                self.position.image_bytes += content as u64;
                self.hash.up_to(part.bytes, part.at);
                collected.boundary = Some(self.hash.boundary(self.position.file_bytes));
                if collected.content == BLOCK {
                    self.send_collected()?;
                }
            }
        }
        Some(Then::GoOn)
    }

    /// What a frame's header says of its size is judged before any of it is decoded, and it is decided where that is.
    fn frame_begins(&mut self, header: FrameHeader) -> Option<()> {
        if std::mem::take(&mut self.stays) {
            return Some(());
        }
        self.frames += 1;
        if let Some(content) = header.content {
            let size = self.position.image_bytes.saturating_add(content);
            if let Err(why) = self.bounds.announced(size) {
                return self.control.fail(why);
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
        self.outgoing.send_block()?;
        if (self.collected.as_ref()).is_some_and(|collected| !collected.has_room_for(content)) {
            self.send_collected()?;
        }
        let Some(header) = self.decoder.divert() else {
            let detail = "a frame without a header".to_owned();
            return self.refuse(StreamError::Damaged(detail));
        };
        let collected = match &mut self.collected {
            Some(collected) => collected,
            none => none.insert(self.outgoing.collect(Position {
                file_bytes: self.position.file_bytes - header.bytes().len() as u64,
                ..self.position
            })?),
        };
        collected.begin(&header, content, checksum);
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

    fn send_collected(&mut self) -> Option<()> {
        match self.collected.take() {
            Some(collected) => self.outgoing.send_batch(collected),
            None => Some(()),
        }
    }

    /// The frame that is being collected is decoded here; it goes on there with what follows in the file.
    fn decode_here_after_all(&mut self) -> Option<()> {
        let begun = self.collected.as_mut()?.give_back();
        self.send_collected()?;
        self.stays = true;
        self.position.file_bytes -= begun.len() as u64;
        let mut part = Part {
            bytes: &begun,
            at: 0,
        };
        // The frame does not end in what has come of it.
        while self.decode_here(&mut part)? == Then::GoOn {}
        Some(())
    }

    fn end(&mut self) -> Option<()> {
        let whole = match &self.collected {
            Some(collected) if collected.in_frame() => Err(StreamError::Truncated),
            _ => self.decoder.finish(),
        };
        if let Err(error) = whole {
            return self.refuse(error);
        }
        let image_bytes = self.position.image_bytes;
        if image_bytes == 0 {
            return self.control.fail(InstallError::NotAnImage {
                looks_like: "a compressed file of an empty image",
            });
        }
        if let Err(why) = self.bounds.ended(image_bytes) {
            return self.control.fail(why);
        }
        self.send_collected()?;
        self.outgoing.send_block()?;
        self.control.update(|p| {
            p.stage = Stage::Verifying;
            p.total = Some(image_bytes);
        });
        self.outgoing.end()
    }

    /// The decoder's word on what follows this place.
    fn refuse<T>(&self, error: StreamError) -> Option<T> {
        let damaged = |detail| self.position.damaged(detail, self.control);
        self.control.fail(match error {
            StreamError::NotAnImage(looks_like) => InstallError::NotAnImage { looks_like },
            StreamError::WindowTooLarge { window, limit } => {
                InstallError::WindowTooLarge { window, limit }
            }
            StreamError::Damaged(detail) => damaged(detail),
            StreamError::Truncated => {
                damaged("the file ends in the middle of the image".to_owned())
            }
        })
    }
}
