//! Events: what happened on this node, for `kubectl get events` and `kubectl describe`.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use monok8s_api::{
    API_VERSION,
    reason::{EventReason, ProgressPhase},
};
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::{decide::status::shorten, record::Attempt};

/// Longest note that the API server takes, in bytes (events.k8s.io/v1).
const MAX_NOTE: usize = 1024;

/// Publishes events; one that cannot be published is dropped.
#[derive(Clone)]
pub struct Events {
    recorder: Recorder,
    /// What is being published. Clones share it.
    under_way: TaskTracker,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Events")
    }
}

impl Events {
    /// Events of the agent of `node`.
    pub fn new(client: Client, node: &str) -> Self {
        let reporter = Reporter {
            controller: "monok8s.io/node-agent".to_owned(),
            instance: Some(node.to_owned()),
        };
        Self {
            recorder: Recorder::new(client, reporter),
            under_way: TaskTracker::new(),
        }
    }

    /// Says in the background how an attempt goes.
    pub fn tell(&self, attempt: &Attempt) {
        self.publish(event(attempt), reference(attempt));
    }

    /// Says in the background that an attempt goes on with so many bytes of its image in the slot.
    pub fn resumed(&self, attempt: &Attempt, bytes: u64) {
        self.publish(resumed(attempt, bytes), reference(attempt));
    }

    /// Waits until everything told so far is published or dropped.
    pub async fn settled(&self) {
        // It takes more all the same; without this it would be waited for until it does not.
        self.under_way.close();
        self.under_way.wait().await;
    }

    fn publish(&self, event: Event, reference: ObjectReference) {
        let recorder = self.recorder.clone();
        self.under_way.spawn(async move {
            let published = crate::act::calls::limited(recorder.publish(&event, &reference)).await;
            if let Err(e) = published {
                debug!("an event was not published: {e}");
            }
        });
    }
}

/// The object it is about, which may be gone.
fn reference(attempt: &Attempt) -> ObjectReference {
    ObjectReference {
        api_version: Some(API_VERSION.to_owned()),
        kind: Some("OSUpgradeProgress".to_owned()),
        name: Some(attempt.name.clone()),
        uid: Some(attempt.uid.clone()),
        ..ObjectReference::default()
    }
}

fn event(attempt: &Attempt) -> Event {
    let version = attempt
        .plan
        .as_ref()
        .map_or("the image", |p| p.image.version.as_str());
    let (reason, mut note, type_) = match &attempt.end {
        Some(end) if end.reason.is_empty() => (
            end.phase.to_string(),
            end.message.clone(),
            EventType::Normal,
        ),
        Some(end) => (
            end.reason.clone(),
            format!("{}: {}", end.phase, end.message),
            EventType::Warning,
        ),
        None => (
            ProgressPhase::Rebooting.to_string(),
            format!("rebooting (attempt {} of {version})", attempt.number),
            EventType::Normal,
        ),
    };
    shorten(&mut note, MAX_NOTE);
    Event {
        type_,
        reason,
        note: Some(note),
        action: "Upgrade".to_owned(),
        secondary: None,
    }
}

fn resumed(attempt: &Attempt, bytes: u64) -> Event {
    let image = attempt.plan.as_ref().map(|p| &p.image);
    let version = image.map_or("the image", |i| i.version.as_str());
    let size = image.and_then(|i| i.size);
    let of = size.map_or_else(String::new, |size| format!(" of {size}"));
    Event {
        type_: EventType::Normal,
        reason: EventReason::Resumed.to_string(),
        note: Some(format!(
            "attempt {} of {version} resumed at {bytes}{of} bytes: they were read again from the slot, the rest is \
             downloaded",
            attempt.number
        )),
        action: "Upgrade".to_owned(),
        secondary: None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Notify;

    use super::*;
    use crate::record::End;

    #[tokio::test]
    async fn what_was_told_is_waited_for() {
        let answer = Arc::new(Notify::new());
        let waits = Arc::clone(&answer);
        let server = tower::service_fn(move |_: http::Request<kube::client::Body>| {
            let waits = Arc::clone(&waits);
            async move {
                waits.notified().await;
                Ok::<_, std::convert::Infallible>(http::Response::new(kube::client::Body::empty()))
            }
        });
        let events = Events::new(Client::new(server, "default"), "n");
        events.settled().await;
        for name in ["p", "q"] {
            events.tell(&Attempt::queued(name, "u", 1));
            let mut settled = std::pin::pin!(events.settled());
            assert!(futures::poll!(&mut settled).is_pending(), "{name}");
            answer.notify_one();
            settled.await;
        }
    }

    #[test]
    fn a_note_fits_what_the_api_server_takes() {
        let mut attempt = Attempt::queued("p", "u", 1);
        attempt.end = Some(End {
            phase: ProgressPhase::Failed,
            reason: "DownloadFailed".to_owned(),
            message: "ü".repeat(2000),
            at: None,
        });
        let event = event(&attempt);
        assert!(event.note.unwrap().len() <= MAX_NOTE);
        assert_eq!(event.reason, "DownloadFailed");
    }
}
