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

#[cfg(test)]
mod tests {
    use std::io;

    use monok8s_image::{Digest, Done};

    use super::*;

    #[test]
    fn boots_reasons_keep_their_names() {
        for reason in Reason::ALL {
            let promised = match reason {
                Reason::SlotUnreadable => "ReadBackMismatch".to_owned(),
                other => format!("{other:?}"),
            };
            assert_eq!(of_boot(reason).as_str(), promised);
        }
    }

    #[test]
    fn every_kind_of_fetch_error_has_its_reason() {
        for (kind, reason) in [
            (Kind::NotFound, "DownloadNotFound"),
            (Kind::Forbidden, "DownloadForbidden"),
            (Kind::RefusedByPolicy, "PolicyRefused"),
            (Kind::NotUsable, "DownloadFailed"),
            (Kind::TooLarge, "ImageTooLarge"),
            (Kind::Untrusted, "DownloadFailed"),
            (Kind::SourceChanged, "DownloadFailed"),
            (Kind::Unreachable, "DownloadFailed"),
        ] {
            assert_eq!(of_fetch(kind).as_str(), reason, "{kind:?}");
        }
    }

    #[test]
    fn every_install_error_has_its_reason() {
        let done = Done {
            bytes: 1,
            total: None,
        };
        let device = || "/dev/slot".to_owned();
        let failure = || io::Error::from(io::ErrorKind::Other);
        let digest = Digest([0; 32]);
        for (error, reason) in [
            (
                InstallError::Source {
                    file_bytes: 1,
                    error: failure(),
                },
                "DownloadFailed",
            ),
            (
                InstallError::NotAnImage {
                    looks_like: "a zip archive",
                },
                "NotAnImage",
            ),
            (
                InstallError::WindowTooLarge {
                    window: 2,
                    limit: 1,
                },
                "WindowTooLarge",
            ),
            (
                InstallError::DecodeFailed {
                    file_bytes: 1,
                    expanded: done,
                    detail: String::new(),
                },
                "DecodeFailed",
            ),
            (
                InstallError::ImageTooLarge {
                    device: device(),
                    size: None,
                    capacity: 1,
                },
                "ImageTooLarge",
            ),
            (
                InstallError::SizeMismatch {
                    expected: 1,
                    found: 2,
                    at_least: false,
                },
                "SizeMismatch",
            ),
            (
                InstallError::ChecksumMismatch {
                    expected: digest,
                    file: digest,
                    image: digest,
                },
                "ChecksumMismatch",
            ),
            (
                InstallError::WriteFailed {
                    device: device(),
                    operation: "write",
                    offset: 0,
                    proven: done,
                    error: failure(),
                },
                "WriteFailed",
            ),
            (
                InstallError::ReadBackFailed {
                    device: device(),
                    offset: 0,
                    proven: done,
                    error: failure(),
                },
                "ReadBackMismatch",
            ),
            (
                InstallError::ReadBackMismatch {
                    device: device(),
                    offset: 0,
                    length: 1,
                    proven: done,
                },
                "ReadBackMismatch",
            ),
            (InstallError::Cancelled { written: done }, "WriteFailed"),
            (InstallError::Resources(failure()), "WriteFailed"),
        ] {
            assert_eq!(of_install(&error).as_str(), reason, "{error:?}");
        }
    }
}
