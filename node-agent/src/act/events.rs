//! Events: what happened on this node, for `kubectl get events` and `kubectl describe`.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use monok8s_api::{API_VERSION, reason::ProgressPhase};
use tracing::debug;

use crate::{decide::status::shorten, record::Attempt};

/// Longest note that the API server takes, in bytes (events.k8s.io/v1).
const MAX_NOTE: usize = 1024;

/// Publishes events; one that cannot be published is dropped.
#[derive(Clone)]
pub struct Events {
    recorder: Recorder,
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
        }
    }

    /// Says in the background how an attempt goes.
    pub fn tell(&self, attempt: &Attempt) {
        let (event, reference) = (event(attempt), reference(attempt));
        let recorder = self.recorder.clone();
        tokio::spawn(async move {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::End;

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
