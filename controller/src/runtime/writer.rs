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

use super::{
    drain::Drainer,
    events::Publisher,
    pace::Pace,
    request::{Outcome, Requests, WriteError},
    watches::Shared,
};
use crate::decide::plan::{Amendment, Deletion, DrainWork, Plan, StatusWrite};

/// How old a plan may be when its releases go out.
const RELEASE_WITHIN: Duration = Duration::from_secs(1);
/// How many writes are under way at once.
const AT_ONCE: usize = 8;

/// Writes what was planned.
pub(super) struct Writer {
    upgrades: Api<OSUpgrade>,
    progresses: Api<OSUpgradeProgress>,
    publisher: Publisher,
    pace: Pace,
    drainer: Drainer,
    shared: Arc<Shared>,
    requests: Requests,
    /// The node that this process runs on, if that is known.
    own_node: Option<String>,
    /// Progresses whose state is not known for certain, because a write to them failed. Nothing is
    /// released until they have been looked at.
    unsure: BTreeSet<String>,
}

impl Writer {
    pub(super) fn new(
        client: &Client,
        publisher: Publisher,
        shared: Arc<Shared>,
        requests: Requests,
        drainer: Drainer,
        own_node: Option<String>,
    ) -> Self {
        Self {
            upgrades: Api::all(client.clone()),
            progresses: Api::all(client.clone()),
            publisher,
            pace: Pace::default(),
            drainer,
            shared,
            requests,
            own_node,
            unsure: BTreeSet::new(),
        }
    }

    /// Carries out a plan, in its order; stops early when this process must not write any more.
    /// `planned_at` is when it was made: releases rest on a count of places and failures that is
    /// out of date once anything turned out otherwise, or time has passed.
    pub(super) async fn act(&mut self, plan: Plan, planned_at: Duration) -> Outcome {
        let mut outcome = Outcome::default();
        self.tell(plan.statuses, &mut outcome).await;
        self.each("delete", plan.deletions, &mut outcome, async |writer, d| {
            (d.name.clone(), writer.delete(&d).await)
        })
        .await;
        self.each("amend", plan.amendments, &mut outcome, async |writer, a| {
            (a.name.clone(), writer.amend(&a).await)
        })
        .await;
        if !plan.releases.is_empty() && self.is_current(planned_at, &mut outcome) {
            self.release(plan.releases, &mut outcome).await;
        }
        self.each("create", plan.creations, &mut outcome, async |writer, p| {
            (p.name_any(), writer.create(&p).await)
        })
        .await;
        self.drain(plan.drain, planned_at, &mut outcome).await;
        for notice in &plan.notices {
            if self.requests.may_write() {
                self.publisher.publish(notice);
            }
        }
        outcome
    }

    /// Writes statuses, but for those whose time has not come.
    async fn tell(&mut self, statuses: Vec<StatusWrite>, outcome: &mut Outcome) {
        for write in statuses {
            let now = self.shared.now().clock;
            if let Some(due) = self.pace.wait(&write, now) {
                outcome.held_until = outcome.held_until.into_iter().chain([due]).min();
                continue;
            }
            self.pace.wrote(&write, now);
            let told = self.write_status(&write).await;
            let upgrade = write.upgrade.name_any();
            let mut apart = Outcome::default();
            let counted = if matches!(told, Err(WriteError::Refused(_))) {
                // What rests on it waits for it (`is_fixed`). It has a pause of its own, and delays nothing else.
                let again = self.pace.refused(&write, now);
                outcome.held_until = outcome.held_until.into_iter().chain([again]).min();
                &mut apart
            } else {
                &mut *outcome
            };
            if self.requests.record("status", &upgrade, told, counted) {
                for notice in &write.notices {
                    self.publisher.publish(notice);
                }
            }
        }
    }

    /// Empties nodes, and lets those reboot that are.
    async fn drain(&self, work: DrainWork, planned_at: Duration, outcome: &mut Outcome) {
        self.drainer.remember(&work);
        self.drainer.cordon(&work, outcome).await;
        for reboot in &work.reboots {
            if !self.is_current(planned_at, outcome) {
                break;
            }
            if self.drainer.may_reboot(reboot, outcome).await
                && self.let_go(&reboot.amendment, outcome).await
                && let Some(notice) = &reboot.alone
            {
                self.publisher.publish(notice);
            }
        }
        self.drainer.ask(work.asks, outcome).await;
    }

    /// Whether a plan that was made then may still release anything. Otherwise it is noted that
    /// something was left out.
    fn is_current(&self, planned_at: Duration, outcome: &mut Outcome) -> bool {
        let age = self.shared.now().clock.saturating_sub(planned_at);
        let current = outcome.is_as_planned() && age <= RELEASE_WITHIN;
        outcome.left_out |= !current;
        current
    }

    /// Lets the Events that were told of be written.
    pub(super) async fn finish(self) {
        self.publisher.finish().await;
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
            self.requests.record(kind, &name, result, outcome);
        }
    }

    /// Releases one after the other. The first that fails ends it, unless it was refused: the index
    /// was behind, and so may be the count of places that the rest rests on.
    async fn release(&mut self, releases: Vec<Amendment>, outcome: &mut Outcome) {
        if !self.look_again().await {
            outcome.errors += 1;
            return;
        }
        for release in releases {
            self.let_go(&release, outcome).await;
            if !outcome.is_as_planned() {
                self.unsure.insert(release.name);
                return;
            }
        }
    }

    /// Opens the gate of one progress.
    async fn let_go(&self, release: &Amendment, outcome: &mut Outcome) -> bool {
        let result = self.amend(release).await;
        let written = self
            .requests
            .record("release", &release.name, result, outcome);
        if written {
            tracing::info!(progress = release.name, gate = ?release.release, "released");
            outcome.goes_down |= self.is_own_end(&release.name);
        }
        written
    }

    /// Whether a progress takes the node down that this process runs on.
    fn is_own_end(&self, progress: &str) -> bool {
        self.shared.read(|index| {
            let progress = index.progress(progress).filter(|p| p.goes_down());
            progress.is_some_and(|p| Some(p.node_name()) == self.own_node.as_deref())
        })
    }

    async fn write_status(&self, write: &StatusWrite) -> Result<(), WriteError> {
        let name = write.upgrade.name_any();
        let body = status_body(write);
        let params = PatchParams::apply(CONTROLLER_MANAGER).force();
        let patch = Patch::Apply(&body);
        let written = self
            .requests
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
            .requests
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

    async fn amend(&self, amendment: &Amendment) -> Result<(), WriteError> {
        let body = amendment_body(amendment);
        let params = PatchParams {
            field_manager: Some(CONTROLLER_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let patch = Patch::Merge(&body);
        let written = self
            .requests
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
            .requests
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
            match self.requests.request(self.progresses.get_opt(&name)).await {
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
