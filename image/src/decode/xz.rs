//! Streams of xz: The .xz File Format, version 1.2.1.

use liblzma::stream::{Action, Error, Status, Stream};

use super::{FrameHeader, Step, StreamError};

/// The first six bytes of a stream: section 2.1.1.1.
pub(super) const MAGIC: [u8; 6] = *b"\xFD7zXZ\0";

/// What liblzma takes beside the dictionary, generously.
const BESIDE_THE_DICTIONARY: u64 = 256 << 10;

/// The dictionary is said by each block of a stream, and not by its beginning.
const HEADER: FrameHeader = FrameHeader {
    window: 0,
    content: None,
    checksum: true,
};

/// See [`super::Decoder`]. A block whose dictionary is over the limit is refused by its header. Of the blocks' index
/// liblzma keeps a hash, so that memory does not grow with their number.
pub(super) struct Xz {
    window_limit: u64,
    /// None between streams.
    stream: Option<Stream>,
    streams: u64,
    /// Zeros since the last stream.
    padding: u64,
    /// The largest dictionary so far.
    window: u64,
}

impl Xz {
    pub(super) fn new(window_limit: u64) -> Self {
        Self {
            window_limit,
            stream: None,
            streams: 0,
            padding: 0,
            window: 0,
        }
    }

    fn memory_limit(&self) -> u64 {
        self.window_limit.saturating_add(BESIDE_THE_DICTIONARY)
    }

    pub(super) fn decode(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, StreamError> {
        let mut step = Step::default();
        loop {
            let rest = &input[step.consumed..];
            let memory_limit = self.memory_limit();
            let Some(stream) = &mut self.stream else {
                let zeros = if self.streams > 0 {
                    rest.iter().take_while(|byte| **byte == 0).count()
                } else {
                    0
                };
                step.consumed += zeros;
                self.padding += zeros as u64;
                let Some(first) = rest.get(zeros) else {
                    return Ok(step);
                };
                self.between_streams(*first)?;
                let stream = Stream::new_stream_decoder(memory_limit, 0).map_err(damaged)?;
                self.stream = Some(stream);
                self.streams += 1;
                self.padding = 0;
                step.frame = Some(HEADER);
                return Ok(step);
            };
            let room = &mut output[step.produced..];
            if room.is_empty() {
                return Ok(step);
            }
            let before = (stream.total_in(), stream.total_out());
            let status = match stream.process(rest, room, Action::Run) {
                Ok(status) => status,
                Err(Error::MemLimit) => {
                    return Err(StreamError::WindowTooLarge {
                        window: dictionary_above(stream, self.window_limit),
                        limit: self.window_limit,
                    });
                }
                Err(error) => return Err(damaged(error)),
            };
            let moved = |before, now: u64| usize::try_from(now - before).unwrap_or(usize::MAX);
            let taken = moved(before.0, stream.total_in());
            let made = moved(before.1, stream.total_out());
            step.consumed += taken;
            step.produced += made;
            if status == Status::StreamEnd {
                // For whoever asks for it afterwards.
                self.window();
                self.stream = None;
            } else if taken == 0 && made == 0 {
                // It waits for more input: what it holds back it would have put out, since there is room.
                return Ok(step);
            }
        }
    }

    /// Whether a stream may begin with this byte: section 2.2 for the padding before it.
    fn between_streams(&self, first: u8) -> Result<(), StreamError> {
        let why = match () {
            () if !self.padding.is_multiple_of(4) => {
                "the zeros after an xz stream are no multiple of four bytes"
            }
            () if first == MAGIC[0] => return Ok(()),
            () if self.streams == 0 => "no xz stream begins here",
            () => "bytes that are no xz stream follow the image",
        };
        Err(StreamError::Damaged(why.into()))
    }

    /// The largest dictionary that was asked for, in bytes.
    pub(super) fn window(&mut self) -> u64 {
        let limit = self.memory_limit();
        if let Some(stream) = &mut self.stream {
            self.window = self.window.max(dictionary_above(stream, self.window));
            // Refused where the stream has just been refused for it.
            let _ = stream.set_memlimit(limit);
        }
        self.window
    }

    pub(super) fn finish(&self) -> Result<(), StreamError> {
        if self.stream.is_some() {
            Err(StreamError::Truncated)
        } else if !self.padding.is_multiple_of(4) {
            Err(StreamError::Damaged(
                "the zeros after the xz stream are no multiple of four bytes".into(),
            ))
        } else {
            Ok(())
        }
    }
}

fn damaged(error: Error) -> StreamError {
    StreamError::Damaged(format!("xz: {error}"))
}

/// The dictionary that the current block asks for, or `least` where it is no larger: the smallest with which liblzma
/// accepts to be limited.
fn dictionary_above(stream: &mut Stream, least: u64) -> u64 {
    let accepted = |size: &u64| stream.set_memlimit(size + BESIDE_THE_DICTIONARY).is_ok();
    std::iter::once(least)
        .chain(dictionaries().filter(|size| *size > least))
        .find(accepted)
        .unwrap_or(u64::from(u32::MAX))
}

/// The sizes that there are: section 5.3.1.
fn dictionaries() -> impl Iterator<Item = u64> {
    (0..40_u32)
        .map(|bits| u64::from(2 | (bits & 1)) << (bits / 2 + 11))
        .chain([u64::from(u32::MAX)])
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use liblzma::stream::{Check, Filters, LzmaOptions};

    use super::*;
    use crate::decode::{
        Decoder, Format,
        tests::{LIMIT, decode, encode},
    };

    fn with_dictionary(size: u32, content: &[u8]) -> Vec<u8> {
        let mut options = LzmaOptions::new_preset(0).unwrap();
        options.dict_size(size);
        let mut filters = Filters::new();
        filters.lzma2(&options);
        let stream = Stream::new_stream_encoder(&filters, Check::Crc64).unwrap();
        let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_dictionary_over_the_limit_is_refused_by_the_header() {
        let file = with_dictionary(8 << 20, &[7; 5000]);
        assert_eq!(decode(Format::Xz, &file, 4096, 4096).unwrap().0, [7; 5000]);
        for (size, window) in [
            (9 << 20, 12 << 20),
            (12 << 20, 12 << 20),
            (192 << 20, 192 << 20),
        ] {
            let file = with_dictionary(size, &[7; 5000]);
            for portion in [1, 4096] {
                assert_eq!(
                    decode(Format::Xz, &file, portion, 4096),
                    Err(StreamError::WindowTooLarge {
                        window,
                        limit: LIMIT.0
                    })
                );
            }
        }
    }

    #[test]
    fn the_largest_dictionary_is_told() {
        let file = [
            with_dictionary(1 << 20, b"one"),
            with_dictionary(6 << 20, b"two"),
            with_dictionary(2 << 20, b"three"),
        ]
        .concat();
        let mut decoder = Decoder::new(Format::Xz, LIMIT).unwrap();
        let mut at = 0;
        while at < file.len() {
            at += decoder.decode(&file[at..], &mut [0; 100]).unwrap().consumed;
        }
        assert_eq!(decoder.window(), 6 << 20);
    }

    #[test]
    fn zeros_stand_between_streams_and_after_them_by_fours() {
        let stream = encode(Format::Xz, b"image");
        for (zeros, good) in [(0, true), (4, true), (64, true), (3, false), (5, false)] {
            let zeros = vec![0; zeros];
            let twice = [&stream[..], &zeros, &stream, &zeros].concat();
            let once = [&stream[..], &zeros].concat();
            for portion in [1, 3, 1000] {
                let result = decode(Format::Xz, &twice, portion, 100);
                assert_eq!(result.is_ok_and(|r| r == (b"imageimage".to_vec(), 2)), good);
                assert_eq!(decode(Format::Xz, &once, portion, 100).is_ok(), good);
            }
            let before = [&zeros[..], &stream].concat();
            assert_eq!(
                decode(Format::Xz, &before, 10, 100).is_ok(),
                zeros.is_empty()
            );
        }
    }

    #[test]
    fn a_stream_without_a_checksum_and_one_with_a_filter() {
        for check in [Check::None, Check::Crc32, Check::Sha256] {
            let mut filters = Filters::new();
            filters.x86().lzma2(&LzmaOptions::new_preset(1).unwrap());
            let stream = Stream::new_stream_encoder(&filters, check).unwrap();
            let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
            encoder.write_all(&[9; 7000]).unwrap();
            let file = encoder.finish().unwrap();
            assert_eq!(decode(Format::Xz, &file, 99, 999).unwrap().0, [9; 7000]);
        }
    }
}
