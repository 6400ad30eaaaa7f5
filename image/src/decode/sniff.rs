//! What a file is, told by its first bytes and never by its name.

/// So many first bytes tell everything that is looked for. No file system is shorter.
pub(crate) const SNIFFED: usize = 4096;

/// What a file that is in none of the formats with a mark looks like, for a person to read; None where it may be an
/// image that is not compressed.
pub(super) fn other_than_an_image(head: &[u8]) -> Option<&'static str> {
    let at = |offset: usize, magic: &[u8]| {
        head.get(offset..)
            .is_some_and(|rest| rest.starts_with(magic))
    };
    let is = match () {
        () if at(0, b"BZh") => "a bzip2 file, which is not read: compress the image with zstd",
        () if at(0, &[0x04, 0x22, 0x4D, 0x18]) => {
            "an lz4 file, which is not read: compress the image with zstd"
        }
        () if at(0, b"LZIP") || at(0, &[0x5D, 0, 0]) => {
            "an lzma file, which is not read: compress the image with zstd"
        }
        () if at(0, b"PK\x03\x04") => "a zip archive",
        () if at(0, b"7z\xBC\xAF\x27\x1C") => "a 7-zip archive",
        () if at(257, b"ustar") => "a tar archive",
        () if at(0, b"QFI\xFB") || at(0, b"KDMV") || at(0, b"vhdxfile") => {
            "a virtual machine's disk: an image is the file system itself"
        }
        () if at(0, &[0x3A, 0xFF, 0x26, 0xED]) => {
            "an Android sparse image: make it a plain one with simg2img"
        }
        () if at(0, b"casync") => "a casync index",
        // s_magic of ext4's super block, which is at 1024; there may be anything before it, a boot sector too.
        () if at(1024 + 56, &[0x53, 0xEF]) => return too_short(head),
        () if at(512, b"EFI PART") || is_partition_table(head) => {
            "a whole disk with a partition table: an image is one file system"
        }
        () => return text(head).or_else(|| too_short(head)),
    };
    Some(is)
}

/// A master boot record with partitions in it. File systems that can be booted end their first sector with the same two
/// bytes.
fn is_partition_table(head: &[u8]) -> bool {
    let Some(sector) = head.get(..512) else {
        return false;
    };
    let is_fat = sector[54..].starts_with(b"FAT") || sector[82..].starts_with(b"FAT");
    // Four entries of 16 bytes; the first byte says whether it is active, the fifth is the type, 0 for none.
    let entries = || sector[446..510].chunks(16);
    sector.ends_with(&[0x55, 0xAA])
        && !is_fat
        && entries().all(|entry| matches!(entry[0], 0 | 0x80))
        && entries().any(|entry| entry[4] != 0)
}

fn too_short(head: &[u8]) -> Option<&'static str> {
    match head.len() {
        0..SNIFFED => Some("a part of something: less than 4096 bytes, too short for an image"),
        _ => None,
    }
}

/// What a text or what is nearly one is.
fn text(head: &[u8]) -> Option<&'static str> {
    let head = head.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(head);
    let Some(first) = head.iter().position(|byte| !byte.is_ascii_whitespace()) else {
        return Some(if head.is_empty() {
            "an empty file"
        } else {
            "blanks"
        });
    };
    let begins = |word: &[u8]| {
        head[first..]
            .get(..word.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(word))
    };
    if [
        &b"<!doctype html"[..],
        b"<html",
        b"<head",
        b"<body",
        b"<!--",
        b"<title",
    ]
    .iter()
    .any(|word| begins(word))
    {
        return Some("a web page: the server sent HTML, not a file");
    }
    if begins(b"<?xml") || begins(b"<Error") {
        return Some("an XML document: perhaps an object store's error");
    }
    let printable = |byte: &u8| matches!(byte, b'\t' | b'\n' | b'\r' | 0x20..=0x7E | 0x80..);
    match head {
        _ if begins(b"{") && head.iter().all(printable) => {
            Some("a JSON document: perhaps an error of the server's")
        }
        _ if begins(b"version https://git-lfs") => {
            Some("a Git LFS pointer: the file itself is elsewhere")
        }
        _ if head.iter().all(printable) => Some("text"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first bytes of a file, with something in them.
    fn head(parts: &[(usize, &[u8])]) -> Vec<u8> {
        let mut head = vec![0; SNIFFED];
        for (at, bytes) in parts {
            head[*at..*at + bytes.len()].copy_from_slice(bytes);
        }
        head
    }

    #[test]
    fn told_by_content() {
        let table: &[(&[u8], &str)] = &[
            (b"", "empty"),
            (b" \n", "blanks"),
            (b"BZh91AY", "bzip2"),
            (b"\x04\x22\x4D\x18", "lz4"),
            (b"LZIP\x01", "lzma"),
            (b"\x5D\0\0\x80\0", "lzma"),
            (b"<!DOCTYPE html><html>", "web page"),
            (b"\xEF\xBB\xBF\r\n <HTML>", "web page"),
            (b"<?xml version=\"1.0\"?><Error>", "XML"),
            (b"{\"error\": \"no\"}", "JSON"),
            (b"404 not found\n", "text"),
            (&[b'x'; SNIFFED], "text"),
            (b"version https://git-lfs.github.com/spec/v1\n", "LFS"),
            (b"\0\x01\x02", "too short"),
            (&[0; SNIFFED - 1], "too short"),
            (&head(&[(0, b"QFI\xFB")]), "virtual machine"),
            (&head(&[(257, b"ustar")]), "tar"),
            (
                &head(&[(510, b"\x55\xAA"), (512, b"EFI PART")]),
                "partition table",
            ),
            (
                &head(&[(510, b"\x55\xAA"), (446 + 4, b"\x83")]),
                "partition table",
            ),
        ];
        for (head, word) in table {
            let said = other_than_an_image(head).unwrap_or("an image");
            assert!(said.contains(word), "{said:?} for {word}");
        }
    }

    #[test]
    fn what_may_be_an_image() {
        let images = [
            // ext4, with and without a boot sector that looks like a partition table.
            head(&[(1080, b"\x53\xEF")]),
            head(&[(1080, b"\x53\xEF"), (510, b"\x55\xAA"), (446 + 4, b"\x83")]),
            // squashfs, EROFS, XFS.
            head(&[(0, b"hsqs")]),
            head(&[(1024, b"\xE2\xE1\xF5\xE0")]),
            head(&[(0, b"XFSB")]),
            // FAT, and boot code that is no partition table.
            head(&[(82, b"FAT32   "), (510, b"\x55\xAA"), (450, b"\x83")]),
            head(&[(446, &[7; 64]), (510, b"\x55\xAA")]),
            // btrfs and ISO 9660 begin with zeros.
            head(&[]),
        ];
        for image in images {
            assert_eq!(other_than_an_image(&image), None);
        }
    }
}
