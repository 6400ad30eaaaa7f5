//! The headers of zstd frames, RFC 8878 sections 3.1.1.1 and 3.1.2.

use crate::decode::FrameHeader;

/// The first four bytes of a zstd frame.
pub(super) const MAGIC: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();

/// The longest header: magic number, descriptor, window, dictionary id, content size.
pub(super) const MAX_HEADER: usize = 4 + 1 + 1 + 4 + 8;

/// What the bytes at a frame's beginning are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// Not complete: so many bytes from the frame's beginning are needed to go on.
    Needs(usize),
    /// A zstd frame whose header is `length` bytes.
    Zstd { header: FrameHeader, length: usize },
    /// A skippable frame: 8 bytes of header, then so many of content.
    Skippable(u32),
    /// Neither.
    Other,
}

/// Whether these are the first bytes of a zstd or a skippable frame.
pub(in crate::decode) fn is_frame(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC) || is_skippable(bytes)
}

fn is_skippable(bytes: &[u8]) -> bool {
    matches!(bytes, [0x50..=0x5F, 0x2A, 0x4D, 0x18, ..])
}

/// Reads the header at the beginning of `bytes`.
pub(super) fn parse(bytes: &[u8]) -> Parsed {
    if bytes.len() < 4 {
        return Parsed::Needs(4);
    }
    if is_skippable(bytes) {
        return match bytes[4..] {
            [a, b, c, d, ..] => Parsed::Skippable(u32::from_le_bytes([a, b, c, d])),
            _ => Parsed::Needs(8),
        };
    }
    if !bytes.starts_with(&MAGIC) {
        return Parsed::Other;
    }
    let Some(&descriptor) = bytes.get(4) else {
        return Parsed::Needs(5);
    };
    let single_segment = descriptor & 0x20 != 0;
    let window_bytes = usize::from(!single_segment);
    let dictionary_bytes = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let content_bytes = match descriptor >> 6 {
        0 => usize::from(single_segment),
        1 => 2,
        2 => 4,
        _ => 8,
    };
    let content_at = 5 + window_bytes + dictionary_bytes;
    let length = content_at + content_bytes;
    if bytes.len() < length {
        return Parsed::Needs(length);
    }
    let field = little_endian(&bytes[content_at..length]);
    let content = match content_bytes {
        0 => None,
        // Two bytes begin where one byte ends.
        2 => Some(field + 256),
        _ => Some(field),
    };
    let window = match content {
        Some(content) if single_segment => content,
        _ => window(bytes[5]),
    };
    Parsed::Zstd {
        header: FrameHeader {
            window,
            content,
            checksum: descriptor & 0x04 != 0,
        },
        length,
    }
}

/// `Window_Descriptor`: five bits of exponent, three of mantissa. At most 3.75 TiB.
fn window(descriptor: u8) -> u64 {
    let base = 1_u64 << (10 + u32::from(descriptor >> 3));
    base + base / 8 * u64::from(descriptor & 7)
}

fn little_endian(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |number, &byte| number << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(bytes: &[u8]) -> Parsed {
        parse(&[&MAGIC, bytes].concat())
    }

    #[test]
    fn fields_of_every_width() {
        let zstd = |window, content, length| Parsed::Zstd {
            header: FrameHeader {
                window,
                content,
                checksum: false,
            },
            length,
        };
        // No content size; window exponent 0 mantissa 0, and the largest there is.
        assert_eq!(header(&[0, 0]), zstd(1024, None, 6));
        assert_eq!(header(&[0, 0xFF]), zstd((1 << 41) / 8 * 15, None, 6));
        // Single segment: the content is the window.
        assert_eq!(header(&[0x20, 7]), zstd(7, Some(7), 6));
        assert_eq!(header(&[0x60, 1, 0]), zstd(257, Some(257), 7));
        // Four and eight bytes, dictionary ids of one and four bytes.
        assert_eq!(
            header(&[0x81, 0x58, 9, 1, 2, 0, 0]),
            zstd(2 << 20, Some(513), 11)
        );
        let full = [0xC3, 0x88, 1, 2, 3, 4, 0, 0, 0, 0, 0, 1, 0, 0];
        assert_eq!(header(&full), zstd(128 << 20, Some(1 << 40), MAX_HEADER));
        assert_eq!(
            parse(&[0x5F, 0x2A, 0x4D, 0x18, 1, 0, 0, 1]),
            Parsed::Skippable(0x0100_0001)
        );
        assert_eq!(parse(b"<htm"), Parsed::Other);
    }

    #[test]
    fn agrees_with_the_encoder() {
        for (level, size) in [(1, 0), (3, 255), (3, 256), (19, 70_000), (3, 3 << 20)] {
            let compressed = zstd::bulk::compress(&vec![7; size], level).unwrap();
            let Parsed::Zstd { header, .. } = parse(&compressed) else {
                panic!("no header of {size} bytes");
            };
            assert_eq!(header.content, Some(size as u64));
            assert!(header.window >= size.min(1024) as u64);
        }
    }

    proptest! {
        /// However little is there, `Needs` asks for more than that and never for more than a header has.
        #[test]
        fn asks_for_more_until_it_has_enough(bytes in prop::collection::vec(any::<u8>(), 0..MAX_HEADER)) {
            let bytes = [&MAGIC[..], &bytes].concat();
            for length in 0..bytes.len() {
                match parse(&bytes[..length]) {
                    Parsed::Needs(needed) => prop_assert!(needed > length && needed <= MAX_HEADER),
                    Parsed::Zstd { length: header, .. } => prop_assert!(header <= length),
                    other => prop_assert!(false, "{other:?}"),
                }
            }
        }
    }
}
