//! From the file to the image: hash, decode, and the judgement of sizes.

use std::sync::mpsc::{Receiver, SyncSender};

use sha2::{Digest as _, Sha256};

use crate::{
    Digest, StreamError,
    buffer::{Buffer, Filled},
    decode::{Decoder, FrameHeader},
    error::{Done, InstallError},
    progress::{Stage, Timed},
    stages::{control::Control, receive::Portion},
};

/// A piece of the image; they come in order and without gaps.
pub(crate) enum Piece {
    Bytes(Filled),
    End,
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
    pub(crate) pieces: SyncSender<Piece>,
    pub(crate) empty: Receiver<Buffer>,
}

pub(crate) fn expand(
    decoder: Decoder,
    bounds: &Bounds<'_>,
    ends: &Ends,
    control: &Control,
) -> Option<Expanded> {
    let mut expander = Expander {
        decoder,
        bounds,
        control,
        frames: 0,
        image_bytes: 0,
        file_bytes: 0,
        piece: None,
        decode: Timed::default(),
    };
    let mut hasher = Sha256::new();
    let mut hash_file = Timed::default();
    loop {
        if control.stopped() {
            return None;
        }
        match ends.portions.recv().ok()? {
            Portion::Bytes(portion) => {
                if expander.file_bytes == 0
                    && let Err(error) = Decoder::recognise(portion.bytes())
                {
                    return control.fail(expander.stream_error(error));
                }
                hash_file.time(portion.length, || hasher.update(portion.bytes()));
                expander.portion(portion.bytes(), ends)?;
                // The receiver may be done and gone.
                let _ = ends.used.send(portion.buffer);
            }
            Portion::End => {
                expander.end(ends)?;
                return Some(Expanded {
                    file_digest: Digest::of(hasher),
                    file_bytes: expander.file_bytes,
                    image_bytes: expander.image_bytes,
                    hash_file,
                    decode: expander.decode,
                });
            }
        }
    }
}

struct Expander<'a> {
    decoder: Decoder,
    bounds: &'a Bounds<'a>,
    control: &'a Control,
    frames: u64,
    image_bytes: u64,
    file_bytes: u64,
    /// The piece that is being filled.
    piece: Option<Filled>,
    decode: Timed,
}

impl Expander<'_> {
    /// Decodes a portion of the file to its end.
    fn portion(&mut self, mut input: &[u8], ends: &Ends) -> Option<()> {
        loop {
            if self.control.stopped() {
                return None;
            }
            // One byte beyond the bound is decoded, to see whether there is one; it goes nowhere.
            let left = self.bound() - self.image_bytes;
            let mut beyond = [0];
            let room = if left == 0 {
                &mut beyond[..]
            } else {
                let piece = match &mut self.piece {
                    Some(piece) => piece,
                    none => none.insert(Filled {
                        buffer: ends.empty.recv().ok()?,
                        length: 0,
                    }),
                };
                let rest = &mut piece.buffer[piece.length..];
                let most = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                &mut rest[..most]
            };
            let size = room.len();
            let step = match self.decode.time(0, || self.decoder.decode(input, room)) {
                Ok(step) => step,
                Err(error) => return self.control.fail(self.stream_error(error)),
            };
            self.decode.bytes += step.produced as u64;
            self.file_bytes += step.consumed as u64;
            input = &input[step.consumed..];
            if left == 0 && step.produced > 0 {
                return self.control.fail(self.too_long());
            }
            self.image_bytes += step.produced as u64;
            if let Some(piece) = &mut self.piece {
                piece.length += step.produced;
                if piece.length == piece.buffer.len()
                    && let Some(full) = self.piece.take()
                {
                    ends.pieces.send(Piece::Bytes(full)).ok()?;
                }
            }
            if let Some(header) = step.frame {
                self.frame(header)?;
            } else if input.is_empty() && step.produced < size {
                return Some(());
            }
        }
    }

    /// A frame begins: what it says of its size is judged before any of it is decoded.
    fn frame(&mut self, header: FrameHeader) -> Option<()> {
        self.frames += 1;
        if let Some(content) = header.content {
            let size = self.image_bytes.saturating_add(content);
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
            let total = header.content.filter(|_| self.frames == 1);
            self.control.update(|p| p.total = total);
        }
        Some(())
    }

    fn end(&mut self, ends: &Ends) -> Option<()> {
        let recognised = match self.file_bytes {
            0 => Decoder::recognise(&[]),
            _ => Ok(()),
        };
        if let Err(error) = recognised.and_then(|()| self.decoder.finish()) {
            return self.control.fail(self.stream_error(error));
        }
        if self.image_bytes == 0 {
            return self.control.fail(InstallError::NotAnImage {
                looks_like: "a zstd file of an empty image",
            });
        }
        if let Some(promised) = self.bounds.promised
            && promised != self.image_bytes
        {
            return self.control.fail(InstallError::SizeMismatch {
                expected: promised,
                found: self.image_bytes,
                at_least: false,
            });
        }
        if let Some(last) = self.piece.take().filter(|piece| piece.length > 0) {
            ends.pieces.send(Piece::Bytes(last)).ok()?;
        }
        self.control.update(|p| {
            p.stage = Stage::Verifying;
            p.total = Some(self.image_bytes);
        });
        ends.pieces.send(Piece::End).ok()
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
                found: self.image_bytes + 1,
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
            StreamError::Truncated => "the file ends in the middle of a frame".to_owned(),
        };
        InstallError::DecodeFailed {
            file_bytes: self.file_bytes,
            expanded: Done {
                bytes: self.image_bytes,
                total: self.control.progress().total,
            },
            detail,
        }
    }
}
