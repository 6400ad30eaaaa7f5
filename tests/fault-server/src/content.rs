//! What is served.

use std::{
    collections::VecDeque,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use crate::fault::Fault;

/// Bytes in memory, or a file read while it is served.
#[derive(Clone, Debug)]
pub struct Content {
    store: Store,
    len: u64,
    tag: String,
}

#[derive(Clone, Debug)]
enum Store {
    Memory(Bytes),
    File(PathBuf),
}

impl Content {
    /// A file on this machine. It must not change while it is served.
    pub fn file(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref().to_path_buf();
        let metadata = std::fs::metadata(&path)?;
        let mut hasher = DefaultHasher::new();
        metadata.modified()?.hash(&mut hasher);
        path.hash(&mut hasher);
        let len = metadata.len();
        Ok(Self {
            store: Store::File(path),
            len,
            tag: format!("\"{len:x}-{:x}\"", hasher.finish()),
        })
    }

    /// Length in bytes.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// A strong entity tag: equal for equal bytes.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// At most `max` bytes from `offset`.
    pub(crate) async fn read(&self, offset: u64, max: usize) -> io::Result<Bytes> {
        let left = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let take = max.min(left);
        match &self.store {
            Store::Memory(bytes) => {
                let from = usize::try_from(offset).map_err(io::Error::other)?;
                Ok(bytes.slice(from..from + take))
            }
            Store::File(path) => {
                let mut file = tokio::fs::File::open(path).await?;
                file.seek(io::SeekFrom::Start(offset)).await?;
                let mut buffer = vec![0; take];
                file.read_exact(&mut buffer).await?;
                Ok(buffer.into())
            }
        }
    }
}

impl<T: Into<Bytes>> From<T> for Content {
    fn from(bytes: T) -> Self {
        let bytes = bytes.into();
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        Self {
            len: bytes.len() as u64,
            tag: format!("\"{:x}-{:x}\"", bytes.len(), hasher.finish()),
            store: Store::Memory(bytes),
        }
    }
}

/// A content at a path, how it is described, and the script of its faults.
#[derive(Clone, Debug)]
pub struct Resource {
    pub(crate) content: Content,
    pub(crate) content_type: String,
    pub(crate) etag: Option<String>,
    pub(crate) last_modified: Option<String>,
    pub(crate) ranges: bool,
    pub(crate) length: bool,
    pub(crate) script: VecDeque<Fault>,
    pub(crate) forever: Option<Fault>,
}

impl Resource {
    /// Served correctly, with an entity tag.
    pub fn new(content: impl Into<Content>) -> Self {
        let content = content.into();
        Self {
            etag: Some(content.tag().to_owned()),
            content,
            content_type: "application/octet-stream".into(),
            last_modified: None,
            ranges: true,
            length: true,
            script: VecDeque::new(),
            forever: None,
        }
    }

    /// These faults, one per request, after those already scripted.
    #[must_use]
    pub fn faults(mut self, faults: impl IntoIterator<Item = Fault>) -> Self {
        self.script.extend(faults);
        self
    }

    /// This fault for every request when the script is at its end.
    #[must_use]
    pub fn forever(mut self, fault: Fault) -> Self {
        self.forever = Some(fault);
        self
    }

    /// Another `Content-Type` than `application/octet-stream`.
    #[must_use]
    pub fn content_type(mut self, value: impl Into<String>) -> Self {
        self.content_type = value.into();
        self
    }

    /// Another entity tag than the content's own, or none.
    #[must_use]
    pub fn etag(mut self, value: Option<&str>) -> Self {
        self.etag = value.map(Into::into);
        self
    }

    /// A `Last-Modified`. Default: none.
    #[must_use]
    pub fn last_modified(mut self, value: Option<&str>) -> Self {
        self.last_modified = value.map(Into::into);
        self
    }

    /// No ranges: every answer is the whole file.
    #[must_use]
    pub fn without_ranges(mut self) -> Self {
        self.ranges = false;
        self
    }

    /// No `Content-Length`: whole answers are sent in HTTP/1.1 chunks.
    #[must_use]
    pub fn without_length(mut self) -> Self {
        self.length = false;
        self
    }

    /// The next fault of the script.
    pub(crate) fn next_fault(&mut self) -> Fault {
        self.script
            .pop_front()
            .or_else(|| self.forever.clone())
            .unwrap_or(Fault::None)
    }

    /// Puts another content in place of the one there was.
    pub(crate) fn replace(&mut self, content: Content) {
        if self.etag.is_some() {
            self.etag = Some(content.tag().to_owned());
        }
        self.content = content;
    }
}
