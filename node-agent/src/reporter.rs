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
    calls::{self, Backoff, CallError},
    effects::{Away, Reply},
    metrics::Metrics,
    objects::Objects,
    pace::{Due, Pace, Rate},
    record::Attempt,
    status::{self, Here, Live},
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
    pub async fn read(&self, name: &str, uid: &str) -> Result<(), Away> {
        match calls::limited(self.api.get(name)).await {
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
            tokio::select! {
                // A failed write is not hurried by news.
                () = tokio::time::sleep(pause.unwrap_or(Duration::MAX)), if pause.is_some() => {}
                Ok(()) = newest.changed(), if pause.is_none() || backoff.is_fresh() => {}
                Ok(()) = live.changed(), if pause.is_none() => {}
                Ok(()) = changed.changed(), if pause.is_none() => {}
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
    use monok8s_api::reason::ProgressPhase;

    use super::*;
    use crate::record::End;

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
