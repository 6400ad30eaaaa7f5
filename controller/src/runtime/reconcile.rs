//! The loop: look, decide, act, wait.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use kube::Client;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{
    catalog_source::Catalogs, catch_up, metrics::Metrics, pod_watches::PodWatches,
    request::Outcome, watches::Shared, writer::Writer,
};
use crate::decide::{Settings, planner};

/// Changes that arrive this close together are planned for at once.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// In a large fleet plans cost more: at most this share of the time goes into planning.
const SHARE: u32 = 10;
/// Longest that changes are gathered for.
const LONGEST_DEBOUNCE: Duration = Duration::from_secs(1);
/// Pause after a conflict: the watch is about to show what was missed.
const AFTER_CONFLICT: Duration = Duration::from_millis(500);
/// Pause after the first error; it doubles with every further one.
const AFTER_ERROR: Duration = Duration::from_secs(1);
/// Longest pause after errors.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Why the loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// It was stopped.
    Stopped,
    /// The node that this process runs on is about to reboot: another replica had better lead.
    GoesDown,
}

/// What the leader runs.
pub(super) struct Reconciler {
    pub(super) client: Client,
    pub(super) shared: Arc<Shared>,
    pub(super) settings: Settings,
    pub(super) catalogs: Catalogs,
    pub(super) writer: Writer,
    pub(super) pods: PodWatches,
    pub(super) metrics: Metrics,
    pub(super) stop: CancellationToken,
}

impl Reconciler {
    /// Reconciles until stopped, or until this process's own node goes down. No write is under way
    /// when it returns.
    pub(super) async fn run(&mut self) -> Ended {
        let stop = self.stop.clone();
        self.shared.forget_drains();
        stop.run_until_cancelled(self.catch_up()).await;
        let mut failures = 0;
        while !stop.is_cancelled() {
            let now = self.shared.now();
            let plan = self.shared.read(|index| {
                self.metrics.observe(index);
                planner::plan(index, &self.settings, now)
            });
            let took = self.shared.now().clock.saturating_sub(now.clock);
            self.metrics.planned(took, now.clock);
            let gather = (took * SHARE).clamp(DEBOUNCE, LONGEST_DEBOUNCE);

            let next_reading = self.catalogs.request(&plan.readings);
            let look_again_at = plan.look_again_at.into_iter().chain(next_reading);
            let more = plan.more;
            self.pods.follow(&plan.drain.follow);

            let began = self.shared.now().clock;
            let outcome = self.writer.act(plan, now.clock).await;
            let took = self.shared.now().clock.saturating_sub(began);
            self.metrics.acted(took);
            // A write without an answer may still be carried out: then the Lease had better be kept.
            if outcome.goes_down && outcome.errors == 0 {
                self.pods.follow(&BTreeSet::new());
                return Ended::GoesDown;
            }

            let failed = outcome.errors + outcome.refused > 0;
            failures = if failed { failures + 1 } else { 0 };
            stop.run_until_cancelled(sleep(pause(outcome, failures)))
                .await;
            let until = if more || !outcome.is_final() {
                Some(Duration::ZERO)
            } else {
                look_again_at.chain(outcome.held_until).min()
            };
            stop.run_until_cancelled(self.wait(gather, until)).await;
        }
        Ended::Stopped
    }

    /// Lets the Events that were told of be written.
    pub(super) async fn finish(self) {
        self.writer.finish().await;
    }

    async fn catch_up(&mut self) {
        let mut failures = 0;
        while let Err(error) = catch_up::catch_up(&self.client, &self.shared).await {
            tracing::warn!("{error}; nothing is decided before; trying again");
            failures += 1;
            sleep(backoff(failures)).await;
        }
    }

    /// Waits for whatever comes first: a change, the end of a catalog's reading, a point in time.
    /// What is there already is taken in even when that point has passed.
    async fn wait(&mut self, gather: Duration, until: Option<Duration>) {
        let now = self.shared.now().clock;
        let alarm = async {
            match until {
                Some(at) => sleep(at.saturating_sub(now)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.catalogs.finished() => {}
            () = self.shared.changed() => sleep(gather).await,
            () = alarm => {}
        }
    }
}

fn pause(outcome: Outcome, failures: u32) -> Duration {
    if failures > 0 {
        backoff(failures)
    } else if outcome.conflicts > 0 {
        AFTER_CONFLICT
    } else {
        Duration::ZERO
    }
}

fn backoff(failures: u32) -> Duration {
    let pause = AFTER_ERROR * 2_u32.saturating_pow(failures.saturating_sub(1).min(10));
    pause
        .min(LONGEST_PAUSE)
        .mul_f64(rand::random_range(0.5..=1.0))
}
