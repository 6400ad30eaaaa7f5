//! A stream of gzip members, RFC 1952.

use flate2::{Decompress, FlushDecompress, Status};

use super::{FrameHeader, Step, StreamError};

/// The first two bytes of a member.
pub(super) const MAGIC: [u8; 2] = [0x1F, 0x8B];

/// What deflate keeps of what it has made: RFC 1951, section 2. It cannot ask for more.
const WINDOW_BITS: u8 = 15;

const HEADER: FrameHeader = FrameHeader {
    window: 1 << WINDOW_BITS,
    content: None,
    checksum: true,
};

/// See [`super::Decoder`].
pub(super) struct Gzip {
    /// Reads headers and trailers too, and compares the CRC-32 and the length in them.
    inflate: Decompress,
    in_member: bool,
    members: u64,
}

impl Default for Gzip {
    fn default() -> Self {
        Self {
            inflate: Decompress::new_gzip(WINDOW_BITS),
            in_member: false,
            members: 0,
        }
    }
}

impl Gzip {
    pub(super) fn decode(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, StreamError> {
        let mut step = Step::default();
        loop {
            let rest = &input[step.consumed..];
            if !self.in_member {
                let Some(first) = rest.first() else {
                    return Ok(step);
                };
                if *first != MAGIC[0] {
                    return Err(StreamError::Damaged(
                        if self.members == 0 {
                            "no gzip member begins here"
                        } else {
                            "bytes that are no gzip member follow the image"
                        }
                        .into(),
                    ));
                }
                self.in_member = true;
                self.members += 1;
                step.frame = Some(HEADER);
                return Ok(step);
            }
            let room = &mut output[step.produced..];
            if room.is_empty() {
                return Ok(step);
            }
            let (taken, made, ended) = self.inflate(rest, room)?;
            step.consumed += taken;
            step.produced += made;
            if ended {
                self.inflate.reset(true);
                self.in_member = false;
            } else if taken == 0 && made == 0 {
                // It waits for more input: what it holds back it would have put out, since there is room.
                return Ok(step);
            }
        }
    }

    /// Bytes taken, bytes made, and whether the member has ended.
    fn inflate(
        &mut self,
        input: &[u8],
        output: &mut [u8],
    ) -> Result<(usize, usize, bool), StreamError> {
        let before = (self.inflate.total_in(), self.inflate.total_out());
        let status = (self.inflate)
            .decompress(input, output, FlushDecompress::None)
            .map_err(|error| {
                let why = error.message().unwrap_or("it is damaged");
                StreamError::Damaged(format!("gzip: {why}"))
            })?;
        let moved = |before, now: u64| usize::try_from(now - before).unwrap_or(usize::MAX);
        Ok((
            moved(before.0, self.inflate.total_in()),
            moved(before.1, self.inflate.total_out()),
            status == Status::StreamEnd,
        ))
    }

    pub(super) fn finish(&self) -> Result<(), StreamError> {
        if self.in_member {
            Err(StreamError::Truncated)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::decode::{
        Format,
        tests::{decode, encode},
    };

    /// RFC 1952, section 2.3: every field that a header can have.
    #[test]
    fn a_header_with_everything() {
        let plain = encode(Format::Gzip, b"image");
        let mut file = vec![0x1F, 0x8B, 8, 0b1_1100, 1, 2, 3, 4, 0, 3];
        file.extend([2, 0, 0xAA, 0xBB]);
        file.extend(b"a name\0a comment\0");
        file.extend(&plain[10..]);
        for portion in [1, 1000] {
            let (image, members) = decode(Format::Gzip, &file, portion, 7).unwrap();
            assert_eq!((&image[..], members), (&b"image"[..], 1));
        }
    }

    #[test]
    fn a_wrong_trailer_is_damage() {
        let file = encode(Format::Gzip, b"image");
        for from_end in 1..=8 {
            let mut wrong = file.clone();
            let at = wrong.len() - from_end;
            wrong[at] ^= 1;
            decode(Format::Gzip, &wrong, 100, 100).unwrap_err();
        }
    }
}
