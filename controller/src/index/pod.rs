//! Pods on nodes that are being emptied, reduced to what a drain looks at.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::Pod as CorePod,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::Resource;
use serde::{Deserialize, de::IgnoredAny};

use super::Effect;

/// Annotation that the kubelet puts on the API server's picture of a static pod
/// (`k8s.io/kubernetes/pkg/kubelet/types`).
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// A Pod as it is read from the API server: only the fields that are used.
#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = "CorePod")]
pub struct PodObject {
    /// Name, namespace, UID, labels, owners, deletion.
    pub metadata: ObjectMeta,
    /// Priority and volumes.
    #[serde(default)]
    pub spec: PodObjectSpec,
    /// Its phase.
    #[serde(default)]
    pub status: PodObjectStatus,
}

/// The part of a Pod's spec that is read.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodObjectSpec {
    /// As admission computed it from the priority class.
    #[serde(default)]
    pub priority: Option<i32>,
    /// Its volumes.
    #[serde(default)]
    pub volumes: Vec<PodObjectVolume>,
    /// How long it has to end.
    #[serde(default)]
    pub termination_grace_period_seconds: Option<i64>,
}

/// One volume of a Pod.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodObjectVolume {
    /// Set when what is in it goes with the pod.
    #[serde(default)]
    pub empty_dir: Option<IgnoredAny>,
}

/// The part of a Pod's status that is read.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct PodObjectStatus {
    /// `Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`.
    #[serde(default)]
    pub phase: String,
}

/// Who would make a pod again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeper {
    /// The node's own kubelet: a static pod.
    Kubelet,
    /// A DaemonSet, which would make it again on the very same node.
    DaemonSet,
    /// Another controller, which would make it again elsewhere.
    Controller,
    /// Nobody.
    Nobody,
}

/// How a pod that is being deleted ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// When its grace period is over, by the API server's clock; for people.
    pub until: Option<Timestamp>,
    /// Its grace period.
    pub grace: Duration,
    /// What keeps the object although its containers have ended.
    pub finalizers: Vec<String>,
    /// When it was first seen so, by this process's clock.
    pub seen: Duration,
}

/// A pod as a drain sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID: another one under the same name is another pod.
    pub uid: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its priority; 0 when admission gave it none.
    pub priority: i32,
    /// Who would make it again.
    pub keeper: Keeper,
    /// Whether data goes with it.
    pub has_empty_dir: bool,
    /// Whether all its containers have ended for good.
    pub finished: bool,
    /// Seconds that it has to end.
    pub grace_period: Option<i64>,
    /// Set once its deletion was asked for.
    pub ending: Option<Ending>,
    /// When it was first seen on this node, by the wall clock; for people.
    pub seen: Timestamp,
}

impl Pod {
    /// From the object; what was known of it before says since when things are as they are.
    pub fn new(object: PodObject, before: Option<&Self>, clock: Duration, wall: Timestamp) -> Self {
        let meta = object.metadata;
        let seconds = meta.deletion_grace_period_seconds.unwrap_or(0);
        let ending = meta.deletion_timestamp.map(|until| Ending {
            until: Some(until.0),
            grace: Duration::from_secs(u64::try_from(seconds).unwrap_or(0)),
            finalizers: meta.finalizers.unwrap_or_default(),
            seen: before
                .and_then(|b| b.ending.as_ref())
                .map_or(clock, |e| e.seen),
        });
        let annotations = meta.annotations.unwrap_or_default();
        let mirrors = annotations.contains_key(MIRROR_ANNOTATION);
        Self {
            keeper: if mirrors {
                Keeper::Kubelet
            } else {
                keeper(meta.owner_references.as_deref().unwrap_or_default())
            },
            namespace: meta.namespace.unwrap_or_default(),
            name: meta.name.unwrap_or_default(),
            uid: meta.uid.unwrap_or_default(),
            labels: meta.labels.unwrap_or_default(),
            priority: object.spec.priority.unwrap_or(0),
            has_empty_dir: object.spec.volumes.iter().any(|v| v.empty_dir.is_some()),
            grace_period: object.spec.termination_grace_period_seconds,
            finished: matches!(object.status.phase.as_str(), "Succeeded" | "Failed"),
            ending,
            seen: before.map_or(wall, |b| b.seen),
        }
    }
}

fn keeper(owners: &[OwnerReference]) -> Keeper {
    match owners.iter().find(|o| o.controller == Some(true)) {
        Some(o) if o.kind == "DaemonSet" && o.api_version.starts_with("apps/") => Keeper::DaemonSet,
        Some(o) if o.kind == "Node" && o.api_version == "v1" => Keeper::Kubelet,
        Some(_) => Keeper::Controller,
        None => Keeper::Nobody,
    }
}

/// The pods of one node, by UID.
pub type PodsByUid = BTreeMap<String, Pod>;

/// Pods of the nodes that are followed.
#[derive(Clone, Debug, Default)]
pub(super) struct Pods {
    nodes: HashMap<String, Followed>,
}

#[derive(Clone, Debug, Default)]
struct Followed {
    /// As of the last complete listing and what the watch showed since; none before the first.
    known: Option<PodsByUid>,
    /// What a listing that is going on has shown.
    listing: Option<PodsByUid>,
}

impl Pods {
    /// A node's pods are listed from here on.
    pub(super) fn begin(&mut self, node: &str) {
        self.nodes.entry(node.to_owned()).or_default().listing = Some(PodsByUid::new());
    }

    /// A pod as it stands now.
    pub(super) fn apply(
        &mut self,
        node: &str,
        object: PodObject,
        clock: Duration,
        wall: Timestamp,
    ) -> Effect {
        let Some(followed) = self.nodes.get_mut(node) else {
            return Effect::None;
        };
        let uid = object.metadata.uid.clone().unwrap_or_default();
        let before = followed.known.as_ref().and_then(|known| known.get(&uid));
        let pod = Pod::new(object, before, clock, wall);
        if let Some(listing) = &mut followed.listing {
            listing.insert(uid, pod);
            return Effect::None;
        }
        let Some(known) = &mut followed.known else {
            return Effect::None;
        };
        let changed = known.get(&uid) != Some(&pod);
        known.insert(uid, pod);
        Effect::of(changed)
    }

    /// The listing is complete.
    pub(super) fn finish(&mut self, node: &str) -> Effect {
        let Some(followed) = self.nodes.get_mut(node) else {
            return Effect::None;
        };
        if let Some(listing) = followed.listing.take() {
            followed.known = Some(listing);
        }
        Effect::Relevant
    }

    /// A pod is gone, or another one has its name.
    pub(super) fn remove(&mut self, node: &str, uid: &str) -> Effect {
        let Some(followed) = self.nodes.get_mut(node) else {
            return Effect::None;
        };
        if let Some(listing) = &mut followed.listing {
            listing.remove(uid);
        }
        let known = followed.known.as_mut();
        Effect::of(known.is_some_and(|known| known.remove(uid).is_some()))
    }

    /// A node's pods are followed no longer.
    pub(super) fn forget(&mut self, node: &str) {
        self.nodes.remove(node);
    }

    /// The pods of a node, once they are known.
    pub(super) fn of(&self, node: &str) -> Option<&PodsByUid> {
        self.nodes.get(node)?.known.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(change: &Value) -> PodObject {
        let mut object = json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "1"},
            "spec": {}, "status": {"phase": "Running"},
        });
        for (path, value) in change.as_object().unwrap() {
            *object.pointer_mut(path).unwrap() = value.clone();
        }
        serde_json::from_value(object).unwrap()
    }

    fn read(change: &Value) -> Pod {
        Pod::new(pod(change), None, Duration::ZERO, Timestamp::UNIX_EPOCH)
    }

    fn owned_by(kind: &str, api_version: &str, controller: bool) -> Value {
        json!({"/metadata": {"name": "web", "namespace": "default", "uid": "1", "ownerReferences": [
            {"kind": kind, "apiVersion": api_version, "name": "o", "uid": "o", "controller": controller}]}})
    }

    #[test]
    fn who_keeps_a_pod() {
        for (change, expected) in [
            (json!({}), Keeper::Nobody),
            (owned_by("ReplicaSet", "apps/v1", true), Keeper::Controller),
            (owned_by("ReplicaSet", "apps/v1", false), Keeper::Nobody),
            (owned_by("DaemonSet", "apps/v1", true), Keeper::DaemonSet),
            (
                owned_by("DaemonSet", "other.example/v1", true),
                Keeper::Controller,
            ),
            (owned_by("Node", "v1", true), Keeper::Kubelet),
            (
                json!({"/metadata": {"name": "kube-apiserver-n1", "namespace": "kube-system", "uid": "1",
                    "annotations": {MIRROR_ANNOTATION: "abc"}}}),
                Keeper::Kubelet,
            ),
        ] {
            assert_eq!(read(&change).keeper, expected, "{change}");
        }
    }

    #[test]
    fn volumes_phase_and_ending() {
        let volumes = |volume: Value| json!({"/spec": {"volumes": [volume]}});
        assert!(read(&volumes(json!({"name": "v", "emptyDir": {}}))).has_empty_dir);
        assert!(
            read(&volumes(
                json!({"name": "v", "emptyDir": {"medium": "Memory"}})
            ))
            .has_empty_dir
        );
        assert!(!read(&volumes(json!({"name": "v", "configMap": {"name": "c"}}))).has_empty_dir);
        assert!(read(&json!({"/status/phase": "Succeeded"})).finished);
        assert!(!read(&json!({"/status/phase": "Unknown"})).finished);
        let ending = read(&json!({"/metadata": {"name": "web", "uid": "1",
            "deletionTimestamp": "2026-01-01T00:05:00Z", "deletionGracePeriodSeconds": 300,
            "finalizers": ["example.com/hook"]}}))
        .ending
        .unwrap();
        assert_eq!(ending.grace, Duration::from_secs(300));
        assert_eq!(ending.finalizers, ["example.com/hook"]);
    }

    #[test]
    fn a_node_is_known_by_complete_listings_only() {
        let mut pods = Pods::default();
        let wall = Timestamp::UNIX_EPOCH;
        let apply =
            |pods: &mut Pods| pods.apply("n", pod(&json!({})), Duration::from_secs(1), wall);
        assert_eq!(apply(&mut pods), Effect::None, "nobody follows it");
        pods.begin("n");
        let _ = apply(&mut pods);
        assert!(pods.of("n").is_none(), "a listing that is not complete");
        let _ = pods.finish("n");
        assert_eq!(pods.of("n").unwrap().len(), 1);
        pods.begin("n");
        assert_eq!(pods.of("n").unwrap().len(), 1, "until the next is complete");
        let _ = pods.finish("n");
        assert!(pods.of("n").unwrap().is_empty());
        assert_eq!(apply(&mut pods), Effect::Relevant);
        assert_eq!(apply(&mut pods), Effect::None, "no news");
        assert_eq!(pods.remove("n", "1"), Effect::Relevant);
        pods.forget("n");
        assert!(pods.of("n").is_none());
    }
}
