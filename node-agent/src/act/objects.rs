//! This node's progresses, and its Node's UID, as the API server has told them: the newest of what the watch and the
//! answers to our own requests have said.
//!
//! The watch lags behind the answers, so an object is only ever replaced by a newer one. What the watch cannot say
//! (403, 404, 410, no connection) leaves everything as it is: the API server is away, nothing is deleted.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use monok8s_api::OSUpgradeProgress;
use tokio::sync::watch;

use crate::decide::next::{Progress, View};

/// The objects. Clones share them.
#[derive(Clone, Debug)]
pub struct Objects {
    inner: Arc<Mutex<Inner>>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    listed: bool,
    node_uid: Option<String>,
    by_uid: BTreeMap<String, Arc<OSUpgradeProgress>>,
    /// Found to be gone by a request; a late event does not bring them back.
    gone: BTreeSet<String>,
}

impl Default for Objects {
    fn default() -> Self {
        Self {
            inner: Arc::default(),
            changed: watch::Sender::new(0),
        }
    }
}

impl Objects {
    /// Wakes whenever something has changed. Changes that come together are seen together.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// A complete list. What is not in it is gone.
    pub fn list(&self, objects: Vec<OSUpgradeProgress>) {
        let mut inner = self.lock();
        let before = std::mem::take(&mut inner.by_uid);
        for object in objects {
            let uid = uid(&object);
            if inner.gone.contains(&uid) {
                continue;
            }
            let newest = match before.get(&uid) {
                Some(known) if revision(known) > revision(&object) => Arc::clone(known),
                _ => Arc::new(object),
            };
            inner.by_uid.insert(uid, newest);
        }
        inner.listed = true;
        inner.gone.clear();
        drop(inner);
        self.wake();
    }

    /// An object as it is now, or was a moment ago.
    pub fn put(&self, object: OSUpgradeProgress) {
        let uid = uid(&object);
        let mut inner = self.lock();
        let stale = inner
            .by_uid
            .get(&uid)
            .is_some_and(|known| revision(known) >= revision(&object));
        if stale || inner.gone.contains(&uid) {
            return;
        }
        inner.by_uid.insert(uid, Arc::new(object));
        drop(inner);
        self.wake();
    }

    /// Whether something newer was said of this object already.
    pub fn knows_newer(&self, object: &OSUpgradeProgress) -> bool {
        let inner = self.lock();
        let known = inner.by_uid.get(&uid(object));
        known.is_some_and(|known| revision(known) > revision(object))
    }

    /// An object is gone.
    pub fn remove(&self, uid: &str) {
        let mut inner = self.lock();
        inner.gone.insert(uid.to_owned());
        let known = inner.by_uid.remove(uid).is_some();
        drop(inner);
        if known {
            self.wake();
        }
    }

    /// UID of this node's Node; `None` while it is not known or there is no such Node.
    pub fn node_uid(&self) -> Option<String> {
        self.lock().node_uid.clone()
    }

    /// Sets it; returns what it was.
    pub fn set_node_uid(&self, uid: Option<String>) -> Option<String> {
        let mut inner = self.lock();
        let changed = inner.node_uid != uid;
        let before = std::mem::replace(&mut inner.node_uid, uid);
        drop(inner);
        if changed {
            self.wake();
        }
        before
    }

    /// One object.
    pub fn get(&self, uid: &str) -> Option<Arc<OSUpgradeProgress>> {
        self.lock().by_uid.get(uid).map(Arc::clone)
    }

    /// What a decision is made from.
    pub fn view(&self) -> View {
        let inner = self.lock();
        if inner.listed {
            View::Listed(inner.by_uid.values().map(|p| Progress::of(p)).collect())
        } else {
            View::Away
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        self.changed.send_modify(|n| *n = n.wrapping_add(1));
    }
}

fn uid(object: &OSUpgradeProgress) -> String {
    object.metadata.uid.clone().unwrap_or_default()
}

/// Resource versions of one kind are decimal numbers of any length that grow (KEP-5504, stable in Kubernetes 1.35; etcd's
/// revision before that).
fn revision(object: &OSUpgradeProgress) -> u128 {
    object
        .metadata
        .resource_version
        .as_deref()
        .and_then(|v| v.parse().ok())
        .unwrap_or(0)
}

impl Progress {
    /// What decisions need of an object.
    pub fn of(object: &OSUpgradeProgress) -> Self {
        let meta = &object.metadata;
        let status = object.status.clone().unwrap_or_default();
        let owned = meta
            .owner_references
            .iter()
            .flatten()
            .any(|o| o.kind == "OSUpgrade" && o.controller == Some(true));
        Self {
            name: meta.name.clone().unwrap_or_default(),
            uid: uid(object),
            created: meta.creation_timestamp.as_ref().map(|t| t.0),
            deleted: meta.deletion_timestamp.is_some(),
            owned,
            node_uid: object.spec.node_uid.clone(),
            operation: object.spec.operation,
            checks: !object.spec.health.checks.is_empty(),
            release: object.spec.release,
            cancel: object.spec.cancel,
            nonce: object.spec.retry_nonce.clone(),
            phase: status.phase,
            attempt: status.attempt,
            retry_count: status.retry_count,
            observed_nonce: status.observed_retry_nonce,
            failure_reason: status.failure_reason,
            message: status.message,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(uid: &str, revision: u32) -> OSUpgradeProgress {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "monok8s.io/v1alpha1",
            "kind": "OSUpgradeProgress",
            "metadata": {"name": uid, "uid": uid, "resourceVersion": revision.to_string()},
            "spec": {"sourceRef": {"name": "u"}, "nodeName": "n"},
        }))
        .unwrap()
    }

    fn revisions(objects: &Objects) -> Vec<u128> {
        objects
            .lock()
            .by_uid
            .values()
            .map(|o| revision(o))
            .collect()
    }

    #[test]
    fn an_event_older_than_an_answer_changes_nothing() {
        let objects = Objects::default();
        objects.list(vec![object("a", 5)]);
        objects.put(object("a", 9));
        objects.put(object("a", 7));
        assert_eq!(revisions(&objects), [9]);
        objects.list(vec![object("a", 8)]);
        assert_eq!(revisions(&objects), [9]);
        assert!(objects.knows_newer(&object("a", 8)));
        assert!(!objects.knows_newer(&object("a", 9)) && !objects.knows_newer(&object("b", 1)));
        objects.put(object("a", 10));
        assert_eq!(revisions(&objects), [10]);
    }

    #[test]
    fn what_a_request_found_gone_stays_gone_until_the_next_list() {
        let objects = Objects::default();
        objects.list(vec![object("a", 5)]);
        objects.remove("a");
        objects.put(object("a", 6));
        assert_eq!(objects.view(), View::Listed(vec![]));
    }

    #[test]
    fn nothing_is_listed_before_a_list() {
        let objects = Objects::default();
        assert_eq!(objects.view(), View::Away);
        objects.put(object("a", 5));
        assert_eq!(objects.view(), View::Away);
        objects.list(vec![]);
        assert_eq!(objects.view(), View::Listed(vec![]));
    }

    #[test]
    fn a_change_while_nobody_looks_is_seen_later() {
        let objects = Objects::default();
        let receiver = objects.subscribe();
        objects.list(vec![object("a", 5)]);
        objects.put(object("a", 6));
        assert!(receiver.has_changed().unwrap());
    }
}
