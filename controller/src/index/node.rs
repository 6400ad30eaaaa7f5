//! A Node, reduced to what a plan looks at.

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::Node as CoreNode, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::Resource;
use monok8s_api::{
    govern::{self, Ineligible},
    resolve::NodeFacts,
};
use serde::Deserialize;

/// A Node as it is read from the API server: only the fields that are used, so that the image
/// lists and addresses of ten thousand nodes are never kept in memory.
#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = "CoreNode")]
pub struct NodeObject {
    /// Name, UID, labels, resource version.
    pub metadata: ObjectMeta,
    /// Conditions.
    #[serde(default)]
    pub status: NodeObjectStatus,
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
    /// What its OSNode says it runs, or why that is not known.
    pub facts: Result<NodeFacts, Ineligible>,
}

impl Node {
    pub(super) fn new(object: NodeObject, facts: Result<NodeFacts, Ineligible>) -> Self {
        let labels = object.metadata.labels.unwrap_or_default();
        Self {
            name: object.metadata.name.unwrap_or_default(),
            uid: object.metadata.uid.unwrap_or_default(),
            managed: govern::is_managed(&labels),
            labels,
            ready: object
                .status
                .conditions
                .iter()
                .any(|c| c.type_ == "Ready" && c.status == "True"),
            facts,
        }
    }
}
