//! A tree packed: a tar archive compressed by zstd, the same bytes for the same tree.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::Path,
};

use anyhow::{Context as _, Result, ensure};
use tar::{EntryType, Header};

use crate::{
    digest::{Digest, DigestWriter},
    rootfs::{Entry, RootFs},
};

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Of the compressed archive: what the manifest names.
    pub blob: Digest,
    /// Of the archive itself: what the configuration names (`diff_id`).
    pub content: Digest,
}

/// Packs `root` into `out`, each file's time being `epoch` (seconds since 1970). Files are streamed.
pub fn write(root: &RootFs, epoch: u64, level: i32, out: impl Write) -> Result<Layer> {
    let compressed = DigestWriter::new(out);
    // One thread: with several, the bytes depend on how the work was divided.
    let encoder = zstd::Encoder::new(compressed, level).context("zstd")?;
    let mut archive = tar::Builder::new(DigestWriter::new(encoder));
    for (path, entry) in root.entries() {
        append(&mut archive, path, entry, epoch)
            .with_context(|| format!("{} of the image", path.display()))?;
    }
    let (encoder, content) = archive.into_inner()?.finish();
    let (mut out, blob) = encoder.finish()?.finish();
    out.flush()?;
    Ok(Layer { blob, content })
}

fn append<W: Write>(
    archive: &mut tar::Builder<W>,
    path: &Path,
    entry: &Entry,
    epoch: u64,
) -> Result<()> {
    let name = path.strip_prefix("/").unwrap_or(path);
    match entry {
        Entry::Folder => {
            let mut header = header(EntryType::Directory, 0o755, 0, epoch);
            // Tar's mark of a folder, besides its type.
            let name = name.join("");
            Ok(archive.append_data(&mut header, name, io::empty())?)
        }
        Entry::Text(bytes) => {
            let mut header = header(EntryType::Regular, 0o644, bytes.len() as u64, epoch);
            Ok(archive.append_data(&mut header, name, bytes.as_slice())?)
        }
        Entry::Copy { from, executable } => {
            let mode = if *executable { 0o755 } else { 0o644 };
            let file = File::open(from).with_context(|| from.display().to_string())?;
            let meta = file.metadata()?;
            ensure!(meta.is_file(), "{} is no file", from.display());
            let mut header = header(EntryType::Regular, mode, meta.len(), epoch);
            // A file that shrinks meanwhile would leave an archive that cannot be read.
            let mut exactly = Exactly {
                file,
                left: meta.len(),
            };
            archive
                .append_data(&mut header, name, &mut exactly)
                .with_context(|| from.display().to_string())
        }
    }
}

fn header(kind: EntryType, mode: u32, size: u64, epoch: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(epoch);
    header.set_size(size);
    header
}

/// A file of which as many bytes are read as it had at first.
struct Exactly {
    file: File,
    left: u64,
}

impl Read for Exactly {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let got = (&mut self.file).take(self.left).read(into)?;
        if got == 0 && self.left > 0 && !into.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!(
                    "the file became {} bytes shorter while it was read",
                    self.left
                ),
            ));
        }
        self.left -= got as u64;
        Ok(got)
    }
}
