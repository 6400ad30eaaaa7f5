//! Where a frame ends, without decoding it: RFC 8878, section 3.1.1.2.

use crate::decode::StreamError;

/// `Block_Header`: whether it is the last, the type, and the size.
const BLOCK_HEADER: usize = 3;
const CHECKSUM: usize = 4;

/// Walks over what follows a frame's header, however it is cut into portions.
#[derive(Debug)]
pub(crate) struct Body {
    position: Position,
    checksum: bool,
}

#[derive(Debug)]
enum Position {
    BlockHeader {
        bytes: [u8; BLOCK_HEADER],
        length: usize,
    },
    /// So many bytes of a block or of the checksum before its end.
    Inside {
        left: usize,
        last: bool,
    },
    Ended,
}

/// How far a walk has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Walked {
    pub(crate) bytes: usize,
    /// The frame ends after them.
    pub(crate) ended: bool,
}

impl Body {
    /// At the first block of a frame, whose header says whether a checksum follows the last one.
    pub(crate) fn new(checksum: bool) -> Self {
        Self {
            position: Position::BlockHeader {
                bytes: [0; BLOCK_HEADER],
                length: 0,
            },
            checksum,
        }
    }

    /// Goes on to the frame's end or to the end of the input, whichever comes first.
    pub(crate) fn walk(&mut self, input: &[u8]) -> Result<Walked, StreamError> {
        let mut at = 0;
        loop {
            match &mut self.position {
                Position::BlockHeader { bytes, length } => {
                    let taken = (BLOCK_HEADER - *length).min(input.len() - at);
                    bytes[*length..*length + taken].copy_from_slice(&input[at..at + taken]);
                    *length += taken;
                    at += taken;
                    if *length == BLOCK_HEADER {
                        self.position = block(*bytes)?;
                    } else {
                        break;
                    }
                }
                Position::Inside { left, last } => {
                    let taken = (*left).min(input.len() - at);
                    *left -= taken;
                    at += taken;
                    if *left > 0 {
                        break;
                    }
                    self.position = match (*last, self.checksum) {
                        (false, _) => Position::BlockHeader {
                            bytes: [0; BLOCK_HEADER],
                            length: 0,
                        },
                        (true, true) => {
                            self.checksum = false;
                            Position::Inside {
                                left: CHECKSUM,
                                last: true,
                            }
                        }
                        (true, false) => Position::Ended,
                    };
                }
                Position::Ended => break,
            }
        }
        Ok(Walked {
            bytes: at,
            ended: matches!(self.position, Position::Ended),
        })
    }
}

fn block(header: [u8; BLOCK_HEADER]) -> Result<Position, StreamError> {
    let [a, b, c] = header;
    let field = u32::from_le_bytes([a, b, c, 0]);
    let size = (field >> 3) as usize;
    let left = match (field >> 1) & 3 {
        // Raw and compressed.
        0 | 2 => size,
        // One byte that is repeated.
        1 => 1,
        _ => return Err(StreamError::Damaged("a block of a reserved type".into())),
    };
    Ok(Position::Inside {
        left,
        last: field & 1 == 1,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::decode::zstd::frame::{self, Parsed};

    fn frame(content: &[u8], level: i32, checksum: bool) -> Vec<u8> {
        let mut encoder = zstd::stream::Encoder::new(Vec::new(), level).unwrap();
        encoder.include_checksum(checksum).unwrap();
        for portion in content.chunks(50_000) {
            std::io::Write::write_all(&mut encoder, portion).unwrap();
            std::io::Write::flush(&mut encoder).unwrap();
        }
        encoder.finish().unwrap()
    }

    proptest! {
        /// The frame's end is found where the encoder has put it, whatever follows and however it comes.
        #[test]
        fn ends_where_the_frame_ends(
            content in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..200_000),
                (0..200_000_usize).prop_map(|length| vec![7; length]),
            ],
            level in 1..5,
            checksum in any::<bool>(),
            portion in 1..5000_usize,
        ) {
            let file = frame(&content, level, checksum);
            let Parsed::Zstd { header, length } = frame::parse(&file[..frame::MAX_HEADER.min(file.len())]) else {
                panic!("no header");
            };
            prop_assert_eq!(header.checksum, checksum);
            let followed = [&file[length..], &file[..]].concat();
            let mut body = Body::new(checksum);
            let mut end = length;
            for portion in followed.chunks(portion) {
                let walked = body.walk(portion).unwrap();
                end += walked.bytes;
                if walked.ended { break; }
                prop_assert_eq!(walked.bytes, portion.len());
            }
            prop_assert_eq!(end, file.len());
            prop_assert_eq!(body.walk(b"more").unwrap(), Walked { bytes: 0, ended: true });
        }
    }

    #[test]
    fn a_reserved_block_is_damage() {
        assert!(Body::new(false).walk(&[0b0000_0110, 0, 0]).is_err());
    }
}
