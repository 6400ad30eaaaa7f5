//! What is said of an installation that failed.

use monok8s_api::reason::FailureReason;
use monok8s_boot::{Slot, SlotName};
use monok8s_fetch::{FetchError, Kind, SourceUrl};
use monok8s_image::InstallError;

use crate::{
    decide::{reasons, resume::fetch_error, status::needs_another_image},
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
    pub(super) fn trouble(&self, error: &InstallError, wrote: bool) -> Trouble {
        if let Some(fetch) = fetch_error(error) {
            return self.fetch_trouble(fetch, wrote);
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
                "installing {} from {} into slot {} ({}): {error}; {}. {hint}",
                self.version,
                self.url,
                self.to,
                self.slot.device.display(),
                left(wrote),
            ),
        )
    }

    /// A download that failed.
    pub(super) fn fetch_trouble(&self, error: &FetchError, wrote: bool) -> Trouble {
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
            format!(
                "downloading {}: {error}; {}. {hint}",
                self.version,
                left(wrote)
            ),
        )
    }

    /// The agent's own part that failed.
    pub(super) fn died(&self, error: &tokio::task::JoinError) -> Trouble {
        Trouble::new(
            FailureReason::WriteFailed,
            format!(
                "installing {} into slot {}: the agent's own task ended: {error}; this is a defect of the agent",
                self.version, self.to
            ),
        )
    }
}

/// What is left in the slot.
pub(super) fn left(wrote: bool) -> &'static str {
    if wrote {
        "the slot is marked bad"
    } else {
        "nothing was written"
    }
}
