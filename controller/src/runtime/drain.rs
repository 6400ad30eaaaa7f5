//! Carries out what empties nodes: cordons, evictions, deletions, and a last look before a reboot.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use k8s_openapi::{
    api::policy::v1::{Eviction, PodDisruptionBudget},
    apimachinery::pkg::apis::meta::v1::{
        DeleteOptions, ObjectMeta, Preconditions as MetaPreconditions,
    },
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions},
    core::{DeserializeGuard, Selector, SelectorExt as _, response::Status},
};
use monok8s_api::{CONTROLLER_MANAGER, CORDON_ANNOTATION};
use serde_json::{Value, json};

use super::{
    catch_up,
    request::{Outcome, Requests, WriteError},
    watches::Shared,
};
use crate::{
    decide::{
        drain::Rules,
        elsewhere,
        plan::{Ask, Cordon, DrainWork, NodeSeen, Reboot, Uncordon},
    },
    index::{Answer, NodeObject, Pod, PodObject},
};

/// How many pods are asked to go at once.
const AT_ONCE: usize = 8;
/// Most pods that are asked to go in one round, whatever the number of nodes: the rest follows in
/// the next, so that a rollout's releases do not wait for evictions.
const A_ROUND: usize = 50;
/// Longest that a refusal is quoted, in characters.
const QUOTED: usize = 200;

/// Empties nodes. Whatever fails is decided anew.
pub(super) struct Drainer {
    /// Repeats nothing by itself: a refused eviction is an answer.
    client: Client,
    nodes: Api<NodeObject>,
    shared: Arc<Shared>,
    requests: Requests,
}

impl Drainer {
    /// The client must not retry by itself.
    pub(super) fn new(client: &Client, shared: Arc<Shared>, requests: Requests) -> Self {
        Self {
            client: client.clone(),
            nodes: Api::all(client.clone()),
            shared,
            requests,
        }
    }

    /// Starts the clocks of what begins, and forgets what is over.
    pub(super) fn remember(&self, work: &DrainWork) {
        self.shared.amend(|index, clock| {
            let uids = work.going_on.iter().map(String::as_str);
            index.drains_go_on(uids, clock, Timestamp::now())
        });
        self.shared.amend(|index, clock| {
            let uids = work.nowhere.iter().map(String::as_str);
            index.nowhere_else(uids, clock, Timestamp::now())
        });
    }

    /// Cordons the nodes that are to be emptied, and lets go those that were.
    pub(super) async fn cordon(&self, work: &DrainWork, outcome: &mut Outcome) {
        for cordon in &work.cordons {
            let name = &cordon.node.name;
            let result = self.patch_node(&cordon.node, cordon_body(cordon)).await;
            if self.requests.record("cordon", name, result, outcome) {
                tracing::info!(node = name, "cordoned, to be drained");
            }
        }
        for uncordon in &work.uncordons {
            let (name, lifted) = (&uncordon.node.name, uncordon.lift);
            let result = self
                .patch_node(&uncordon.node, uncordon_body(uncordon))
                .await;
            if self.requests.record("uncordon", name, result, outcome) {
                tracing::info!(node = name, lifted, "the drain is over");
            }
        }
    }

    /// Whether the API server itself shows now what lets a node reboot.
    pub(super) async fn may_reboot(&self, reboot: &Reboot, outcome: &mut Outcome) -> bool {
        let looked = async {
            match &reboot.empty_by {
                _ if reboot.alone.is_some() => self.is_alone(&reboot.node).await,
                Some(rules) => self.is_empty(&reboot.node, rules).await,
                None => Ok(true),
            }
        };
        match self.requests.answered(looked).await {
            Ok(true) => true,
            Ok(false) => {
                tracing::debug!(node = reboot.node, "not as it seemed; decided anew");
                outcome.left_out = true;
                false
            }
            Err(error) => {
                let node = &reboot.node;
                self.requests
                    .record("look_at_node", node, Err(error), outcome)
            }
        }
    }

    /// Asks pods to go.
    pub(super) async fn ask(&self, mut asks: Vec<Ask>, outcome: &mut Outcome) {
        if asks.len() > A_ROUND {
            asks.truncate(A_ROUND);
            outcome.left_out = true;
        }
        stream::iter(asks)
            .for_each_concurrent(AT_ONCE, async |ask| self.ask_one(&ask).await)
            .await;
    }

    async fn patch_node(&self, node: &NodeSeen, body: Value) -> Result<(), WriteError> {
        let params = PatchParams {
            field_manager: Some(CONTROLLER_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let patch = Patch::Merge(body);
        let written = self
            .requests
            .request(self.nodes.patch(&node.name, &params, &patch))
            .await?;
        self.shared.amend(|index, _| index.apply_node(written));
        Ok(())
    }

    /// Asks one pod to go, and remembers the answer.
    async fn ask_one(&self, ask: &Ask) {
        if !self.requests.may_write() {
            return;
        }
        let pods: Api<PodObject> = Api::namespaced(self.client.clone(), &ask.pod.namespace);
        let asked = async {
            if ask.pod.forced {
                let params = delete_params(ask);
                pods.delete(&ask.pod.name, &params).await.map(drop)
            } else {
                // Not `Api::evict`: kube 5.0 writes the options under a name that the API server
                // does not know, and neither UID nor grace period would count.
                let params = PostParams::default();
                pods.create_subresource::<_, Status>(
                    "eviction",
                    &ask.pod.name,
                    &params,
                    &eviction(ask),
                )
                .await
                .map(drop)
            }
        };
        let result = self.requests.answered(asked).await;
        let answer = match result {
            Ok(()) => Answer::Accepted,
            Err(WriteError::Unclear(kube::Error::Api(status))) => self.answer(ask, &status).await,
            Err(error) => Answer::Refused {
                why: error.to_string(),
                retry_after: None,
            },
        };
        let kind = if ask.pod.forced {
            "delete_pod"
        } else {
            "evict"
        };
        let (name, namespace, node) = (&ask.pod.name, &ask.pod.namespace, &ask.node);
        match &answer {
            Answer::Accepted => tracing::info!(kind, namespace, name, node, "a pod goes"),
            Answer::Refused { why, .. } => {
                tracing::info!(kind, namespace, name, node, why, "a pod does not go yet");
            }
        }
        self.requests
            .count(kind, matches!(answer, Answer::Accepted));
        self.shared.amend(|index, clock| {
            index.pod_answered(
                &ask.progress_uid,
                &ask.pod.uid,
                answer,
                clock,
                Timestamp::now(),
            )
        });
    }

    /// What an answer of the API server that is no success means.
    async fn answer(&self, ask: &Ask, status: &Status) -> Answer {
        if status.code == 404 {
            return Answer::Accepted;
        }
        let retry_after = status
            .details
            .as_ref()
            .map(|d| d.retry_after_seconds)
            .filter(|seconds| *seconds > 0)
            .map(|seconds| Duration::from_secs(seconds.into()));
        let namespace = &ask.pod.namespace;
        let why = match budget(status) {
            Some((name, why)) => format!("PodDisruptionBudget {namespace}/{name}: {why}"),
            None => match self.budgets(ask).await.as_slice() {
                [] => quoted(status),
                names => format!(
                    "PodDisruptionBudget {}: {}",
                    names.join(" and "),
                    quoted(status)
                ),
            },
        };
        Answer::Refused { why, retry_after }
    }

    /// The budgets that cover a pod, as `namespace/name`; none when that cannot be told.
    async fn budgets(&self, ask: &Ask) -> Vec<String> {
        let namespace = &ask.pod.namespace;
        let labels = self.shared.read(|index| {
            let pods = index.pods_of(&ask.node)?;
            Some(pods.get(&ask.pod.uid)?.labels.clone())
        });
        let Some(labels) = labels else {
            return Vec::new();
        };
        let api: Api<PodDisruptionBudget> = Api::namespaced(self.client.clone(), namespace);
        let Ok(budgets) = api.list(&ListParams::default()).await else {
            return Vec::new();
        };
        let covers = |budget: &PodDisruptionBudget| {
            let selector = budget.spec.as_ref().and_then(|s| s.selector.clone());
            selector
                .and_then(|s| Selector::try_from(s).ok())
                .is_some_and(|s| s.matches(&labels))
        };
        budgets
            .items
            .iter()
            .filter(|budget| covers(budget))
            .map(|budget| format!("{namespace}/{}", budget.name_any()))
            .collect()
    }

    /// Whether no other node takes the pods of this one, as the nodes are stored now. The index is
    /// told.
    async fn is_alone(&self, node: &str) -> kube::Result<bool> {
        let nodes: Api<DeserializeGuard<NodeObject>> = Api::all(self.client.clone());
        catch_up::read(&self.shared, async |params| nodes.list(params).await).await?;
        let elsewhere = self.shared.read(|index| elsewhere::is_there(index, node));
        Ok(!elsewhere)
    }

    /// Whether the node is cordoned and no pod has to go, as it is stored now. The index is told.
    async fn is_empty(&self, node: &str, rules: &Rules) -> kube::Result<bool> {
        let object = self.nodes.get(node).await?;
        let cordoned = object.spec.unschedulable;
        self.shared.amend(|index, _| index.apply_node(object));
        let pods: Api<DeserializeGuard<PodObject>> = Api::all(self.client.clone());
        let params = ListParams::default().fields(&format!("spec.nodeName={node}"));
        let pods = pods.list(&params).await?;
        let now = self.shared.now();
        // One that cannot be read may have to go.
        let readable = pods.items.iter().all(|guarded| guarded.0.is_ok());
        let pods: Vec<PodObject> = pods.items.into_iter().filter_map(|g| g.0.ok()).collect();
        let seen: Vec<Pod> = pods
            .iter()
            .map(|pod| Pod::new(pod.clone(), None, now.clock, now.wall))
            .collect();
        self.shared.amend(|index, clock| {
            index.begin_pods(node);
            for pod in pods {
                let _ = index.apply_pod(node, pod, clock, now.wall);
            }
            index.finish_pods(node)
        });
        Ok(cordoned && readable && rules.is_empty(seen.iter()))
    }
}

/// Annotation and cordon in one write; UID and resource version are preconditions.
fn cordon_body(cordon: &Cordon) -> Value {
    json!({
        "metadata": {
            "uid": cordon.node.uid,
            "resourceVersion": cordon.node.resource_version,
            "annotations": {CORDON_ANNOTATION: cordon.progress_uid},
        },
        "spec": {"unschedulable": true},
    })
}

fn uncordon_body(uncordon: &Uncordon) -> Value {
    let mut body = json!({
        "metadata": {
            "uid": uncordon.node.uid,
            "resourceVersion": uncordon.node.resource_version,
            "annotations": {CORDON_ANNOTATION: null},
        },
    });
    if uncordon.lift {
        body["spec"] = json!({"unschedulable": null});
    }
    body
}

fn eviction(ask: &Ask) -> Eviction {
    Eviction {
        metadata: ObjectMeta {
            name: Some(ask.pod.name.clone()),
            namespace: Some(ask.pod.namespace.clone()),
            ..ObjectMeta::default()
        },
        delete_options: Some(DeleteOptions {
            grace_period_seconds: ask.pod.grace,
            preconditions: Some(MetaPreconditions {
                uid: Some(ask.pod.uid.clone()),
                ..MetaPreconditions::default()
            }),
            ..DeleteOptions::default()
        }),
    }
}

fn delete_params(ask: &Ask) -> DeleteParams {
    DeleteParams {
        grace_period_seconds: ask.pod.grace.and_then(|grace| u32::try_from(grace).ok()),
        preconditions: Some(Preconditions {
            uid: Some(ask.pod.uid.clone()),
            ..Preconditions::default()
        }),
        ..DeleteParams::default()
    }
}

/// The budget that an eviction would violate, and what it needs. The eviction API names it in a
/// cause of its own (`k8s.io/kubernetes/pkg/registry/core/pod/storage/eviction.go`): "The disruption
/// budget NAME needs 1 healthy pods and has 1 currently".
fn budget(status: &Status) -> Option<(String, String)> {
    let causes = &status.details.as_ref()?.causes;
    let cause = causes.iter().find(|c| c.reason == "DisruptionBudget")?;
    let rest = cause.message.strip_prefix("The disruption budget ")?;
    let (name, why) = rest.split_once(' ')?;
    Some((name.to_owned(), format!("it {why}")))
}

fn quoted(status: &Status) -> String {
    let message: String = status.message.chars().take(QUOTED).collect();
    format!("the API server answers {}: {message}", status.code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::drain::Asked;

    fn ask(forced: bool) -> Ask {
        Ask {
            progress_uid: "p".into(),
            node: "n1".into(),
            pod: Asked {
                namespace: "default".into(),
                name: "web-0".into(),
                uid: "u".into(),
                grace: Some(5),
                forced,
            },
        }
    }

    #[test]
    fn every_write_carries_what_it_was_decided_on() {
        let node = NodeSeen {
            name: "n1".into(),
            uid: "u".into(),
            resource_version: "7".into(),
        };
        assert_eq!(
            cordon_body(&Cordon {
                node: node.clone(),
                progress_uid: "p".into()
            }),
            json!({
                "metadata": {"uid": "u", "resourceVersion": "7",
                             "annotations": {"monok8s.io/cordoned-for": "p"}},
                "spec": {"unschedulable": true},
            })
        );
        let uncordon = |lift| {
            uncordon_body(&Uncordon {
                node: node.clone(),
                lift,
            })
        };
        assert_eq!(uncordon(true)["spec"], json!({"unschedulable": null}));
        assert!(uncordon(false).get("spec").is_none(), "somebody else's");
        assert_eq!(uncordon(false)["metadata"]["resourceVersion"], "7");

        let body = serde_json::to_value(eviction(&ask(false))).unwrap();
        assert_eq!(
            body["deleteOptions"],
            json!({"gracePeriodSeconds": 5, "preconditions": {"uid": "u"}})
        );
        let params = delete_params(&ask(true));
        assert_eq!(params.grace_period_seconds, Some(5));
        assert_eq!(params.preconditions.unwrap().uid.as_deref(), Some("u"));
    }

    #[test]
    fn the_budget_is_named_by_the_cause() {
        let status: Status = serde_json::from_value(json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "Cannot evict pod as it would violate the pod's disruption budget.",
            "reason": "TooManyRequests", "code": 429,
            "details": {"causes": [{"reason": "DisruptionBudget",
                "message": "The disruption budget web needs 1 healthy pods and has 1 currently"}]},
        }))
        .unwrap();
        assert_eq!(
            budget(&status).unwrap(),
            (
                "web".into(),
                "it needs 1 healthy pods and has 1 currently".into()
            )
        );
        assert!(quoted(&status).starts_with("the API server answers 429: Cannot evict"));
    }
}
