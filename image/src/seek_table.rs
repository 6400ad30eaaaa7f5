//! The seek table of the zstd seekable format: a skippable frame at the file's end that says where its frames are.
//!
//! `contrib/seekable_format/zstd_seekable_compression_format.md` in zstd's repository. Plain decoders skip it. What it
//! says saves time and proves nothing.

/// `Skippable_Magic_Number`.
const SKIPPABLE: u32 = 0x184D_2A5E;
/// `Seekable_Magic_Number`, the file's last four bytes.
const SEEKABLE: u32 = 0x8F92_EAB1;
/// `Number_Of_Frames`, `Seek_Table_Descriptor`, `Seekable_Magic_Number`.
const FOOTER: usize = 9;
/// Magic number and size.
const HEADER: usize = 8;
/// The descriptor's bit for checksums.
const HAS_CHECKSUMS: u8 = 0x80;
/// The descriptor's bits that must be zero.
const RESERVED: u8 = 0x7C;

/// More frames than a table of 12 MiB has are not read: at 4 MiB a frame that is an image of 4 TiB.
pub const MOST_FRAMES: u32 = 1 << 20;

/// One frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeekEntry {
    /// Its length in the file, in bytes.
    pub compressed: u32,
    /// The length of its content, in bytes.
    pub expanded: u32,
    /// The low half of its content's XXH64, which is also what a frame with a checksum ends with.
    pub checksum: Option<u32>,
}

/// Why the end of a file is no seek table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SeekTableError {
    /// It does not end with one.
    #[error("there is no seek table at the file's end")]
    None,
    /// So many bytes of the file's end are needed to read it.
    #[error("the seek table is longer: {0} bytes")]
    Longer(usize),
    /// It contradicts itself.
    #[error("the seek table is damaged")]
    Damaged,
    /// More than [`MOST_FRAMES`].
    #[error("the seek table has {0} frames, which is more than is read")]
    TooManyFrames(u32),
}

/// The table as a skippable frame. All entries have a checksum, or none is written.
pub fn write_seek_table(entries: &[SeekEntry]) -> Vec<u8> {
    let checksums = entries.iter().all(|entry| entry.checksum.is_some());
    let content = entries.len() * entry_length(checksums) + FOOTER;
    let mut table = Vec::with_capacity(HEADER + content);
    let little = |number: usize| u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes();
    table.extend(SKIPPABLE.to_le_bytes());
    table.extend(little(content));
    for entry in entries {
        table.extend(entry.compressed.to_le_bytes());
        table.extend(entry.expanded.to_le_bytes());
        if let Some(checksum) = entry.checksum.filter(|_| checksums) {
            table.extend(checksum.to_le_bytes());
        }
    }
    table.extend(little(entries.len()));
    table.push(if checksums { HAS_CHECKSUMS } else { 0 });
    table.extend(SEEKABLE.to_le_bytes());
    table
}

/// Reads the table at the end of a file, of which `tail` are the last bytes: the entries and the table's own length.
pub fn read_seek_table(tail: &[u8]) -> Result<(Vec<SeekEntry>, usize), SeekTableError> {
    let footer = tail
        .last_chunk::<FOOTER>()
        .filter(|footer| footer[5..] == SEEKABLE.to_le_bytes())
        .ok_or(SeekTableError::None)?;
    let [a, b, c, d, descriptor, ..] = *footer;
    let frames = u32::from_le_bytes([a, b, c, d]);
    if descriptor & RESERVED != 0 {
        return Err(SeekTableError::Damaged);
    }
    if frames > MOST_FRAMES {
        return Err(SeekTableError::TooManyFrames(frames));
    }
    let checksums = descriptor & HAS_CHECKSUMS != 0;
    let entries = frames as usize * entry_length(checksums);
    let length = HEADER + entries + FOOTER;
    let start = tail
        .len()
        .checked_sub(length)
        .ok_or(SeekTableError::Longer(length))?;
    let table = &tail[start..];
    let number = |at: usize| {
        table
            .get(at..)
            .and_then(<[u8]>::first_chunk)
            .map_or(0, |bytes| u32::from_le_bytes(*bytes))
    };
    if number(0) != SKIPPABLE || number(4) as usize != entries + FOOTER {
        return Err(SeekTableError::Damaged);
    }
    let entries = table[HEADER..HEADER + entries]
        .chunks_exact(entry_length(checksums))
        .enumerate()
        .map(|(n, _)| {
            let at = HEADER + n * entry_length(checksums);
            SeekEntry {
                compressed: number(at),
                expanded: number(at + 4),
                checksum: checksums.then(|| number(at + 8)),
            }
        })
        .collect();
    Ok((entries, length))
}

fn entry_length(checksums: bool) -> usize {
    if checksums { 12 } else { 8 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entries() -> impl Strategy<Value = Vec<SeekEntry>> {
        let entry = (any::<u32>(), any::<u32>(), any::<u32>());
        (prop::collection::vec(entry, 0..50), any::<bool>()).prop_map(|(entries, checksums)| {
            let entry = |(compressed, expanded, checksum)| SeekEntry {
                compressed,
                expanded,
                checksum: checksums.then_some(checksum),
            };
            entries.into_iter().map(entry).collect()
        })
    }

    proptest! {
        #[test]
        fn read_as_written(entries in entries(), before in prop::collection::vec(any::<u8>(), 0..50)) {
            let table = write_seek_table(&entries);
            let file = [&before[..], &table].concat();
            prop_assert_eq!(read_seek_table(&file), Ok((entries, table.len())));
            for missing in [1, table.len() / 2, table.len() - FOOTER] {
                let short = &table[missing..];
                prop_assert_eq!(read_seek_table(short), Err(SeekTableError::Longer(table.len())));
            }
        }

        #[test]
        fn never_panics(mut tail in prop::collection::vec(any::<u8>(), 0..200), magic in any::<bool>()) {
            if magic { tail.extend(SEEKABLE.to_le_bytes()); }
            let _ = read_seek_table(&tail);
        }
    }

    #[test]
    fn what_it_claims_is_bounded() {
        let mut table = write_seek_table(&[]);
        let at = table.len() - FOOTER;
        table[at..at + 4].copy_from_slice(&[0xFF; 4]);
        assert_eq!(
            read_seek_table(&table),
            Err(SeekTableError::TooManyFrames(u32::MAX))
        );
    }
}
