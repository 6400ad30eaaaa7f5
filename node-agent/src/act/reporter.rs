//! Writes statuses: the newest state only, one request at a time.
//!
//! [`Reporter::show`] leaves a state in a slot of one; [`Reporter::run`] writes it when it is worth a write, and after
//! a failure writes whatever is newest by then. [`Reporter::report`] writes at once and waits for the answer.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use monok8s_api::{AGENT_MANAGER, API_VERSION, OSUpgradeProgress, OSUpgradeProgressStatus};
use monok8s_boot::clock;
use tokio::sync::{Mutex as AsyncMutex, watch};
use tracing::{debug, warn};

use crate::{
    act::{
        calls::{self, Backoff, CallError},
        effects::{Away, Reply},
        metrics::Metrics,
        objects::Objects,
    },
    decide::{
        pace::{Due, Pace, Rate},
        status::{self, Here, Live},
    },
    record::Attempt,
};

/// The writer. Clones share everything.
#[derive(Clone)]
pub struct Reporter {
    api: Api<OSUpgradeProgress>,
    objects: Objects,
    live: watch::Receiver<Live>,
    here: Arc<Mutex<Here>>,
    newest: watch::Sender<Option<Attempt>>,
    rate: Rate,
    pace: Arc<AsyncMutex<(String, Pace)>>,
    metrics: Metrics,
}

impl std::fmt::Debug for Reporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reporter").finish_non_exhaustive()
    }
}

impl Reporter {
    /// A writer of what `live` tells besides the attempts.
    pub fn new(
        client: Client,
        objects: Objects,
        live: watch::Receiver<Live>,
        rate: Rate,
        metrics: Metrics,
    ) -> Self {
        Self {
            api: Api::all(client),
            objects,
            live,
            here: Arc::default(),
            newest: watch::Sender::new(None),
            rate,
            pace: Arc::default(),
            metrics,
        }
    }

    /// What runs, for the statuses to come.
    pub fn here(&self, here: Here) {
        *self.here.lock().unwrap_or_else(PoisonError::into_inner) = here;
    }

    /// Leaves a state to be written; it replaces the one before.
    pub fn show(&self, attempt: &Attempt) {
        self.newest.send_if_modified(|newest| {
            let changed = newest.as_ref() != Some(attempt);
            *newest = Some(attempt.clone());
            changed
        });
    }

    /// Writes a state and waits for the answer.
    pub async fn report(&self, attempt: &Attempt) -> Result<Reply, Away> {
        let mut pace = self.pace.lock().await;
        self.newest.send_replace(Some(attempt.clone()));
        let Some(object) = self.objects.get(&attempt.uid) else {
            return Ok(Reply::Gone);
        };
        let status = self.status(&object, attempt);
        match self.write(&object, &status).await {
            Ok(()) => {
                *pace = (attempt.uid.clone(), Pace::new(self.rate));
                pace.1.written(clock::since_boot(), status);
                Ok(Reply::Accepted)
            }
            Err(e) if e.is_gone(&attempt.name) => {
                self.objects.remove(&attempt.uid);
                Ok(Reply::Gone)
            }
            Err(e) if e.is_other_object() => match self.read(&attempt.name, &attempt.uid).await {
                Ok(()) if self.objects.get(&attempt.uid).is_none() => Ok(Reply::Gone),
                _ => Err(e.into()),
            },
            Err(e) => Err(e.into()),
        }
    }

    /// Reads an object into the view. Gone, or another one of the same name: out of the view.
    ///
    /// A read without a resourceVersion is the storage's own answer ("Most Recent" in the Kubernetes API concepts), never
    /// the watch cache's. One that is older than what was heard before can only come from storage that was put back, or
    /// from something in between: it is no answer.
    pub async fn read(&self, name: &str, uid: &str) -> Result<(), Away> {
        match calls::limited(self.api.get(name)).await {
            Ok(object) if self.objects.knows_newer(&object) => Err(Away(format!(
                "the API server's answer about {name} is older than what it has said before"
            ))),
            Ok(object) => {
                if object.metadata.uid.as_deref() != Some(uid) {
                    self.objects.remove(uid);
                }
                self.objects.put(object);
                Ok(())
            }
            Err(e) if e.is_gone(name) => {
                self.objects.remove(uid);
                Ok(())
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Writes what is shown, for ever.
    pub async fn run(self) {
        let mut newest = self.newest.subscribe();
        let mut live = self.live.clone();
        let mut changed = self.objects.subscribe();
        let mut backoff = Backoff::default();
        loop {
            let pause = self.write_newest(&mut backoff).await;
            // A failed write is not hurried by news; one that is merely not due yet is, if they are worth it.
            let hears = pause.is_none() || backoff.is_fresh();
            tokio::select! {
                () = tokio::time::sleep(pause.unwrap_or(Duration::MAX)), if pause.is_some() => {}
                Ok(()) = newest.changed(), if hears => {}
                Ok(()) = live.changed(), if hears => {}
                Ok(()) = changed.changed(), if hears => {}
            }
        }
    }

    /// Writes the newest state if it is worth it; returns the pause before the next try, if one is due.
    async fn write_newest(&self, backoff: &mut Backoff) -> Option<Duration> {
        let mut pace = self.pace.lock().await;
        let attempt = self.newest.borrow().clone()?;
        if !is_shown(&attempt) {
            return None;
        }
        let object = self.objects.get(&attempt.uid)?;
        if pace.0 != attempt.uid {
            *pace = (attempt.uid.clone(), Pace::new(self.rate));
        }
        let status = self.status(&object, &attempt);
        let now = clock::since_boot();
        match pace.1.due(now, &status) {
            Due::Never => return None,
            Due::At(at) => return Some(at.saturating_sub(now)),
            Due::Now => {}
        }
        match self.write(&object, &status).await {
            Ok(()) => {
                backoff.reset();
                pace.1.written(clock::since_boot(), status);
                None
            }
            Err(e) => {
                let pause = backoff.next_pause();
                debug!("a status was not written, the newest follows in {pause:?}: {e}");
                Some(pause)
            }
        }
    }

    fn status(&self, object: &OSUpgradeProgress, attempt: &Attempt) -> OSUpgradeProgressStatus {
        let live = self.live.borrow().clone();
        let here = self
            .here
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        status::status(object, attempt, &live, &here, Timestamp::now())
    }

    async fn write(
        &self,
        object: &OSUpgradeProgress,
        status: &OSUpgradeProgressStatus,
    ) -> Result<(), CallError> {
        let name = object.metadata.name.clone().unwrap_or_default();
        // The UID makes the API server refuse when another object has taken the name.
        let patch = serde_json::json!({
            "apiVersion": API_VERSION,
            "kind": "OSUpgradeProgress",
            "metadata": {"name": name, "uid": object.metadata.uid},
            "status": status,
        });
        let parameters = PatchParams::apply(AGENT_MANAGER).force();
        let patch = Patch::Apply(&patch);
        let request = self.api.patch_status(&name, &parameters, &patch);
        match calls::limited(request).await {
            Ok(answer) => {
                self.metrics.status_written(true);
                self.objects.put(answer);
                Ok(())
            }
            Err(e) => {
                self.metrics.status_written(false);
                if e.is_forbidden() {
                    warn!("the API server refuses this agent's status: {e}");
                }
                Err(e)
            }
        }
    }
}

/// Whether an attempt is written in passing. Its first status and its end are reported: this writer must not be the one
/// that tells them late, when the attempt was taken back or is followed by another.
fn is_shown(attempt: &Attempt) -> bool {
    attempt.accepted && attempt.end.is_none()
}

#[cfg(test)]
mod tests {
    use monok8s_api::{osupgradeprogress::ImageRef, reason::ProgressPhase};
    use monok8s_boot::SlotName;

    use super::*;
    use crate::{
        decide::next::View,
        record::{End, Plan},
    };

    /// A reporter with an API server of its own.
    struct Desk {
        reporter: Reporter,
        objects: Objects,
        live: watch::Sender<Live>,
        /// The requests so far.
        asked: Arc<Mutex<Vec<String>>>,
    }

    /// The API server answers every request with the next of `answers`.
    fn desk(answers: Vec<serde_json::Value>) -> Desk {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let requests = Arc::clone(&asked);
        let answers = Arc::new(Mutex::new(answers.into_iter()));
        let server = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            requests.lock().unwrap().push(request.uri().to_string());
            let answer = answers.lock().unwrap().next().unwrap().to_string();
            async move {
                Ok::<_, std::convert::Infallible>(http::Response::new(kube::client::Body::from(
                    answer.into_bytes(),
                )))
            }
        });
        let objects = Objects::default();
        let (live, shown) = watch::channel(Live::default());
        let reporter = Reporter::new(
            Client::new(server, "default"),
            objects.clone(),
            shown,
            // So long that no test waits until bytes are due.
            Rate {
                interval: Duration::from_secs(3600),
                ..Rate::default()
            },
            Metrics::register(&mut prometheus_client::registry::Registry::default()),
        );
        Desk {
            reporter,
            objects,
            live,
            asked,
        }
    }

    fn object(uid: &str, revision: u32, cancel: bool) -> serde_json::Value {
        serde_json::json!({
            "apiVersion": API_VERSION, "kind": "OSUpgradeProgress",
            "metadata": {"name": "p", "uid": uid, "resourceVersion": revision.to_string()},
            "spec": {"sourceRef": {"name": "u"}, "nodeName": "n", "cancel": cancel},
        })
    }

    #[tokio::test]
    async fn a_fresh_read_is_the_storages_and_not_older_than_what_was_heard() {
        let Desk {
            reporter,
            objects,
            asked,
            ..
        } = desk(vec![
            object("u", 99, true),
            object("u", 100, false),
            object("u", 101, true),
            object("v", 102, false),
        ]);
        objects.list(vec![
            serde_json::from_value(object("u", 100, false)).unwrap(),
        ]);
        let cancelled = || match objects.view() {
            View::Listed(all) => all.into_iter().find(|p| p.uid == "u").map(|p| p.cancel),
            View::Away => None,
        };
        let older = reporter.read("p", "u").await.unwrap_err();
        assert!(older.to_string().contains("older"), "{older}");
        assert_eq!(cancelled(), Some(false));
        reporter.read("p", "u").await.unwrap();
        assert_eq!(cancelled(), Some(false));
        reporter.read("p", "u").await.unwrap();
        assert_eq!(cancelled(), Some(true));
        reporter.read("p", "u").await.unwrap();
        assert_eq!(cancelled(), None, "another object of that name");
        let asked = asked.lock().unwrap().clone();
        assert_eq!(asked.len(), 4);
        for uri in asked {
            assert!(
                !uri.contains("resourceVersion"),
                "{uri} may be answered from a cache"
            );
        }
    }

    #[tokio::test]
    async fn a_phase_does_not_wait_until_bytes_are_due() {
        let answers = (101..110).map(|revision| object("u", revision, false));
        let desk = desk(answers.collect());
        desk.objects.list(vec![
            serde_json::from_value(object("u", 100, false)).unwrap(),
        ]);
        let asked = || desk.asked.lock().unwrap().len();
        let until = async |count| {
            let reached = async {
                while asked() < count {
                    tokio::task::yield_now().await;
                }
            };
            let limit = Duration::from_secs(60);
            let reached = tokio::time::timeout(limit, reached).await;
            assert!(reached.is_ok(), "{} of {count} writes", asked());
        };
        let running = tokio::spawn(desk.reporter.clone().run());
        let mut attempt = Attempt::queued("p", "u", 1);
        attempt.accepted = true;
        attempt.writing = true;
        attempt.plan = Some(Plan {
            from: SlotName::A,
            from_version: "v1".to_owned(),
            to: SlotName::B,
            image: ImageRef::default(),
        });
        desk.reporter.show(&attempt);
        until(1).await;
        desk.live.send_modify(|live| {
            live.bytes_done = 50;
            live.bytes_total = 100;
        });
        // The writer sees that, and that it is not due.
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        assert_eq!(asked(), 1, "bytes alone wait");
        desk.live.send_modify(|live| live.verifying = true);
        until(2).await;
        running.abort();
    }

    #[test]
    fn only_what_was_accepted_and_is_not_over_is_written_in_passing() {
        let mut attempt = Attempt::queued("p", "u", 1);
        assert!(!is_shown(&attempt), "nobody may have heard of it");
        attempt.accepted = true;
        assert!(is_shown(&attempt));
        attempt.end = Some(End {
            phase: ProgressPhase::Failed,
            reason: String::new(),
            message: String::new(),
            at: None,
        });
        assert!(!is_shown(&attempt));
    }
}
