//! A fleet in memory: the objects as an API server would hold them, agents that move their
//! progresses along, and plans carried out with their preconditions. No cluster, no clock.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "shared by tests and benches, each of which uses a part; a failure here is a failed test"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    FieldsV1, ManagedFieldsEntry, ObjectMeta, Time,
};
use kube::ResourceExt;
use monok8s_api::{
    CONTROLLER_MANAGER, CORDON_ANNOTATION, DRAIN_ANNOTATION, OSNode, OSUpgrade, OSUpgradeProgress,
    OSUpgradeProgressStatus, OSUpgradeStatus,
    catalog::Catalog,
    osnode::LastResult,
    osupgradeprogress::Release,
    reason::{FailureReason, ProgressPhase},
};
use monok8s_controller::{
    decide::{
        Moment, Settings,
        drain::Rules,
        notice::Notice,
        plan::{Amendment, Ask, Cordon, Deletion, DrainWork, NodeSeen, Plan, Uncordon},
        planner,
    },
    index::{Answer, Index, NodeObject, NodeObjectSpec, Pod, PodObject, ReadError, Reading},
};
use serde_json::json;

/// How an agent's attempt goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// To the next phase.
    Well,
    /// It ends Failed before the switch, and back on the old system after it.
    Badly,
}

/// What a controller remembers of what it did.
#[derive(Clone, Debug)]
enum Remembered {
    GoingOn(Vec<String>),
    NowhereElse(Vec<String>),
    Answered(Ask, Answer),
}

#[derive(Clone, Debug, Default)]
pub struct Fleet {
    pub upgrades: BTreeMap<String, OSUpgrade>,
    pub progresses: BTreeMap<String, OSUpgradeProgress>,
    pub nodes: BTreeMap<String, NodeObject>,
    pub reports: BTreeMap<String, OSNode>,
    /// Every notice that went out, in order.
    pub told: Vec<Notice>,
    pub settings: Settings,
    /// Pods by UID.
    pub pods: BTreeMap<String, PodObject>,
    /// The node of each.
    places: BTreeMap<String, String>,
    /// Names of pods whose eviction is refused, and why.
    pub refused: BTreeMap<String, String>,
    /// UIDs of pods that were made to go, in order, and whether by force.
    pub gone: Vec<(String, bool)>,
    /// The same by name.
    pub gone_names: Vec<String>,
    /// Names of the progresses that the last plan held because their upgrade stands still.
    pub held: BTreeSet<String>,
    /// Nodes whose pods the last plan followed.
    followed: BTreeSet<String>,
    /// What the controller that works has to remember of the last plan.
    remembered: Vec<Remembered>,
    /// What reading an upgrade's catalog from its URL or ConfigMap gives.
    pub served: BTreeMap<String, Result<String, ReadError>>,
    /// When catalogs were read; now, unless set.
    pub read_at: Option<u64>,
    version: u64,
    working: Index,
    /// Seconds since the fleet began.
    pub clock: u64,
    uids: u64,
}

impl Fleet {
    /// So many Ready, managed nodes on one version: n00000, n00001, …
    pub fn of(count: usize, version: &str) -> Self {
        let mut fleet = Self::default();
        for at in 0..count {
            fleet.add_node(&format!("n{at:05}"), version);
        }
        fleet
    }

    fn stamp(&mut self, meta: &mut ObjectMeta) {
        self.version += 1;
        meta.resource_version = Some(self.version.to_string());
        if meta.uid.is_none() {
            self.uids += 1;
            meta.uid = Some(format!("uid-{}", self.uids));
            meta.creation_timestamp = Some(Time(self.now().wall));
        }
    }

    pub fn now(&self) -> Moment {
        Moment {
            clock: Duration::from_secs(self.clock),
            wall: wall(self.clock),
        }
    }

    /// Adds a node, or makes it again under its name.
    pub fn add_node(&mut self, name: &str, version: &str) {
        let mut node = NodeObject {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                labels: Some([("monok8s.io/managed".to_owned(), "true".to_owned())].into()),
                ..ObjectMeta::default()
            },
            spec: NodeObjectSpec::default(),
            status: serde_json::from_value(
                json!({"conditions": [{"type": "Ready", "status": "True"}]}),
            )
            .unwrap(),
        };
        self.stamp(&mut node.metadata);
        self.nodes.insert(name.to_owned(), node);
        self.report(name, version, None);
    }

    /// Changes a Node as whoever may.
    pub fn change_node(&mut self, name: &str, change: impl FnOnce(&mut NodeObject)) {
        let mut node = self.nodes.remove(name).unwrap();
        change(&mut node);
        self.stamp(&mut node.metadata);
        self.nodes.insert(name.to_owned(), node);
    }

    pub fn set_ready(&mut self, name: &str, ready: bool) {
        let word = if ready { "True" } else { "False" };
        self.change_node(name, |node| {
            word.clone_into(&mut node.status.conditions[0].status);
        });
    }

    /// A person cordons a node, or lifts a cordon. What changes nothing leaves no trace.
    pub fn cordon_by_hand(&mut self, name: &str, cordon: bool) {
        if self.is_cordoned(name) != cordon {
            self.change_node(name, |node| set_cordon(node, cordon, "kubectl"));
        }
    }

    pub fn is_cordoned(&self, name: &str) -> bool {
        self.nodes[name].spec.unschedulable
    }

    /// UID of the progress that a node is cordoned for.
    pub fn cordoned_for(&self, name: &str) -> Option<&String> {
        self.nodes[name].annotations().get(CORDON_ANNOTATION)
    }

    /// Adds a pod of a `ReplicaSet`; `change` is laid over it.
    pub fn add_pod(&mut self, name: &str, node: &str, change: &serde_json::Value) {
        self.version += 1;
        self.uids += 1;
        let uid = format!("pod-{:05}", self.uids);
        let mut pod = json!({
            "metadata": {
                "name": name, "namespace": "default", "uid": uid,
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs",
                                     "uid": "rs", "controller": true}],
            },
            "spec": {"nodeName": node},
            "status": {"phase": "Running"},
        });
        merge(&mut pod, change);
        self.places.insert(uid.clone(), node.to_owned());
        self.pods.insert(uid, serde_json::from_value(pod).unwrap());
    }

    /// Names of the pods on a node.
    pub fn pods_on(&self, node: &str) -> Vec<String> {
        let here = |uid: &&String| self.places[*uid] == node;
        let pods = self.pods.iter().filter(|(uid, _)| here(uid));
        pods.map(|(_, pod)| pod.name_any()).collect()
    }

    pub fn is_ready(&self, name: &str) -> bool {
        self.nodes[name].status.conditions[0].status == "True"
    }

    pub fn label(&mut self, name: &str, key: &str, value: &str) {
        let mut node = self.nodes.remove(name).unwrap();
        node.labels_mut().insert(key.to_owned(), value.to_owned());
        self.stamp(&mut node.metadata);
        self.nodes.insert(name.to_owned(), node);
    }

    /// The agent of that node reports a version.
    pub fn report(&mut self, name: &str, version: &str, last: Option<LastResult>) {
        let mut report = self
            .reports
            .remove(name)
            .unwrap_or_else(|| OSNode::new(name, monok8s_api::OSNodeSpec {}));
        let node_uid = self.nodes[name].metadata.uid.clone().unwrap();
        let status = report.status.get_or_insert_default();
        if status.node_uid != node_uid {
            status.last_result = None;
        }
        status.node_uid = node_uid;
        version.clone_into(&mut status.version);
        "linux/amd64".clone_into(&mut status.platform);
        if last.is_some() {
            status.last_result = last;
        }
        self.stamp(&mut report.metadata);
        self.reports.insert(name.to_owned(), report);
    }

    pub fn version_of(&self, name: &str) -> &str {
        &self.reports[name].status.as_ref().unwrap().version
    }

    /// Applies an upgrade as `kubectl apply` would: spec replaced, status kept.
    pub fn apply(&mut self, name: &str, spec: serde_json::Value) {
        let spec = serde_json::from_value(spec).unwrap();
        let mut upgrade = self
            .upgrades
            .remove(name)
            .unwrap_or_else(|| OSUpgrade::new(name, monok8s_api::OSUpgradeSpec::clone(&spec)));
        if upgrade.metadata.uid.is_none() || upgrade.spec != spec {
            upgrade.spec = spec;
            upgrade.metadata.generation = Some(upgrade.metadata.generation.unwrap_or(0) + 1);
        }
        self.stamp(&mut upgrade.metadata);
        self.upgrades.insert(name.to_owned(), upgrade);
    }

    /// Changes one field of an upgrade's spec.
    pub fn amend(&mut self, name: &str, change: impl FnOnce(&mut monok8s_api::OSUpgradeSpec)) {
        let mut spec = self.upgrades[name].spec.clone();
        change(&mut spec);
        self.apply(name, serde_json::to_value(spec).unwrap());
    }

    pub fn status(&self, upgrade: &str) -> &OSUpgradeStatus {
        self.upgrades[upgrade]
            .status
            .as_ref()
            .expect("no status yet")
    }

    /// `(status, reason)` of a condition; empty when there is none.
    pub fn condition(&self, upgrade: &str, type_: &str) -> (String, String) {
        monok8s_api::condition::find(&self.status(upgrade).conditions, type_)
            .map(|c| (c.status.clone(), c.reason.clone()))
            .unwrap_or_default()
    }

    /// The only progress of that node that is not over, or the newest.
    pub fn progress_of(&self, node: &str) -> &OSUpgradeProgress {
        let mut all: Vec<_> = self
            .progresses
            .values()
            .filter(|p| p.spec.node_name == node)
            .collect();
        all.sort_by_key(|p| (!phase(p).is_terminal(), p.creation_timestamp()));
        all.last().expect("the node has no progress")
    }

    pub fn put_progress(&mut self, mut progress: OSUpgradeProgress) {
        self.stamp(&mut progress.metadata);
        self.progresses.insert(progress.name_any(), progress);
    }

    pub fn touch(&mut self, name: &str, change: impl FnOnce(&mut OSUpgradeProgress)) {
        let mut progress = self.progresses[name].clone();
        change(&mut progress);
        self.put_progress(progress);
    }

    /// An index as a controller that begins now would have it.
    pub fn index(&self) -> Index {
        let mut index = Index::default();
        self.feed(&mut index);
        index
    }

    /// Shows an index everything, as a relisted watch does.
    pub fn feed(&self, index: &mut Index) {
        index.begin_nodes();
        for node in self.nodes.values() {
            let _ = index.apply_node(node.clone());
        }
        index.finish_nodes();
        index.begin_reports();
        for report in self.reports.values() {
            let _ = index.apply_report(report.clone());
        }
        index.finish_reports();
        index.begin_upgrades();
        for upgrade in self.upgrades.values() {
            let _ = index.apply_upgrade(upgrade.clone());
        }
        index.finish_upgrades();
        self.read_catalogs(index);
        index.begin_progresses();
        for progress in self.progresses.values() {
            let _ = index.apply_progress(progress.clone(), self.now().clock);
        }
        index.finish_progresses();
        for node in self.nodes.keys() {
            if !self.followed.contains(node) {
                index.forget_pods(node);
                continue;
            }
            index.begin_pods(node);
            for (uid, pod) in self
                .pods
                .iter()
                .filter(|(uid, _)| self.places[*uid] == *node)
            {
                assert_eq!(pod.metadata.uid.as_ref(), Some(uid));
                let now = self.now();
                let _ = index.apply_pod(node, pod.clone(), now.clock, now.wall);
            }
            let _ = index.finish_pods(node);
        }
    }

    /// Tells an index what its controller remembers of the plan that was carried out last.
    pub fn remember(&mut self, index: &mut Index) {
        let now = self.now();
        for remembered in std::mem::take(&mut self.remembered) {
            let _ = match remembered {
                Remembered::GoingOn(uids) => {
                    index.drains_go_on(uids.iter().map(String::as_str), now.clock, now.wall)
                }
                Remembered::NowhereElse(uids) => {
                    index.nowhere_else(uids.iter().map(String::as_str), now.clock, now.wall)
                }
                Remembered::Answered(ask, answer) => {
                    index.pod_answered(&ask.progress_uid, &ask.pod.uid, answer, now.clock, now.wall)
                }
            };
        }
    }

    fn read_catalogs(&self, index: &mut Index) {
        for (name, served) in &self.served {
            let Some(upgrade) = self.upgrades.get(name) else {
                continue;
            };
            let outcome = served.clone().and_then(|text| match Catalog::parse(&text) {
                Ok(catalog) => Ok(Some((
                    Arc::new(catalog),
                    Catalog::digest(&text).to_string(),
                ))),
                Err(error) => Err(ReadError {
                    reason: error.reason(),
                    message: error.to_string(),
                }),
            });
            let reading = Reading {
                source: upgrade.spec.catalog.clone().unwrap(),
                clock: Duration::from_secs(self.read_at.unwrap_or(self.clock)),
                wall: self.now().wall,
                outcome,
            };
            let _ = index.apply_reading(name, &upgrade.uid().unwrap(), reading);
        }
    }

    pub fn plan(&self) -> Plan {
        planner::plan(&self.index(), &self.settings, self.now())
    }

    /// A plan of the controller that works, with what it remembers.
    pub fn look(&mut self) -> Plan {
        let mut index = std::mem::take(&mut self.working);
        self.feed(&mut index);
        let plan = planner::plan(&index, &self.settings, self.now());
        self.working = index;
        plan
    }

    /// Carries out a plan; writes whose precondition fails are left out.
    pub fn carry_out(&mut self, plan: Plan) {
        for write in plan.statuses {
            let name = write.upgrade.name_any();
            let Some(mut upgrade) = self.upgrades.get(&name).cloned() else {
                continue;
            };
            if upgrade.metadata.resource_version != write.upgrade.metadata.resource_version {
                continue;
            }
            upgrade.status = Some(write.status);
            self.stamp(&mut upgrade.metadata);
            self.upgrades.insert(name, upgrade);
            self.told.extend(write.notices);
        }
        for Deletion {
            name,
            resource_version,
            ..
        } in plan.deletions
        {
            if self.is_at(&name, &resource_version) {
                self.progresses.remove(&name);
                self.version += 1;
            }
        }
        for amendment in plan.amendments.into_iter().chain(plan.releases) {
            self.amend_progress(amendment);
        }
        for progress in plan.creations {
            if !self.progresses.contains_key(&progress.name_any()) {
                self.put_progress(progress);
            }
        }
        self.drain(plan.drain);
        for notice in plan.notices {
            // The API server refuses a second Event of the same name.
            let same = |n: &Notice| (&n.uid, &n.key) == (&notice.uid, &notice.key);
            if !self.told.iter().any(same) {
                self.told.push(notice);
            }
        }
    }

    fn amend_progress(&mut self, amendment: Amendment) {
        let Amendment {
            name,
            resource_version,
            release,
            download,
            drain_note,
            ..
        } = amendment;
        if !self.is_at(&name, &resource_version) {
            return;
        }
        self.touch(&name, |p| {
            p.spec.release = release.unwrap_or(p.spec.release);
            if let Some(download) = download {
                p.spec.download = download;
            }
            if let Some(note) = drain_note {
                p.annotations_mut().remove(DRAIN_ANNOTATION);
                if !note.is_empty() {
                    p.annotations_mut().insert(DRAIN_ANNOTATION.into(), note);
                }
            }
        });
    }

    fn drain(&mut self, work: DrainWork) {
        self.followed = work.follow;
        self.remembered.push(Remembered::GoingOn(work.going_on));
        self.remembered.push(Remembered::NowhereElse(work.nowhere));
        self.held = work.held.into_iter().collect();
        for Cordon { node, progress_uid } in work.cordons {
            if self.is_node_at(&node) {
                self.change_node(&node.name, |node| {
                    set_cordon(node, true, CONTROLLER_MANAGER);
                    node.annotations_mut()
                        .insert(CORDON_ANNOTATION.into(), progress_uid);
                });
            }
        }
        for Uncordon { node, lift } in work.uncordons {
            if self.is_node_at(&node) {
                self.change_node(&node.name, |node| {
                    if lift {
                        set_cordon(node, false, CONTROLLER_MANAGER);
                    }
                    node.annotations_mut().remove(CORDON_ANNOTATION);
                });
            }
        }
        for ask in work.asks {
            let answer = self.ask(&ask);
            self.remembered.push(Remembered::Answered(ask, answer));
        }
        for reboot in work.reboots {
            let here = |uid: &str| self.places[uid] == reboot.node;
            let now = self.now();
            let pods: Vec<Pod> = self
                .pods
                .iter()
                .filter(|(uid, _)| here(uid))
                .map(|(_, pod)| Pod::new(pod.clone(), None, now.clock, now.wall))
                .collect();
            let empty = |rules: &Rules| rules.is_empty(pods.iter());
            if reboot.empty_by.as_ref().is_none_or(empty) {
                self.amend_progress(reboot.amendment);
                self.told.extend(reboot.alone);
            }
        }
    }

    /// As the API server answers.
    fn ask(&mut self, ask: &Ask) -> Answer {
        let uid = &ask.pod.uid;
        let Some(pod) = self.pods.get_mut(uid) else {
            return Answer::Accepted;
        };
        if let Some(why) = self
            .refused
            .get(&pod.name_any())
            .filter(|_| !ask.pod.forced)
        {
            return Answer::Refused {
                why: why.clone(),
                retry_after: None,
            };
        }
        self.version += 1;
        self.gone.push((uid.clone(), ask.pod.forced));
        self.gone_names.push(pod.name_any());
        let slow = pod.spec.termination_grace_period_seconds;
        let grace = ask.pod.grace.or(slow).unwrap_or(0);
        if pod.finalizers().is_empty() && grace == 0 {
            self.pods.remove(uid);
        } else {
            let until = self.clock + u64::try_from(grace).unwrap();
            pod.metadata.deletion_timestamp = Some(Time(wall(until)));
            pod.metadata.deletion_grace_period_seconds = Some(grace);
        }
        Answer::Accepted
    }

    /// The kubelet ends pods whose grace period is over.
    pub fn end_pods(&mut self) {
        let now = self.now().wall;
        let ends = |pod: &PodObject| {
            let until = pod.metadata.deletion_timestamp.as_ref();
            pod.finalizers().is_empty() && until.is_some_and(|until| until.0 <= now)
        };
        let before = self.pods.len();
        self.pods.retain(|_, pod| !ends(pod));
        self.version += u64::try_from(before - self.pods.len()).unwrap();
    }

    fn is_node_at(&self, seen: &NodeSeen) -> bool {
        self.nodes.get(&seen.name).is_some_and(|node| {
            node.resource_version().as_deref() == Some(seen.resource_version.as_str())
        })
    }

    fn is_at(&self, name: &str, resource_version: &str) -> bool {
        self.progresses
            .get(name)
            .is_some_and(|p| p.metadata.resource_version.as_deref() == Some(resource_version))
    }

    /// Plans and carries out until there is nothing left to do.
    pub fn settle(&mut self) {
        // One index for the whole way: made anew each time it would parse every catalog again.
        let mut index = std::mem::take(&mut self.working);
        for _ in 0..50 {
            let before = self.version;
            self.feed(&mut index);
            let plan = planner::plan(&index, &self.settings, self.now());
            self.carry_out(plan);
            self.remember(&mut index);
            if self.version == before {
                self.working = index;
                return;
            }
        }
        panic!("the planner does not come to rest: {:#?}", self.plan());
    }

    /// Lets a progress go to its end, the controller deciding before every step and not after the
    /// last.
    pub fn arrive(&mut self, name: &str) {
        for _ in 0..20 {
            self.settle();
            self.step(name, Fate::Well);
            if phase(&self.progresses[name]).is_terminal() {
                return;
            }
        }
        panic!("{name} does not arrive: {:#?}", self.progresses[name]);
    }

    /// Another controller takes over: what the one before remembered is lost.
    pub fn new_leader(&mut self) {
        self.working = Index::default();
    }

    /// The agent of that progress's node takes it one phase further.
    pub fn step(&mut self, name: &str, fate: Fate) {
        self.clock += 1;
        let progress = self.progresses[name].clone();
        let node = progress.spec.node_name.clone();
        let same_node = self.nodes.get(&node).is_some_and(|n| {
            let uid = progress.spec.node_uid.as_deref();
            uid.is_none() || n.metadata.uid.as_deref() == uid
        });
        if !same_node {
            if self.nodes.contains_key(&node) && !phase(&progress).is_terminal() {
                self.finish(
                    name,
                    ProgressPhase::Failed,
                    FailureReason::NodeReplaced.as_str(),
                );
            }
            return;
        }
        self.answer_retry(name);
        let progress = self.progresses[name].clone();
        let target = progress
            .spec
            .image
            .as_ref()
            .map(|i| i.version.clone())
            .unwrap_or_default();
        let next = match phase(&progress) {
            ProgressPhase::Pending | ProgressPhase::Staged if progress.spec.cancel => {
                self.finish(name, ProgressPhase::Cancelled, "");
                return;
            }
            ProgressPhase::Pending if progress.spec.release == Release::Hold => return,
            ProgressPhase::Pending => ProgressPhase::Downloading,
            ProgressPhase::Downloading if fate == Fate::Badly => {
                self.finish(name, ProgressPhase::Failed, "ChecksumMismatch");
                return;
            }
            ProgressPhase::Downloading => ProgressPhase::Verifying,
            ProgressPhase::Verifying if progress.spec.release != Release::Reboot => {
                ProgressPhase::Staged
            }
            ProgressPhase::Verifying => ProgressPhase::Rebooting,
            ProgressPhase::Staged => match progress.spec.release {
                Release::Hold => {
                    self.finish(name, ProgressPhase::Failed, "DrainTimedOut");
                    return;
                }
                Release::Stage => return,
                Release::Reboot => ProgressPhase::Rebooting,
            },
            ProgressPhase::Rebooting => {
                if fate == Fate::Badly {
                    self.set_ready(&node, true);
                    self.finish(name, ProgressPhase::RolledBack, "FellBack");
                    return;
                }
                ProgressPhase::Confirming
            }
            ProgressPhase::Confirming => {
                self.set_ready(&node, true);
                self.report(&node, &target, None);
                self.finish(name, ProgressPhase::Completed, "");
                return;
            }
            _ => return,
        };
        if next == ProgressPhase::Rebooting {
            self.set_ready(&node, false);
        }
        let current = self.version_of(&node).to_owned();
        self.touch(name, |p| {
            let status = p.status.get_or_insert_default();
            status.phase = next.clone();
            status.current_version = current;
            status.target_version = target;
            status.attempt += i32::from(next == ProgressPhase::Downloading);
        });
    }

    fn answer_retry(&mut self, name: &str) {
        let progress = self.progresses[name].clone();
        let status = progress.status.clone().unwrap_or_default();
        let nonce = progress.spec.retry_nonce.clone();
        if !status.phase.can_retry()
            || progress.spec.release != Release::Hold
            || nonce == status.observed_retry_nonce
        {
            return;
        }
        self.touch(name, |p| {
            p.status = Some(OSUpgradeProgressStatus {
                observed_retry_nonce: nonce,
                retry_count: status.retry_count + 1,
                attempt: status.attempt,
                ..OSUpgradeProgressStatus::default()
            });
        });
    }

    /// The agent ends the attempt and reports it.
    pub fn finish(&mut self, name: &str, phase: ProgressPhase, reason: &str) {
        let progress = &self.progresses[name];
        let node = progress.spec.node_name.clone();
        let version = self.version_of(&node).to_owned();
        self.report(
            &node,
            &version,
            Some(LastResult {
                progress: name.to_owned(),
                version: version.clone(),
                phase: phase.clone(),
                reason: reason.to_owned(),
                at: None,
            }),
        );
        self.touch(name, |p| {
            let status = p.status.get_or_insert_default();
            status.phase = phase;
            reason.clone_into(&mut status.failure_reason);
            status.message = format!("ended with {reason:?}");
        });
    }

    /// Names of progresses whose agent would move, or waits for a drain that goes on.
    pub fn movable(&self) -> Vec<String> {
        self.progresses
            .values()
            .filter(|p| !phase(p).is_terminal() && !self.held.contains(&p.name_any()))
            .filter(|p| {
                phase(p) != ProgressPhase::Pending
                    || p.spec.release != Release::Hold
                    || p.spec.cancel
            })
            .map(ResourceExt::name_any)
            .collect()
    }

    /// Lets controller and agents run until nothing moves any more.
    pub fn run(&mut self, fate: impl Fn(&OSUpgradeProgress) -> Fate) {
        for _ in 0..10_000 {
            self.end_pods();
            self.settle();
            let movable = self.movable();
            if movable.is_empty() {
                return;
            }
            for name in movable {
                if let Some(progress) = self.progresses.get(&name).cloned() {
                    self.step(&name, fate(&progress));
                }
            }
        }
        panic!("the fleet does not come to rest");
    }

    /// Names of nodes with a progress that is released or under way.
    pub fn released(&self) -> Vec<String> {
        self.released_where(|_| true)
    }

    /// The same, of the progresses of one upgrade.
    pub fn released_by(&self, upgrade: &str) -> Vec<String> {
        self.released_where(|p| p.spec.source_ref.name == upgrade)
    }

    fn released_where(&self, wanted: impl Fn(&OSUpgradeProgress) -> bool) -> Vec<String> {
        let mut nodes: Vec<String> = self
            .progresses
            .values()
            .filter(|p| wanted(p) && !phase(p).is_terminal())
            .filter(|p| phase(p) != ProgressPhase::Pending || p.spec.release != Release::Hold)
            .map(|p| p.spec.node_name.clone())
            .collect();
        nodes.sort();
        nodes.dedup();
        nodes
    }
}

fn wall(clock: u64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + i64::try_from(clock).unwrap()).unwrap()
}

/// Sets a cordon as the API server does for a patch: who changes the field owns it alone.
fn set_cordon(node: &mut NodeObject, cordon: bool, manager: &str) {
    if node.spec.unschedulable == cordon {
        return;
    }
    node.spec.unschedulable = cordon;
    node.metadata.managed_fields = cordon.then(|| {
        let fields = json!({"f:spec": {"f:unschedulable": {}}});
        vec![ManagedFieldsEntry {
            manager: Some(manager.to_owned()),
            operation: Some("Update".to_owned()),
            fields_v1: Some(FieldsV1(fields)),
            ..ManagedFieldsEntry::default()
        }]
    });
}

/// Lays one object over another, as a merge patch does.
fn merge(object: &mut serde_json::Value, patch: &serde_json::Value) {
    let (Some(object), Some(patch)) = (object.as_object_mut(), patch.as_object()) else {
        *object = patch.clone();
        return;
    };
    for (key, value) in patch {
        merge(object.entry(key).or_insert(json!(null)), value);
    }
}

pub fn phase(progress: &OSUpgradeProgress) -> ProgressPhase {
    progress
        .status
        .as_ref()
        .map(|s| s.phase.clone())
        .unwrap_or_default()
}

/// A digest that is one, different for every seed.
pub fn checksum(seed: u8) -> String {
    format!("sha256:{}", format!("{seed:02x}").repeat(32))
}

/// A catalog of these versions, each with a good checksum, and `stable` for the last of them.
pub fn catalog(versions: &[&str]) -> String {
    use std::fmt::Write as _;

    let mut text = format!("stable: {}\nimages:\n", versions.last().unwrap());
    for (seed, version) in versions.iter().enumerate() {
        let checksum = checksum(u8::try_from(seed).unwrap());
        writeln!(
            text,
            "- {{version: {version}, url: \"https://images.example.com/{version}.img.zst\", checksum: \"{checksum}\"}}"
        )
        .unwrap();
    }
    text
}

/// An upgrade to `version` with an inline catalog of these versions.
pub fn spec(version: &str, versions: &[&str]) -> serde_json::Value {
    json!({"version": version, "catalog": {"inline": catalog(versions)}})
}
