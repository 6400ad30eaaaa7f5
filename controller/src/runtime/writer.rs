//! Carries out a plan.
//!
//! Every write has a precondition: what it was decided on. A write that fails on it means that the
//! index was behind; nothing is repeated blindly, the next plan decides anew.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::{StreamExt as _, stream};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use monok8s_api::{
    API_VERSION, CONTROLLER_MANAGER, DRAIN_ANNOTATION, OSUpgrade, OSUpgradeProgress,
    osupgrade::Download,
};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{
    drain::Drainer, events::Publisher, lease::Leadership, metrics::Metrics, pace::Pace,
    watches::Shared,
};
use crate::decide::plan::{Amendment, Deletion, Plan, StatusWrite};

/// How many writes are under way at once.
const AT_ONCE: usize = 8;
/// How long one request may take.
const LIMIT: Duration = Duration::from_secs(15);
/// How old a plan may be when its releases go out.
pub(super) const RELEASE_WITHIN: Duration = Duration::from_secs(1);

/// How a plan went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Writes that failed because the index was behind.
    pub(super) conflicts: usize,
    /// Writes that failed for another reason.
    pub(super) errors: usize,
    /// Something was left out, because the plan was found to be out of date.
    pub(super) left_out: bool,
    /// When a status that was held back may be written.
    pub(super) held_until: Option<Duration>,
}

impl Outcome {
    /// Whether everything was written. Otherwise the next plan must not wait for a change: nothing
    /// need ever change again, and a watch may have shown already what a write collided with.
    pub(super) fn is_final(self) -> bool {
        self.conflicts == 0 && self.errors == 0 && !self.left_out
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
    #[error("this process does not lead any more, or is about to end")]
    NotLeading,
    #[error("somebody was faster: {0}")]
    Conflict(String),
    #[error("it is not there any more: {0}")]
    Gone(String),
    #[error("the API server refuses: {0}")]
    Refused(String),
    #[error("no answer within {} s; whether it was written is not known", LIMIT.as_secs())]
    Slow,
    #[error("whether it was written is not known: {0}")]
    Unclear(kube::Error),
}

impl WriteError {
    fn result(&self) -> &'static str {
        match self {
            Self::NotLeading => "not_leading",
            Self::Conflict(_) => "conflict",
            Self::Gone(_) => "gone",
            Self::Refused(_) => "refused",
            Self::Slow => "timeout",
            Self::Unclear(_) => "error",
        }
    }
}

impl From<kube::Error> for WriteError {
    fn from(error: kube::Error) -> Self {
        match error {
            // There already, or another version of it.
            kube::Error::Api(status) if status.code == 409 => Self::Conflict(status.message),
            kube::Error::Api(status) if matches!(status.code, 404 | 410) => {
                Self::Gone(status.message)
            }
            kube::Error::Api(status) if (400..500).contains(&status.code) => {
                Self::Refused(status.message)
            }
            other => Self::Unclear(other),
        }
    }
}

/// Writes what was planned.
pub(super) struct Writer {
    upgrades: Api<OSUpgrade>,
    progresses: Api<OSUpgradeProgress>,
    publisher: Publisher,
    pace: Pace,
    drainer: Drainer,
    shared: Arc<Shared>,
    leadership: Leadership,
    stop: CancellationToken,
    metrics: Metrics,
    /// Progresses whose state is not known for certain, because a write to them failed. Nothing is
    /// released until they have been looked at.
    unsure: BTreeSet<String>,
}

impl Writer {
    pub(super) fn new(
        client: &Client,
        publisher: Publisher,
        shared: Arc<Shared>,
        leadership: Leadership,
        stop: CancellationToken,
        metrics: Metrics,
        drainer: Drainer,
    ) -> Self {
        Self {
            upgrades: Api::all(client.clone()),
            progresses: Api::all(client.clone()),
            publisher,
            pace: Pace::default(),
            drainer,
            shared,
            leadership,
            stop,
            metrics,
            unsure: BTreeSet::new(),
        }
    }

    /// Carries out a plan, in its order; stops early when this process must not write any more.
    /// `planned_at` is when it was made: releases rest on a count of places and failures that is
    /// out of date once anything turned out otherwise, or time has passed.
    pub(super) async fn act(&mut self, plan: Plan, planned_at: Duration) -> Outcome {
        let mut outcome = Outcome::default();
        for write in plan.statuses {
            let now = self.shared.now().clock;
            if let Some(due) = self.pace.wait(&write, now) {
                outcome.held_until = outcome.held_until.into_iter().chain([due]).min();
                continue;
            }
            self.pace.wrote(&write, now);
            let told = self.write_status(&write).await;
            let upgrade = write.upgrade.name_any();
            if self.record("status", &upgrade, told, &mut outcome) {
                for notice in &write.notices {
                    self.publisher.publish(notice);
                }
            }
        }
        self.each("delete", plan.deletions, &mut outcome, async |writer, d| {
            (d.name.clone(), writer.delete(&d).await)
        })
        .await;
        self.each("amend", plan.amendments, &mut outcome, async |writer, a| {
            (a.name.clone(), writer.amend(&a).await)
        })
        .await;
        let age = self.shared.now().clock.saturating_sub(planned_at);
        if plan.releases.is_empty() {
        } else if !outcome.is_final() || age > RELEASE_WITHIN {
            outcome.left_out = true;
        } else if self.look_again().await {
            self.release(plan.releases, &mut outcome).await;
        } else {
            outcome.errors += 1;
        }
        self.each("create", plan.creations, &mut outcome, async |writer, p| {
            (p.name_any(), writer.create(&p).await)
        })
        .await;
        self.drainer
            .act(self, plan.drain, planned_at, &mut outcome)
            .await;
        for notice in &plan.notices {
            if self.may_write() {
                self.publisher.publish(notice);
            }
        }
        outcome
    }

    /// Lets the Events that were told of be written.
    pub(super) async fn finish(self) {
        self.publisher.finish().await;
    }

    pub(super) fn may_write(&self) -> bool {
        self.leadership.holds() && !self.stop.is_cancelled()
    }

    async fn each<T>(
        &self,
        kind: &'static str,
        items: Vec<T>,
        outcome: &mut Outcome,
        write: impl AsyncFn(&Self, T) -> (String, Result<(), WriteError>),
    ) {
        let mut results = stream::iter(items)
            .map(|item| write(self, item))
            .buffer_unordered(AT_ONCE);
        while let Some((name, result)) = results.next().await {
            self.record(kind, &name, result, outcome);
        }
    }

    /// Releases one after the other. The first that fails ends it: the index was behind, and so
    /// may be the count of places that the rest rests on.
    async fn release(&mut self, releases: Vec<Amendment>, outcome: &mut Outcome) {
        for release in releases {
            let result = self.amend(&release).await;
            if result.is_ok() {
                tracing::info!(progress = release.name, gate = ?release.release, "released");
            } else {
                self.unsure.insert(release.name.clone());
            }
            if !self.record("release", &release.name, result, outcome) {
                return;
            }
        }
    }

    pub(super) fn record(
        &self,
        kind: &'static str,
        name: &str,
        result: Result<(), WriteError>,
        outcome: &mut Outcome,
    ) -> bool {
        let Err(error) = result else {
            self.metrics.wrote(kind, "ok");
            return true;
        };
        self.metrics.wrote(kind, error.result());
        match error {
            // Between two renewals the Lease may run out for a moment and be renewed after all.
            WriteError::NotLeading => outcome.left_out = true,
            WriteError::Conflict(_) | WriteError::Gone(_) => {
                outcome.conflicts += 1;
                tracing::debug!(kind, name, %error, "not written");
            }
            WriteError::Refused(_) | WriteError::Slow | WriteError::Unclear(_) => {
                outcome.errors += 1;
                tracing::warn!(kind, name, %error, "not written");
            }
        }
        false
    }

    pub(super) async fn request<T>(
        &self,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, WriteError> {
        if !self.may_write() {
            return Err(WriteError::NotLeading);
        }
        match timeout(LIMIT, request).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(WriteError::Slow),
        }
    }

    /// The same, with whatever the API server answered as it is.
    pub(super) async fn answered<T>(
        &self,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, WriteError> {
        let answer = self.request(async { Ok(request.await) }).await?;
        answer.map_err(WriteError::Unclear)
    }

    /// Counts what is no failure of a write even when it was refused.
    pub(super) fn count(&self, kind: &'static str, accepted: bool) {
        let result = if accepted { "ok" } else { "refused" };
        self.metrics.wrote(kind, result);
    }

    async fn write_status(&self, write: &StatusWrite) -> Result<(), WriteError> {
        let name = write.upgrade.name_any();
        let body = status_body(write);
        let params = PatchParams::apply(CONTROLLER_MANAGER).force();
        let patch = Patch::Apply(&body);
        let written = self
            .request(self.upgrades.patch_status(&name, &params, &patch))
            .await?;
        self.shared.amend(|index, _| index.apply_upgrade(written));
        Ok(())
    }

    async fn delete(&self, deletion: &Deletion) -> Result<(), WriteError> {
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(deletion.uid.clone()),
                resource_version: Some(deletion.resource_version.clone()),
            }),
            ..DeleteParams::background()
        };
        let deleted = self
            .request(self.progresses.delete(&deletion.name, &params))
            .await;
        match deleted.map(|answer| answer.either(Some, |_| None)) {
            // Somebody's finalizer keeps it.
            Ok(Some(dying)) => {
                self.shared
                    .amend(|index, clock| index.apply_progress(dying, clock));
                return Ok(());
            }
            Ok(None) => {
                tracing::info!(progress = deletion.name, why = ?deletion.why, "deleted");
            }
            Err(WriteError::Gone(_)) => {}
            Err(error) => return Err(error),
        }
        self.shared
            .amend(|index, _| index.remove_progress(&deletion.name, &deletion.uid));
        Ok(())
    }

    pub(super) async fn amend(&self, amendment: &Amendment) -> Result<(), WriteError> {
        let body = amendment_body(amendment);
        let params = PatchParams {
            field_manager: Some(CONTROLLER_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let patch = Patch::Merge(&body);
        let written = self
            .request(self.progresses.patch(&amendment.name, &params, &patch))
            .await;
        match &written {
            Ok(written) => self
                .shared
                .amend(|index, clock| index.apply_progress(written.clone(), clock)),
            Err(WriteError::Gone(_)) => self
                .shared
                .amend(|index, _| index.remove_progress(&amendment.name, &amendment.uid)),
            Err(_) => {}
        }
        written.map(drop)
    }

    async fn create(&self, progress: &OSUpgradeProgress) -> Result<(), WriteError> {
        let params = PostParams {
            field_manager: Some(CONTROLLER_MANAGER.to_owned()),
            ..PostParams::default()
        };
        let written = self
            .request(self.progresses.create(&params, progress))
            .await?;
        self.shared
            .amend(|index, clock| index.apply_progress(written, clock));
        Ok(())
    }

    /// Looks at what is not known for certain; false when that did not succeed.
    async fn look_again(&mut self) -> bool {
        while let Some(name) = self.unsure.first().cloned() {
            let known = self
                .shared
                .read(|index| index.progress(&name).and_then(|p| p.object.uid()));
            match self.request(self.progresses.get_opt(&name)).await {
                Ok(Some(progress)) => self
                    .shared
                    .amend(|index, clock| index.apply_progress(progress, clock)),
                Ok(None) => self
                    .shared
                    .amend(|index, _| index.remove_progress(&name, &known.unwrap_or_default())),
                Err(error) => {
                    tracing::warn!(progress = name, %error, "cannot be looked at; nothing is released");
                    return false;
                }
            }
            self.unsure.remove(&name);
        }
        true
    }
}

/// A status for server-side apply; UID and resource version are preconditions.
fn status_body(write: &StatusWrite) -> Value {
    json!({
        "apiVersion": API_VERSION,
        "kind": "OSUpgrade",
        "metadata": {
            "name": write.upgrade.name_any(),
            "uid": write.upgrade.uid(),
            "resourceVersion": write.upgrade.resource_version(),
        },
        "status": write.status,
    })
}

/// A merge patch of a progress's spec; UID and resource version are preconditions.
fn amendment_body(amendment: &Amendment) -> Value {
    let mut spec = serde_json::Map::new();
    if let Some(release) = amendment.release {
        spec.insert("release".to_owned(), json!(release));
    }
    if let Some(download) = &amendment.download {
        spec.insert("download".to_owned(), whole(download));
    }
    let mut metadata = json!({
        "uid": amendment.uid,
        "resourceVersion": amendment.resource_version,
    });
    if let Some(note) = &amendment.drain_note {
        let note = Some(note).filter(|note| !note.is_empty());
        metadata["annotations"] = json!({DRAIN_ANNOTATION: note});
    }
    json!({"metadata": metadata, "spec": spec})
}

/// Download settings with every field, absent ones as null: a merge patch keeps what it does not
/// name.
fn whole(download: &Download) -> Value {
    json!({
        "maxBytesPerSecond": download.max_bytes_per_second,
        "retryFor": download.retry_for,
        "credentials": download.credentials,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_write_carries_what_it_was_decided_on() {
        let amendment = Amendment {
            name: "p".into(),
            uid: "u".into(),
            resource_version: "7".into(),
            release: Some(monok8s_api::osupgradeprogress::Release::Reboot),
            download: None,
            drain_note: None,
        };
        assert_eq!(
            amendment_body(&amendment),
            json!({"metadata": {"uid": "u", "resourceVersion": "7"}, "spec": {"release": "Reboot"}})
        );
        let upgrade: OSUpgrade = serde_json::from_value(json!({
            "apiVersion": API_VERSION, "kind": "OSUpgrade",
            "metadata": {"name": "up", "uid": "u", "resourceVersion": "8"},
            "spec": {"version": "v1.35.1"},
        }))
        .unwrap();
        let body = status_body(&StatusWrite {
            upgrade,
            status: monok8s_api::OSUpgradeStatus::default(),
            notices: Vec::new(),
        });
        assert_eq!(
            body["metadata"],
            json!({"name": "up", "uid": "u", "resourceVersion": "8"})
        );
        assert!(body.get("spec").is_none());
    }

    #[test]
    fn a_merge_patch_names_every_download_field() {
        let schema = serde_json::to_value(Download {
            max_bytes_per_second: Some(1),
            credentials: Some("c".into()),
            ..Download::default()
        })
        .unwrap();
        let patch = whole(&Download::default());
        for field in schema.as_object().unwrap().keys() {
            assert!(patch.get(field).is_some(), "{field}");
        }
        assert_eq!(patch["credentials"], Value::Null);
    }
}
