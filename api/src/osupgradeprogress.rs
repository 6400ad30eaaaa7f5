//! `OSUpgradeProgress`: one hop of one node.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::{
    Sha256Digest, Version, condition,
    digest::DigestError,
    location::{LocationError, image_url},
    osupgrade::{Download, Health, Operation},
    reason::ProgressPhase,
    version::VersionError,
};

/// One hop of one node: what is to be installed, and how far it is.
#[derive(CustomResource, Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[kube(
    group = "monok8s.io",
    version = "v1alpha1",
    kind = "OSUpgradeProgress",
    plural = "osupgradeprogresses",
    singular = "osupgradeprogress",
    shortname = "osup",
    category = "monok8s",
    status = "OSUpgradeProgressStatus",
    derive = "PartialEq",
    selectable = ".spec.nodeName",
    doc = "One hop of one node towards a version: what is to be installed, and how far it is. Made by the controller, or by hand with a source and a node only.",
    printcolumn(
        name = "Node",
        type_ = "string",
        json_path = ".spec.nodeName",
        description = "The node"
    ),
    printcolumn(
        name = "Source",
        type_ = "string",
        json_path = ".spec.sourceRef.name",
        description = "The OSUpgrade it belongs to"
    ),
    printcolumn(
        name = "Current",
        type_ = "string",
        json_path = ".status.currentVersion",
        description = "Version that the node runs"
    ),
    printcolumn(
        name = "Target",
        type_ = "string",
        json_path = ".status.targetVersion",
        description = "Version of this hop"
    ),
    printcolumn(
        name = "Status",
        type_ = "string",
        json_path = ".status.phase",
        description = "Phase of the attempt"
    ),
    printcolumn(
        name = "Percent",
        type_ = "integer",
        json_path = ".status.percent",
        description = "Share of the image written",
        priority = 1
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Time since creation",
        priority = 1
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.message",
        description = "What it waits for, or what went wrong",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "has(self.image) == has(oldSelf.image) && (!has(self.image) || self.image == oldSelf.image)",
     "message": "image is immutable and cannot be added or removed; make a new revision of the OSUpgrade instead", "fieldPath": ".image"},
    {"rule": "has(self.nodeUID) == has(oldSelf.nodeUID) && (!has(self.nodeUID) || self.nodeUID == oldSelf.nodeUID)",
     "message": "nodeUID is immutable and cannot be added or removed", "fieldPath": ".nodeUID"},
]))]
pub struct OSUpgradeProgressSpec {
    /// The OSUpgrade whose catalog and policy apply. Required, immutable.
    #[schemars(extend("x-kubernetes-validations" = [
        {"rule": "self == oldSelf", "message": "sourceRef is immutable"},
    ]))]
    pub source_ref: SourceRef,

    /// Name of the node. Required, immutable.
    #[schemars(
        length(min = 1, max = 253),
        extend("x-kubernetes-validations" = [
            {"rule": "self == oldSelf", "message": "nodeName is immutable"},
        ])
    )]
    pub node_name: String,

    /// UID of the Node it was made for; on another Node of the same name it ends Failed
    /// (NodeReplaced). Optional, immutable; absent when made by hand.
    #[serde(default, rename = "nodeUID", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub node_uid: Option<String>,

    /// Upgrade installs the image. Rollback boots the other slot. Default Upgrade.
    #[serde(default)]
    pub operation: Operation,

    /// What to install. Optional, immutable, cannot be added later; absent when made by hand: then
    /// the agent resolves the source's catalog and writes its choice to status.image. For a Rollback
    /// the version alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageRef>,

    /// The version the node is on its way to, when this hop is not the last. Optional; for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub final_version: Option<String>,

    /// Whether a lower version than the running one may be installed; without it the agent refuses
    /// (PolicyRefused). Default false.
    #[serde(default)]
    pub allow_downgrade: bool,

    /// The controller's gate. Hold: do nothing yet. Stage: download, write and verify, then wait.
    /// Reboot: go to the end. Default Reboot, so that one made by hand runs.
    #[serde(default)]
    pub release: Release,

    /// Set by people: stops the attempt before the switch (Cancelled); later it is ignored, with a
    /// message. To be set to false again with the next retryNonce. Default false.
    #[serde(default)]
    pub cancel: bool,

    /// Set by people: any new text here makes a node that is Failed, RolledBack or Cancelled try
    /// again, once. At most 128 characters. Default empty.
    #[serde(default)]
    #[schemars(length(max = 128))]
    pub retry_nonce: String,

    /// How the image is fetched; a copy of the upgrade's, kept up to date while it runs. Default: as
    /// fast as it goes, faults retried for 10m.
    #[serde(default)]
    pub download: Download,

    /// When the new system counts as healthy; a copy made when the progress was. Default: once the
    /// agent runs there and the slot and version are the promised ones.
    #[serde(default)]
    pub health: Health,
}

/// The OSUpgrade that a progress belongs to.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub struct SourceRef {
    /// Name of the OSUpgrade. Required.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
}

/// One image, as handed out.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ImageRef {
    /// Version that the image carries; another one inside it is WrongVersionInImage and never boots.
    /// For a Rollback previous is allowed. 1 to 64 characters. Required.
    #[schemars(length(min = 1, max = 64))]
    pub version: String,

    /// Where it is: an https, http, oci or file URL of at most 2048 characters without user info (oci:
    /// an artifact in a registry; file: of the node, as its agent's flags allow). Absent for a
    /// Rollback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub url: Option<String>,

    /// Further places of the same bytes, tried in order when the first fails. At most 8. Default:
    /// none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 8),
        inner(length(max = 2048)),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    pub mirrors: Vec<String>,

    /// SHA-256 of the file or of the expanded image, as sha256: and 64 hex digits. Absent for a
    /// Rollback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 71), extend("pattern" = "^sha256:[0-9a-fA-F]{64}$"))]
    pub checksum: Option<String>,

    /// Expanded size in bytes. Optional: then the frame's content size, else the slot's size, is
    /// the bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub size: Option<i64>,
}

/// An image as an agent may install it: everything in it has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedImage {
    /// Version that the image must carry.
    pub version: Version,
    /// Where it is, the first choice first; never empty.
    pub urls: Vec<Url>,
    /// SHA-256 of the file or of the expanded image.
    pub checksum: Sha256Digest,
    /// Expanded size in bytes, where it is known beforehand.
    pub size: Option<u64>,
}

/// Why an image cannot be installed as it stands in an object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageRefError {
    /// The version is none.
    #[error("the image's version is wrong: {0}")]
    Version(#[from] VersionError),
    /// There is no URL.
    #[error("the image has no URL")]
    NoUrl,
    /// A URL is not used.
    #[error("the image's URL or one of its mirrors cannot be used: {0}")]
    Url(#[from] LocationError),
    /// There is no checksum.
    #[error("the image has no checksum; without one nothing is installed")]
    NoChecksum,
    /// The checksum is none.
    #[error("the image's checksum is wrong: {0}")]
    Checksum(#[from] DigestError),
    /// The size is not positive.
    #[error("the image's size is {0}, and must be at least 1")]
    Size(i64),
}

impl ImageRef {
    /// The image with types instead of texts. What the controller hands out passes; a progress
    /// with an image in it can also be written by hand.
    pub fn checked(&self) -> Result<CheckedImage, ImageRefError> {
        let url = self.url.as_deref().ok_or(ImageRefError::NoUrl)?;
        let urls = std::iter::once(url)
            .chain(self.mirrors.iter().map(String::as_str))
            .map(image_url)
            .collect::<Result<_, _>>()?;
        let checksum = self.checksum.as_deref().ok_or(ImageRefError::NoChecksum)?;
        let positive = |size: i64| u64::try_from(size).ok().filter(|size| *size > 0);
        Ok(CheckedImage {
            version: self.version.parse()?,
            urls,
            checksum: checksum.parse()?,
            size: self
                .size
                .map(|size| positive(size).ok_or(ImageRefError::Size(size)))
                .transpose()?,
        })
    }
}

/// How far an agent may go.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum Release {
    /// Do nothing, except answer a cancel or a retry.
    Hold,
    /// Run up to Staged and wait there.
    Stage,
    /// Go to the end.
    #[default]
    Reboot,
}

/// How far the node is. Written by that node's agent alone.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct OSUpgradeProgressStatus {
    /// How far the attempt is: Pending, Downloading, Verifying, Staged, Rebooting, Confirming,
    /// Completed, Failed, RolledBack or Cancelled. Pending until the agent begins.
    #[serde(default)]
    pub phase: ProgressPhase,

    /// Version that the node runs, with a leading v. Empty until the agent begins.
    #[serde(default)]
    pub current_version: String,

    /// Version of this hop, with a leading v. Empty until the agent begins.
    #[serde(default)]
    pub target_version: String,

    /// When this attempt began; null before. For people: a node's clock may be wrong.
    #[serde(default)]
    pub started_at: Option<Time>,

    /// When this attempt ended, in whatever phase; null before. For people.
    #[serde(default)]
    pub completed_at: Option<Time>,

    /// When this status was written; null before the first time. For people.
    #[serde(default)]
    pub last_updated_at: Option<Time>,

    /// Number of the attempt; 0 before the first. An accepted retryNonce makes the next number.
    #[serde(default)]
    pub attempt: i32,

    /// How many retryNonces were accepted, each of which began a new attempt.
    #[serde(default)]
    pub retry_count: i32,

    /// The retryNonce that was seen last; a retry is a spec.retryNonce that differs from it.
    #[serde(default)]
    pub observed_retry_nonce: String,

    /// Name of the slot that is written to, A or B. Empty until the agent has found it.
    #[serde(default)]
    pub inactive_partition: String,

    /// Why the attempt ended Failed or RolledBack, in one word; empty unless it did.
    #[serde(default)]
    pub failure_reason: String,

    /// What is being done, or what was tried, on what, how far it got, and what to do next.
    #[serde(default)]
    pub message: String,

    /// Expanded bytes written to the slot so far. While bytes flow it is reported at most every 10 s.
    #[serde(default)]
    pub bytes_done: i64,

    /// Expanded bytes in all; 0 while not known.
    #[serde(default)]
    pub bytes_total: i64,

    /// Share of the expanded image written, 0 to 100 percent; 0 while bytesTotal is not known.
    #[serde(default)]
    pub percent: i32,

    /// What is being installed; for a progress made by hand the only place that says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageRef>,

    /// Which SHA-256 the checksum turned out to be: File (as it lies on the server) or Image
    /// (expanded). Absent until the whole image was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum_matched: Option<String>,

    /// The kernel's boot ID of the trial boot; empty before it.
    #[serde(
        default,
        rename = "trialBootID",
        skip_serializing_if = "String::is_empty"
    )]
    pub trial_boot_id: String,

    /// Verified, Switched, Confirmed and Completed, each once it was decided. kubectl wait
    /// --for=condition=Completed works on them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "condition::list_schema")]
    pub conditions: Vec<Condition>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A change to a good image, and what must come of it.
    type Row = (fn(&mut ImageRef), fn(&ImageRefError) -> bool);

    #[test]
    fn an_image_is_checked_before_it_is_installed() {
        let good = ImageRef {
            version: "1.35.1".into(),
            url: Some("https://a.example/1".into()),
            mirrors: vec!["http://b.example/1".into()],
            checksum: Some(format!("sha256:{}", "0".repeat(64))),
            size: Some(7),
        };
        let checked = good.checked().unwrap();
        assert_eq!(checked.version.to_string(), "v1.35.1");
        assert_eq!(checked.urls.len(), 2);
        assert_eq!(checked.size, Some(7));

        let rows: [Row; 7] = [
            (
                |i| i.version = "previous".into(),
                |e| matches!(e, ImageRefError::Version(_)),
            ),
            (|i| i.url = None, |e| *e == ImageRefError::NoUrl),
            (
                |i| i.url = Some("http://169.254.169.254/latest".into()),
                |e| *e == ImageRefError::Url(LocationError::LinkLocal),
            ),
            (
                |i| i.mirrors = vec!["ftp://a.example/1".into()],
                |e| *e == ImageRefError::Url(LocationError::ImageScheme),
            ),
            (|i| i.checksum = None, |e| *e == ImageRefError::NoChecksum),
            (
                |i| i.checksum = Some("sha256:abc".into()),
                |e| matches!(e, ImageRefError::Checksum(_)),
            ),
            (|i| i.size = Some(0), |e| *e == ImageRefError::Size(0)),
        ];
        for (change, expected) in rows {
            let mut image = good.clone();
            change(&mut image);
            let error = image.checked().unwrap_err();
            assert!(expected(&error), "{error:?}");
        }
    }
}
