//! Events about upgrades, in the namespace `default`, where those of cluster-scoped objects belong.

use std::collections::BTreeSet;

use data_encoding::BASE32_NOPAD;
use jiff::Timestamp;
use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, Resource, api::PostParams};
use monok8s_api::OSUpgrade;
use sha2::{Digest, Sha256};

use crate::decide::notice::Notice;

/// Longest note of an Event, in bytes (`events.k8s.io/v1`).
const MAX_NOTE: usize = 1_024;
/// How many names are remembered, so that a lasting trouble is not posted with every plan.
const REMEMBERED: usize = 4_096;

/// Publishes notices, each at most once: an Event's name is computed from what it tells, so the
/// API server refuses the second one, whoever sends it.
#[derive(Debug)]
pub(super) struct Publisher {
    api: Api<Event>,
    instance: String,
    told: BTreeSet<String>,
}

impl Publisher {
    pub(super) fn new(client: Client, instance: String) -> Self {
        Self {
            api: Api::namespaced(client, "default"),
            instance,
            told: BTreeSet::new(),
        }
    }

    /// Tells. A notice that cannot be published is logged and dropped: nothing depends on it.
    pub(super) async fn publish(&mut self, notice: &Notice) {
        let event = event(notice, &self.instance);
        let name = event.metadata.name.clone().unwrap_or_default();
        if self.told.len() >= REMEMBERED {
            self.told.clear();
        }
        if !self.told.insert(name.clone()) {
            return;
        }
        let Notice {
            upgrade,
            reason,
            message,
            ..
        } = notice;
        if notice.warning {
            tracing::warn!(upgrade, reason, "{message}");
        } else {
            tracing::info!(upgrade, reason, "{message}");
        }
        match self.api.create(&PostParams::default(), &event).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => {
                self.told.remove(&name);
                tracing::warn!(upgrade, reason, %error, "could not publish an Event");
            }
        }
    }
}

fn event(notice: &Notice, instance: &str) -> Event {
    let mut hash = Sha256::new();
    for part in [&notice.uid, &notice.key] {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    let hash = BASE32_NOPAD.encode(&hash.finalize());
    let name = format!("{}.{}", notice.upgrade, hash[..16].to_ascii_lowercase());
    let mut note = notice.message.clone();
    if note.len() > MAX_NOTE {
        let end = (0..=MAX_NOTE - '…'.len_utf8())
            .rev()
            .find(|at| note.is_char_boundary(*at))
            .unwrap_or(0);
        note.truncate(end);
        note.push('…');
    }
    Event {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some("default".to_owned()),
            ..ObjectMeta::default()
        },
        action: Some("Reconcile".to_owned()),
        event_time: Some(MicroTime(Timestamp::now())),
        note: Some(note),
        reason: Some(notice.reason.clone()),
        regarding: Some(ObjectReference {
            api_version: Some(OSUpgrade::api_version(&()).into_owned()),
            kind: Some(OSUpgrade::kind(&()).into_owned()),
            name: Some(notice.upgrade.clone()),
            uid: Some(notice.uid.clone()),
            ..ObjectReference::default()
        }),
        reporting_controller: Some(monok8s_api::CONTROLLER_MANAGER.to_owned()),
        reporting_instance: Some(instance.to_owned()),
        type_: Some(if notice.warning { "Warning" } else { "Normal" }.to_owned()),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_notice_has_one_name_and_a_bounded_note() {
        let notice = |key: &str, message: String| Notice {
            upgrade: "my-upgrade".into(),
            uid: "u".into(),
            warning: false,
            reason: "Completed".into(),
            message,
            key: key.into(),
        };
        let name = |n: &Notice| event(n, "i").metadata.name;
        let first = notice("7/Completed", "a".into());
        assert_eq!(name(&first), name(&notice("7/Completed", "b".into())));
        assert_ne!(name(&first), name(&notice("8/Completed", "a".into())));
        let long = event(&notice("k", "ü".repeat(1_000)), "i").note.unwrap();
        assert!(long.len() <= MAX_NOTE && long.ends_with('…'));
    }
}
