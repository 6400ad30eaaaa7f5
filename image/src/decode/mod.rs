//! The compressed stream, frame by frame.

mod body;
mod frame;
mod sniff;

use std::io;

use zstd::{
    stream::raw::{DParameter, Decoder as Context, Operation},
    zstd_safe::{InBuffer, OutBuffer},
};

pub(crate) use body::Body;
pub use frame::FrameHeader;
use frame::{MAX_HEADER, Parsed};
pub(crate) use sniff::SNIFFED;

/// Why a compressed stream cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// Told by its first bytes: no zstd.
    #[error("it looks like {0}")]
    NotAnImage(&'static str),
    /// A frame's window is over the limit.
    #[error("a window of {window} bytes is needed, the limit is {limit}")]
    WindowTooLarge {
        /// As the frame's header says, in bytes.
        window: u64,
        /// In bytes.
        limit: u64,
    },
    /// What the decoder says.
    #[error("{0}")]
    Damaged(String),
    /// The stream ends inside a frame.
    #[error("it ends in the middle of a frame")]
    Truncated,
}

/// What one call of [`Decoder::decode`] has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Step {
    /// Bytes of the input that are used up.
    pub consumed: usize,
    /// Bytes of the output that are filled.
    pub produced: usize,
    /// A frame has begun, and none of its content has been produced yet.
    pub frame: Option<FrameHeader>,
    /// A frame has ended with the last byte consumed.
    pub ended: bool,
}

/// The header of a frame that is decoded elsewhere.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Diverted {
    bytes: [u8; MAX_HEADER],
    length: usize,
}

impl Diverted {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// Decodes a stream of zstd frames into the caller's buffers.
///
/// Skippable frames are skipped wherever they stand. A frame's checksum, where it has one, is checked. The only
/// memory that grows with the input is the window of the largest frame, and a frame whose window is over the limit
/// is refused by its header.
pub struct Decoder {
    context: Context<'static>,
    window_limit: u64,
    position: Position,
    frames: u64,
}

#[derive(Debug)]
enum Position {
    /// Between frames: so much of a header has come.
    Header {
        bytes: [u8; MAX_HEADER],
        length: usize,
    },
    /// A header whose bytes the decoder has yet to be fed.
    Fed {
        bytes: [u8; MAX_HEADER],
        length: usize,
        fed: usize,
    },
    /// In a frame.
    Content,
    /// In a skippable frame, so many bytes before its end.
    Skipping(u32),
}

const BETWEEN_FRAMES: Position = Position::Header {
    bytes: [0; MAX_HEADER],
    length: 0,
};

impl Decoder {
    /// A decoder at the beginning of a stream, with the largest window that it accepts, in bytes. Fails for want of
    /// memory.
    pub fn new(window_limit: u64) -> io::Result<Self> {
        let mut context = Context::new()?;
        // The header is judged exactly, below; zstd's own limit is the next power of two, within what it can do.
        let log = window_limit.max(1).next_power_of_two().ilog2();
        context.set_parameter(DParameter::WindowLogMax(log.clamp(10, 31)))?;
        Ok(Self {
            context,
            window_limit,
            position: BETWEEN_FRAMES,
            frames: 0,
        })
    }

    /// A decoder for the rest of a stream of which some frames have been decoded before.
    pub(crate) fn between_frames(mut self) -> Self {
        self.frames = self.frames.max(1);
        self
    }

    /// Takes away the frame that has just begun: its body does not come here, and what follows it does.
    pub(crate) fn divert(&mut self) -> Option<Diverted> {
        let Position::Fed {
            bytes,
            length,
            fed: 0,
        } = self.position
        else {
            return None;
        };
        self.position = BETWEEN_FRAMES;
        Some(Diverted { bytes, length })
    }

    /// Tells a zstd stream from everything else by its first bytes ([`SNIFFED`] of them, or the whole file).
    pub(crate) fn recognise(head: &[u8]) -> Result<(), StreamError> {
        if frame::is_frame(head) {
            Ok(())
        } else {
            Err(StreamError::NotAnImage(sniff::looks_like(head)))
        }
    }

    /// Goes on until the input is used up, the output is full, or a frame begins or ends.
    ///
    /// With an output of no bytes it stops before content; whether there is more is told by a call with room.
    pub fn decode(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, StreamError> {
        let mut step = Step::default();
        loop {
            let rest = &input[step.consumed..];
            match &mut self.position {
                Position::Header { bytes, length } => match frame::parse(&bytes[..*length]) {
                    Parsed::Needs(needed) => {
                        let taken = (needed - *length).min(rest.len());
                        if taken == 0 {
                            return Ok(step);
                        }
                        bytes[*length..*length + taken].copy_from_slice(&rest[..taken]);
                        *length += taken;
                        step.consumed += taken;
                    }
                    Parsed::Skippable(length) => self.position = Position::Skipping(length),
                    Parsed::Other if self.frames == 0 => {
                        return Err(StreamError::Damaged("no zstd frame begins here".into()));
                    }
                    Parsed::Other => {
                        return Err(StreamError::Damaged(
                            "bytes that are no zstd frame follow the image".into(),
                        ));
                    }
                    Parsed::Zstd { header, .. } => {
                        if header.window > self.window_limit {
                            return Err(StreamError::WindowTooLarge {
                                window: header.window,
                                limit: self.window_limit,
                            });
                        }
                        self.frames += 1;
                        self.position = Position::Fed {
                            bytes: *bytes,
                            length: *length,
                            fed: 0,
                        };
                        step.frame = Some(header);
                        return Ok(step);
                    }
                },
                Position::Fed { bytes, length, fed } => {
                    let (taken, _, _) = run(&mut self.context, &bytes[*fed..*length], &mut [])?;
                    *fed += taken;
                    if *fed == *length {
                        self.position = Position::Content;
                    } else if taken == 0 {
                        return Err(StreamError::Damaged("the frame's header is no good".into()));
                    }
                }
                Position::Skipping(left) => {
                    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    *left -= u32::try_from(taken).unwrap_or(*left);
                    step.consumed += taken;
                    if *left > 0 {
                        return Ok(step);
                    }
                    self.position = BETWEEN_FRAMES;
                }
                Position::Content => {
                    let room = &mut output[step.produced..];
                    if room.is_empty() {
                        return Ok(step);
                    }
                    let (taken, made, ended) = run(&mut self.context, rest, room)?;
                    step.consumed += taken;
                    step.produced += made;
                    if ended {
                        self.position = BETWEEN_FRAMES;
                        step.ended = true;
                        return Ok(step);
                    } else if taken == 0 && made == 0 {
                        // It waits for more input: what it holds back it would have put out, since there is room.
                        return Ok(step);
                    }
                }
            }
        }
    }

    /// To be called when the input has ended.
    pub fn finish(&self) -> Result<(), StreamError> {
        match self.position {
            Position::Header { length: 0, .. } if self.frames > 0 => Ok(()),
            Position::Header { length: 0, .. } => Err(StreamError::NotAnImage(
                "a zstd file without an image: it has skippable frames only",
            )),
            _ => Err(StreamError::Truncated),
        }
    }
}

/// One step of zstd: bytes taken, bytes made, and whether the frame has ended.
fn run(
    context: &mut Context<'static>,
    input: &[u8],
    output: &mut [u8],
) -> Result<(usize, usize, bool), StreamError> {
    let mut input = InBuffer::around(input);
    let mut output = OutBuffer::around(output);
    let hint = context
        .run(&mut input, &mut output)
        .map_err(|e| StreamError::Damaged(e.to_string()))?;
    Ok((input.pos(), output.pos(), hint == 0))
}

#[cfg(test)]
mod tests {
    use io::Read;
    use proptest::prelude::*;

    use super::*;

    const LIMIT: u64 = 8 << 20;

    /// Decodes with the given sizes of input and output, and counts the frames.
    fn decode(file: &[u8], input: usize, output: usize) -> Result<(Vec<u8>, usize), StreamError> {
        let mut decoder = Decoder::new(LIMIT).unwrap();
        let mut buffer = vec![0; output];
        let (mut image, mut frames) = (Vec::new(), 0);
        for mut piece in file.chunks(input) {
            loop {
                let step = decoder.decode(piece, &mut buffer)?;
                piece = &piece[step.consumed..];
                image.extend_from_slice(&buffer[..step.produced]);
                frames += usize::from(step.frame.is_some());
                let stopped = step.frame.is_some() || step.ended;
                if piece.is_empty() && step.produced < output && !stopped {
                    break;
                }
            }
        }
        decoder.finish()?;
        Ok((image, frames))
    }

    fn skippable(content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len()).unwrap().to_le_bytes();
        [&[0x5E, 0x2A, 0x4D, 0x18], &length[..], content].concat()
    }

    fn compress(content: &[u8]) -> Vec<u8> {
        zstd::bulk::compress(content, 3).unwrap()
    }

    proptest! {
        #[test]
        fn all_frames_in_any_portions(
            frames in prop::collection::vec(prop::collection::vec(0..4_u8, 0..5000), 1..5),
            input in 1..7000_usize,
            output in 1..7000_usize,
        ) {
            let mut file = skippable(b"before");
            for frame in &frames {
                file.extend(compress(frame));
                file.extend(skippable(&[]));
            }
            file.extend(skippable(b"a seek table"));
            let (image, seen) = decode(&file, input, output).unwrap();
            prop_assert_eq!(image, frames.concat());
            prop_assert_eq!(seen, frames.len());
        }

        /// Whatever is done to a file, the decoder ends, and never with another image (frames with checksums).
        #[test]
        fn damage_never_passes(content in prop::collection::vec(any::<u8>(), 1..3000), at in any::<prop::sample::Index>(), bit in 0..8_u8, cut in any::<bool>()) {
            let mut encoder = zstd::stream::Encoder::new(Vec::new(), 3).unwrap();
            encoder.include_checksum(true).unwrap();
            io::Write::write_all(&mut encoder, &content).unwrap();
            let mut file = encoder.finish().unwrap();
            let at = at.index(file.len());
            if cut { file.truncate(at) } else { file[at] ^= 1 << bit }
            if let Ok((image, _)) = decode(&file, 100, 100) {
                prop_assert_eq!(image, content);
            }
        }
    }

    #[test]
    fn a_cut_file_is_truncated() {
        let file = compress(&vec![7; 100_000]);
        for length in 1..file.len() {
            assert_eq!(
                decode(&file[..length], 10, 4096),
                Err(StreamError::Truncated)
            );
        }
    }

    #[test]
    fn what_follows_the_image_must_be_a_frame() {
        let file = [compress(b"image"), b"<html>".to_vec()].concat();
        let error = decode(&file, 10, 4096).unwrap_err();
        assert!(error.to_string().contains("follow the image"), "{error}");
    }

    #[test]
    fn skippable_frames_alone_are_no_image() {
        assert!(matches!(
            decode(&skippable(b"nothing else"), 10, 4096),
            Err(StreamError::NotAnImage(_))
        ));
    }

    #[test]
    fn a_window_over_the_limit_is_refused_by_the_header() {
        let compress = |log| {
            let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
            encoder.window_log(log).unwrap();
            io::copy(&mut io::repeat(7).take(20 << 20), &mut encoder).unwrap();
            encoder.finish().unwrap()
        };
        assert_eq!(decode(&compress(23), 4096, 4096).unwrap().0.len(), 20 << 20);
        assert_eq!(
            decode(&compress(24), 4096, 4096),
            Err(StreamError::WindowTooLarge {
                window: 16 << 20,
                limit: LIMIT
            })
        );
    }

    #[test]
    fn recognised_by_content() {
        assert!(Decoder::recognise(&compress(b"")).is_ok());
        assert!(Decoder::recognise(&skippable(b"")).is_ok());
        assert!(matches!(
            Decoder::recognise(b"\x1F\x8B\x08"),
            Err(StreamError::NotAnImage(_))
        ));
    }
}
