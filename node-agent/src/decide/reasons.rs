//! From the errors of the crates below to the contract's failure reasons.

use monok8s_api::reason::FailureReason;
use monok8s_boot::Reason;
use monok8s_fetch::Kind;
use monok8s_image::InstallError;

/// Slots, boot loader, reboot.
pub fn of_boot(reason: Reason) -> FailureReason {
    match reason {
        Reason::SlotNotFound => FailureReason::SlotNotFound,
        Reason::SlotAmbiguous => FailureReason::SlotAmbiguous,
        Reason::SlotActive => FailureReason::SlotActive,
        Reason::SlotBusy => FailureReason::SlotBusy,
        Reason::SlotReadOnly => FailureReason::SlotReadOnly,
        Reason::SlotUnreadable => FailureReason::ReadBackMismatch,
        Reason::StateNotPersistent => FailureReason::StateNotPersistent,
        Reason::NotAnImage => FailureReason::NotAnImage,
        Reason::WrongVersionInImage => FailureReason::WrongVersionInImage,
        Reason::BootFilesMissing => FailureReason::BootFilesMissing,
        Reason::BootLoaderUnknown => FailureReason::BootLoaderUnknown,
        Reason::BootSwitchFailed => FailureReason::BootSwitchFailed,
        Reason::RebootFailed => FailureReason::RebootFailed,
    }
}

/// The network.
pub fn of_fetch(kind: Kind) -> FailureReason {
    match kind {
        Kind::NotFound => FailureReason::DownloadNotFound,
        Kind::Forbidden => FailureReason::DownloadForbidden,
        Kind::RefusedByPolicy => FailureReason::PolicyRefused,
        Kind::TooLarge => FailureReason::ImageTooLarge,
        Kind::NotUsable | Kind::Untrusted | Kind::SourceChanged | Kind::Unreachable => {
            FailureReason::DownloadFailed
        }
    }
}

/// The image and the device it is written to.
pub fn of_install(error: &InstallError) -> FailureReason {
    match error {
        InstallError::Source { .. } => FailureReason::DownloadFailed,
        InstallError::NotAnImage { .. } => FailureReason::NotAnImage,
        InstallError::WindowTooLarge { .. } => FailureReason::WindowTooLarge,
        InstallError::DecodeFailed { .. } => FailureReason::DecodeFailed,
        InstallError::ImageTooLarge { .. } => FailureReason::ImageTooLarge,
        InstallError::SizeMismatch { .. } => FailureReason::SizeMismatch,
        InstallError::ChecksumMismatch { .. } => FailureReason::ChecksumMismatch,
        InstallError::ReadBackFailed { .. } | InstallError::ReadBackMismatch { .. } => {
            FailureReason::ReadBackMismatch
        }
        InstallError::WriteFailed { .. }
        | InstallError::Cancelled { .. }
        | InstallError::Resources(_) => FailureReason::WriteFailed,
    }
}
