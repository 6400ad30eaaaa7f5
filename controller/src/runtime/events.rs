//! Events about upgrades, in the namespace `default`, where those of cluster-scoped objects belong.

use std::{collections::BTreeSet, time::Duration};

use data_encoding::BASE32_NOPAD;
use jiff::Timestamp;
use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, Resource, api::PostParams};
use monok8s_api::OSUpgrade;
use sha2::{Digest, Sha256};
use tokio::{
    sync::mpsc::{self, Receiver, Sender, error::TrySendError},
    task::JoinHandle,
    time::timeout,
};

use crate::decide::notice::Notice;

/// Longest note of an Event, in bytes (`events.k8s.io/v1`).
const MAX_NOTE: usize = 1_024;
/// How many names are remembered, so that a lasting trouble is not posted with every plan.
const REMEMBERED: usize = 4_096;
/// How long one Event may take to be written.
const LIMIT: Duration = Duration::from_secs(5);
/// How many Events may wait for their turn; what does not fit is logged and left out.
const WAITING: usize = 256;

/// Publishes notices, each at most once: an Event's name is computed from what it tells, so the
/// API server refuses the second one, whoever sends it.
///
/// Writing them is a task of its own. Nothing depends on an Event, so a decision never waits for
/// one: neither for an API server that answers slowly nor for a queue that is full.
#[derive(Debug)]
pub(super) struct Publisher {
    queue: Sender<Notice>,
    posting: JoinHandle<()>,
}

impl Publisher {
    pub(super) fn start(client: Client, instance: String) -> Self {
        let (queue, notices) = mpsc::channel(WAITING);
        let poster = Poster {
            api: Api::namespaced(client, "default"),
            instance,
            told: BTreeSet::new(),
        };
        Self {
            queue,
            posting: tokio::spawn(poster.run(notices)),
        }
    }

    /// Tells, at once as far as the caller is concerned.
    pub(super) fn publish(&self, notice: &Notice) {
        match self.queue.try_send(notice.clone()) {
            Ok(()) => {}
            Err(TrySendError::Full(notice) | TrySendError::Closed(notice)) => tracing::warn!(
                upgrade = notice.upgrade,
                reason = notice.reason,
                "{}; no Event is published: {WAITING} others wait to be written",
                notice.message
            ),
        }
    }

    /// Waits until everything told has been written, or given up.
    pub(super) async fn finish(self) {
        drop(self.queue);
        self.posting.await.ok();
    }
}

struct Poster {
    api: Api<Event>,
    instance: String,
    told: BTreeSet<String>,
}

impl Poster {
    async fn run(mut self, mut notices: Receiver<Notice>) {
        while let Some(notice) = notices.recv().await {
            self.post(&notice).await;
        }
    }

    /// A notice that cannot be published is logged and dropped.
    async fn post(&mut self, notice: &Notice) {
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
        let params = PostParams::default();
        let failure = match timeout(LIMIT, self.api.create(&params, &event)).await {
            Ok(Ok(_)) => return,
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", LIMIT.as_secs()),
        };
        self.told.remove(&name);
        tracing::warn!(upgrade, reason, failure, "could not publish an Event");
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

    /// The clock is tokio's own: it jumps to the next deadline whenever nothing else is to be done.
    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_never_answers_holds_nobody_up() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let silent = tokio::spawn(async move {
            let mut connections = Vec::new();
            while let Ok((connection, _)) = listener.accept().await {
                connections.push(connection);
            }
        });
        let config = kube::Config::new(format!("http://{address}").parse().unwrap());
        let client = Client::try_from(config).unwrap();
        let publisher = Publisher::start(client, "i".into());
        for key in 0..WAITING + 10 {
            publisher.publish(&Notice {
                upgrade: "up".into(),
                uid: "u".into(),
                warning: false,
                reason: "Accepted".into(),
                message: String::new(),
                key: key.to_string(),
            });
        }
        let most = LIMIT * u32::try_from(WAITING + 1).unwrap();
        timeout(most, publisher.finish()).await.unwrap();
        silent.abort();
    }
}
