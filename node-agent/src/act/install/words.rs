//! What is said of an installation that failed.

use std::fmt;

use monok8s_api::reason::FailureReason;
use monok8s_boot::{Slot, SlotName};
use monok8s_fetch::{FetchError, Kind, SourceUrl};
use monok8s_image::InstallError;

use crate::{
    decide::{
        reasons,
        resume::fetch_error,
        status::{Live, needs_another_image},
    },
    record::Trouble,
};

/// What to do when the image itself is wrong.
pub(super) const OTHER_IMAGE: &str = "A retry installs the same image: mend the catalog, which makes a new revision of \
                                      the OSUpgrade, or what its URL serves";

/// What is written where.
#[derive(Clone, Debug)]
pub(super) struct What {
    pub(super) version: String,
    pub(super) url: SourceUrl,
    pub(super) slot: Slot,
    pub(super) to: SlotName,
    /// Where credentials came from, as messages call it.
    pub(super) credentials: Option<String>,
}

impl What {
    /// An installation that failed.
    pub(super) fn trouble(&self, error: &InstallError, left: Left) -> Trouble {
        if let Some(fetch) = fetch_error(error) {
            return self.fetch_trouble(fetch, left);
        }
        let reason = reasons::of_install(error);
        let hint = if needs_another_image(&reason) {
            OTHER_IMAGE
        } else {
            match reason {
                FailureReason::WriteFailed | FailureReason::ReadBackMismatch => {
                    "The medium may be failing: look at the kernel's log (`dmesg`), then change spec.retryNonce"
                }
                _ => "Change spec.retryNonce to try again",
            }
        };
        Trouble::new(
            reason,
            format!(
                "installing {} from {} {}: {error}; {left}. {hint}",
                self.version,
                self.url,
                self.place()
            ),
        )
    }

    /// A download that failed.
    pub(super) fn fetch_trouble(&self, error: &FetchError, left: Left) -> Trouble {
        let reason = reasons::of_fetch(error.kind());
        let hint = match (error.kind(), &self.credentials) {
            (Kind::NotFound, _) => {
                "Check the URL in the catalog and that the image is published".to_owned()
            }
            (Kind::Forbidden, Some(credentials)) => format!(
                "Check what is in {credentials}, and that its `hosts` name this server: they are sent with https, to \
                 those alone. Then change spec.retryNonce"
            ),
            (Kind::Forbidden, None) => {
                "Name a Secret with credentials for this server (download.credentials), or let it serve the image to \
                 this node without, then change spec.retryNonce"
                    .to_owned()
            }
            (Kind::Untrusted, _) => {
                "Check the server's certificate and the node's trust anchors, then change spec.retryNonce"
                    .to_owned()
            }
            (Kind::RefusedByPolicy, _) => "Use another URL in the catalog".to_owned(),
            _ => "Check the server and the way to it, then change spec.retryNonce; download.retryFor says how long it \
                  is asked again"
                .to_owned(),
        };
        Trouble::new(
            reason,
            match left {
                Left::AsItWas => format!("downloading {}: {error}; {left}. {hint}", self.version),
                Left::Part { .. } => format!(
                    "downloading {} {}: {error}; {left}. {hint}",
                    self.version,
                    self.place()
                ),
            },
        )
    }

    /// The agent's own part that failed.
    pub(super) fn died(&self, error: &tokio::task::JoinError) -> Trouble {
        Trouble::new(
            FailureReason::WriteFailed,
            format!(
                "installing {} from {} {}: the agent's own task ended: {error}; this is a defect of the agent",
                self.version,
                self.url,
                self.place()
            ),
        )
    }

    /// Where it is written to.
    fn place(&self) -> String {
        format!("into slot {} ({})", self.to, self.slot.device.display())
    }
}

/// What an installation that failed leaves in the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// What it held.
    AsItWas,
    /// A part of an image.
    Part {
        /// Bytes that this installation has written; 0 where they are an earlier one's.
        bytes: i64,
        /// Of how many; 0 where that is not known.
        total: i64,
    },
}

impl Left {
    /// Before there is a first write. `wrote`: an earlier run of the agent was past that.
    pub(super) fn before(wrote: bool) -> Self {
        if wrote {
            Self::Part { bytes: 0, total: 0 }
        } else {
            Self::AsItWas
        }
    }

    /// After it.
    pub(super) fn after(live: &Live) -> Self {
        Self::Part {
            bytes: live.bytes_done,
            total: live.bytes_total,
        }
    }
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::AsItWas => return f.write_str("nothing was written"),
            Self::Part { bytes: 0, .. } => {}
            Self::Part { bytes, total: 0 } => write!(f, "{bytes} bytes were written; ")?,
            Self::Part { bytes, total } => write!(f, "{bytes} of {total} bytes were written; ")?,
        }
        f.write_str("the slot is marked bad")
    }
}

#[cfg(test)]
mod tests {
    use std::{io, path::PathBuf};

    use monok8s_fetch::Client;
    use monok8s_image::{Digest, Done};

    use super::*;

    const URL: &str = "http://127.0.0.1:9/i.zst";

    fn what() -> What {
        What {
            version: "v1.35.1".to_owned(),
            url: URL.parse().unwrap(),
            slot: Slot {
                name: SlotName::B,
                device: PathBuf::from("/dev/slot"),
                part_uuid: None,
                size: 1 << 30,
            },
            to: SlotName::B,
            credentials: None,
        }
    }

    /// Every way in which an installation can fail once it has begun to write.
    fn errors() -> Vec<InstallError> {
        let device = || "/dev/slot".to_owned();
        let digest = Digest([0; 32]);
        let proven = Done {
            bytes: 0,
            total: None,
        };
        let error = || io::Error::from(io::ErrorKind::Other);
        vec![
            InstallError::Source {
                file_bytes: 5,
                error: error(),
            },
            InstallError::WindowTooLarge {
                window: 2,
                limit: 1,
            },
            InstallError::DecodeFailed {
                file_bytes: 5,
                expanded: proven,
                detail: String::new(),
            },
            InstallError::ImageTooLarge {
                device: device(),
                size: None,
                capacity: 1,
            },
            InstallError::SizeMismatch {
                expected: 1,
                found: 2,
                at_least: true,
            },
            InstallError::ChecksumMismatch {
                expected: digest,
                file: digest,
                image: digest,
            },
            InstallError::WriteFailed {
                device: device(),
                operation: "write",
                offset: 5,
                proven,
                error: error(),
            },
            InstallError::ReadBackFailed {
                device: device(),
                offset: 5,
                proven,
                error: error(),
            },
            InstallError::ReadBackMismatch {
                device: device(),
                offset: 5,
                length: 1,
                proven,
            },
            InstallError::Resources(error()),
        ]
    }

    fn says_all(trouble: &Trouble) {
        for part in [
            URL,
            "slot B (/dev/slot)",
            "; 4096 of 8192 bytes were written; the slot is marked bad. ",
        ] {
            assert!(
                trouble.message.contains(part),
                "{part}: {}",
                trouble.message
            );
        }
    }

    #[tokio::test]
    async fn a_failure_says_from_where_to_where_and_how_far() {
        let left = Left::after(&Live {
            bytes_done: 4096,
            bytes_total: 8192,
            ..Live::default()
        });
        for error in errors() {
            says_all(&what().trouble(&error, left));
        }
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut request = monok8s_fetch::ImageRequest::new(URL.parse().unwrap());
        request.retry_for = std::time::Duration::ZERO;
        let Err(refused) = Client::builder().build().unwrap().open(request).await else {
            panic!("somebody serves images on the port for discarding");
        };
        says_all(&what().fetch_trouble(&refused, left));
        let inside = InstallError::Source {
            file_bytes: 5,
            error: io::Error::other(refused),
        };
        says_all(&what().trouble(&inside, left));
    }

    #[test]
    fn what_is_not_known_is_not_said() {
        let after = |bytes_done, bytes_total| {
            let live = Live {
                bytes_done,
                bytes_total,
                ..Live::default()
            };
            Left::after(&live).to_string()
        };
        for (said, expected) in [
            (Left::before(false).to_string(), "nothing was written"),
            (Left::before(true).to_string(), "the slot is marked bad"),
            (after(0, 8192), "the slot is marked bad"),
            (after(5, 0), "5 bytes were written; the slot is marked bad"),
        ] {
            assert_eq!(said, expected);
        }
    }
}
