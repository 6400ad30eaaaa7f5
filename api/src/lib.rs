//! The contract of `monok8s.io/v1alpha1`: custom resources, catalog format, version policy,
//! resolution, and the closed sets of phases and reasons.
//!
//! Everything here is pure. There is no I/O and no Kubernetes client, so a decision made by this
//! crate can be tested, fuzzed and replayed from saved objects.
#![forbid(unsafe_code)]
#![allow(
    clippy::doc_markdown,
    reason = "doc comments of fields are what kubectl explain prints, where backticks are noise"
)]
#![allow(
    clippy::duplicated_attributes,
    reason = "each printcolumn of a kind has a type_ of its own"
)]

pub mod catalog;
pub mod condition;
pub mod crd;
pub mod digest;
pub mod duration;
pub mod govern;
pub mod location;
pub mod names;
pub mod osnode;
pub mod osupgrade;
pub mod osupgradeprogress;
pub mod reason;
pub mod resolve;
pub mod version;

pub use digest::Sha256Digest;
pub use duration::GoDuration;
pub use osnode::{OSNode, OSNodeSpec, OSNodeStatus};
pub use osupgrade::{OSUpgrade, OSUpgradeSpec, OSUpgradeStatus};
pub use osupgradeprogress::{OSUpgradeProgress, OSUpgradeProgressSpec, OSUpgradeProgressStatus};
pub use version::Version;

/// API group of all kinds.
pub const GROUP: &str = "monok8s.io";
/// API version of all kinds.
pub const API_VERSION: &str = "monok8s.io/v1alpha1";
/// Label that puts a Node under this system's care; only `"true"` counts.
pub const MANAGED_LABEL: &str = "monok8s.io/managed";
/// Label on a progress: name of the [`OSUpgrade`] that made it.
pub const UPGRADE_LABEL: &str = "monok8s.io/upgrade";
/// Label on a progress: revision of the [`OSUpgrade`] that made it.
pub const REVISION_LABEL: &str = "monok8s.io/revision";
/// Annotation on a Node: UID of the [`OSUpgradeProgress`] for which the controller cordoned it. A
/// cordon without it is somebody else's and is never undone.
pub const CORDON_ANNOTATION: &str = "monok8s.io/cordoned-for";
/// Annotation on a progress: what its node's drain was waiting for when its time was up.
pub const DRAIN_ANNOTATION: &str = "monok8s.io/drain-timed-out";
/// Namespace of both daemons as shipped.
pub const NAMESPACE: &str = "mono-system";
/// Server-side-apply field manager of the controller.
pub const CONTROLLER_MANAGER: &str = "monok8s-controller";
/// Server-side-apply field manager of the node agent.
pub const AGENT_MANAGER: &str = "monok8s-node-agent";
