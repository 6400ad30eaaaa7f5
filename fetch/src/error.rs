//! What can go wrong between here and a server.

use std::{fmt, time::Duration};

use crate::{policy::PolicyRefusal, url::SourceUrl};

/// How far a transfer had come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the body handed to the caller so far.
    pub done: u64,
    /// Bytes of the whole file, when the server said so.
    pub total: Option<u64>,
}

/// What to make of an error: the least that a caller has to tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// 404 or 410: it is not there, and asking again will not change that.
    NotFound,
    /// 401 or 403: it is not for us.
    Forbidden,
    /// Scheme, redirect or address is not allowed; nothing was, or nothing more will be, asked.
    RefusedByPolicy,
    /// The server answered with something else than was asked for: HTML for a catalog, a 4xx that
    /// names a fault of ours.
    NotUsable,
    /// More than the limit.
    TooLarge,
    /// The server's certificate proves nothing to us.
    Untrusted,
    /// The file behind the URL changed while it was read: start over.
    SourceChanged,
    /// Refused, reset, stalled, overloaded, timed out: asking again may help.
    Unreachable,
}

/// A fetch that failed: what happened, to which URL, after how many bytes.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub struct FetchError {
    /// The URL as asked, before any redirect.
    pub url: SourceUrl,
    /// What happened.
    pub fault: Fault,
    /// How far it had come.
    pub progress: Progress,
    /// The sources given up before this one, in the order they were tried.
    pub earlier: Vec<FetchError>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// Not asked, or not followed.
    #[error("not allowed: {0}")]
    Policy(#[from] PolicyRefusal),
    /// No answer, or the connection broke.
    #[error("{what}")]
    Connection {
        /// The operating system's or the protocol's word for it.
        what: String,
    },
    /// Nothing came for too long.
    #[error("no answer within {} s", .after.as_secs_f32())]
    TimedOut {
        /// How long was waited.
        after: Duration,
    },
    /// Bytes came, but too slowly.
    #[error("stalled: {received} bytes in {} s, less than {floor} are taken for a dead connection", .over.as_secs_f32())]
    Stalled {
        /// Bytes received in the window.
        received: u64,
        /// Length of the window.
        over: Duration,
        /// What the window should have held at least.
        floor: u64,
    },
    /// The body ended early.
    #[error("the connection ended before the body did")]
    Truncated,
    /// 401 or 403.
    #[error("the server refuses access ({status})")]
    Forbidden {
        /// The status code.
        status: u16,
    },
    /// 404 or 410.
    #[error("the server does not have it ({status})")]
    NotFound {
        /// The status code.
        status: u16,
    },
    /// 408, 429 or 5xx.
    #[error("the server cannot serve it now ({status})")]
    ServerBusy {
        /// The status code.
        status: u16,
        /// What its `Retry-After` asked for.
        retry_after: Option<Duration>,
    },
    /// Any other status that is no success.
    #[error("the server answered {status}, which is neither the file nor a reason to ask again")]
    UnexpectedStatus {
        /// The status code.
        status: u16,
    },
    /// More than the limit.
    #[error("larger than the limit of {limit} bytes")]
    TooLarge {
        /// The limit, in bytes.
        limit: u64,
    },
    /// A page for people where a document for programs was expected.
    #[error("{what} instead of the document")]
    NotADocument {
        /// What it is, in words of our own.
        what: &'static str,
    },
    /// The certificate's time and this machine's disagree.
    #[error(
        "the server's certificate {which} by this machine's clock, which shows {clock}; \
         if that is wrong, set the clock"
    )]
    CertificateTime {
        /// `has expired` or `is not valid yet`.
        which: &'static str,
        /// This machine's date, UTC.
        clock: String,
    },
    /// Another reason not to trust the server.
    #[error("no trust in the server: {what}")]
    Untrusted {
        /// What is wrong with its certificate, in words of our own.
        what: &'static str,
    },
    /// The file changed.
    #[error("the file changed while it was read ({0}); start over")]
    SourceChanged(Change),
}

/// By what a changed file was recognised.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Change {
    /// Another entity tag.
    #[error("another ETag")]
    ETag,
    /// Another modification time.
    #[error("another Last-Modified")]
    LastModified,
    /// Another length.
    #[error("{was} bytes before, {is} now")]
    Length {
        /// Bytes at first.
        was: u64,
        /// Bytes now.
        is: u64,
    },
    /// Neither tag, date nor length to recognise it by.
    #[error("the server gives nothing to recognise it by")]
    Unrecognisable,
    /// The source before this one was given up in the middle, and nothing proves that the two
    /// serve the same file.
    #[error("another source, not proven to hold the same file")]
    OtherSource,
}

impl Fault {
    /// What to make of it.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Policy(_) => Kind::RefusedByPolicy,
            Self::Forbidden { .. } => Kind::Forbidden,
            Self::NotFound { .. } => Kind::NotFound,
            Self::TooLarge { .. } => Kind::TooLarge,
            Self::NotADocument { .. } | Self::UnexpectedStatus { .. } => Kind::NotUsable,
            Self::Untrusted { .. } => Kind::Untrusted,
            Self::SourceChanged(_) => Kind::SourceChanged,
            // A clock that is wrong at boot is usually set within minutes.
            Self::CertificateTime { .. }
            | Self::Connection { .. }
            | Self::TimedOut { .. }
            | Self::Stalled { .. }
            | Self::Truncated
            | Self::ServerBusy { .. } => Kind::Unreachable,
        }
    }
}

impl FetchError {
    /// What to make of it. With several sources: the verdict that leaves most hope, so `NotFound`
    /// only when no source has it.
    pub fn kind(&self) -> Kind {
        self.earlier
            .iter()
            .map(Self::kind)
            .fold(self.fault.kind(), Ord::max)
    }

    /// Whether asking again later, unchanged, may succeed.
    pub fn is_retryable(&self) -> bool {
        self.kind() == Kind::Unreachable
    }
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for error in &self.earlier {
            write!(f, "{error}; then ")?;
        }
        write!(f, "{}: {}", self.url, self.fault)?;
        match self.progress {
            Progress {
                done: 0,
                total: None,
            } => Ok(()),
            Progress {
                done,
                total: Some(total),
            } => write!(f, " (after {done} of {total} bytes)"),
            Progress { done, total: None } => write!(f, " (after {done} bytes)"),
        }
    }
}
