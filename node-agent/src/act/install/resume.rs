//! What an earlier run has left in the slot: read again before it is believed.

use std::ops::ControlFlow;

use monok8s_fetch::FileIdentity;
use monok8s_image::{CheckpointError, Device as _, HostDevice, InstallError, Start};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::stream::forget;
use crate::{act::checkpoint::Checkpoints, decide::resume::Installation};

/// A part of the image that is in the slot.
pub(super) struct Found {
    pub(super) start: Start,
    pub(super) file: FileIdentity,
}

/// Why nothing was found.
pub(super) enum Lost {
    /// There is nothing to go on from.
    Nothing,
    /// Cancelled while it was read.
    Stopped,
    /// The task that read it has ended.
    Died(tokio::task::JoinError),
}

/// Looks for what an earlier run of this installation has proven, and proves it again. What is of no use is thrown
/// away.
pub(super) async fn find(
    checkpoints: &Checkpoints,
    wanted: &Installation,
    device: HostDevice,
    cancel: &CancellationToken,
) -> (Option<HostDevice>, Result<Found, Lost>) {
    let discard = |why: &dyn std::fmt::Display| {
        forget(checkpoints);
        warn!(
            "{} was of no use, the slot is written from its beginning: {why}",
            checkpoints.path().display()
        );
    };
    let kept = match checkpoints.load() {
        Ok(Some(kept)) => kept,
        Ok(None) => return (Some(device), Err(Lost::Nothing)),
        Err(why) => {
            discard(&why);
            return (Some(device), Err(Lost::Nothing));
        }
    };
    if let Some(difference) = wanted.difference(&kept.installation) {
        discard(&difference);
        return (Some(device), Err(Lost::Nothing));
    }
    info!(
        "reading again the first {} bytes of {}, which were written before the agent was started",
        kept.checkpoint.image_bytes(),
        device.name()
    );
    let (binding, stopped) = (wanted.words(), cancel.clone());
    let reading = spawn_blocking(move || {
        let mut observer = |_| {
            if stopped.is_cancelled() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let verified = Start::verify(kept.checkpoint, &device, &binding, &mut observer);
        (device, verified)
    });
    let (device, verified) = match reading.await {
        Ok(done) => done,
        Err(e) => return (None, Err(Lost::Died(e))),
    };
    let found = match verified {
        Ok(start) => Ok(Found {
            start,
            file: kept.file,
        }),
        Err(CheckpointError::Device(InstallError::Cancelled { .. })) => Err(Lost::Stopped),
        Err(e) => {
            discard(&e);
            Err(Lost::Nothing)
        }
    };
    (Some(device), found)
}
