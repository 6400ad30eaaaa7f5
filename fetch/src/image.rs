//! A large file as a stream: an image.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{
    client::Client,
    error::{Fault, FetchError, Progress},
    rate::RateLimit,
    url::SourceUrl,
};

/// Longest time without a byte that is bridged by asking again, unless told otherwise; the default
/// of `download.retryFor`.
pub const DEFAULT_RETRY_FOR: Duration = Duration::from_secs(600);

/// What to fetch, from where, and how patiently.
#[derive(Clone)]
pub struct ImageRequest {
    /// Where it is.
    pub url: SourceUrl,
    /// Where else it is: asked in order when a source before is given up.
    pub mirrors: Vec<SourceUrl>,
    /// For how long transient faults of one source are bridged; counted anew whenever bytes have
    /// flowed. Default: 10 min.
    pub retry_for: Duration,
    /// A ceiling for the rate; the caller keeps a clone to change it. Default: none.
    pub rate: RateLimit,
    /// Told of retries, resumptions and sources given up, for logs and status. Called from
    /// [`ImageBody::next_chunk`]; must not block.
    pub observer: Option<Arc<dyn Fn(&Event) + Send + Sync>>,
}

/// Something the caller may want to say while a stream is under way.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A transient fault; asking again after a pause.
    Retrying {
        /// What happened.
        error: FetchError,
        /// The pause.
        after: Duration,
    },
    /// The stream goes on in the middle after a fault.
    Resumed {
        /// The source.
        url: SourceUrl,
        /// Bytes that were there already.
        at: u64,
    },
    /// A source is given up; the next one is asked.
    NextSource {
        /// Why.
        error: FetchError,
        /// Which is asked now.
        next: SourceUrl,
    },
}

/// A stream under way.
pub struct ImageBody {
    url: SourceUrl,
    progress: Progress,
}

impl ImageRequest {
    /// One URL, no mirrors, the defaults.
    pub fn new(url: SourceUrl) -> Self {
        Self {
            url,
            mirrors: Vec::new(),
            retry_for: DEFAULT_RETRY_FOR,
            rate: RateLimit::default(),
            observer: None,
        }
    }
}

impl Client {
    /// Opens a stream: returns once a source has answered with the file.
    pub async fn open(&self, request: ImageRequest) -> Result<ImageBody, FetchError> {
        std::future::ready(()).await;
        Err(FetchError {
            url: request.url,
            fault: Fault::Connection {
                what: "not built yet".into(),
            },
            progress: Progress::default(),
            earlier: Vec::new(),
        })
    }
}

impl ImageBody {
    /// The next bytes, `None` at the end of the file; the file is then complete as far as the
    /// server's length tells. Whether it is the right one only its checksum tells.
    ///
    /// Faults are bridged in here. Cancel-safe: dropping the future loses no bytes.
    ///
    /// [`Fault::SourceChanged`]: what was handed out so far is void; [`Self::start_over`] or give
    /// up. Every other error is final.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>, FetchError> {
        std::future::ready(()).await;
        Ok(None)
    }

    /// After [`Fault::SourceChanged`]: the next chunk is the file's first.
    pub fn start_over(&mut self) {
        self.progress = Progress::default();
    }

    /// Bytes handed out, and the file's length when known.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// The source being read.
    pub fn url(&self) -> &SourceUrl {
        &self.url
    }
}
