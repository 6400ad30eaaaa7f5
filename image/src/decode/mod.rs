//! From the file to the image, whatever the file's format.

mod gzip;
mod raw;
mod sniff;
mod xz;
mod zstd;

use std::{fmt, io};

use crate::WindowLimit;

pub(crate) use sniff::SNIFFED;
pub(crate) use zstd::{Body, Diverted};

/// Why a stream cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// Told by its first bytes: nothing that is installed.
    #[error("it looks like {0}")]
    NotAnImage(&'static str),
    /// A frame's window is over the limit.
    #[error("a window of {window} bytes is needed, the limit is {limit}")]
    WindowTooLarge {
        /// As the header says, in bytes.
        window: u64,
        /// In bytes.
        limit: u64,
    },
    /// What the decoder says.
    #[error("{0}")]
    Damaged(String),
    /// The stream ends inside a frame.
    #[error("it ends in the middle of the image")]
    Truncated,
}

/// How an image comes, told by the file's first bytes and never by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// zstd frames, RFC 8878: the one whose frames are decoded beside each other and that can be resumed.
    Zstd,
    /// gzip members, RFC 1952.
    Gzip,
    /// xz streams, the .xz file format 1.2.1.
    Xz,
    /// The image itself.
    Raw,
}

impl Format {
    /// Tells by the first 4096 bytes, or by the whole file where it is shorter; more are not looked at.
    ///
    /// A file system has no mark at its beginning that all of them share, so that what is accepted as an uncompressed
    /// image is all that is not something else: no text (an error page), no archive, no other compression, no virtual
    /// machine's disk, no whole disk (a slot is one partition), and nothing shorter than 4096 bytes.
    pub fn of(head: &[u8]) -> Result<Self, StreamError> {
        let head = &head[..head.len().min(SNIFFED)];
        match () {
            () if zstd::is_frame(head) => Ok(Self::Zstd),
            () if head.starts_with(&gzip::MAGIC) => Ok(Self::Gzip),
            () if head.starts_with(&xz::MAGIC) => Ok(Self::Xz),
            () => match sniff::other_than_an_image(head) {
                Some(looks_like) => Err(StreamError::NotAnImage(looks_like)),
                None => Ok(Self::Raw),
            },
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Raw => "uncompressed",
        })
    }
}

/// What a frame says of itself before its first byte of content. Only zstd says all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Bytes that a decoder must keep of what it has decoded; 0 where the beginning does not say.
    pub window: u64,
    /// The length of the expanded content in bytes, where the encoder knew it.
    pub content: Option<u64>,
    /// Whether a checksum stands at the end: of zstd the four bytes after the last block.
    pub checksum: bool,
}

/// What one call of [`Decoder::decode`] has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Step {
    /// Bytes of the input that are used up.
    pub consumed: usize,
    /// Bytes of the output that are filled.
    pub produced: usize,
    /// A frame has begun, and none of its content has been produced yet. So are called here what can be decoded without
    /// what is before it: a zstd frame, a gzip member, an xz stream, an uncompressed file.
    pub frame: Option<FrameHeader>,
    /// A zstd frame has ended with the last byte consumed.
    pub ended: bool,
}

/// Decodes a file of one format into the caller's buffers.
///
/// Frames follow each other to the file's end, and nothing else does, but for what a format has to be passed over:
/// skippable frames of zstd wherever they stand, zeros between and after streams of xz. Checksums inside are checked.
/// The only memory that grows with the input is the window of the largest frame (for xz its dictionary), and one over the
/// limit is refused by its header.
pub struct Decoder(Kind);

enum Kind {
    Zstd(zstd::Zstd),
    Gzip(Box<gzip::Gzip>),
    Xz(Box<xz::Xz>),
    Raw(raw::Raw),
}

impl Decoder {
    /// A decoder at the beginning of a file, with the largest window that it accepts, in bytes. Fails for want of
    /// memory.
    pub fn new(format: Format, window_limit: WindowLimit) -> io::Result<Self> {
        Ok(Self(match format {
            Format::Zstd => Kind::Zstd(zstd::Zstd::new(window_limit.0)?),
            Format::Gzip => Kind::Gzip(Box::default()),
            Format::Xz => Kind::Xz(Box::new(xz::Xz::new(window_limit.0))),
            Format::Raw => Kind::Raw(raw::Raw::default()),
        }))
    }

    /// A decoder for the rest of a zstd file of which some frames have been decoded before.
    pub(crate) fn between_frames(window_limit: WindowLimit) -> io::Result<Self> {
        let zstd = zstd::Zstd::new(window_limit.0)?.between_frames();
        Ok(Self(Kind::Zstd(zstd)))
    }

    /// Takes away the zstd frame that has just begun: its body does not come here, and what follows it does.
    pub(crate) fn divert(&mut self) -> Option<Diverted> {
        match &mut self.0 {
            Kind::Zstd(zstd) => zstd.divert(),
            _ => None,
        }
    }

    /// Goes on until the input is used up, the output is full, or a frame begins or ends.
    ///
    /// With an output of no bytes it stops before content; whether there is more is told by a call with room.
    pub fn decode(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, StreamError> {
        match &mut self.0 {
            Kind::Zstd(zstd) => zstd.decode(input, output),
            Kind::Gzip(gzip) => gzip.decode(input, output),
            Kind::Xz(xz) => xz.decode(input, output),
            Kind::Raw(raw) => Ok(raw.decode(input, output)),
        }
    }

    /// What the frame needs that is being decoded, in bytes, where its beginning does not say so
    /// ([`FrameHeader::window`] is then 0): that of xz is known when its first content has been produced.
    pub(crate) fn window(&mut self) -> u64 {
        match &mut self.0 {
            Kind::Xz(xz) => xz.window(),
            _ => 0,
        }
    }

    /// To be called when the input has ended.
    pub fn finish(&self) -> Result<(), StreamError> {
        match &self.0 {
            Kind::Zstd(zstd) => zstd.finish(),
            Kind::Gzip(gzip) => gzip.finish(),
            Kind::Xz(xz) => xz.finish(),
            Kind::Raw(_) => Ok(()),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;

    pub(crate) const LIMIT: WindowLimit = WindowLimit(8 << 20);

    /// Decodes with the given sizes of input and output, and counts the frames.
    pub(crate) fn decode(
        format: Format,
        file: &[u8],
        input: usize,
        output: usize,
    ) -> Result<(Vec<u8>, usize), StreamError> {
        let mut decoder = Decoder::new(format, LIMIT).unwrap();
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

    /// One frame with a checksum.
    pub(crate) fn encode(format: Format, content: &[u8]) -> Vec<u8> {
        match format {
            Format::Zstd => {
                let mut encoder = ::zstd::stream::Encoder::new(Vec::new(), 3).unwrap();
                encoder.include_checksum(true).unwrap();
                encoder.write_all(content).unwrap();
                encoder.finish().unwrap()
            }
            Format::Gzip => {
                let level = flate2::Compression::fast();
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
                encoder.write_all(content).unwrap();
                encoder.finish().unwrap()
            }
            Format::Xz => {
                let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 0);
                encoder.write_all(content).unwrap();
                encoder.finish().unwrap()
            }
            Format::Raw => content.to_vec(),
        }
    }

    const COMPRESSED: [Format; 3] = [Format::Zstd, Format::Gzip, Format::Xz];

    proptest! {
        #[test]
        fn all_frames_in_any_portions(
            format in prop::sample::select(&COMPRESSED),
            frames in prop::collection::vec(prop::collection::vec(0..4_u8, 0..5000), 1..5),
            input in 1..7000_usize,
            output in 1..7000_usize,
        ) {
            let file: Vec<u8> = frames.iter().flat_map(|frame| encode(format, frame)).collect();
            let (image, seen) = decode(format, &file, input, output).unwrap();
            prop_assert_eq!(image, frames.concat());
            prop_assert_eq!(seen, frames.len());
        }

        /// Whatever is done to a file, the decoder ends, and never with another image.
        #[test]
        fn damage_never_passes(
            format in prop::sample::select(&COMPRESSED),
            content in prop::collection::vec(any::<u8>(), 1..3000),
            at in any::<prop::sample::Index>(),
            bit in 0..8_u8,
            cut in any::<bool>(),
        ) {
            let mut file = encode(format, &content);
            let at = at.index(file.len());
            if cut { file.truncate(at) } else { file[at] ^= 1 << bit }
            if let Ok((image, _)) = decode(format, &file, 100, 100) && !file.is_empty() {
                prop_assert_eq!(image, content);
            }
        }

        #[test]
        fn what_is_not_compressed_is_the_image(
            content in prop::collection::vec(any::<u8>(), 1..9000),
            input in 1..7000_usize,
            output in 1..7000_usize,
        ) {
            prop_assert_eq!(decode(Format::Raw, &content, input, output).unwrap(), (content, 1));
        }
    }

    #[test]
    fn a_cut_file_is_truncated() {
        for format in COMPRESSED {
            let file = encode(format, &vec![7; 100_000]);
            for length in 1..file.len() {
                let error = decode(format, &file[..length], 10, 4096).unwrap_err();
                assert_eq!(error, StreamError::Truncated, "{format}, {length}");
            }
        }
    }

    #[test]
    fn what_follows_the_image_must_be_a_frame() {
        for format in COMPRESSED {
            for garbage in [
                &b"<html>"[..],
                &[0x1F],
                &[0xFD, 0x37],
                &[0, 0, 0, 0, 1],
                &[0],
            ] {
                let file = [&encode(format, b"image"), garbage].concat();
                for portion in [1, 10, 1000] {
                    let result = decode(format, &file, portion, 4096);
                    assert!(result.is_err(), "{format}, {garbage:?}");
                }
            }
            let file = [encode(format, b"image"), b"<html>".to_vec()].concat();
            let error = decode(format, &file, 10, 4096).unwrap_err();
            assert!(error.to_string().contains("follow the image"), "{error}");
        }
    }

    #[test]
    fn recognised_by_content() {
        for format in COMPRESSED {
            assert_eq!(Format::of(&encode(format, b"")), Ok(format));
        }
        let skippable = b"\x5E\x2A\x4D\x18\0\0\0\0";
        assert_eq!(Format::of(skippable), Ok(Format::Zstd));
        assert_eq!(Format::of(&[0; SNIFFED]), Ok(Format::Raw));
        for none in [&[0; SNIFFED - 1][..], b"", b"BZh9", &[b'a'; SNIFFED]] {
            assert!(matches!(Format::of(none), Err(StreamError::NotAnImage(_))));
        }
    }
}
