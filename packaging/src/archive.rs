//! An OCI image layout in a tar archive: what `ctr images import` and `podman load` read.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Write},
    path::PathBuf,
};

use anyhow::{Context as _, Result};
use serde::Serialize;
use tar::{EntryType, Header};

use crate::digest::{Digest, DigestWriter};

/// Content under the name of its digest.
#[derive(Clone, Debug)]
pub struct Blob {
    digest: Digest,
    content: Content,
}

#[derive(Clone, Debug)]
enum Content {
    Bytes(Vec<u8>),
    File(PathBuf),
}

impl Blob {
    /// A JSON document.
    pub fn json(value: &impl Serialize) -> Result<Self> {
        let bytes = serde_json::to_vec(value)?;
        Ok(Self {
            digest: Digest::of(&bytes),
            content: Content::Bytes(bytes),
        })
    }

    /// A file whose digest is known.
    pub fn file(path: PathBuf, digest: Digest) -> Self {
        let content = Content::File(path);
        Self { digest, content }
    }

    /// Its name and size.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }
}

/// Writes the archive, each part's time being `epoch`. Returns the digest of the whole.
pub fn write(
    index: &serde_json::Value,
    blobs: &[Blob],
    epoch: u64,
    out: impl Write,
) -> Result<Digest> {
    let mut archive = Archive {
        tar: tar::Builder::new(DigestWriter::new(out)),
        epoch,
    };
    archive.folder("blobs/")?;
    archive.folder("blobs/sha256/")?;
    // Two machines' images may share a blob, which is written once.
    let ordered: BTreeMap<&str, &Blob> = blobs.iter().map(|b| (b.digest.hex.as_str(), b)).collect();
    for (hex, blob) in ordered {
        let name = format!("blobs/sha256/{hex}");
        let size = blob.digest.size;
        match &blob.content {
            Content::Bytes(bytes) => archive.file(&name, size, bytes.as_slice())?,
            Content::File(path) => {
                let file = File::open(path).with_context(|| path.display().to_string())?;
                archive.file(&name, size, file)?;
            }
        }
    }
    let index = serde_json::to_vec(index)?;
    archive.file("index.json", index.len() as u64, index.as_slice())?;
    let layout = br#"{"imageLayoutVersion":"1.0.0"}"#;
    archive.file("oci-layout", layout.len() as u64, layout.as_slice())?;
    let (mut out, digest) = archive.tar.into_inner()?.finish();
    out.flush()?;
    Ok(digest)
}

struct Archive<W: Write> {
    tar: tar::Builder<W>,
    epoch: u64,
}

impl<W: Write> Archive<W> {
    fn folder(&mut self, name: &str) -> Result<()> {
        self.entry(EntryType::Directory, 0o755, name, 0, io::empty())
    }

    fn file(&mut self, name: &str, size: u64, content: impl Read) -> Result<()> {
        self.entry(EntryType::Regular, 0o644, name, size, content.take(size))
    }

    fn entry(
        &mut self,
        kind: EntryType,
        mode: u32,
        name: &str,
        size: u64,
        content: impl Read,
    ) -> Result<()> {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(self.epoch);
        header.set_size(size);
        self.tar
            .append_data(&mut header, name, content)
            .with_context(|| format!("{name} of the archive"))
    }
}
