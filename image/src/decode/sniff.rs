//! What a file is, told by its first bytes and never by its name.

/// So many first bytes tell everything that is looked for; fewer are fine.
pub(crate) const SNIFFED: usize = 2048;

/// What a file that is no zstd image looks like, for a person to read.
pub(super) fn looks_like(head: &[u8]) -> &'static str {
    let at = |offset: usize, magic: &[u8]| {
        head.get(offset..)
            .is_some_and(|rest| rest.starts_with(magic))
    };
    match () {
        () if head.is_empty() => "an empty file",
        () if at(0, &[0x1F, 0x8B]) => {
            "a gzip file, which is not read: compress the image with zstd"
        }
        () if at(0, b"\xFD7zXZ\0") => "an xz file, which is not read: compress the image with zstd",
        () if at(0, b"BZh") => "a bzip2 file, which is not read: compress the image with zstd",
        () if at(0, &[0x04, 0x22, 0x4D, 0x18]) => {
            "an lz4 file, which is not read: compress the image with zstd"
        }
        () if at(0, b"PK\x03\x04") => "a zip archive",
        () if at(0, b"7z\xBC\xAF\x27\x1C") => "a 7-zip archive",
        () if at(257, b"ustar") => "a tar archive",
        // s_magic of the super block, which is at 1024.
        () if at(1024 + 56, &[0x53, 0xEF]) => {
            "an uncompressed ext4 file system: compress the image with zstd"
        }
        () if at(0, b"hsqs") => "an uncompressed squashfs: compress the image with zstd",
        () if at(1024, &[0xE2, 0xE1, 0xF5, 0xE0]) => {
            "an uncompressed EROFS: compress the image with zstd"
        }
        () if at(512, b"EFI PART") || at(510, &[0x55, 0xAA]) => {
            "a whole disk with a partition table: an image is one file system"
        }
        () if at(0, b"casync") => "a casync index",
        () => text(head),
    }
}

fn text(head: &[u8]) -> &'static str {
    let head = head.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(head);
    let Some(first) = head.iter().position(|byte| !byte.is_ascii_whitespace()) else {
        return if head.is_empty() {
            "an empty file"
        } else {
            "blanks"
        };
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
        return "a web page: the server sent HTML, not a file";
    }
    if begins(b"<?xml") || begins(b"<Error") {
        return "an XML document: perhaps an object store's error";
    }
    let printable = |byte: &u8| matches!(byte, b'\t' | b'\n' | b'\r' | 0x20..=0x7E | 0x80..);
    match head {
        _ if begins(b"{") && head.iter().all(printable) => {
            "a JSON document: perhaps an error of the server's"
        }
        _ if begins(b"version https://git-lfs") => {
            "a Git LFS pointer: the file itself is elsewhere"
        }
        _ if head.iter().all(printable) => "text",
        _ => "data of no known kind",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn told_by_content() {
        let mut ext4 = vec![0; SNIFFED];
        ext4[1080..1082].copy_from_slice(&[0x53, 0xEF]);
        let mut disk = vec![0; SNIFFED];
        disk[510..512].copy_from_slice(&[0x55, 0xAA]);
        let mut tar = vec![b'a'; 512];
        tar[257..262].copy_from_slice(b"ustar");
        let table: &[(&[u8], &str)] = &[
            (b"", "empty"),
            (b" \n", "blanks"),
            (b"\x1F\x8B\x08", "gzip"),
            (b"\xFD7zXZ\0", "xz"),
            (b"\x04\x22\x4D\x18", "lz4"),
            (b"<!DOCTYPE html><html>", "web page"),
            (b"\xEF\xBB\xBF\r\n <HTML>", "web page"),
            (b"<?xml version=\"1.0\"?><Error>", "XML"),
            (b"{\"error\": \"no\"}", "JSON"),
            (b"404 not found\n", "text"),
            (b"version https://git-lfs.github.com/spec/v1\n", "LFS"),
            (b"\0\x01\x02", "no known kind"),
            (&ext4, "ext4"),
            (&disk, "partition table"),
            (&tar, "tar"),
        ];
        for (head, word) in table {
            let said = looks_like(head);
            assert!(said.contains(word), "{said:?} for {word}");
        }
    }
}
