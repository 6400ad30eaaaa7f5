//! A stream of zstd frames.

mod body;
mod frame;

use std::io;

use zstd::{
    stream::raw::{DParameter, Decoder as Context, Operation},
    zstd_safe::{InBuffer, OutBuffer},
};

use super::{Step, StreamError};
pub(crate) use body::Body;
pub(super) use frame::is_frame;
use frame::{MAX_HEADER, Parsed};

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
pub(super) struct Zstd {
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

impl Zstd {
    /// A decoder at the beginning of a stream, with the largest window that it accepts, in bytes. Fails for want of
    /// memory.
    pub(super) fn new(window_limit: u64) -> io::Result<Self> {
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
    pub(super) fn between_frames(mut self) -> Self {
        self.frames = self.frames.max(1);
        self
    }

    /// Takes away the frame that has just begun: its body does not come here, and what follows it does.
    pub(super) fn divert(&mut self) -> Option<Diverted> {
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

    /// As [`super::Decoder::decode`].
    pub(super) fn decode(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, StreamError> {
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

    /// As [`super::Decoder::finish`].
    pub(super) fn finish(&self) -> Result<(), StreamError> {
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
    use crate::decode::{
        Format,
        tests::{LIMIT, decode},
    };

    fn skippable(content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len()).unwrap().to_le_bytes();
        [&[0x5E, 0x2A, 0x4D, 0x18], &length[..], content].concat()
    }

    fn compress(content: &[u8]) -> Vec<u8> {
        zstd::bulk::compress(content, 3).unwrap()
    }

    proptest! {
        #[test]
        fn skippable_frames_are_skipped_wherever_they_stand(
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
            let (image, seen) = decode(Format::Zstd, &file, input, output).unwrap();
            prop_assert_eq!(image, frames.concat());
            prop_assert_eq!(seen, frames.len());
        }
    }

    #[test]
    fn skippable_frames_alone_are_no_image() {
        assert!(matches!(
            decode(Format::Zstd, &skippable(b"nothing else"), 10, 4096),
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
        let decode = |file: &[u8]| decode(Format::Zstd, file, 4096, 4096);
        assert_eq!(decode(&compress(23)).unwrap().0.len(), 20 << 20);
        assert_eq!(
            decode(&compress(24)),
            Err(StreamError::WindowTooLarge {
                window: 16 << 20,
                limit: LIMIT.0
            })
        );
    }
}
