//! A real control plane with nodes that exist as objects only: their agents are a task of this
//! process that moves progresses along through the API.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "shared by several tests, each of which uses a part; a failure here is a failed test"
)]

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::StreamExt as _;
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Node, Pod},
    events::v1::Event,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt as _, watcher},
};
use monok8s_api::{
    OSNode, OSUpgrade, OSUpgradeProgress, osupgradeprogress::Release, reason::ProgressPhase,
};
use monok8s_sandbox::{
    assets::Assets,
    control_plane::{ControlPlane, Options},
    manifests,
    process::{Process, Spawn},
    scratch,
    service_account::{NAMESPACE, TokenFile},
    wait,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;

/// How long anything may take; the machine may be busy with builds.
pub const PATIENCE: Duration = Duration::from_secs(300);
/// Of a replica that nobody is to take over from: it leads at once, for the Lease is free, and no
/// pause of a busy machine ends that.
pub const ALONE: &[&str] = &[
    "--lease-duration=1h",
    "--lease-renew=1s",
    "--catalog-reread=1s",
];
/// Seconds for which a Lease of [`IN_TURN`] is good. A replica that cannot renew it for two thirds of that ends, and
/// nothing starts it again here: longer than any pause of a machine that is busy with another control plane.
pub const LEASE: i64 = 24;
/// Of replicas that take over from each other when one goes quiet.
pub const IN_TURN: &[&str] = &[
    "--lease-duration=24s",
    "--lease-renew=1s",
    "--catalog-reread=1s",
];
/// Pause of the agents between two looks.
const AGENT_TICK: Duration = Duration::from_millis(100);

pub struct Cluster {
    pub plane: ControlPlane,
    pub client: Client,
    pub agents: Arc<AgentsSwitch>,
    pub seen: Arc<Mutex<Seen>>,
    tasks: Vec<JoinHandle<()>>,
    folder: TempDir,
}

/// What the agents do.
#[derive(Default)]
pub struct AgentsSwitch {
    /// While false they do nothing.
    pub running: AtomicBool,
    /// This node does not come up again from its reboot.
    pub down: Mutex<Option<&'static str>>,
}

/// Everything that was ever seen of progresses and upgrades, and every rule that was broken.
#[derive(Default)]
pub struct Seen {
    progresses: BTreeMap<String, OSUpgradeProgress>,
    completed: BTreeMap<String, i32>,
    /// Names of progresses in the order of their release.
    pub released: Vec<String>,
    pub broken: Vec<String>,
    max_unavailable: usize,
}

impl Cluster {
    /// Starts a control plane with the project installed and so many Ready nodes on v1.34.1.
    pub async fn start(nodes: usize) -> Self {
        let assets = Assets::find(|line| eprintln!("{line}")).await.unwrap();
        let folder = scratch::folder("controller").unwrap();
        // No kubelet renews these nodes' Leases, and they are to stay Ready.
        let options = Options {
            node_monitor_grace: Duration::from_secs(3600),
            ..Options::default()
        };
        let plane = ControlPlane::start(&assets, &folder.path().join("plane"), options)
            .await
            .unwrap();
        manifests::install(&plane.kubectl()).await.unwrap();
        let client = plane.client().await.unwrap();
        let cluster = Self {
            agents: Arc::default(),
            seen: Arc::new(Mutex::new(Seen {
                max_unavailable: 1,
                ..Seen::default()
            })),
            tasks: Vec::new(),
            plane,
            client,
            folder,
        };
        for at in 0..nodes {
            cluster.add_node(&format!("n{at}"), "v1.34.1").await;
        }
        cluster
    }

    /// Lets agents work and watches over the rules.
    pub fn begin(&mut self) {
        self.agents.running.store(true, Ordering::SeqCst);
        self.tasks.push(tokio::spawn(run_agents(
            self.client.clone(),
            self.agents.clone(),
        )));
        self.tasks.push(tokio::spawn(end_pods(self.client.clone())));
        self.tasks.push(tokio::spawn(watch_progresses(
            Api::all(self.client.clone()),
            self.seen.clone(),
        )));
        self.tasks.push(tokio::spawn(watch_upgrades(
            Api::all(self.client.clone()),
            self.seen.clone(),
        )));
    }

    /// Lets agents work, and asks for an upgrade `up` of all nodes to v1.35.1.
    pub async fn begin_upgrade(&mut self) {
        self.begin();
        let catalog = catalog(&["v1.35.1"]);
        let spec = json!({"version": "stable", "catalog": {"inline": catalog}});
        self.apply("up", spec).await;
    }

    pub async fn add_node(&self, name: &str, version: &str) {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"monok8s.io/managed": "true"}},
        }))
        .unwrap();
        let node = nodes.create(&PostParams::default(), &node).await.unwrap();
        let ready = json!({"status": {"conditions": [{
            "type": "Ready", "status": "True", "reason": "Test", "message": "",
            "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z",
        }]}});
        nodes
            .patch_status(name, &PatchParams::default(), &Patch::Merge(ready))
            .await
            .unwrap();
        let reports: Api<OSNode> = Api::all(self.client.clone());
        let report = OSNode::new(name, monok8s_api::OSNodeSpec {});
        reports
            .create(&PostParams::default(), &report)
            .await
            .unwrap();
        let status = json!({"status": {
            "nodeUID": node.uid(), "version": version, "platform": "linux/amd64",
        }});
        reports
            .patch_status(name, &PatchParams::default(), &Patch::Merge(status))
            .await
            .unwrap();
    }

    pub fn upgrades(&self) -> Api<OSUpgrade> {
        Api::all(self.client.clone())
    }

    pub fn progresses(&self) -> Api<OSUpgradeProgress> {
        Api::all(self.client.clone())
    }

    pub async fn apply(&self, name: &str, spec: Value) {
        let object = json!({
            "apiVersion": "monok8s.io/v1alpha1", "kind": "OSUpgrade",
            "metadata": {"name": name}, "spec": spec,
        });
        self.upgrades()
            .patch(
                name,
                &PatchParams::apply("test").force(),
                &Patch::Apply(object),
            )
            .await
            .unwrap();
    }

    /// Waits until the upgrade's status is as wished; says what it was last when it never is.
    pub async fn until(&self, name: &str, what: &str, wish: impl Fn(&OSUpgrade) -> bool) {
        let last = Mutex::new(None);
        let looked = wait::until(what, PATIENCE, || async {
            let upgrade = self.upgrades().get_opt(name).await?;
            let done = upgrade.as_ref().is_some_and(&wish);
            *last.lock().unwrap() = upgrade.and_then(|u| u.status);
            Ok(done.then_some(()))
        })
        .await;
        if let Err(error) = looked {
            panic!(
                "{error}; its status: {:#?}\n{}",
                last.lock().unwrap(),
                self.logs()
            );
        }
    }

    pub async fn until_accepted_is(&self, name: &str, reason: &str) {
        self.until(name, &format!("{name} to be {reason}"), |u| {
            let conditions = u.status.as_ref().map(|s| s.conditions.as_slice());
            conditions
                .and_then(|c| monok8s_api::condition::find(c, "Accepted"))
                .is_some_and(|c| c.reason == reason)
        })
        .await;
    }

    pub async fn until_phase_is(&self, name: &str, phase: &str) {
        self.until(name, &format!("{name} to be {phase}"), |u| {
            u.status.as_ref().is_some_and(|s| s.phase.as_str() == phase)
        })
        .await;
    }

    pub async fn until_done(&self, name: &str, nodes: i32) {
        self.until(name, &format!("{nodes} nodes done"), |u| {
            let nodes_done = u.status.as_ref().and_then(|s| s.nodes.as_ref());
            nodes_done.is_some_and(|n| n.completed >= nodes)
        })
        .await;
    }

    /// The Lease's holder; none when it was given back or is not there.
    pub async fn holder(&self) -> Option<String> {
        let lease = self.leases().get_opt("monok8s-controller").await.unwrap()?;
        lease.spec?.holder_identity.filter(|h| !h.is_empty())
    }

    /// Waits until a replica of that name holds the Lease.
    pub async fn until_leads(&self, replica: &str) {
        let led = wait::until(&format!("{replica} to lead"), PATIENCE, || async {
            let holder = self.holder().await;
            Ok(holder
                .is_some_and(|h| h.starts_with(&format!("{replica}_")))
                .then_some(()))
        })
        .await;
        if let Err(error) = led {
            panic!("{error}\n{}", self.logs());
        }
    }

    /// `(reason, note)` of the Events about an upgrade, oldest first.
    pub async fn events(&self, upgrade: &str) -> Vec<(String, String)> {
        let events: Api<Event> = Api::namespaced(self.client.clone(), "default");
        let mut events: Vec<Event> = events
            .list(&ListParams::default())
            .await
            .unwrap()
            .into_iter()
            .filter(|e| {
                e.regarding
                    .as_ref()
                    .is_some_and(|r| r.name.as_deref() == Some(upgrade))
            })
            .collect();
        events.sort_by_key(|e| e.event_time.clone());
        events
            .into_iter()
            .map(|e| (e.reason.unwrap_or_default(), e.note.unwrap_or_default()))
            .collect()
    }

    /// The reasons of the Events about an upgrade, oldest first, once `last` is among them: an Event
    /// follows the status that it tells of.
    pub async fn told_until(&self, upgrade: &str, last: &str) -> Vec<String> {
        let told = wait::until(&format!("the Event {last}"), PATIENCE, || async {
            let told: Vec<String> = self
                .events(upgrade)
                .await
                .into_iter()
                .map(|(reason, _)| reason)
                .collect();
            Ok(told.iter().any(|reason| reason == last).then_some(told))
        })
        .await;
        told.unwrap_or_else(|error| panic!("{error}\n{}", self.logs()))
    }

    /// Waits for an Event of that reason whose note says all this.
    pub async fn until_noted(&self, upgrade: &str, reason: &str, words: &[&str]) {
        let what = format!("an Event {reason} that says {words:?}");
        let noted = wait::until(&what, PATIENCE, || async {
            let events = self.events(upgrade).await;
            let wanted = |(told, note): &(String, String)| {
                told == reason && words.iter().all(|word| note.contains(word))
            };
            Ok(events.iter().any(wanted).then_some(()))
        })
        .await;
        if let Err(error) = noted {
            let events = self.events(upgrade).await;
            panic!("{error}; told: {events:#?}\n{}", self.logs());
        }
    }

    /// Waits until so many releases were seen: this process watches too, and no faster than others.
    pub async fn until_released(&self, count: usize) {
        let seen = wait::until(&format!("{count} releases"), PATIENCE, || async {
            Ok((self.seen.lock().unwrap().released.len() >= count).then_some(()))
        })
        .await;
        if let Err(error) = seen {
            panic!("{error}\n{}", self.logs());
        }
    }

    pub fn leases(&self) -> Api<Lease> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    /// Starts a replica of the controller with its own service account's token.
    pub async fn controller(&self, name: &str, flags: &[&str]) -> Replica {
        self.credentials(name).await;
        self.start_controller(name, flags).await
    }

    /// Gives a replica its token; the API server is needed for that.
    pub async fn credentials(&self, name: &str) {
        let home = self.folder.path();
        let token = TokenFile {
            path: home.join(format!("{name}.token")),
            account: "controller",
            lifetime: Duration::from_secs(3600),
            renewal: Duration::from_secs(3600),
            admin: self.client.clone(),
        };
        let written = token.write_persistently(None);
        tokio::time::timeout(PATIENCE, written).await.unwrap();
        let kubeconfig = home.join(format!("{name}.kubeconfig"));
        self.plane
            .write_token_kubeconfig(&kubeconfig, token.path())
            .unwrap();
    }

    /// Starts a replica that has been given its token.
    pub async fn start_controller(&self, name: &str, flags: &[&str]) -> Replica {
        let home = self.folder.path();
        let log = home.join(format!("{name}.log"));
        let spawn = Spawn::new(name, env!("CARGO_BIN_EXE_controller"), &log)
            .flag("namespace", NAMESPACE)
            .flag("identity", name)
            .flag("listen", "127.0.0.1:0")
            .args(flags)
            .env("KUBECONFIG", home.join(format!("{name}.kubeconfig")))
            .env("RUST_LOG", "info,monok8s_controller=debug");
        Replica {
            process: Process::spawn(spawn).await.unwrap(),
            log,
        }
    }

    fn logs(&self) -> String {
        let mut text = String::new();
        for entry in std::fs::read_dir(self.folder.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "log") {
                let log = std::fs::read_to_string(&path).unwrap_or_default();
                let lines: Vec<&str> = log.lines().rev().take(40).collect();
                text += "--- ";
                text += &path.display().to_string();
                text.push('\n');
                for line in lines.into_iter().rev() {
                    text += line;
                    text.push('\n');
                }
            }
        }
        text
    }

    /// Fails when a rule was broken while this cluster ran.
    pub fn assert_nothing_broken(&self) {
        let seen = self.seen.lock().unwrap();
        assert!(
            seen.broken.is_empty(),
            "{:#?}\n{}",
            seen.broken,
            self.logs()
        );
    }

    pub async fn end(mut self) {
        for task in self.tasks.drain(..) {
            task.abort();
        }
        self.plane.stop().await;
    }
}

/// One replica of the controller.
pub struct Replica {
    pub process: Process,
    log: PathBuf,
}

impl Replica {
    /// Its whole lines so far: the last one may be half written.
    pub fn log(&self) -> String {
        let mut log = std::fs::read_to_string(&self.log).unwrap_or_default();
        log.truncate(log.rfind('\n').map_or(0, |end| end + 1));
        log
    }

    /// GET of a path of its health and metrics endpoints, once they are served.
    pub async fn get(&self, path: &str) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};

        let address = wait::until("the endpoints to be served", PATIENCE, || async {
            let log = self.log();
            // In either format: address=127.0.0.1:1 or "address":"127.0.0.1:1".
            let address = log
                .split_once("address")
                .map(|(_, rest)| rest.trim_start_matches(['=', '"', ':']))
                .and_then(|rest| rest.split(['"', ' ', '\n']).next())
                .map(str::to_owned);
            Ok(address)
        })
        .await
        .unwrap();
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    pub async fn until_ready(&self) {
        wait::until("a replica to be ready", PATIENCE, || async {
            Ok(self
                .get("/readyz")
                .await
                .starts_with("HTTP/1.1 200")
                .then_some(()))
        })
        .await
        .unwrap();
    }
}

/// The kubelets' part in a pod's end: the object goes when its containers have ended.
async fn end_pods(client: Client) {
    let all: Api<Pod> = Api::all(client.clone());
    let mut events = watcher(all, watcher::Config::default())
        .default_backoff()
        .boxed();
    while let Some(event) = events.next().await {
        let Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod)) = event else {
            continue;
        };
        if pod.metadata.deletion_timestamp.is_some() {
            let pods: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap());
            let params = DeleteParams::default().grace_period(0);
            pods.delete(&pod.name_any(), &params).await.ok();
        }
    }
}

/// Moves every released progress one phase along per look.
async fn run_agents(client: Client, switch: Arc<AgentsSwitch>) {
    let progresses: Api<OSUpgradeProgress> = Api::all(client.clone());
    let reports: Api<OSNode> = Api::all(client);
    loop {
        tokio::time::sleep(AGENT_TICK).await;
        if !switch.running.load(Ordering::SeqCst) {
            continue;
        }
        let Ok(all) = progresses.list(&ListParams::default()).await else {
            continue;
        };
        for progress in all {
            let down = *switch.down.lock().unwrap();
            if down == Some(&progress.spec.node_name) && is_rebooting(&progress) {
                continue;
            }
            step(&progresses, &reports, &progress).await;
        }
    }
}

fn is_rebooting(progress: &OSUpgradeProgress) -> bool {
    let status = progress.status.as_ref();
    status.is_some_and(|status| status.phase == ProgressPhase::Rebooting)
}

async fn step(
    progresses: &Api<OSUpgradeProgress>,
    reports: &Api<OSNode>,
    progress: &OSUpgradeProgress,
) {
    let name = progress.name_any();
    let status = progress.status.clone().unwrap_or_default();
    let next = match status.phase {
        ProgressPhase::Pending if progress.spec.release == Release::Hold => return,
        ProgressPhase::Pending => ProgressPhase::Downloading,
        ProgressPhase::Downloading if progress.spec.release == Release::Reboot => {
            ProgressPhase::Rebooting
        }
        ProgressPhase::Downloading => ProgressPhase::Staged,
        ProgressPhase::Staged => match progress.spec.release {
            Release::Stage => return,
            Release::Hold => ProgressPhase::Failed,
            Release::Reboot => ProgressPhase::Rebooting,
        },
        ProgressPhase::Failed
            if progress.spec.release == Release::Hold
                && progress.spec.retry_nonce != status.observed_retry_nonce =>
        {
            ProgressPhase::Pending
        }
        ProgressPhase::Rebooting => ProgressPhase::Confirming,
        ProgressPhase::Confirming => ProgressPhase::Completed,
        _ => return,
    };
    let params = PatchParams::default();
    if next == ProgressPhase::Completed {
        let version = progress.spec.image.as_ref().map(|i| i.version.clone());
        let report = json!({"status": {"version": version, "lastResult": {
            "progress": name, "phase": "Completed", "version": version,
        }}});
        reports
            .patch_status(&progress.spec.node_name, &params, &Patch::Merge(report))
            .await
            .ok();
    }
    let patch = json!({
        "metadata": {"resourceVersion": progress.resource_version()},
        "status": {
            "phase": next.as_str(),
            "attempt": 1,
            "failureReason": if next == ProgressPhase::Failed { "DrainTimedOut" } else { "" },
            "observedRetryNonce": progress.spec.retry_nonce,
        },
    });
    progresses
        .patch_status(&name, &params, &Patch::Merge(patch))
        .await
        .ok();
}

/// Holds every state of every progress against the rules.
async fn watch_progresses(api: Api<OSUpgradeProgress>, seen: Arc<Mutex<Seen>>) {
    let mut events = watcher(api, watcher::Config::default())
        .default_backoff()
        .boxed();
    let mut listing = Vec::new();
    while let Some(event) = events.next().await {
        let mut seen = seen.lock().unwrap();
        match event {
            Ok(watcher::Event::Init) => listing.clear(),
            Ok(watcher::Event::InitApply(p)) => listing.push(p),
            // All of one moment: counted together, or an older state of one is held against
            // another's newer one.
            Ok(watcher::Event::InitDone) => seen.listed(std::mem::take(&mut listing)),
            Ok(watcher::Event::Apply(p)) => seen.progress(p),
            Ok(watcher::Event::Delete(p)) => {
                seen.progresses.remove(&p.name_any());
            }
            Err(_) => {}
        }
    }
}

async fn watch_upgrades(api: Api<OSUpgrade>, seen: Arc<Mutex<Seen>>) {
    let mut events = watcher(api, watcher::Config::default())
        .default_backoff()
        .boxed();
    while let Some(event) = events.next().await {
        if let Ok(watcher::Event::Apply(u) | watcher::Event::InitApply(u)) = event {
            seen.lock().unwrap().upgrade(&u);
        }
    }
}

fn has_place(progress: &OSUpgradeProgress) -> bool {
    let phase = progress.status.clone().unwrap_or_default().phase;
    !phase.is_terminal()
        && (phase != ProgressPhase::Pending || progress.spec.release != Release::Hold)
}

impl Seen {
    fn progress(&mut self, progress: OSUpgradeProgress) {
        self.take(progress);
        self.count_places();
    }

    fn listed(&mut self, all: Vec<OSUpgradeProgress>) {
        let there = |name: &String| all.iter().any(|p| p.name_any() == *name);
        self.progresses.retain(|name, _| there(name));
        for progress in all {
            self.take(progress);
        }
        self.count_places();
    }

    fn take(&mut self, progress: OSUpgradeProgress) {
        let name = progress.name_any();
        let before = self.progresses.get(&name);
        if has_place(&progress) && !before.is_some_and(has_place) {
            if self.released.contains(&name) {
                self.broken.push(format!("{name} was released twice"));
            }
            self.released.push(name.clone());
        }
        let twin = self.progresses.values().find(|p| {
            p.name_any() != name
                && p.spec.node_name == progress.spec.node_name
                && p.spec.image == progress.spec.image
        });
        if let Some(twin) = twin {
            self.broken
                .push(format!("{name} and {} are the same", twin.name_any()));
        }
        self.progresses.insert(name, progress);
    }

    fn count_places(&mut self) {
        let places: Vec<_> = self.progresses.values().filter(|p| has_place(p)).collect();
        if places.len() > self.max_unavailable {
            let names: Vec<_> = places.iter().map(|p| p.name_any()).collect();
            self.broken
                .push(format!("too many have a place: {names:?}"));
        }
    }

    fn upgrade(&mut self, upgrade: &OSUpgrade) {
        let name = upgrade.name_any();
        let nodes = upgrade.status.clone().unwrap_or_default().nodes;
        let completed = nodes.map_or(0, |n| n.completed);
        let before = self.completed.insert(name.clone(), completed).unwrap_or(0);
        if completed < before {
            self.broken.push(format!(
                "{name} went back from {before} to {completed} done"
            ));
        }
    }
}

pub fn catalog(versions: &[&str]) -> String {
    use std::fmt::Write as _;

    let mut text = format!("stable: {}\nimages:\n", versions.last().unwrap());
    for version in versions {
        let checksum = "ab".repeat(32);
        writeln!(
            text,
            "- {{version: {version}, url: \"https://images.example.com/{version}\", checksum: \"sha256:{checksum}\"}}"
        )
        .unwrap();
    }
    text
}
