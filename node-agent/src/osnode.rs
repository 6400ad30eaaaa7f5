//! The OSNode: what this machine runs and what its slots hold. Written when it changes.

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
    reason::{BootLoaderKind, SlotState},
};
use monok8s_boot::{Machine as Slots, SlotName};
use tokio::sync::watch;
use tracing::warn;

use crate::{
    calls::{self, Backoff, CallError},
    next::Machine,
    record::{Record, Trouble},
    status::shown_version,
};

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
            platform: crate::source::platform(),
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
    let (truth, reason, message) = match &facts.trouble {
        None => (Truth::True, "Ready", ""),
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

/// Writes the OSNode whenever the facts change, for ever.
pub async fn run(client: Client, name: String, mut facts: watch::Receiver<Facts>) {
    let api: Api<OSNode> = Api::all(client);
    let mut backoff = Backoff::default();
    let mut written = None;
    loop {
        let newest = facts.borrow_and_update().clone();
        let uid = newest.node_uid.clone();
        if let Some(uid) = uid.filter(|_| written.as_ref() != Some(&newest)) {
            if let Err(e) = write(&api, &name, &uid, &newest).await {
                let pause = backoff.next_pause();
                warn!("the OSNode was not written, the newest follows in {pause:?}: {e}");
                tokio::time::sleep(pause).await;
                continue;
            }
            backoff.reset();
            written = Some(newest);
        }
        if facts.changed().await.is_err() {
            return;
        }
    }
}

async fn write(
    api: &Api<OSNode>,
    name: &str,
    node_uid: &str,
    facts: &Facts,
) -> Result<(), CallError> {
    let object = match calls::limited(api.get_opt(name)).await? {
        Some(object) => object,
        None => create(api, name, node_uid).await?,
    };
    let before = object.status.unwrap_or_default();
    let status = status(facts, &before, Timestamp::now());
    if status == before {
        return Ok(());
    }
    let patch = serde_json::json!({
        "apiVersion": API_VERSION,
        "kind": "OSNode",
        "metadata": {"name": name},
        "status": status,
    });
    let parameters = PatchParams::apply(AGENT_MANAGER).force();
    calls::limited(api.patch_status(name, &parameters, &Patch::Apply(&patch))).await?;
    Ok(())
}

/// Makes the object, to go when its Node goes.
async fn create(api: &Api<OSNode>, name: &str, node_uid: &str) -> Result<OSNode, CallError> {
    let object = OSNode {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Node".to_owned(),
                name: name.to_owned(),
                uid: node_uid.to_owned(),
                controller: None,
                block_owner_deletion: None,
            }]),
            ..ObjectMeta::default()
        },
        spec: OSNodeSpec::default(),
        status: None,
    };
    calls::limited(api.create(&PostParams::default(), &object)).await
}
