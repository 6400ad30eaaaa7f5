//! A disk's GUID partition table, read from the disk (UEFI specification 2.10, chapter 5).

use std::fs::File;
use std::io;
use std::path::Path;

use gpt::disk::LogicalBlockSize;
use gpt::header::{HeaderError, read_header_from_arbitrary_device};
use gpt::partition::file_read_partitions;
use uuid::{Uuid, uuid};

/// The type of an EFI system partition.
pub const EFI_SYSTEM: Uuid = uuid!("c12a7328-f81f-11d2-ba4b-00a0c93ec93b");

/// More entries than this are not a table anybody made (the usual number is 128).
const MAX_ENTRIES: u32 = 1024;

/// One partition, as the table describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number, from 1.
    pub number: u32,
    /// Its name, `PARTLABEL`.
    pub label: String,
    /// Its own GUID, `PARTUUID`.
    pub part_uuid: Uuid,
    /// What it is for.
    pub type_uuid: Uuid,
    /// Where it begins on the disk, in bytes.
    pub start: u64,
    /// Size in bytes.
    pub size: u64,
}

/// What is where a disk's partition table would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Table {
    /// A table whose checksums are right.
    Gpt(Vec<Entry>),
    /// No such table.
    None,
    /// One that is damaged, or that nobody can have made.
    Damaged(String),
}

/// Reads the table of the disk whose node is `disk`, which counts in blocks of `block_size` bytes.
///
/// Only the first copy counts, as for the kernel: which copy is right when they differ is for a person to say.
pub fn read(disk: &Path, block_size: u64) -> io::Result<Table> {
    let blocks = match block_size {
        512 => LogicalBlockSize::Lb512,
        4096 => LogicalBlockSize::Lb4096,
        other => {
            return Ok(Table::Damaged(format!(
                "its blocks of {other} bytes are of no known size"
            )));
        }
    };
    let mut file = File::open(disk)?;
    let header = match read_header_from_arbitrary_device(&mut file, blocks) {
        Ok(header) => header,
        Err(HeaderError::InvalidGptSignature) => return Ok(Table::None),
        Err(HeaderError::Io(e)) if e.kind() == io::ErrorKind::UnexpectedEof => {
            return Ok(Table::None);
        }
        Err(HeaderError::Io(e)) => return Err(e),
        Err(e) => return Ok(Table::Damaged(format!("its header is damaged: {e}"))),
    };
    // Checked before the entries are read: the library takes the header's word for their number and size.
    if header.current_lba != 1 || header.part_size != 128 || header.num_parts > MAX_ENTRIES {
        return Ok(Table::Damaged(format!(
            "its header is at block {} and tells of {} entries of {} bytes",
            header.current_lba, header.num_parts, header.part_size
        )));
    }
    let partitions = match file_read_partitions(&mut file, &header, blocks) {
        Ok(partitions) => partitions,
        Err(e) if e.raw_os_error().is_some() => return Err(e),
        Err(e) => return Ok(Table::Damaged(e.to_string())),
    };
    let entries = partitions.into_iter().filter_map(|(number, p)| {
        Some(Entry {
            number,
            label: p.name.clone(),
            part_uuid: p.part_guid,
            type_uuid: p.part_type_guid.guid,
            start: p.bytes_start(blocks).ok()?,
            size: p.bytes_len(blocks).ok()?,
        })
    });
    Ok(Table::Gpt(entries.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::{Seek as _, SeekFrom, Write as _};

    fn disk() -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(8 << 20).unwrap();
        let config = gpt::GptConfig::new().writable(true);
        let mut disk = config.create(file.path()).unwrap();
        disk.add_partition("rootfs-a", 1 << 20, gpt::partition_types::LINUX_FS, 0, None)
            .unwrap();
        disk.add_partition("rootfs-b", 2 << 20, gpt::partition_types::LINUX_FS, 0, None)
            .unwrap();
        disk.write().unwrap();
        file
    }

    fn overwrite(file: &tempfile::NamedTempFile, at: u64, bytes: &[u8]) {
        let mut f = File::options().write(true).open(file.path()).unwrap();
        f.seek(SeekFrom::Start(at)).unwrap();
        f.write_all(bytes).unwrap();
    }

    #[test]
    fn reads_labels_and_places() {
        let file = disk();
        let Table::Gpt(entries) = read(file.path(), 512).unwrap() else {
            panic!("no table")
        };
        let found: Vec<_> = entries
            .iter()
            .map(|e| (e.number, e.label.as_str(), e.size))
            .collect();
        assert_eq!(found, [(1, "rootfs-a", 1 << 20), (2, "rootfs-b", 2 << 20)]);
        assert!(
            entries[0].start >= 34 * 512 && entries[1].start >= entries[0].start + entries[0].size
        );
    }

    #[test]
    fn tells_no_table_from_a_damaged_one() {
        let empty = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(read(empty.path(), 512).unwrap(), Table::None);
        empty.as_file().set_len(1 << 20).unwrap();
        assert_eq!(read(empty.path(), 512).unwrap(), Table::None);
        for at in [512 + 40, 1024 + 60] {
            let file = disk();
            overwrite(&file, at, b"X");
            assert!(
                matches!(read(file.path(), 512).unwrap(), Table::Damaged(_)),
                "byte {at}"
            );
        }
    }

    /// A header with right checksum that tells of entries which would take all memory, or of a size the library
    /// does not know.
    #[test]
    fn believes_no_header_that_nobody_made() {
        for (at, value) in [(80, u32::MAX), (84, 256), (84, 0), (24, 7)] {
            let file = disk();
            let mut header = std::fs::read(file.path()).unwrap()[512..512 + 92].to_vec();
            header[at..at + 4].copy_from_slice(&value.to_le_bytes());
            header[16..20].fill(0);
            let sum = crc32(&header).to_le_bytes();
            header[16..20].copy_from_slice(&sum);
            overwrite(&file, 512, &header);
            assert!(
                matches!(read(file.path(), 512).unwrap(), Table::Damaged(_)),
                "{at} {value}"
            );
        }
    }

    fn crc32(bytes: &[u8]) -> u32 {
        let step = |crc: u32, byte: &u8| {
            (0..8).fold(crc ^ u32::from(*byte), |c, _| {
                if c & 1 == 1 {
                    (c >> 1) ^ 0xedb8_8320
                } else {
                    c >> 1
                }
            })
        };
        !bytes.iter().fold(!0, step)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn never_panics(at in 0_u64..20_000, bytes in proptest::collection::vec(any::<u8>(), 1..64)) {
            let file = disk();
            overwrite(&file, at, &bytes);
            let _ = read(file.path(), 512);
            let _ = read(file.path(), 4096);
        }
    }
}
