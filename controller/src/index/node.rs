//! A Node, reduced to what a plan looks at.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::core::v1::Node as CoreNode,
    apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta},
};
use kube::Resource;
use monok8s_api::{
    CONTROLLER_MANAGER, CORDON_ANNOTATION,
    govern::{self, Ineligible},
    resolve::NodeFacts,
};
use serde::Deserialize;

/// Label of nodes that run the control plane (`k8s.io/kubernetes/cmd/kubeadm/app/constants`).
const CONTROL_PLANE_LABEL: &str = "node-role.kubernetes.io/control-plane";

/// Taint that goes with a cordon, and goes a moment after it
/// (`k8s.io/kubernetes/pkg/controller/nodelifecycle`).
const CORDON_TAINT: &str = "node.kubernetes.io/unschedulable";

/// A Node as it is read from the API server: only the fields that are used, so that the image
/// lists and addresses of ten thousand nodes are never kept in memory.
#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = "CoreNode")]
pub struct NodeObject {
    /// Name, UID, labels, annotations, resource version, who set which field.
    pub metadata: ObjectMeta,
    /// Whether it is cordoned.
    #[serde(default)]
    pub spec: NodeObjectSpec,
    /// Conditions.
    #[serde(default)]
    pub status: NodeObjectStatus,
}

/// The part of a Node's spec that is read.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct NodeObjectSpec {
    /// Set while it is cordoned.
    #[serde(default)]
    pub unschedulable: bool,
    /// What keeps pods away that do not tolerate it.
    #[serde(default)]
    pub taints: Vec<Taint>,
}

/// One taint of a Node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Taint {
    /// Its key.
    pub key: String,
    /// Its value.
    #[serde(default)]
    pub value: String,
    /// `NoSchedule`, `NoExecute` or `PreferNoSchedule`.
    pub effect: String,
}

/// The part of a Node's status that is read.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct NodeObjectStatus {
    /// Conditions, `Ready` among them.
    #[serde(default)]
    pub conditions: Vec<NodeObjectCondition>,
}

/// One condition of a Node.
#[derive(Clone, Debug, Deserialize)]
pub struct NodeObjectCondition {
    /// Its type, such as `Ready`.
    #[serde(rename = "type")]
    pub type_: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
}

/// A Node as the planner sees it.
#[allow(
    clippy::struct_excessive_bools,
    reason = "they are facts of the object, independent of each other"
)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its UID: another one under the same name is another machine, or the same one made again.
    pub uid: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether its labels put it under this system's care.
    pub managed: bool,
    /// Whether its Ready condition is True.
    pub ready: bool,
    /// Whether it is cordoned, by whomever.
    pub cordoned: bool,
    /// Taints that keep pods away, but for the one that goes with a cordon.
    pub taints: BTreeSet<Taint>,
    /// UID of the progress for which this system cordoned it, as the annotation tells.
    pub cordoned_for: Option<String>,
    /// Whether somebody else has set the cordon since, or holds it too.
    pub cordoned_by_others: bool,
    /// Whether it runs the control plane.
    pub control_plane: bool,
    /// As last seen; the precondition of a cordon.
    pub resource_version: String,
    /// What its OSNode says it runs, or why that is not known.
    pub facts: Result<NodeFacts, Ineligible>,
}

impl Node {
    pub(super) fn new(object: NodeObject, facts: Result<NodeFacts, Ineligible>) -> Self {
        let labels = object.metadata.labels.unwrap_or_default();
        let mut annotations = object.metadata.annotations.unwrap_or_default();
        let managers = object.metadata.managed_fields.unwrap_or_default();
        Self {
            name: object.metadata.name.unwrap_or_default(),
            uid: object.metadata.uid.unwrap_or_default(),
            resource_version: object.metadata.resource_version.unwrap_or_default(),
            managed: govern::is_managed(&labels),
            control_plane: labels.contains_key(CONTROL_PLANE_LABEL),
            labels,
            cordoned: object.spec.unschedulable,
            taints: object
                .spec
                .taints
                .into_iter()
                .filter(|t| t.key != CORDON_TAINT && t.effect != "PreferNoSchedule")
                .collect(),
            cordoned_for: annotations.remove(CORDON_ANNOTATION),
            cordoned_by_others: managers.iter().any(cordons_as_another),
            ready: object
                .status
                .conditions
                .iter()
                .any(|c| c.type_ == "Ready" && c.status == "True"),
            facts,
        }
    }

    /// Heartbeats and image lists move the resource version without changing what is to be done.
    pub(super) fn same_for_a_plan(&self, other: &Self) -> bool {
        let lean = |node: &Self| Self {
            resource_version: String::new(),
            ..node.clone()
        };
        lean(self) == lean(other)
    }
}

/// Whether this entry of `metadata.managedFields` says that somebody else set `spec.unschedulable`
/// last, or holds it as well. A cordon that changes nothing is not recorded there; one that was
/// undone and set again is.
fn cordons_as_another(entry: &ManagedFieldsEntry) -> bool {
    let owns = entry
        .fields_v1
        .as_ref()
        .is_some_and(|fields| fields.0.pointer("/f:spec/f:unschedulable").is_some());
    owns && entry.manager.as_deref() != Some(CONTROLLER_MANAGER)
}
