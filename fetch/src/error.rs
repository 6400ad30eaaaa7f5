//! What can go wrong between here and a server.

use std::{error::Error as StdError, fmt, io, time::Duration};

use rustls::{AlertDescription, CertificateError};

use crate::{refusal::PolicyRefusal, url::SourceUrl};

/// How far a transfer had come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the body handed to the caller so far.
    pub done: u64,
    /// Bytes of the whole file, when the server said so.
    pub total: Option<u64>,
}

/// What to make of an error: the least that a caller has to tell apart. Ordered by how much hope
/// is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// 404 or 410: it is not there, and asking again will not change that.
    NotFound,
    /// 401, 403, or no client certificate that it trusts: it is not for us.
    Forbidden,
    /// Scheme, redirect or address is not allowed; nothing was, or nothing more will be, asked.
    RefusedByPolicy,
    /// The server answered with something else than was asked for: HTML for a catalog, a status
    /// that names a fault of ours.
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
///
/// `Display` shows no query and no word that a server sent.
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
        /// The operating system's word for it, or ours.
        what: String,
    },
    /// Nothing came for too long.
    #[error("no answer within {} s", .after.as_secs_f32())]
    TimedOut {
        /// How long was waited.
        after: Duration,
    },
    /// Bytes came, but too slowly.
    #[error(
        "stalled: {received} bytes in {} s; less than {floor} count as a dead connection",
        .over.as_secs_f32()
    )]
    Stalled {
        /// Bytes received in the window.
        received: u64,
        /// Length of the window.
        over: Duration,
        /// What the window should have held at least.
        floor: u64,
    },
    /// The body ended early.
    #[error("the connection ended before the file did")]
    Truncated,
    /// 401 or 403.
    #[error("the server refuses access ({status}); check the URL and the credentials")]
    Forbidden {
        /// The status code.
        status: u16,
    },
    /// 404 or 410.
    #[error("the server does not have it ({status}); check the URL")]
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
    /// An answer that contradicts the request or itself.
    #[error("the server breaks the protocol: {what}")]
    Protocol {
        /// How.
        what: &'static str,
    },
    /// More than the limit.
    #[error("larger than the limit of {limit} bytes")]
    TooLarge {
        /// The limit, in bytes.
        limit: u64,
    },
    /// Something else than a document for programs.
    #[error("the server sent {what} instead of the document; check the URL")]
    NotADocument {
        /// What it is, in words of our own.
        what: &'static str,
    },
    /// There is no such file.
    #[error("there is no such file; check the URL, and that its medium is mounted")]
    NoSuchFile,
    /// A file that may not be read.
    #[error("the file may not be read; check its permissions")]
    FileForbidden,
    /// A folder, a device, a pipe.
    #[error("not a regular file")]
    NotAFile,
    /// A file that cannot be read now.
    #[error("the file cannot be read: {what}")]
    File {
        /// The operating system's word for it.
        what: String,
    },
    /// What the registry has is no image.
    #[error("the registry has no image under that name: {what}")]
    NotAnArtifact {
        /// What is there, in words of our own.
        what: String,
    },
    /// Bytes that are not what their digest says.
    #[error(
        "the registry's {what} is another one than was asked for: expected {expected}, got {found}; \
         push it anew, or look at the caches between"
    )]
    WrongDigest {
        /// What.
        what: &'static str,
        /// The digest it was asked for by.
        expected: String,
        /// The digest of what came.
        found: String,
    },
    /// The caller says so: a checksum did not match.
    #[error("it is not the file that was promised")]
    NotAsPromised,
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
    /// The other way round: the server does not trust us.
    #[error(
        "the server lets in only who shows a client certificate that it trusts ({alert}); check the \
         credentials"
    )]
    ClientCertificate {
        /// What it says of the one that it was shown, in words of our own.
        alert: &'static str,
    },
    /// Another reason not to trust the server.
    #[error("the server cannot be trusted: {what}")]
    Untrusted {
        /// What is wrong, in words of our own.
        what: &'static str,
    },
    /// The file changed.
    #[error("the file changed while it was read ({0}); start over")]
    SourceChanged(Change),
    /// The file changed once more, after it was started over as often as makes sense.
    #[error("the file changed {times} times while it was read, at last ({last})")]
    KeepsChanging {
        /// How often.
        times: u32,
        /// By what the last change was recognised.
        last: Change,
    },
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
        /// Bytes now, at least.
        is: u64,
    },
    /// Neither tag, date nor length to recognise it by.
    #[error("the server gives nothing to recognise it by")]
    Unrecognisable,
    /// The source before this one was given up in the middle, and nothing proves that the two
    /// serve the same file.
    #[error("another source, not proven to hold the same file")]
    OtherSource,
    /// The file did not: what was made of it is of no use to the caller.
    #[error("what was read of it is not wanted")]
    Unwanted,
}

impl Fault {
    /// What to make of it.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Policy(_) => Kind::RefusedByPolicy,
            Self::Forbidden { .. } | Self::FileForbidden | Self::ClientCertificate { .. } => {
                Kind::Forbidden
            }
            Self::NotFound { .. } | Self::NoSuchFile => Kind::NotFound,
            Self::TooLarge { .. } => Kind::TooLarge,
            Self::NotADocument { .. }
            | Self::NotAFile
            | Self::NotAnArtifact { .. }
            | Self::WrongDigest { .. }
            | Self::NotAsPromised
            | Self::UnexpectedStatus { .. }
            | Self::Protocol { .. }
            | Self::KeepsChanging { .. } => Kind::NotUsable,
            Self::Untrusted { .. } => Kind::Untrusted,
            Self::SourceChanged(_) => Kind::SourceChanged,
            // A clock that is wrong at boot is usually set within minutes, hence retried.
            Self::CertificateTime { .. }
            | Self::Connection { .. }
            | Self::TimedOut { .. }
            | Self::Stalled { .. }
            | Self::File { .. }
            | Self::Truncated
            | Self::ServerBusy { .. } => Kind::Unreachable,
        }
    }

    /// What an error of the HTTP client means.
    ///
    /// Only words of the operating system and our own are kept: errors of the protocol layers may
    /// quote the peer, and a certificate names hosts of a network that the reader of a status may
    /// not be allowed to see.
    pub(crate) fn of(error: &reqwest::Error, connect_timeout: Duration) -> Self {
        let connecting = error.is_connect();
        if let Some(fault) = causes(error).find_map(|cause| known_cause(cause, connecting)) {
            return fault;
        }
        if error.is_timeout() {
            return Self::TimedOut {
                after: connect_timeout,
            };
        }
        let what = if error.is_dns() {
            "the host name cannot be resolved"
        } else if connecting {
            "cannot connect"
        } else if error.is_body() || error.is_decode() {
            "the connection broke off in the middle"
        } else {
            "the connection broke off before an answer"
        };
        Self::Connection { what: what.into() }
    }
}

/// An error and everything that caused it. `io::Error` hides the error it wraps from `source`, so
/// that one is looked into.
fn causes<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| {
        let wrapped = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
            .map(|inner| inner as &(dyn StdError + 'static));
        wrapped.or_else(|| error.source())
    })
}

fn known_cause(cause: &(dyn StdError + 'static), connecting: bool) -> Option<Fault> {
    if let Some(refusal) = cause.downcast_ref::<PolicyRefusal>() {
        return Some(Fault::Policy(refusal.clone()));
    }
    if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
        return Some(tls_fault(tls));
    }
    let io = cause.downcast_ref::<io::Error>()?;
    if io.kind() == io::ErrorKind::UnexpectedEof && !connecting {
        return Some(Fault::Truncated);
    }
    // Only an error of the operating system itself: any other text may come from the peer.
    io.raw_os_error()?;
    Some(Fault::Connection {
        what: if connecting {
            format!("cannot connect: {io}")
        } else {
            format!("the connection broke off: {io}")
        },
    })
}

fn tls_fault(error: &rustls::Error) -> Fault {
    let out_of_date = |which| Fault::CertificateTime {
        which,
        clock: jiff::Timestamp::now()
            .strftime("%Y-%m-%d %H:%M:%S UTC")
            .to_string(),
    };
    let certificate = match error {
        rustls::Error::InvalidCertificate(certificate) => certificate,
        rustls::Error::AlertReceived(alert) => return alert_fault(*alert),
        _ => return no_tls(),
    };
    match certificate {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            out_of_date("has expired")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            out_of_date("is not valid yet")
        }
        CertificateError::UnknownIssuer => Fault::Untrusted {
            what: "its certificate is signed by no authority known here; \
                   add the authority to the CA file",
        },
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            Fault::Untrusted {
                what: "its certificate is for another host",
            }
        }
        CertificateError::Revoked => Fault::Untrusted {
            what: "its certificate is revoked",
        },
        _ => Fault::Untrusted {
            what: "its certificate is not valid",
        },
    }
}

/// An alert that the server sent (RFC 8446, section 6.2). Those about a certificate are about ours:
/// it has not looked at any other.
fn alert_fault(alert: AlertDescription) -> Fault {
    let alert = match alert {
        AlertDescription::CertificateRequired | AlertDescription::NoCertificate => {
            "it was shown none"
        }
        AlertDescription::BadCertificate => "it was shown none, or none that it can use",
        AlertDescription::CertificateExpired => {
            "by its clock the one that it was shown has expired, or is not valid yet"
        }
        AlertDescription::CertificateRevoked => "the one that it was shown is revoked",
        AlertDescription::UnknownCA => {
            "the one that it was shown is signed by no authority that it knows"
        }
        // The last: signed with another key than the authority of that name has.
        AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::AccessDenied
        | AlertDescription::DecryptError => "it does not trust the one that it was shown",
        _ => return no_tls(),
    };
    Fault::ClientCertificate { alert }
}

fn no_tls() -> Fault {
    Fault::Connection {
        what: "the TLS handshake failed; is it an https server?".into(),
    }
}

impl FetchError {
    pub(crate) fn new(url: &SourceUrl, fault: Fault) -> Self {
        Self {
            url: url.clone(),
            fault,
            progress: Progress::default(),
            earlier: Vec::new(),
        }
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    fn error(url: &str, fault: Fault) -> FetchError {
        FetchError::new(&url.parse().unwrap(), fault)
    }

    #[test]
    fn says_what_where_and_how_far_without_the_query() {
        let mut last = error("https://a.example/i?key=secret", Fault::Truncated);
        last.progress = Progress {
            done: 10,
            total: Some(20),
        };
        last.earlier = vec![error("http://b.example/i", Fault::NotFound { status: 404 })];
        assert_eq!(
            last.to_string(),
            "http://b.example/i: the server does not have it (404); check the URL; then \
             https://a.example/i?…: the connection ended before the file did \
             (after 10 of 20 bytes)"
        );
    }

    #[test]
    fn several_sources_leave_the_most_hopeful_verdict() {
        let not_found = || error("http://a.example/", Fault::NotFound { status: 404 });
        let forbidden = || error("http://a.example/", Fault::Forbidden { status: 403 });
        let cut = || error("http://a.example/", Fault::Truncated);
        for (last, earlier, kind, retryable) in [
            (not_found(), vec![not_found()], Kind::NotFound, false),
            (not_found(), vec![forbidden()], Kind::Forbidden, false),
            (
                not_found(),
                vec![cut(), forbidden()],
                Kind::Unreachable,
                true,
            ),
            (cut(), vec![], Kind::Unreachable, true),
        ] {
            let all = FetchError { earlier, ..last };
            assert_eq!((all.kind(), all.is_retryable()), (kind, retryable), "{all}");
        }
    }
}
