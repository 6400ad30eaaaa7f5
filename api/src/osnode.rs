//! `OSNode`: what one node runs, as its agent sees it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    condition,
    reason::{BootLoaderKind, ProgressPhase, SlotState},
};

/// Reserved for node configuration.
#[derive(CustomResource, Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[kube(
    group = "monok8s.io",
    version = "v1alpha1",
    kind = "OSNode",
    plural = "osnodes",
    singular = "osnode",
    shortname = "osn",
    category = "monok8s",
    status = "OSNodeStatus",
    derive = "PartialEq",
    doc = "What one node runs and what its two slots hold. Named after the node and written by its agent.",
    printcolumn(
        name = "Version",
        type_ = "string",
        json_path = ".status.version",
        description = "Version that the node runs"
    ),
    printcolumn(
        name = "Active",
        type_ = "string",
        json_path = ".status.activeSlot",
        description = "Slot that it runs from"
    ),
    printcolumn(
        name = "A",
        type_ = "string",
        json_path = r#".status.slots[?(@.name=="A")].version"#,
        description = "Version in slot A"
    ),
    printcolumn(
        name = "B",
        type_ = "string",
        json_path = r#".status.slots[?(@.name=="B")].version"#,
        description = "Version in slot B"
    ),
    printcolumn(
        name = "Result",
        type_ = "string",
        json_path = ".status.lastResult.phase",
        description = "How the last attempt ended"
    )
)]
pub struct OSNodeSpec {}

/// What the agent found on its node. Written on change, not on a timer.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct OSNodeStatus {
    /// UID of the Node this speaks of; with another UID than the Node's it counts for nothing.
    #[serde(default, rename = "nodeUID", skip_serializing_if = "String::is_empty")]
    pub node_uid: String,

    /// Version of the running slot: IMAGE_VERSION, else VERSION_ID, of its /etc/os-release
    /// (the agent's flag --version-key names another key). Empty when there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,

    /// Operating system and architecture, such as linux/amd64; decides which image fits.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub platform: String,

    /// The kernel's boot ID; another one means that the node has rebooted.
    #[serde(default, rename = "bootID", skip_serializing_if = "String::is_empty")]
    pub boot_id: String,

    /// Slot that the node runs from, A or B; empty when it cannot be told (see conditions).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub active_slot: String,

    /// What chooses the slot at boot: GRUB, SystemdBoot, UBoot or Hook. Absent when none was
    /// recognised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_loader: Option<BootLoaderKind>,

    /// Version of the agent that wrote this.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub agent_version: String,

    /// The two slots, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 2),
        extend("x-kubernetes-list-type" = "map"),
        extend("x-kubernetes-list-map-keys" = ["name"])
    )]
    pub slots: Vec<SlotStatus>,

    /// How the last attempt on this node ended; absent before the first. It outlives its progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_result: Option<LastResult>,

    /// Upgradable: False says why the node cannot take an upgrade; such a node is refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "condition::list_schema")]
    pub conditions: Vec<Condition>,
}

/// One slot.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SlotStatus {
    /// Name of the slot, A or B.
    #[schemars(length(min = 1, max = 1))]
    pub name: String,

    /// Device that the slot's name led to at the last look, such as /dev/vda2; empty when none did.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub device: String,

    /// Its GPT partition UUID; empty when it has none.
    #[serde(
        default,
        rename = "partitionUUID",
        skip_serializing_if = "String::is_empty"
    )]
    pub partition_uuid: String,

    /// Its size in bytes.
    #[serde(default)]
    pub size: i64,

    /// Version that it holds, with a leading v; empty when not known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,

    /// Checksum that the image was installed with; empty when not known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub image_checksum: String,

    /// What is in it: Good (confirmed), Trial, Bad, Empty, Writing or Unknown.
    pub state: SlotState,
}

/// How an attempt ended.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct LastResult {
    /// Name of the progress, which may be gone.
    pub progress: String,
    /// Version that was to be installed.
    #[serde(default)]
    pub version: String,
    /// Completed, Failed, RolledBack or Cancelled.
    pub phase: ProgressPhase,
    /// Its failureReason; empty when Completed.
    #[serde(default)]
    pub reason: String,
    /// When, by the node's clock. For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Time>,
}
