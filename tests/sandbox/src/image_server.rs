//! An HTTP server for images and catalogs on 127.0.0.1, with faults to order.

use std::path::Path;

use anyhow::{Result, bail};

/// What goes wrong with a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Answer with this status and a short text.
    Status(u16),
    /// Answer with this status and `Retry-After` in seconds.
    RetryAfter(u16, u32),
    /// Send this many bytes of the body, then drop the connection.
    DropAfter(u64),
    /// Send this many bytes of the body, then nothing more.
    StallAfter(u64),
    /// Never answer at all.
    NeverAnswer,
    /// End the body, in good order, after this many bytes.
    Truncate(u64),
    /// Change the byte at this offset.
    Corrupt(u64),
    /// Redirect there.
    Redirect(String),
    /// Answer 200 with this body.
    Body(Vec<u8>),
}

/// A request that was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The path.
    pub path: String,
    /// Its `Range` header.
    pub range: Option<String>,
    /// Its `If-None-Match` header.
    pub if_none_match: Option<String>,
    /// The answer's status.
    pub status: u16,
}

/// A running server. Dropping it stops it.
pub struct ImageServer {}

impl ImageServer {
    /// Serves the files of `folder` on a free port.
    pub async fn start(folder: &Path) -> Result<Self> {
        bail!("not yet: {}", folder.display())
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        String::new()
    }

    /// The URL of a file's name or another path.
    pub fn url_of(&self, path: &str) -> String {
        format!("{}/{path}", self.url())
    }

    /// Serves `content` under `path`, instead of a file of that name.
    pub fn publish(&self, _path: &str, _content: impl Into<Vec<u8>>) {}

    /// Orders a fault for a path until it is cured; `times` limits it to that many requests.
    pub fn fault(&self, _path: &str, _fault: Fault, _times: Option<u32>) {}

    /// Ends a path's fault.
    pub fn cure(&self, _path: &str) {}

    /// Limits each answer to this many bytes a second; 0: no limit.
    pub fn limit(&self, _bytes_per_second: u64) {}

    /// What was asked for so far, in order.
    pub fn requests(&self) -> Vec<Request> {
        Vec::new()
    }
}
