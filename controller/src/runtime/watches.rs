//! Four watches that keep the index up to date.

use std::{
    collections::BTreeSet,
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use kube::{
    Api, Client, Resource,
    core::{DeserializeGuard, error_boundary::InvalidObject},
    runtime::{WatchStreamExt as _, watcher},
};
use monok8s_api::{OSNode, OSUpgrade, OSUpgradeProgress};
use monok8s_telemetry::server::Readiness;
use serde::de::DeserializeOwned;
use tokio::{
    sync::{Notify, oneshot},
    task::JoinSet,
};

use super::{clock::Clock, metrics::Metrics};
use crate::{
    decide::Moment,
    index::{Effect, Index, NodeObject},
};

/// The index, shared by those that feed it and the loop that plans over it.
#[derive(Debug)]
pub(super) struct Shared {
    index: Mutex<Index>,
    changed: Notify,
    clock: Clock,
}

impl Shared {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            index: Mutex::default(),
            changed: Notify::new(),
            clock,
        }
    }

    pub(super) fn now(&self) -> Moment {
        Moment {
            clock: self.clock.now(),
            wall: Timestamp::now(),
        }
    }

    /// Reads the index. Never held across an await.
    pub(super) fn read<R>(&self, read: impl FnOnce(&Index) -> R) -> R {
        read(&self.index.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Amends the index and wakes the loop when that can change a plan.
    pub(super) fn amend(&self, amend: impl FnOnce(&mut Index, Duration) -> Effect) {
        let clock = self.clock.now();
        let effect = amend(
            &mut self.index.lock().unwrap_or_else(PoisonError::into_inner),
            clock,
        );
        if effect == Effect::Relevant {
            self.changed.notify_one();
        }
    }

    /// Forgets the pods of a node. Changes no plan: none looks at them any more.
    pub(super) fn forget_pods(&self, node: &str) {
        let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        index.forget_pods(node);
    }

    /// Forgets what another leader would not know either. No plan is made meanwhile.
    pub(super) fn forget_drains(&self) {
        let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        index.forget_drains();
    }

    /// Waits until a plan may come out differently.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// A kind that the index keeps.
pub(super) trait Kept:
    Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static
{
    const RESOURCE: &'static str;
    fn begin(index: &mut Index);
    fn apply(self, index: &mut Index, clock: Duration) -> Effect;
    fn finish(index: &mut Index);
    /// The object of that name and UID is gone.
    fn gone(name: &str, uid: &str, index: &mut Index) -> Effect;
    /// An object of that name is there, but what is in it cannot be read.
    fn unreadable(name: &str, index: &mut Index) -> Effect;
    /// What a complete listing at that resource version lacks is gone.
    fn keep_listed(uids: &BTreeSet<String>, at: &str, index: &mut Index) -> Effect;
}

impl Kept for OSUpgrade {
    const RESOURCE: &'static str = "osupgrades";
    fn begin(index: &mut Index) {
        index.begin_upgrades();
    }
    fn apply(self, index: &mut Index, _: Duration) -> Effect {
        index.apply_upgrade(self)
    }
    fn finish(index: &mut Index) {
        index.finish_upgrades();
    }
    fn gone(name: &str, uid: &str, index: &mut Index) -> Effect {
        index.forget_upgrade(name, uid)
    }
    /// Nothing is done for an upgrade whose spec cannot be told: it may say that it is paused.
    fn unreadable(name: &str, index: &mut Index) -> Effect {
        index.hide_upgrade(name)
    }
    fn keep_listed(uids: &BTreeSet<String>, at: &str, index: &mut Index) -> Effect {
        index.keep_listed_upgrades(uids, at)
    }
}

impl Kept for OSUpgradeProgress {
    const RESOURCE: &'static str = "osupgradeprogresses";
    fn begin(index: &mut Index) {
        index.begin_progresses();
    }
    fn apply(self, index: &mut Index, clock: Duration) -> Effect {
        index.apply_progress(self, clock)
    }
    fn finish(index: &mut Index) {
        index.finish_progresses();
    }
    fn gone(name: &str, uid: &str, index: &mut Index) -> Effect {
        index.remove_progress(name, uid)
    }
    /// What was known of it stands: it may have a place.
    fn unreadable(name: &str, index: &mut Index) -> Effect {
        index.keep_progress(name);
        Effect::None
    }
    fn keep_listed(uids: &BTreeSet<String>, at: &str, index: &mut Index) -> Effect {
        index.keep_listed_progresses(uids, at)
    }
}

impl Kept for NodeObject {
    const RESOURCE: &'static str = "nodes";
    fn begin(index: &mut Index) {
        index.begin_nodes();
    }
    fn apply(self, index: &mut Index, _: Duration) -> Effect {
        index.apply_node(self)
    }
    fn finish(index: &mut Index) {
        index.finish_nodes();
    }
    fn gone(name: &str, uid: &str, index: &mut Index) -> Effect {
        index.forget_node(name, uid)
    }
    fn unreadable(_: &str, _: &mut Index) -> Effect {
        Effect::None
    }
    fn keep_listed(uids: &BTreeSet<String>, at: &str, index: &mut Index) -> Effect {
        index.keep_listed_nodes(uids, at)
    }
}

impl Kept for OSNode {
    const RESOURCE: &'static str = "osnodes";
    fn begin(index: &mut Index) {
        index.begin_reports();
    }
    fn apply(self, index: &mut Index, _: Duration) -> Effect {
        index.apply_report(self)
    }
    fn finish(index: &mut Index) {
        index.finish_reports();
    }
    fn gone(name: &str, uid: &str, index: &mut Index) -> Effect {
        index.forget_report(name, uid)
    }
    fn unreadable(name: &str, index: &mut Index) -> Effect {
        index.hide_report(name)
    }
    fn keep_listed(uids: &BTreeSet<String>, at: &str, index: &mut Index) -> Effect {
        index.keep_listed_reports(uids, at)
    }
}

/// A watch that should never end did: going on would be acting on a picture that stands still.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("a watch ended by itself, which is a fault of this program; ending, to begin anew")]
pub struct WatchesEnded;

/// The running watches. Dropping this ends them.
pub(super) struct Watches {
    synced: Vec<oneshot::Receiver<()>>,
    tasks: JoinSet<()>,
}

impl Watches {
    /// Begins to watch. `readiness` tells each kind that has not been listed yet.
    pub(super) fn start(
        client: &Client,
        shared: &Arc<Shared>,
        readiness: &Readiness,
        metrics: &Metrics,
    ) -> Self {
        let mut watches = Self {
            synced: Vec::new(),
            tasks: JoinSet::new(),
        };
        watches.add::<OSUpgrade>(client, shared, readiness, metrics);
        watches.add::<OSUpgradeProgress>(client, shared, readiness, metrics);
        watches.add::<NodeObject>(client, shared, readiness, metrics);
        watches.add::<OSNode>(client, shared, readiness, metrics);
        watches
    }

    fn add<K: Kept>(
        &mut self,
        client: &Client,
        shared: &Arc<Shared>,
        readiness: &Readiness,
        metrics: &Metrics,
    ) {
        let gate = readiness.gate(K::RESOURCE);
        let (done, synced) = oneshot::channel();
        let on_sync = move || {
            gate.open();
            done.send(()).ok();
        };
        self.synced.push(synced);
        let feed = feed::<K>(
            Api::all(client.clone()),
            shared.clone(),
            on_sync,
            metrics.clone(),
        );
        self.tasks.spawn(feed);
    }

    /// Waits until every kind has been listed once.
    pub(super) async fn synced(&mut self) -> Result<(), WatchesEnded> {
        for synced in self.synced.drain(..) {
            synced.await.map_err(|_| WatchesEnded)?;
        }
        Ok(())
    }

    /// Waits for the end of any watch, which none has while all is well.
    pub(super) async fn ended(&mut self) -> WatchesEnded {
        self.tasks.join_next().await;
        WatchesEnded
    }
}

async fn feed<K: Kept>(
    api: Api<DeserializeGuard<K>>,
    shared: Arc<Shared>,
    on_sync: impl FnOnce() + Send,
    metrics: Metrics,
) {
    let mut on_sync = Some(on_sync);
    let mut events = watcher(api, watcher::Config::default())
        .default_backoff()
        .boxed();
    loop {
        match events.try_next().await {
            Ok(Some(event)) => {
                let done = matches!(event, watcher::Event::InitDone);
                shared.amend(|index, clock| take(event, index, clock));
                if done && let Some(on_sync) = on_sync.take() {
                    on_sync();
                }
            }
            Ok(None) => return,
            Err(error) => {
                metrics.watch_broke(K::RESOURCE);
                tracing::warn!(resource = K::RESOURCE, %error, "a watch broke off and begins anew");
            }
        }
    }
}

fn take<K: Kept>(
    event: watcher::Event<DeserializeGuard<K>>,
    index: &mut Index,
    clock: Duration,
) -> Effect {
    match event {
        watcher::Event::Init => {
            K::begin(index);
            Effect::None
        }
        watcher::Event::InitApply(object) | watcher::Event::Apply(object) => {
            apply(object, index, clock)
        }
        watcher::Event::Delete(object) => {
            let meta = object.meta();
            let name = meta.name.as_deref().unwrap_or_default();
            K::gone(name, meta.uid.as_deref().unwrap_or_default(), index)
        }
        watcher::Event::InitDone => {
            K::finish(index);
            Effect::Relevant
        }
    }
}

/// One object that cannot be read (its kind's rules were laxer once) must not keep the rest of its
/// kind from being watched.
pub(super) fn apply<K: Kept>(
    object: DeserializeGuard<K>,
    index: &mut Index,
    clock: Duration,
) -> Effect {
    match object.0 {
        Ok(object) => object.apply(index, clock),
        Err(InvalidObject { error, metadata }) => {
            let name = metadata.name.unwrap_or_default();
            tracing::warn!(
                resource = K::RESOURCE,
                name,
                %error,
                "an object cannot be read and is left out; mend or delete it"
            );
            K::unreadable(&name, index)
        }
    }
}
