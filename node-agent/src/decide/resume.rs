//! Whether an installation goes on where an earlier run of the agent was, and whether one that failed begins again.
//!
//! Pure. That the slot still holds what a checkpoint says is found out by reading it
//! ([`monok8s_image::Start::verify`]); what is decided here comes before.

use std::fmt;

use monok8s_fetch::{FetchError, Kind};
use monok8s_image::InstallError;
use serde::{Deserialize, Serialize};

/// What makes an installation another than any other one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Installation {
    /// UID of the progress.
    pub uid: String,
    /// Number of its attempt.
    pub attempt: i32,
    /// The promised checksum, as the catalog writes it.
    pub checksum: String,
    /// PARTUUID of the slot; the device's path where there is no partition table, as in a virtual node.
    pub partition: String,
}

/// Of what other installation it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// Another progress's.
    Progress,
    /// Another attempt's, by its number.
    Attempt(i32),
    /// Of another image.
    Checksum,
    /// In another partition.
    Partition(String),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Progress => f.write_str("it is of another progress"),
            Self::Attempt(number) => write!(f, "it is of attempt {number}"),
            Self::Checksum => f.write_str("it is of an image with another checksum"),
            Self::Partition(partition) => write!(f, "it is of the partition {partition}"),
        }
    }
}

impl Installation {
    /// By what `kept` is of another installation than this one.
    pub fn difference(&self, kept: &Self) -> Option<Difference> {
        if kept.uid != self.uid {
            Some(Difference::Progress)
        } else if kept.attempt != self.attempt {
            Some(Difference::Attempt(kept.attempt))
        } else if kept.checksum != self.checksum {
            Some(Difference::Checksum)
        } else if kept.partition != self.partition {
            Some(Difference::Partition(kept.partition.clone()))
        } else {
            None
        }
    }

    /// What its checkpoints are bound to ([`monok8s_image::Options::binding`]). No two installations have the same
    /// words: each is preceded by its length.
    pub fn words(&self) -> Vec<u8> {
        let attempt = self.attempt.to_string();
        let mut words = Vec::new();
        for word in [&self.uid, &attempt, &self.checksum, &self.partition] {
            words.extend((word.len() as u64).to_le_bytes());
            words.extend(word.as_bytes());
        }
        words
    }
}

/// What to do about an installation that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// From the file's first byte: it changed, or may not be the one that was begun.
    StartOver,
    /// From the first byte of the next source's file: this one's is not what was promised.
    NextSource,
    /// Nothing.
    None,
}

/// What to do about `error`. `resumed`: the installation went on where an earlier run was, so that a file that is not as
/// promised may be another one than the earlier run had.
pub fn remedy(error: &InstallError, resumed: bool) -> Remedy {
    match error {
        InstallError::Source { .. } => match fetch_error(error) {
            Some(fetch) if fetch.kind() == Kind::SourceChanged => Remedy::StartOver,
            _ => Remedy::None,
        },
        InstallError::NotAnImage { .. }
        | InstallError::WindowTooLarge { .. }
        | InstallError::DecodeFailed { .. }
        | InstallError::ImageTooLarge { .. }
        | InstallError::SizeMismatch { .. }
        | InstallError::ChecksumMismatch { .. } => {
            if resumed {
                Remedy::StartOver
            } else {
                Remedy::NextSource
            }
        }
        _ => Remedy::None,
    }
}

/// The download's own error, where that is what ended the installation.
pub fn fetch_error(error: &InstallError) -> Option<&FetchError> {
    let InstallError::Source { error, .. } = error else {
        return None;
    };
    error.get_ref()?.downcast_ref()
}

#[cfg(test)]
mod tests {
    use std::io;

    use monok8s_image::{Digest, Done};

    use super::*;

    #[test]
    fn only_what_is_wrong_with_the_file_is_tried_again() {
        let digest = Digest([0; 32]);
        let other_file = || InstallError::ChecksumMismatch {
            expected: digest,
            file: digest,
            image: digest,
        };
        let medium = InstallError::ReadBackMismatch {
            device: "/dev/slot".to_owned(),
            offset: 0,
            length: 1,
            proven: Done {
                bytes: 0,
                total: None,
            },
        };
        let stopped = InstallError::Source {
            file_bytes: 1,
            error: io::Error::other("stopped"),
        };
        assert_eq!(remedy(&other_file(), true), Remedy::StartOver);
        assert_eq!(remedy(&other_file(), false), Remedy::NextSource);
        for resumed in [true, false] {
            assert_eq!(remedy(&medium, resumed), Remedy::None);
            assert_eq!(remedy(&stopped, resumed), Remedy::None);
        }
    }

    fn installation() -> Installation {
        Installation {
            uid: "u".to_owned(),
            attempt: 1,
            checksum: "sha256:0".to_owned(),
            partition: "p".to_owned(),
        }
    }

    #[test]
    fn one_that_differs_in_anything_is_another() {
        type Change = fn(&mut Installation);
        let wanted = installation();
        assert_eq!(wanted.difference(&installation()), None);
        let changes: [(Change, Difference); 4] = [
            (|i| i.uid.push('x'), Difference::Progress),
            (|i| i.attempt = 2, Difference::Attempt(2)),
            (|i| i.checksum.push('0'), Difference::Checksum),
            (
                |i| i.partition.push('q'),
                Difference::Partition("pq".to_owned()),
            ),
        ];
        for (change, difference) in changes {
            let mut kept = installation();
            change(&mut kept);
            assert_eq!(wanted.difference(&kept), Some(difference.clone()));
            assert_ne!(wanted.words(), kept.words(), "{difference}");
        }
    }

    #[test]
    fn words_do_not_run_into_each_other() {
        let mut one = installation();
        let mut other = installation();
        one.uid = "u1".to_owned();
        one.attempt = 1;
        other.uid = "u".to_owned();
        other.attempt = 11;
        assert_ne!(one.words(), other.words());
    }
}
