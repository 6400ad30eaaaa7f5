//! `OSUpgrade`: what an administrator writes.

use k8s_openapi::apimachinery::pkg::{
    apis::meta::v1::{Condition, LabelSelector, Time},
    util::intstr::IntOrString,
};
use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::{condition, duration::GoDuration, reason::UpgradePhase};

/// Largest inline catalog in bytes. Kubectl's client-side apply doubles the text into an
/// annotation and fails near 250 KiB.
pub const MAX_INLINE_CATALOG: usize = 128 * 1024;

/// The reserved word of `spec.version` that asks for whatever the other slot holds.
pub const PREVIOUS: &str = "previous";

/// The OS version that selected nodes are to run, and how they are to get there.
#[derive(CustomResource, Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[kube(
    group = "monok8s.io",
    version = "v1alpha1",
    kind = "OSUpgrade",
    plural = "osupgrades",
    singular = "osupgrade",
    shortname = "osu",
    category = "monok8s",
    status = "OSUpgradeStatus",
    derive = "PartialEq",
    doc = "Brings the nodes it selects to one version of the operating system, a few at a time.",
    printcolumn(
        name = "Desired",
        type_ = "string",
        json_path = ".spec.version",
        description = "Version or alias that was asked for"
    ),
    printcolumn(
        name = "Resolved",
        type_ = "string",
        json_path = ".status.resolvedVersion",
        description = "Version that the catalog made of it"
    ),
    printcolumn(
        name = "Phase",
        type_ = "string",
        json_path = ".status.phase",
        description = "Pending, Rejected, Accepted, Completed or Failed"
    ),
    printcolumn(
        name = "Summary",
        type_ = "string",
        json_path = ".status.summary",
        description = "Nodes done of nodes selected",
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
        description = "What it waits for, or what is wrong",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "self.operation == 'Rollback' || has(self.catalog)",
     "message": "catalog is required unless operation is Rollback", "fieldPath": ".catalog"},
    {"rule": "self.operation == 'Rollback' || self.version != 'previous'",
     "message": "version: previous goes only with operation: Rollback", "fieldPath": ".version"},
]))]
pub struct OSUpgradeSpec {
    /// Version to install, such as v1.35.3 (the v is optional), or the name of an alias in the
    /// catalog, such as stable. The word previous is allowed only with operation Rollback and
    /// means the system in the node's other slot. 1 to 64 characters. Required.
    #[schemars(length(min = 1, max = 64))]
    pub version: String,

    /// Upgrade installs an image from the catalog. Rollback boots what the other slot already
    /// holds, without a download. Default Upgrade.
    #[serde(default)]
    pub operation: Operation,

    /// Which nodes take part, among those labelled monok8s.io/managed=true. A label selector as in
    /// Deployments. Default {}, which means all of them.
    #[serde(default)]
    #[schemars(schema_with = "node_selector_schema")]
    pub node_selector: LabelSelector,

    /// Where the list of images comes from: exactly one of inline, url and configMap. Required
    /// unless operation is Rollback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catalog: Option<CatalogSource>,

    /// Whether a node may be taken to a lower version than it runs. Default false: such nodes
    /// refuse, and the rest go on.
    #[serde(default)]
    pub allow_downgrade: bool,

    /// While true no further node is released; nodes already released finish. Default false.
    #[serde(default)]
    pub paused: bool,

    /// How many nodes may be down at once, and how many failures end the rollout. Default: one node
    /// at a time, and no failure.
    #[serde(default)]
    pub rollout: Rollout,

    /// How nodes fetch the image. Copied to each progress, and may be changed while it runs. Default:
    /// as fast as it goes, faults retried for 10m.
    #[serde(default)]
    pub download: Download,

    /// When a freshly booted system counts as healthy. Copied to each progress when it is made.
    /// Default: once the agent runs there and the slot and version are the promised ones.
    #[serde(default)]
    pub health: Health,
}

/// What to do with the nodes.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum Operation {
    /// Install an image from the catalog.
    #[default]
    Upgrade,
    /// Boot the system in the other slot.
    Rollback,
}

/// Where a catalog comes from.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "[has(self.inline), has(self.url), has(self.configMap)].filter(x, x).size() == 1",
     "message": "exactly one of inline, url and configMap must be set"},
]))]
pub struct CatalogSource {
    /// The catalog itself, as YAML text of at most 128 KiB. Optional: one of three.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 131_072))]
    pub inline: Option<String>,

    /// An https (or, where the controller's flags allow it, http) URL of at most 2048 characters
    /// without user info. The document behind it may have 1 MiB. It is read when the spec changes
    /// and again before each hop. Optional: one of three.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 2048),
        extend("pattern" = "^https?://"),
        extend("x-kubernetes-validations" = [
            {"rule": "!self.matches('^https?://[^/?#]*@')",
             "message": "a catalog URL must not carry user info (user:password@)"},
        ])
    )]
    pub url: Option<String>,

    /// Name of a ConfigMap in the controller's namespace. Its key catalog.yaml is read, else its
    /// only key. The controller may read it only when its role says so; docs/catalog.md has the
    /// line. Optional: one of three.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub config_map: Option<String>,
}

/// Pace of a rollout.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    /// How many nodes may be between their release and their end at the same time, nodes that are
    /// not Ready for any other reason counted in. A number from 1 to 100000, or "1%" to "100%" of the
    /// selected nodes (rounded down, at least 1). Default 1.
    #[serde(default = "Rollout::default_max_unavailable")]
    #[schemars(schema_with = "max_unavailable_schema")]
    pub max_unavailable: IntOrString,

    /// How many nodes may end Failed or RolledBack before nothing more is released. Default 0: the
    /// first failure halts the rollout until it is retried or the spec changes.
    #[serde(default)]
    #[schemars(range(min = 0, max = 100_000))]
    pub max_failures: i32,

    /// How a node is emptied before its reboot. May change at any time. Default: cordoned, its pods
    /// evicted within 15m, else the node is left alone.
    #[serde(default)]
    pub drain: Drain,
}

impl Rollout {
    /// How many nodes may be unavailable at once, of this many selected. A share is rounded down;
    /// the answer is at least 1, or a rollout could never move.
    pub fn max_unavailable_of(&self, selected: usize) -> usize {
        let wanted = match &self.max_unavailable {
            IntOrString::Int(number) => usize::try_from(*number).unwrap_or(0),
            IntOrString::String(share) => {
                let percent = share
                    .strip_suffix('%')
                    .and_then(|p| p.parse::<usize>().ok());
                selected.saturating_mul(percent.unwrap_or(0).min(100)) / 100
            }
        };
        wanted.max(1)
    }

    fn default_max_unavailable() -> IntOrString {
        IntOrString::Int(1)
    }
}

impl Default for Rollout {
    fn default() -> Self {
        Self {
            max_unavailable: Self::default_max_unavailable(),
            max_failures: 0,
            drain: Drain::default(),
        }
    }
}

/// How a node is emptied before its reboot.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Drain {
    /// Whether a node is cordoned and its pods evicted once its image is staged, before it reboots.
    /// False: it reboots with its pods on it. Nodes with a progress made by hand are never drained.
    /// Default true.
    #[serde(default = "Drain::default_enabled")]
    pub enabled: bool,

    /// How long a node may take to become empty, counted from its cordon by the leading controller's
    /// own clock, and anew when another replica takes over. A duration such as 90s or 15m. Default
    /// 15m.
    #[serde(default = "Drain::default_deadline")]
    pub deadline: GoDuration,

    /// What happens to a node that is not empty by then. Abort: it is uncordoned, and its progress
    /// ends Failed (DrainTimedOut). Force: what is left is deleted, budgets notwithstanding, except
    /// what deleteEmptyDir and deleteUnmanaged protect; that goes down with the node. Wait: the
    /// drain goes on. Default Abort.
    #[serde(default)]
    pub on_deadline: OnDeadline,

    /// Pods that match are left where they are and go down with the node. A label selector as in
    /// Deployments; {} matches every pod. Default: none are left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "pod_selector_schema")]
    pub pod_selector: Option<LabelSelector>,

    /// Whether pods with an emptyDir volume are evicted, which deletes what is in it. False: such a
    /// pod blocks the drain. Default true.
    #[serde(default = "Drain::default_delete_empty_dir")]
    pub delete_empty_dir: bool,

    /// Whether pods that no controller would make again elsewhere are evicted. False: such a pod
    /// blocks the drain. Default false.
    #[serde(default)]
    pub delete_unmanaged: bool,

    /// Seconds that every pod has to end, in place of its own terminationGracePeriodSeconds. From 0
    /// to 86400; 0 counts as 1, because a pod that is taken off at once would still run. Default: each
    /// pod's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 86_400))]
    pub grace_period_seconds: Option<i64>,

    /// Pods whose priority is above this number are left where they are and go down with the node.
    /// Default: none are left for their priority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skip_pods_with_priority_above: Option<i32>,
}

impl Drain {
    fn default_enabled() -> bool {
        true
    }
    fn default_deadline() -> GoDuration {
        GoDuration::from_secs(15 * 60)
    }
    fn default_delete_empty_dir() -> bool {
        true
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            enabled: Self::default_enabled(),
            deadline: Self::default_deadline(),
            on_deadline: OnDeadline::default(),
            pod_selector: None,
            delete_empty_dir: Self::default_delete_empty_dir(),
            delete_unmanaged: false,
            grace_period_seconds: None,
            skip_pods_with_priority_above: None,
        }
    }
}

/// What happens to a node that could not be emptied in time.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum OnDeadline {
    /// It is uncordoned and its attempt ends.
    #[default]
    Abort,
    /// What is left is deleted.
    Force,
    /// The drain goes on.
    Wait,
}

/// How an image is fetched.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Download {
    /// Upper limit of the download rate in bytes per second. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1024))]
    pub max_bytes_per_second: Option<i64>,

    /// How long faults of network and server are retried inside one attempt, counted anew whenever
    /// bytes have flowed. A duration such as 90s or 10m. Default 10m.
    #[serde(default = "Download::default_retry_for")]
    pub retry_for: GoDuration,

    /// Name of a Secret with credentials for the image server, in the agents' namespace.
    /// Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub credentials: Option<String>,
}

impl Download {
    fn default_retry_for() -> GoDuration {
        GoDuration::from_secs(600)
    }
}

impl Default for Download {
    fn default() -> Self {
        Self {
            max_bytes_per_second: None,
            retry_for: Self::default_retry_for(),
            credentials: None,
        }
    }
}

/// What a new system must show before it is kept.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// How long after boot all checks must have passed, else the node falls back. Default 10m.
    #[serde(default = "Health::default_deadline")]
    pub deadline: GoDuration,

    /// How long the checks must keep passing before the system is confirmed. Default 0s.
    #[serde(default = "Health::default_soak")]
    pub soak: GoDuration,

    /// The checks, by name; all must pass. At most 16. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map"),
        extend("x-kubernetes-list-map-keys" = ["name"])
    )]
    pub checks: Vec<HealthCheck>,
}

impl Health {
    fn default_deadline() -> GoDuration {
        GoDuration::from_secs(600)
    }
    fn default_soak() -> GoDuration {
        GoDuration::from_secs(0)
    }
}

impl Default for Health {
    fn default() -> Self {
        Self {
            deadline: Self::default_deadline(),
            soak: Self::default_soak(),
            checks: Vec::new(),
        }
    }
}

/// One health check: a name and exactly one way to check.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "[has(self.exec), has(self.systemdUnit), has(self.httpGet), has(self.cel)].filter(x, x).size() == 1",
     "message": "exactly one of exec, systemdUnit, httpGet and cel must be set"},
]))]
pub struct HealthCheck {
    /// Name of the check, unique within the list; 1 to 63 characters. Required.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,

    /// A program of the new system and its arguments; exit code 0 passes. At most 32 words of 1024
    /// characters. Optional: one of four.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32), inner(length(max = 1024)))]
    pub exec: Option<Vec<String>>,

    /// A systemd unit that must be active, such as kubelet.service. Optional: one of four.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub systemd_unit: Option<String>,

    /// A URL on the node that must answer with a status from 200 to 399. Optional: one of four.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub http_get: Option<String>,

    /// A CEL expression over the Node object (as node) that must be true. Optional: one of four.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub cel: Option<String>,
}

/// What the leading controller makes of an OSUpgrade.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct OSUpgradeStatus {
    /// The metadata.generation that this status speaks of; behind it, the spec has not been judged
    /// yet. Absent before the first judgement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Counts changes of version, operation, catalog and allowDowngrade. The target is pinned per
    /// revision. Begins with 1; absent before the first judgement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,

    /// Digest of the fields that make a revision, so that a change of them is told from a change
    /// of the rollout's pace. For the controller's own use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision_digest: Option<String>,

    /// Where the upgrade stands: Pending, Rejected, Accepted, Completed or Failed. Pending until it
    /// has been judged.
    #[serde(default)]
    pub phase: UpgradePhase,

    /// The version that spec.version names, with a leading v; set whatever the phase as soon as it
    /// is known. A moved alias does not change it until the spec does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved_version: Option<String>,

    /// The catalog that was used last. Absent until one was read, and for a Rollback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catalog: Option<CatalogStatus>,

    /// Checksums of the images handed out under this revision; when the catalog later shows another
    /// one for the same version, all releases stop (ImageChanged). At most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub pinned: Vec<PinnedImage>,

    /// How many nodes stand where. Each selected node is counted in exactly one of the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<NodeCounts>,

    /// Nodes on the version of nodes selected, such as 1/3. For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,

    /// The first ten nodes that failed, fell back or refused, and why; nodes has the full counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10), extend("x-kubernetes-list-type" = "atomic"))]
    pub failures: Vec<NodeFailure>,

    /// What the upgrade waits for, or what is wrong and how to mend it. Empty when there is nothing
    /// to say.
    #[serde(default)]
    pub message: String,

    /// Accepted, Progressing, Completed and Degraded; Stalled and CatalogChanged only while True.
    /// kubectl wait --for=condition=Completed works on them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "condition::list_schema")]
    pub conditions: Vec<Condition>,
}

/// Which catalog was read, and when.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CatalogStatus {
    /// SHA-256 of the catalog's text, as sha256: and 64 hex digits.
    pub digest: String,
    /// When a catalog with this digest was first read. For people; nothing is decided by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetched_at: Option<Time>,
}

/// One image as it was handed out.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PinnedImage {
    /// The image's version, with a leading v.
    pub version: String,
    /// The platform it is for, such as linux/amd64; empty when the catalog names none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub platform: String,
    /// The checksum it was handed out with, as sha256: and 64 hex digits.
    pub checksum: String,
}

/// How many nodes stand where.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NodeCounts {
    /// Nodes that match the selector and are governed by this upgrade.
    pub selected: i32,
    /// Of those, not released yet, or cancelled: these wait for a retryNonce on their progress.
    pub pending: i32,
    /// Released and not at their end.
    pub active: i32,
    /// On the version.
    pub completed: i32,
    /// Ended Failed.
    pub failed: i32,
    /// Back on their old system.
    pub rolled_back: i32,
    /// Not eligible: policy refuses the version for them, or their own version is not known.
    pub refused: i32,
}

/// One node that did not make it.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NodeFailure {
    /// The node's name.
    pub node_name: String,
    /// Its progress, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<String>,
    /// A failureReason, or the reason for which the node refuses.
    pub reason: String,
    /// What happened and what to do.
    #[serde(default)]
    pub message: String,
}

fn node_selector_schema(_: &mut SchemaGenerator) -> Schema {
    selector_schema("node")
}

fn pod_selector_schema(_: &mut SchemaGenerator) -> Schema {
    selector_schema("pod")
}

/// A label selector with the bounds and operator checks that the API server can enforce.
fn selector_schema(of: &str) -> Schema {
    json_schema!({
        "type": "object",
        "properties": {
            "matchLabels": {
                "description": format!("Labels that a {of} must carry with exactly these values. At most 32. Optional."),
                "type": "object",
                "maxProperties": 32,
                "additionalProperties": {"type": "string", "maxLength": 63}
            },
            "matchExpressions": {
                "description": format!("Requirements on labels; a {of} must meet all of them. At most 32. Optional."),
                "type": "array",
                "maxItems": 32,
                "x-kubernetes-list-type": "atomic",
                "items": {
                    "description": "One requirement.",
                    "type": "object",
                    "required": ["key", "operator"],
                    "properties": {
                        "key": {
                            "description": "The label's key, such as kubernetes.io/hostname. Required.",
                            "type": "string", "minLength": 1, "maxLength": 317
                        },
                        "operator": {
                            "description": "How the label is compared: In, NotIn, Exists or DoesNotExist. Required.",
                            "type": "string", "maxLength": 16
                        },
                        "values": {
                            "description": "Values for In and NotIn, at least one; none for Exists and DoesNotExist. At most 64. Optional.",
                            "type": "array",
                            "maxItems": 64,
                            "x-kubernetes-list-type": "atomic",
                            "items": {"type": "string", "maxLength": 63}
                        }
                    },
                    "x-kubernetes-validations": [
                        {"rule": "self.operator in ['In', 'NotIn', 'Exists', 'DoesNotExist']",
                         "message": "operator must be In, NotIn, Exists or DoesNotExist"},
                        {"rule": "!(self.operator in ['In', 'NotIn']) || (has(self.values) && self.values.size() > 0)",
                         "message": "values must be given for In and NotIn"},
                        {"rule": "!(self.operator in ['Exists', 'DoesNotExist']) || !has(self.values) || self.values.size() == 0",
                         "message": "values must not be given for Exists and DoesNotExist"}
                    ]
                }
            }
        },
        "x-kubernetes-map-type": "atomic"
    })
}

fn max_unavailable_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "x-kubernetes-int-or-string": true,
        "x-kubernetes-validations": [{
            "rule": "type(self) == int ? self >= 1 && self <= 100000 : self.matches('^([1-9]|[1-9][0-9]|100)%$')",
            "message": "must be a number from 1 to 100000, or \"1%\" to \"100%\""
        }]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_rounded_down_and_never_nothing() {
        let text = |share: &str| IntOrString::String(share.to_owned());
        for (wanted, selected, expected) in [
            (IntOrString::Int(3), 10, 3),
            (IntOrString::Int(0), 10, 1),
            (IntOrString::Int(-4), 10, 1),
            (text("1%"), 10, 1),
            (text("25%"), 10, 2),
            (text("100%"), 10, 10),
            (text("33%"), 10_000, 3_300),
            (text("nonsense"), 10, 1),
        ] {
            let rollout = Rollout {
                max_unavailable: wanted.clone(),
                ..Rollout::default()
            };
            assert_eq!(rollout.max_unavailable_of(selected), expected, "{wanted:?}");
        }
    }
}
