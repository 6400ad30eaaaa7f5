//! The Lease that one replica leads by.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, api::PostParams};
use tokio::time::{sleep, timeout};

use super::clock::Clock;
use crate::decide::election::{Elector, Move, SOMEBODY, Seen, Timing};

/// Name of the Lease, in the controller's namespace.
pub(super) const NAME: &str = "monok8s-controller";
/// How long giving the Lease back may take at the end: a few tries, well within the pod's grace period of 15 s.
const RELEASE_LIMIT: Duration = Duration::from_secs(5);

/// Whether this process leads at this very moment. Clones share the answer.
#[derive(Clone, Debug)]
pub(super) struct Leadership {
    /// On the process's clock, in milliseconds; 0 for who does not lead.
    until: Arc<AtomicU64>,
    clock: Clock,
}

impl Leadership {
    pub(super) fn none(clock: Clock) -> Self {
        Self {
            until: Arc::default(),
            clock,
        }
    }

    /// Asked before every single write: a process that was stopped for a while may find itself
    /// anywhere when it goes on.
    pub(super) fn holds(&self) -> bool {
        self.clock.now().as_millis() < u128::from(self.until.load(Ordering::Acquire))
    }

    fn set(&self, until: Option<Duration>) {
        let millis = until.map_or(0, |u| u64::try_from(u.as_millis()).unwrap_or(u64::MAX));
        self.until.store(millis, Ordering::Release);
    }
}

/// One replica's part in the election.
pub(super) struct Campaign {
    api: Api<Lease>,
    timing: Timing,
    clock: Clock,
    elector: Elector,
    leadership: Leadership,
    /// UID of the Lease as last seen. A PUT would make one that is gone again (Leases are among the
    /// kinds that may be created so); with a UID it is refused.
    uid: Option<String>,
    transitions: i32,
    acquired: Option<MicroTime>,
}

impl Campaign {
    pub(super) fn new(
        api: Api<Lease>,
        identity: String,
        timing: Timing,
        clock: Clock,
        leadership: Leadership,
    ) -> Self {
        Self {
            api,
            timing,
            clock,
            elector: Elector::new(identity, timing),
            leadership,
            uid: None,
            transitions: 0,
            acquired: None,
        }
    }

    /// Waits until this process leads. `yields` tells whether others had better.
    pub(super) async fn win(&mut self, yields: impl Fn() -> bool) {
        loop {
            match self.look().await {
                Ok(()) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot look at the Lease {NAME}; trying again");
                    sleep(self.timing.renew).await;
                    continue;
                }
            }
            let now = self.clock.now();
            let outcome = match self.elector.decide(now, yields()) {
                Move::Create { duration } => self.create(duration).await,
                Move::Take { resource_version } => {
                    self.transitions += 1;
                    self.write(resource_version).await
                }
                Move::Renew { .. } | Move::Lost | Move::Wait => Ok(()),
            };
            match outcome {
                Ok(()) if self.elector.leads_until().is_some() => return,
                Ok(()) => {}
                Err(error) if error.is_conflict() => {
                    tracing::debug!("another replica was faster");
                }
                Err(error) => tracing::warn!(%error, "cannot take the Lease {NAME}; trying again"),
            }
            sleep(self.timing.renew).await;
        }
    }

    /// Renews the Lease for as long as that succeeds; returns when this process leads no longer.
    pub(super) async fn keep(&mut self) {
        let mut pause = self.timing.renew;
        loop {
            let left = self.elector.leads_until().map_or(Duration::ZERO, |until| {
                until.saturating_sub(self.clock.now())
            });
            sleep(pause.min(left)).await;
            let Move::Renew { resource_version } = self.elector.decide(self.clock.now(), false)
            else {
                self.leadership.set(None);
                return;
            };
            pause = self.timing.renew;
            match self.write(resource_version).await {
                Ok(()) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot renew the Lease {NAME}");
                    // Its version may have moved under an answer that was lost.
                    if error.is_conflict()
                        && let Err(error) = self.look().await
                    {
                        tracing::warn!(%error, "cannot look at the Lease {NAME}");
                    }
                    pause = self.timing.renew / 4;
                }
            }
        }
    }

    /// Gives the Lease back, so that another replica need not wait. Nothing may be written as the
    /// leader any more when this is called.
    pub(super) async fn give_back(&mut self) {
        self.leadership.set(None);
        match timeout(RELEASE_LIMIT, self.free()).await {
            Ok(true) => tracing::info!("gave the Lease back"),
            Ok(false) => {}
            Err(_) => tracing::warn!("could not give the Lease back in time"),
        }
        self.elector.resign();
    }

    /// Writes that nobody holds the Lease, again and again until that succeeds; false when it is not
    /// this process's any more.
    async fn free(&mut self) -> bool {
        loop {
            let decided = self.elector.decide(self.clock.now(), false);
            let Move::Renew { resource_version } = decided else {
                return false;
            };
            let lease = self.lease(Some(resource_version), "", self.timing.duration);
            let params = PostParams::default();
            let Err(error) = self.limit(self.api.replace(NAME, &params, &lease)).await else {
                return true;
            };
            // A conflict: a renewal was on its way and nobody waited for its answer any more.
            if !error.is_conflict() {
                tracing::warn!(%error, "cannot give the Lease back; trying again");
                sleep(self.timing.renew / 4).await;
            }
            if let Err(error) = self.look().await {
                tracing::warn!(%error, "cannot look at the Lease {NAME}");
            }
        }
    }

    async fn look(&mut self) -> Result<(), LeaseError> {
        let lease = self.limit(self.api.get_opt(NAME)).await?;
        self.uid = lease.as_ref().and_then(|l| l.metadata.uid.clone());
        if let Some(spec) = lease.as_ref().and_then(|l| l.spec.as_ref()) {
            self.transitions = spec.lease_transitions.unwrap_or(0);
        }
        let now = self.clock.now();
        self.elector
            .observe(lease.map(|l| seen(&l, self.timing)), now);
        Ok(())
    }

    /// Makes the Lease, for nobody in particular.
    async fn create(&mut self, duration: Duration) -> Result<(), LeaseError> {
        tracing::warn!(
            "there is no Lease {NAME}; whoever led by it may not know yet: making one, to be taken \
             in {} s",
            duration.as_secs_f32()
        );
        let lease = self.lease(None, SOMEBODY, duration);
        let params = PostParams::default();
        self.limit(self.api.create(&params, &lease)).await?;
        Ok(())
    }

    /// Takes the Lease or renews it.
    async fn write(&mut self, resource_version: String) -> Result<(), LeaseError> {
        if self.elector.leads_until().is_none() {
            self.acquired = Some(MicroTime(Timestamp::now()));
        }
        let identity = self.elector.identity();
        let lease = self.lease(Some(resource_version), identity, self.timing.duration);
        let asked_at = self.clock.now();
        let params = PostParams::default();
        let replaced = self.api.replace(NAME, &params, &lease);
        let written = self.limit(replaced).await?;
        self.elector.wrote(seen(&written, self.timing), asked_at);
        self.leadership.set(self.elector.leads_until());
        Ok(())
    }

    fn lease(&self, resource_version: Option<String>, holder: &str, duration: Duration) -> Lease {
        let whole_seconds = duration.as_millis().div_ceil(1000);
        Lease {
            metadata: ObjectMeta {
                name: Some(NAME.to_owned()),
                uid: self.uid.clone().filter(|_| resource_version.is_some()),
                resource_version,
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.to_owned()),
                lease_duration_seconds: i32::try_from(whole_seconds).ok(),
                // For people: nobody compares these with a clock.
                acquire_time: self.acquired.clone(),
                renew_time: Some(MicroTime(Timestamp::now())),
                lease_transitions: Some(self.transitions),
                ..LeaseSpec::default()
            }),
        }
    }

    /// One request may take as long as the pause between two: a later one has to get its chance.
    async fn limit<T>(
        &self,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, LeaseError> {
        let limit = self.timing.renew;
        match timeout(limit, request).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(LeaseError::Slow(limit)),
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum LeaseError {
    #[error("the API server did not answer within {} s", .0.as_secs_f32())]
    Slow(Duration),
    #[error(transparent)]
    Api(#[from] kube::Error),
}

impl LeaseError {
    fn is_conflict(&self) -> bool {
        matches!(self, Self::Api(kube::Error::Api(status)) if status.code == 409)
    }
}

fn seen(lease: &Lease, timing: Timing) -> Seen {
    let spec = lease.spec.clone().unwrap_or_default();
    Seen {
        resource_version: lease.metadata.resource_version.clone().unwrap_or_default(),
        holder: spec.holder_identity.filter(|h| !h.is_empty()),
        duration: spec
            .lease_duration_seconds
            .and_then(|s| u64::try_from(s).ok())
            .map_or(timing.duration, Duration::from_secs),
    }
}
