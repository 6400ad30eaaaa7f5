//! The closed sets of words that appear in objects: phases, failure reasons, condition reasons.
//!
//! In the CRDs they are plain strings, so that a later release can add one without breaking an
//! older reader; here they are enums, and an unknown word reads as `Other`. Each variant's
//! documentation is what `docs/` and `kubectl explain` say about it.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

macro_rules! word_set {
    ($(#[$doc:meta])* $name:ident { $($(#[doc = $text:literal])+ $variant:ident),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $($(#[doc = $text])+ $variant,)+
            /// A word from a release that knows more than this one.
            Other(String),
        }

        impl $name {
            /// Every word of the set, in the order of the contract.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word as it stands in objects.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => stringify!($variant),)+
                    Self::Other(word) => word,
                }
            }

            /// What the word means, in one or two sentences; empty for [`Self::Other`].
            pub fn meaning(&self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($text),+).trim_ascii(),)+
                    Self::Other(_) => "",
                }
            }
        }

        impl From<&str> for $name {
            fn from(word: &str) -> Self {
                match word {
                    $(stringify!($variant) => Self::$variant,)+
                    other => Self::Other(other.to_owned()),
                }
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(self.as_str())
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                Ok(Self::from(String::deserialize(d)?.as_str()))
            }
        }
        impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({"type": "string", "maxLength": 64})
            }
        }
    };
}

word_set! {
    /// `status.phase` of an OSUpgrade.
    UpgradePhase {
        /// Not judged yet, or something outside the spec is missing (a catalog that cannot be reached, no node).
        Pending,
        /// Wrong as written, for every node; see the Accepted condition. Judged again when spec, catalog or nodes change.
        Rejected,
        /// Resolved, and nodes are taking it or will.
        Accepted,
        /// Every selected node that does not refuse is on the version.
        Completed,
        /// Nothing is under way, nothing more will be released, and at least one node ended Failed or RolledBack.
        Failed,
    }
}

#[allow(
    clippy::derivable_impls,
    reason = "the macro has no place for the attribute of the default variant"
)]
impl Default for UpgradePhase {
    fn default() -> Self {
        Self::Pending
    }
}

word_set! {
    /// `status.phase` of an OSUpgradeProgress.
    ProgressPhase {
        /// The agent has not begun, or waits for its turn.
        Pending,
        /// Bytes flow from the network to the inactive slot.
        Downloading,
        /// The whole image is written; the slot is read back and compared.
        Verifying,
        /// The slot is proven; the agent waits for release: Reboot.
        Staged,
        /// The boot order is switched for one trial boot and a reboot was asked for.
        Rebooting,
        /// The new system runs and is being judged.
        Confirming,
        /// The new system is confirmed and the switch is permanent.
        Completed,
        /// The attempt ended before the switch; the running system was not touched.
        Failed,
        /// The trial boot did not hold; the node is back on its old system.
        RolledBack,
        /// Stopped on request before the switch.
        Cancelled,
    }
}

#[allow(
    clippy::derivable_impls,
    reason = "the macro has no place for the attribute of the default variant"
)]
impl Default for ProgressPhase {
    fn default() -> Self {
        Self::Pending
    }
}

impl ProgressPhase {
    /// Whether an attempt ends here.
    pub fn is_terminal(&self) -> bool {
        matches!(
            self,
            Self::Completed | Self::Failed | Self::RolledBack | Self::Cancelled
        )
    }
    /// Whether a changed nonce starts a new attempt from here.
    pub fn can_retry(&self) -> bool {
        matches!(self, Self::Failed | Self::RolledBack | Self::Cancelled)
    }
}

word_set! {
    /// `status.failureReason` of an OSUpgradeProgress.
    FailureReason {
        /// The OSUpgrade named by sourceRef does not exist.
        SourceNotFound,
        /// Version policy, the catalog or an unsupported request refuses this image for this node.
        PolicyRefused,
        /// The version is more than one hop away; the message names the hop to ask for.
        IntermediateVersionNeeded,
        /// The progress was made for another Node of the same name.
        NodeReplaced,
        /// The agent's state folder is not on storage that both slots share.
        StateNotPersistent,
        /// The object is past Pending but the disk holds no record of it.
        StateLost,
        /// The record on disk is damaged or from a release this agent does not understand.
        StateUnreadable,
        /// No partition answers to the slot's name.
        SlotNotFound,
        /// More than one partition answers to the slot's name, or root and kernel command line disagree.
        SlotAmbiguous,
        /// The target is the running system, its data partition, the ESP or a whole disk.
        SlotActive,
        /// The target is mounted, swapped on, held by another device or opened by another process.
        SlotBusy,
        /// The target cannot be written.
        SlotReadOnly,
        /// The image does not fit into the slot.
        ImageTooLarge,
        /// The bytes could not be fetched within retryFor.
        DownloadFailed,
        /// The server answered 404 or 410.
        DownloadNotFound,
        /// The server answered 401 or 403, or the agent may not read what it needs to fetch.
        DownloadForbidden,
        /// The bytes are no image: a web page, an archive, a whole disk, or a compression other than zstd, gzip and xz.
        NotAnImage,
        /// The compressed stream is damaged or truncated.
        DecodeFailed,
        /// The image asks for a decoder window beyond the configured limit.
        WindowTooLarge,
        /// The SHA-256 is not the catalog's.
        ChecksumMismatch,
        /// The expanded size is not the catalog's.
        SizeMismatch,
        /// The device refused a write.
        WriteFailed,
        /// The medium does not hold what was written to it.
        ReadBackMismatch,
        /// The image carries another version than the catalog promised.
        WrongVersionInImage,
        /// The slot lacks the kernel or the files its boot loader needs.
        BootFilesMissing,
        /// No supported boot loader was found on this node.
        BootLoaderUnknown,
        /// The boot loader's variables could not be written or read back.
        BootSwitchFailed,
        /// The reboot was asked for but the system went on running.
        RebootFailed,
        /// The trial boot ended on the old slot.
        FellBack,
        /// The new system ran but was not healthy in time.
        HealthCheckFailed,
        /// The API server could not be reached within the health deadline.
        APIServerUnreachable,
        /// There is no good system in the other slot to go back to, or this release cannot roll back.
        RollbackUnavailable,
        /// The node could not be drained in time.
        DrainTimedOut,
    }
}

word_set! {
    /// Reason of the Accepted condition of an OSUpgrade.
    AcceptedReason {
        /// True: the version is known and at least one node may take it, or has it.
        Resolved,
        /// False: spec.version is neither a version nor an alias-shaped word.
        InvalidVersion,
        /// False: the catalog has no alias of that name, or it leads to nothing.
        AliasNotFound,
        /// False: the catalog lists no image of that version.
        VersionNotInCatalog,
        /// False: the catalog blocks that version.
        VersionBlocked,
        /// False: every node runs something newer and allowDowngrade is not set.
        Downgrade,
        /// False: the path would cross a major version and the catalog does not allow it.
        MajorVersionChange,
        /// False: the catalog lists no usable image of a minor version in between.
        IntermediateVersionMissing,
        /// False: the image's upgradeFrom excludes the versions the nodes run.
        UpgradeFromRefused,
        /// False: no image for the nodes' platform.
        NoImageForPlatform,
        /// False: the checksum of an image on the path is not sha256 and 64 hex digits.
        InvalidChecksum,
        /// False: the catalog cannot be read as a catalog.
        InvalidCatalog,
        /// False: the catalog is larger than allowed.
        CatalogTooLarge,
        /// False: the catalog source itself is not allowed (scheme, address, redirect).
        InvalidSource,
        /// False: a newer OSUpgrade governs every node this one selects.
        Superseded,
        /// False: every selected node refuses, for different reasons; the message lists them.
        NodesRefused,
        /// Unknown: the catalog's server did not answer; tried again.
        CatalogUnreachable,
        /// Unknown: the ConfigMap or URL may not be read; the message names what to grant.
        CatalogForbidden,
        /// Unknown: the ConfigMap does not exist, or has no usable key.
        ConfigMapNotFound,
        /// Unknown: no node is both managed and selected.
        NoMatchingNodes,
        /// Unknown: no selected node has reported its version yet.
        NodeVersionUnknown,
    }
}

impl AcceptedReason {
    /// Whether an upgrade that is Rejected so is wrong in itself, whatever runs on the nodes. Such
    /// an upgrade governs no node.
    pub fn on_own_account(&self) -> bool {
        matches!(
            self,
            Self::InvalidVersion
                | Self::AliasNotFound
                | Self::VersionNotInCatalog
                | Self::VersionBlocked
                | Self::InvalidChecksum
                | Self::InvalidCatalog
                | Self::CatalogTooLarge
                | Self::InvalidSource
        )
    }
}

word_set! {
    /// Reason of the Progressing condition of an OSUpgrade.
    ProgressingReason {
        /// True: nodes are being released or are under way.
        Releasing,
        /// True: a node is being emptied before its reboot.
        Draining,
        /// False: spec.paused is set.
        Paused,
        /// False: the nodes are still occupied by another upgrade or a hand-made progress.
        WaitingForOtherUpgrade,
        /// False: more nodes failed than rollout.maxFailures; retry them or change the spec.
        TooManyFailures,
        /// False: the catalog now shows another checksum for a version already handed out.
        ImageChanged,
        /// False: nothing is left to do.
        Done,
    }
}

word_set! {
    /// Reason of the Completed condition of an OSUpgrade.
    CompletedReason {
        /// True: every selected node that does not refuse is on the version.
        AllNodesDone,
        /// False: nodes are still to come.
        NodesRemaining,
        /// False: nothing more will happen and at least one node failed.
        NodesFailed,
    }
}

word_set! {
    /// Reason of the Degraded condition of an OSUpgrade.
    DegradedReason {
        /// True: at least one node's progress is Failed.
        NodesFailed,
        /// True: at least one node fell back to its old system.
        NodesRolledBack,
        /// True: a node that had completed runs another version now.
        Drifted,
        /// False: no node is in trouble.
        AsExpected,
    }
}

word_set! {
    /// Reason of the Stalled condition of an OSUpgrade, which is present only while True.
    StalledReason {
        /// True: a released progress has not moved for as long as the controller's --stall-after.
        NoMovement,
    }
}

word_set! {
    /// Reason of the CatalogChanged condition of an OSUpgrade, which is present only while True.
    CatalogChangedReason {
        /// True: the catalog's digest is another than the one that the revision was resolved with.
        AnotherDigest,
    }
}

word_set! {
    /// Reason of the conditions of an OSUpgradeProgress: Verified, Switched, Confirmed and Completed. Of an attempt
    /// that failed or fell back, those that are False have its [`FailureReason`] instead.
    AttemptReason {
        /// Verified is True: the slot was read back and holds what was written.
        ReadBack,
        /// Switched is True: the boot order was switched for one trial boot.
        TrialBoot,
        /// Confirmed is True: the new system was judged good and the switch made permanent.
        MarkedGood,
        /// Completed is True: the attempt reached its end. On another condition, False: it ended well without that step.
        Completed,
        /// False: the attempt goes on and has not come to this step.
        InProgress,
        /// False: the attempt was stopped on request before this step.
        Cancelled,
    }
}

word_set! {
    /// Reason of the Upgradable condition of an OSNode when it is True; when False it has a [`FailureReason`].
    UpgradableReason {
        /// True: the node can take an upgrade.
        Ready,
    }
}

word_set! {
    /// Reason of an Event that is neither a phase nor the reason of a condition or a failure.
    EventReason {
        /// An object that the controller did not make stands under the name that a progress would have.
        NameTaken,
        /// A released progress has not moved for long.
        Stalled,
        /// The catalog is no longer the one that the target was pinned from.
        CatalogChanged,
        /// A node is cordoned and its drain begins.
        Draining,
        /// A pod keeps a node from being empty.
        DrainBlocked,
        /// A drain was given up at its deadline.
        DrainTimedOut,
        /// A node reboots with its pods on it, because no other could take them.
        PodsGoDown,
        /// An agent that was started anew goes on with an image that it had written in part.
        Resumed,
    }
}

word_set! {
    /// State of one slot in OSNode.
    SlotState {
        /// A confirmed system.
        Good,
        /// Written, proven and on its trial boot.
        Trial,
        /// Written or tried, and found wanting; not bootable.
        Bad,
        /// Nothing was ever written there.
        Empty,
        /// From the first byte written until it is proven.
        Writing,
        /// There is something, but no record of it.
        Unknown,
    }
}

word_set! {
    /// `status.bootLoader` of an OSNode.
    BootLoaderKind {
        /// GRUB 2 with an environment block.
        GRUB,
        /// systemd-boot with boot counting.
        SystemdBoot,
        /// U-Boot with its environment.
        UBoot,
        /// The integrator's own script.
        Hook,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_a_round_trip_and_strangers_too() {
        for phase in ProgressPhase::ALL {
            assert_eq!(&ProgressPhase::from(phase.as_str()), phase);
            assert!(!phase.meaning().is_empty());
        }
        let later = ProgressPhase::from("Quiescing");
        assert_eq!(later.as_str(), "Quiescing");
        assert!(!later.is_terminal());
    }
}
