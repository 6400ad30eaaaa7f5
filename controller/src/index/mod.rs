//! What is known of the cluster: kept up by watches and by the answers to our own writes, read by
//! the planner. Synchronous, touches no client, tested without a cluster.
//!
//! Everything that costs something and depends on one object alone (a parsed version, a compiled
//! selector, an inline catalog) is worked out once when that object changes, so that a plan over
//! ten thousand nodes only looks things up.

mod drain;
mod node;
mod pod;
mod progress;
pub mod revision;
mod store;
mod upgrade;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use kube::ResourceExt;
use monok8s_api::{OSNode, OSUpgrade, OSUpgradeProgress, govern};

use drain::Drains;
pub use drain::{Answer, Blocked, DrainMemory, Noticed, Tried};
use jiff::Timestamp;
pub use node::{Node, NodeObject, NodeObjectSpec, Taint};
use pod::Pods;
pub use pod::{Ending, Keeper, Pod, PodObject, PodsByUid};
pub use progress::{Origin, Progress};
use store::{Store, Version};
pub use upgrade::{CatalogState, GoodCatalog, ReadError, Reading, Upgrade};

/// The index. Cheap to query by name; progresses also by node.
#[derive(Clone, Debug, Default)]
pub struct Index {
    upgrades: Store<Upgrade>,
    progresses: Store<Progress>,
    nodes: Store<Node>,
    reports: Store<Arc<OSNode>>,
    /// Names of progresses by the node they are for.
    by_node: HashMap<String, BTreeSet<String>>,
    pods: Pods,
    drains: Drains,
}

/// Whether an observation can change a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Effect {
    /// A plan may come out differently now.
    Relevant,
    /// Nothing a plan looks at has changed.
    None,
}

impl Effect {
    fn of(changed: bool) -> Self {
        if changed { Self::Relevant } else { Self::None }
    }
}

fn identity<K: ResourceExt>(object: &K) -> (String, String, Version) {
    let version = Version::parse(object.meta().resource_version.as_deref());
    (object.name_any(), object.uid().unwrap_or_default(), version)
}

impl Index {
    /// An upgrade as it stands now.
    pub fn apply_upgrade(&mut self, object: OSUpgrade) -> Effect {
        let (name, uid, version) = identity(&object);
        if !self.upgrades.takes(&name, &uid, version) {
            self.upgrades.seen(&name);
            return Effect::None;
        }
        let next = Upgrade::new(object, self.upgrades.get(&name));
        let changed = self
            .upgrades
            .get(&name)
            .is_none_or(|before| !before.same_for_a_plan(&next));
        self.upgrades.put(&name, &uid, version, next);
        Effect::of(changed)
    }

    /// An upgrade is gone.
    pub fn forget_upgrade(&mut self, name: &str, uid: &str) -> Effect {
        Effect::of(self.upgrades.remove(name, uid).is_some())
    }

    /// A progress as it stands now. `clock` is this process's own, for telling how long it has not
    /// moved.
    pub fn apply_progress(&mut self, object: OSUpgradeProgress, clock: Duration) -> Effect {
        let (name, uid, version) = identity(&object);
        if !self.progresses.takes(&name, &uid, version) {
            self.progresses.seen(&name);
            return Effect::None;
        }
        let before = self.progresses.get(&name);
        let next = Progress::new(object, before, clock);
        let changed = before.is_none_or(|before| !before.same_for_a_plan(&next));
        if let Some(before) = before.filter(|b| b.node_name() != next.node_name()) {
            let node_name = before.node_name().to_owned();
            self.unlink(&node_name, &name);
        }
        self.by_node
            .entry(next.node_name().to_owned())
            .or_default()
            .insert(name.clone());
        self.progresses.put(&name, &uid, version, next);
        Effect::of(changed)
    }

    /// A progress is gone.
    pub fn remove_progress(&mut self, name: &str, uid: &str) -> Effect {
        let removed = self.progresses.remove(name, uid);
        if let Some(removed) = &removed {
            self.unlink(removed.node_name(), name);
        }
        Effect::of(removed.is_some())
    }

    /// An upgrade is there, but nothing can be told of it for now.
    pub fn hide_upgrade(&mut self, name: &str) -> Effect {
        Effect::of(self.upgrades.hide(name).is_some())
    }

    /// A node's report is there, but nothing can be told of it for now.
    pub fn hide_report(&mut self, name: &str) -> Effect {
        let hidden = self.reports.hide(name).is_some();
        Effect::of(self.refresh_facts(name) || hidden)
    }

    /// A progress is still there, whatever is in it.
    pub fn keep_progress(&mut self, name: &str) {
        self.progresses.seen(name);
    }

    fn unlink(&mut self, node_name: &str, progress: &str) {
        if let Some(names) = self.by_node.get_mut(node_name) {
            names.remove(progress);
            if names.is_empty() {
                self.by_node.remove(node_name);
            }
        }
    }

    /// A Node as it stands now.
    pub fn apply_node(&mut self, object: NodeObject) -> Effect {
        let (name, uid, version) = identity(&object);
        if !self.nodes.takes(&name, &uid, version) {
            self.nodes.seen(&name);
            return Effect::None;
        }
        let facts = govern::node_facts(&uid, self.reports.get(&name).map(AsRef::as_ref));
        let next = Node::new(object, facts);
        let before = self.nodes.put(&name, &uid, version, next);
        let same = before
            .zip(self.nodes.get(&name))
            .is_some_and(|(before, next)| before.same_for_a_plan(next));
        Effect::of(!same)
    }

    /// A Node is gone.
    pub fn forget_node(&mut self, name: &str, uid: &str) -> Effect {
        Effect::of(self.nodes.remove(name, uid).is_some())
    }

    /// What a node's agent reports now.
    pub fn apply_report(&mut self, mut object: OSNode) -> Effect {
        object.metadata.managed_fields = None;
        let (name, uid, version) = identity(&object);
        if !self.reports.takes(&name, &uid, version) {
            self.reports.seen(&name);
            return Effect::None;
        }
        let before = self.reports.put(&name, &uid, version, Arc::new(object));
        let result = |report: Option<&Arc<OSNode>>| {
            report.and_then(|o| o.status.as_ref()?.last_result.clone())
        };
        let news = result(before.as_ref()) != result(self.reports.get(&name));
        Effect::of(self.refresh_facts(&name) || news)
    }

    /// A node's report is gone.
    pub fn forget_report(&mut self, name: &str, uid: &str) -> Effect {
        let removed = self.reports.remove(name, uid).is_some();
        Effect::of(self.refresh_facts(name) || removed)
    }

    fn refresh_facts(&mut self, name: &str) -> bool {
        let report = self.reports.get(name).map(AsRef::as_ref);
        let Some(node) = self.nodes.get_mut(name) else {
            return false;
        };
        let facts = govern::node_facts(&node.uid, report);
        let changed = node.facts != facts;
        node.facts = facts;
        changed
    }

    /// What came of reading an upgrade's catalog from its URL or ConfigMap; ignored when the
    /// upgrade has another source by now.
    pub fn apply_reading(&mut self, upgrade: &str, uid: &str, reading: Reading) -> Effect {
        let Some(known) = self.upgrades.get_mut(upgrade) else {
            return Effect::None;
        };
        if known.uid() != uid {
            return Effect::None;
        }
        Effect::of(known.take_reading(reading))
    }

    /// The pods of a node are listed from here on.
    pub fn begin_pods(&mut self, node: &str) {
        self.pods.begin(node);
    }
    /// A pod of that node as it stands now.
    pub fn apply_pod(
        &mut self,
        node: &str,
        pod: PodObject,
        clock: Duration,
        wall: Timestamp,
    ) -> Effect {
        self.pods.apply(node, pod, clock, wall)
    }
    /// The listing of a node's pods is complete.
    pub fn finish_pods(&mut self, node: &str) -> Effect {
        self.pods.finish(node)
    }
    /// A pod of that node is gone.
    pub fn remove_pod(&mut self, node: &str, uid: &str) -> Effect {
        self.pods.remove(node, uid)
    }
    /// The pods of a node are followed no longer.
    pub fn forget_pods(&mut self, node: &str) {
        self.pods.forget(node);
    }
    /// The pods of that node, once they are known.
    pub fn pods_of(&self, node: &str) -> Option<&PodsByUid> {
        self.pods.of(node)
    }

    /// These drains, by the UID of their progress, go on; what is remembered of others is forgotten.
    pub fn drains_go_on<'u>(
        &mut self,
        uids: impl Iterator<Item = &'u str>,
        clock: Duration,
        wall: Timestamp,
    ) -> Effect {
        self.drains.go_on(uids, clock, wall)
    }
    /// How the API server answered when a pod was to go.
    pub fn pod_answered(
        &mut self,
        progress_uid: &str,
        pod_uid: &str,
        answer: Answer,
        clock: Duration,
        wall: Timestamp,
    ) -> Effect {
        self.drains
            .answered(progress_uid, pod_uid, answer, clock, wall)
    }
    /// Nothing is remembered of any drain: whoever begins to lead counts anew.
    pub fn forget_drains(&mut self) {
        self.drains = Drains::default();
    }
    /// For these progresses, by UID, no other node takes the pods of their node; what is remembered
    /// of others is forgotten.
    pub fn nowhere_else<'u>(
        &mut self,
        uids: impl Iterator<Item = &'u str>,
        clock: Duration,
        wall: Timestamp,
    ) -> Effect {
        self.drains.nowhere_else(uids, clock, wall)
    }
    /// Since when no other node takes the pods of that progress's node; none before that was noticed.
    pub fn nowhere_since(&self, progress_uid: &str) -> Option<Noticed> {
        self.drains.nowhere_since(progress_uid)
    }
    /// What is remembered of the drain for that progress.
    pub fn drain(&self, progress_uid: &str) -> Option<&DrainMemory> {
        self.drains.of(progress_uid)
    }

    /// The watch of upgrades begins anew.
    pub fn begin_upgrades(&mut self) {
        self.upgrades.begin_listing();
    }
    /// The listing of upgrades is complete.
    pub fn finish_upgrades(&mut self) {
        self.upgrades.finish_listing();
    }
    /// The watch of progresses begins anew.
    pub fn begin_progresses(&mut self) {
        self.progresses.begin_listing();
    }
    /// The listing of progresses is complete.
    pub fn finish_progresses(&mut self) {
        for (name, gone) in self.progresses.finish_listing() {
            self.unlink(gone.node_name(), &name);
        }
    }
    /// The watch of nodes begins anew.
    pub fn begin_nodes(&mut self) {
        self.nodes.begin_listing();
    }
    /// The listing of nodes is complete.
    pub fn finish_nodes(&mut self) {
        self.nodes.finish_listing();
    }
    /// The watch of reports begins anew.
    pub fn begin_reports(&mut self) {
        self.reports.begin_listing();
    }
    /// The listing of reports is complete.
    pub fn finish_reports(&mut self) {
        for (name, _) in self.reports.finish_listing() {
            self.refresh_facts(&name);
        }
    }

    /// Forgets the upgrades that a complete listing at this resource version lacks.
    pub fn keep_listed_upgrades(&mut self, uids: &BTreeSet<String>, at: &str) -> Effect {
        let gone = self.upgrades.remove_unlisted(uids, Version::of_listing(at));
        Effect::of(!gone.is_empty())
    }
    /// Forgets the progresses that a complete listing at this resource version lacks.
    pub fn keep_listed_progresses(&mut self, uids: &BTreeSet<String>, at: &str) -> Effect {
        let gone = self
            .progresses
            .remove_unlisted(uids, Version::of_listing(at));
        for (name, progress) in &gone {
            self.unlink(progress.node_name(), name);
        }
        Effect::of(!gone.is_empty())
    }
    /// Forgets the Nodes that a complete listing at this resource version lacks.
    pub fn keep_listed_nodes(&mut self, uids: &BTreeSet<String>, at: &str) -> Effect {
        let gone = self.nodes.remove_unlisted(uids, Version::of_listing(at));
        Effect::of(!gone.is_empty())
    }
    /// Forgets the reports that a complete listing at this resource version lacks.
    pub fn keep_listed_reports(&mut self, uids: &BTreeSet<String>, at: &str) -> Effect {
        let gone = self.reports.remove_unlisted(uids, Version::of_listing(at));
        for (name, _) in &gone {
            self.refresh_facts(name);
        }
        Effect::of(!gone.is_empty())
    }

    /// All upgrades, by name.
    pub fn upgrades(&self) -> impl Iterator<Item = &Upgrade> {
        self.upgrades.iter().map(|(_, u)| u)
    }
    /// The upgrade of that name.
    pub fn upgrade(&self, name: &str) -> Option<&Upgrade> {
        self.upgrades.get(name)
    }
    /// All progresses, by name.
    pub fn progresses(&self) -> impl Iterator<Item = &Progress> {
        self.progresses.iter().map(|(_, p)| p)
    }
    /// The progress of that name.
    pub fn progress(&self, name: &str) -> Option<&Progress> {
        self.progresses.get(name)
    }
    /// The progresses of one node, by name.
    pub fn progresses_of(&self, node: &str) -> impl Iterator<Item = &Progress> {
        self.by_node
            .get(node)
            .into_iter()
            .flatten()
            .filter_map(|name| self.progresses.get(name))
    }
    /// All Nodes, by name.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().map(|(_, n)| n)
    }
    /// The Node of that name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name)
    }
    /// What the agent of that node reports.
    pub fn report(&self, node: &str) -> Option<&OSNode> {
        self.reports.get(node).map(AsRef::as_ref)
    }

    /// How many upgrades and progresses are in each phase, for the metrics.
    pub fn phases(&self) -> (BTreeMap<&str, i64>, BTreeMap<&str, i64>) {
        let (mut upgrades, mut progresses) = (BTreeMap::new(), BTreeMap::new());
        for upgrade in self.upgrades() {
            let phase = upgrade.object.status.as_ref().map(|s| s.phase.as_str());
            *upgrades.entry(phase.unwrap_or("Pending")).or_default() += 1;
        }
        for progress in self.progresses() {
            *progresses.entry(progress.phase().as_str()).or_default() += 1;
        }
        (upgrades, progresses)
    }

    /// How many Nodes and progresses are known.
    pub fn sizes(&self) -> (usize, usize) {
        (self.nodes.len(), self.progresses.len())
    }
}

#[cfg(test)]
mod tests;
