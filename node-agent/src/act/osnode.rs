//! The OSNode: what this machine runs and what its slots hold. Written when it changes.

use std::time::Duration;

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use monok8s_api::{
    AGENT_MANAGER, API_VERSION, OSNode, OSNodeSpec, OSNodeStatus,
    condition::{self, Truth},
    osnode::{LastResult, SlotStatus},
    reason::{BootLoaderKind, SlotState, UpgradableReason},
};
use monok8s_boot::{Machine as Slots, SlotName};
use tokio::sync::watch;
use tracing::warn;

use crate::{
    act::{
        calls::{self, Backoff, CallError, jittered},
        this_node::ThisNode,
    },
    decide::{next::Machine, status::shown_version},
    record::{Record, Trouble},
};

/// After how long at most an OSNode that is about to go is looked for again, once and a half of it at the longest.
const DOOMED: Duration = Duration::from_secs(20);

/// What the status is made of.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// UID of the Node; nothing is written while it is not known.
    pub node_uid: Option<String>,
    /// The kernel's ID of this boot.
    pub boot_id: String,
    /// Version that runs.
    pub version: String,
    /// Such as linux/amd64.
    pub platform: String,
    /// The boot loader, where one was recognised.
    pub boot_loader: Option<BootLoaderKind>,
    /// Devices of the slots, and which runs.
    pub slots: Option<Slots>,
    /// What the slots hold, by the record.
    pub record: Record,
    /// Why the node cannot take an upgrade.
    pub trouble: Option<Trouble>,
}

impl Facts {
    /// From one look at the machine.
    pub fn new(
        record: &Record,
        machine: &Machine,
        slots: Option<Slots>,
        boot_loader: Option<BootLoaderKind>,
        version: &str,
        trouble: Option<Trouble>,
    ) -> Self {
        Self {
            node_uid: machine.node_uid.clone(),
            boot_id: machine.boot_id.clone(),
            version: version.to_owned(),
            platform: crate::act::source::platform(),
            boot_loader,
            slots,
            record: Record {
                // Attempts come and go without a change of what is shown.
                attempts: Vec::new(),
                ..record.clone()
            },
            trouble: trouble.or_else(|| machine.system.as_ref().err().cloned()),
        }
    }
}

/// The whole status.
pub fn status(facts: &Facts, before: &OSNodeStatus, now: Timestamp) -> OSNodeStatus {
    let slot = |name: SlotName| {
        let held = facts.record.slots.get(&name);
        let found = facts.slots.as_ref().map(|s| s.slot(name));
        SlotStatus {
            name: name.to_string(),
            device: found.map_or_else(String::new, |s| s.device.display().to_string()),
            partition_uuid: found
                .and_then(|s| s.part_uuid)
                .map_or_else(String::new, |u| u.to_string()),
            size: found.map_or(0, |s| i64::try_from(s.size).unwrap_or(i64::MAX)),
            version: held.map_or_else(String::new, |h| shown_version(&h.version)),
            image_checksum: held.map_or_else(String::new, |h| h.checksum.clone()),
            state: held.map_or(SlotState::Unknown, |h| h.state.clone()),
        }
    };
    let ready = UpgradableReason::Ready;
    let (truth, reason, message) = match &facts.trouble {
        None => (Truth::True, ready.as_str(), ""),
        Some(t) => (Truth::False, t.reason.as_str(), t.message.as_str()),
    };
    OSNodeStatus {
        node_uid: facts.node_uid.clone().unwrap_or_default(),
        version: shown_version(&facts.version),
        platform: facts.platform.clone(),
        boot_id: facts.boot_id.clone(),
        active_slot: facts
            .slots
            .as_ref()
            .map_or_else(String::new, |s| s.active.to_string()),
        boot_loader: facts.boot_loader.clone(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        slots: SlotName::BOTH.into_iter().map(slot).collect(),
        last_result: facts.record.last_result.clone().map(|r| LastResult {
            version: shown_version(&r.version),
            ..r
        }),
        conditions: vec![condition::next(
            &before.conditions,
            "Upgradable",
            truth,
            reason,
            message,
            None,
            now,
        )],
    }
}

/// The OSNode's writer.
#[derive(Debug)]
pub struct Writer {
    api: Api<OSNode>,
    name: String,
    node: ThisNode,
    every: Duration,
}

impl Writer {
    /// Writes the OSNode called `name` of `node`, and looks about once in `every` whether it is still there.
    pub fn new(client: Client, name: &str, node: ThisNode, every: Duration) -> Self {
        Self {
            api: Api::all(client),
            name: name.to_owned(),
            node,
            every,
        }
    }

    /// Writes it whenever the facts change, for ever.
    pub async fn run(self, mut facts: watch::Receiver<Facts>) {
        let mut backoff = Backoff::default();
        loop {
            let newest = facts.borrow_and_update().clone();
            let pause = match &newest.node_uid {
                None => None,
                Some(uid) => match self.write(uid, &newest).await {
                    Ok(kept) => {
                        backoff.reset();
                        Some(jittered(if kept {
                            self.every
                        } else {
                            self.every.min(DOOMED)
                        }))
                    }
                    Err(e) => {
                        let pause = backoff.next_pause();
                        warn!("the OSNode was not written, the newest follows in {pause:?}: {e}");
                        tokio::time::sleep(pause).await;
                        continue;
                    }
                },
            };
            tokio::select! {
                changed = facts.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {}
            }
        }
    }

    /// Whether it will be kept: the garbage collector takes one whose Node is gone.
    async fn write(&self, node_uid: &str, facts: &Facts) -> Result<bool, CallError> {
        let Some(object) = self.object(node_uid).await? else {
            return Ok(false);
        };
        let kept = is_kept(&object, node_uid);
        let before = object.status.unwrap_or_default();
        let status = status(facts, &before, Timestamp::now());
        if status == before {
            return Ok(kept);
        }
        let patch = serde_json::json!({
            "apiVersion": API_VERSION,
            "kind": "OSNode",
            // Refused when another object has taken the name.
            "metadata": {"name": self.name, "uid": object.metadata.uid},
            "status": status,
        });
        let parameters = PatchParams::apply(AGENT_MANAGER).force();
        calls::limited(
            self.api
                .patch_status(&self.name, &parameters, &Patch::Apply(&patch)),
        )
        .await?;
        Ok(kept)
    }

    /// The object, made when it is not there. `None` when this is not the Node of the facts: there are others soon.
    async fn object(&self, node_uid: &str) -> Result<Option<OSNode>, CallError> {
        let there = calls::limited(self.api.get_opt(&self.name)).await?;
        if there.is_some() {
            return Ok(there);
        }
        // It may have gone with its Node, and another Node may have come.
        if self.node.ask().await.as_deref() != Some(node_uid) {
            return Ok(None);
        }
        self.create(node_uid).await.map(Some)
    }

    /// Makes the object, to go when its Node goes.
    async fn create(&self, node_uid: &str) -> Result<OSNode, CallError> {
        let object = OSNode {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                owner_references: Some(vec![OwnerReference {
                    api_version: "v1".to_owned(),
                    kind: "Node".to_owned(),
                    name: self.name.clone(),
                    uid: node_uid.to_owned(),
                    controller: None,
                    block_owner_deletion: None,
                }]),
                ..ObjectMeta::default()
            },
            spec: OSNodeSpec::default(),
            status: None,
        };
        calls::limited(self.api.create(&PostParams::default(), &object)).await
    }
}

/// Whether it is there to stay: not deleted, and owned by the Node that is there.
fn is_kept(object: &OSNode, node_uid: &str) -> bool {
    let owners = object
        .metadata
        .owner_references
        .as_deref()
        .unwrap_or_default();
    let by_another = owners
        .iter()
        .any(|owner| owner.kind == "Node" && owner.uid != node_uid);
    object.metadata.deletion_timestamp.is_none() && !by_another
}
