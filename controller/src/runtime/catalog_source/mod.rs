//! Where catalogs come from when they do not stand in the upgrade itself, and when they are read.

mod config_map;
mod url;

use std::{collections::HashMap, sync::Arc, time::Duration};

use kube::Client;
use monok8s_api::{catalog::Catalog, osupgrade::CatalogSource};
use monok8s_fetch::Validators;
use tokio::task::JoinSet;

use super::{metrics::Metrics, watches::Shared};
use crate::{
    decide::plan::{ReadingWanted, Urgency},
    index::{ReadError, Reading},
};
use config_map::ConfigMaps;
pub(super) use url::Urls;

/// Least time between two readings of one catalog, whatever wants them.
const LEAST_GAP: Duration = Duration::from_secs(1);
/// Pause after the first failure; it doubles with every further one.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// Longest pause after a failure.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long the validators of a catalog that nobody wants are kept.
const FORGET_AFTER: Duration = Duration::from_secs(3600);

/// What one reading found: a text, or that it is what it was.
enum Found {
    Text(String, Validators),
    Unchanged,
}

/// Reads catalogs when the planner wants them, one reading per upgrade at a time.
pub(super) struct Catalogs {
    shared: Arc<Shared>,
    metrics: Metrics,
    urls: Urls,
    config_maps: ConfigMaps,
    /// How often a catalog is read again only because a change of it could change the verdict.
    reread: Duration,
    entries: HashMap<String, Entry>,
    running: JoinSet<Finished>,
}

struct Entry {
    source: CatalogSource,
    validators: Option<Validators>,
    failures: u32,
    running: bool,
    /// When it was read last, successfully or not.
    read_at: Option<Duration>,
    /// After a failure: not before then.
    not_before: Duration,
}

struct Finished {
    uid: String,
    upgrade: String,
    reading: Reading,
    validators: Option<Validators>,
}

impl Catalogs {
    pub(super) fn new(
        client: Client,
        namespace: &str,
        urls: Urls,
        reread: Duration,
        shared: Arc<Shared>,
        metrics: Metrics,
    ) -> Self {
        Self {
            shared,
            metrics,
            urls,
            config_maps: ConfigMaps::new(client, namespace),
            reread,
            entries: HashMap::new(),
            running: JoinSet::new(),
        }
    }

    /// Begins the readings that are due; tells when the next of those wanted will be.
    pub(super) fn request(&mut self, wanted: &[ReadingWanted]) -> Option<Duration> {
        let now = self.shared.now().clock;
        self.entries.retain(|uid, entry| {
            let wanted = wanted.iter().any(|w| w.uid == *uid);
            wanted || entry.running || entry.read_at.is_some_and(|at| now < at + FORGET_AFTER)
        });
        let mut next = None;
        for wanted in wanted {
            let known = self.shared.read(|index| {
                let upgrade = index.upgrade(&wanted.upgrade)?;
                let source = upgrade.remote_source()?.clone();
                (upgrade.uid() == wanted.uid).then(|| (source, upgrade.catalog.good.is_some()))
            });
            let Some((source, has_good)) = known else {
                continue;
            };
            let entry = self
                .entries
                .entry(wanted.uid.clone())
                .or_insert_with(|| Entry::new(source.clone()));
            if entry.running {
                continue;
            }
            if entry.source != source {
                *entry = Entry::new(source.clone());
            }
            let due = entry.due(wanted.urgency, self.reread);
            if due > now {
                next = Some(next.map_or(due, |at: Duration| at.min(due)));
                continue;
            }
            entry.running = true;
            let validators = entry.validators.clone().filter(|_| has_good);
            self.begin(wanted, source, validators);
        }
        next
    }

    fn begin(
        &mut self,
        wanted: &ReadingWanted,
        source: CatalogSource,
        validators: Option<Validators>,
    ) {
        let (urls, config_maps) = (self.urls.clone(), self.config_maps.clone());
        let shared = self.shared.clone();
        let (uid, upgrade) = (wanted.uid.clone(), wanted.upgrade.clone());
        self.running.spawn(async move {
            let found = match (&source.url, &source.config_map) {
                (Some(url), _) => urls.read(url, validators.as_ref()).await,
                (None, Some(name)) => config_maps.read(name).await,
                (None, None) => Ok(Found::Unchanged),
            };
            let (outcome, validators) = match found {
                Ok(Found::Text(text, new)) => (parse(text).await, Some(new)),
                Ok(Found::Unchanged) => (Ok(None), validators),
                Err(error) => (Err(error), None),
            };
            let now = shared.now();
            let reading = Reading {
                source,
                clock: now.clock,
                wall: now.wall,
                outcome,
            };
            Finished {
                uid,
                upgrade,
                reading,
                validators,
            }
        });
    }

    /// Waits for a reading to end and puts it into the index; for ever when none is running.
    pub(super) async fn finished(&mut self) {
        let finished = match self.running.join_next().await {
            None => return std::future::pending().await,
            Some(Ok(finished)) => finished,
            Some(Err(error)) => {
                tracing::error!(%error, "a catalog's reading broke off");
                return;
            }
        };
        let Finished {
            uid,
            upgrade,
            reading,
            validators,
        } = finished;
        let kind = if reading.source.url.is_some() {
            "url"
        } else {
            "configmap"
        };
        let result = match &reading.outcome {
            Ok(_) => "ok".to_owned(),
            Err(error) => error.reason.to_string(),
        };
        self.metrics.read_catalog(kind, result);
        if let Some(entry) = self.entries.get_mut(&uid) {
            entry.ended(&reading, validators);
        }
        if let Err(error) = &reading.outcome {
            tracing::warn!(upgrade, reason = %error.reason, "{error}");
        }
        self.shared
            .amend(|index, _| index.apply_reading(&upgrade, &uid, reading));
    }
}

impl Entry {
    fn new(source: CatalogSource) -> Self {
        Self {
            source,
            validators: None,
            failures: 0,
            running: false,
            read_at: None,
            not_before: Duration::ZERO,
        }
    }

    fn due(&self, urgency: Urgency, reread: Duration) -> Duration {
        let gap = match urgency {
            Urgency::Now => LEAST_GAP,
            // A failure has a pause of its own.
            Urgency::Eventually if self.failures > 0 => LEAST_GAP,
            Urgency::Eventually => reread.max(LEAST_GAP),
        };
        self.read_at
            .map_or(Duration::ZERO, |at| at + gap)
            .max(self.not_before)
    }

    fn ended(&mut self, reading: &Reading, validators: Option<Validators>) {
        self.running = false;
        self.read_at = Some(reading.clock);
        self.validators = validators;
        if reading.outcome.is_ok() {
            self.failures = 0;
            self.not_before = Duration::ZERO;
        } else {
            let pause = FIRST_PAUSE * 2_u32.saturating_pow(self.failures.min(10));
            // Half to whole, so that many upgrades with one broken server do not ask in step.
            let share = rand::random_range(0.5..=1.0);
            self.not_before = reading.clock + pause.min(LONGEST_PAUSE).mul_f64(share);
            self.failures = self.failures.saturating_add(1);
        }
    }
}

async fn parse(text: String) -> Result<Option<(Arc<Catalog>, String)>, ReadError> {
    let parsed = tokio::task::spawn_blocking(move || {
        let catalog = Catalog::parse(&text).map_err(|error| ReadError {
            reason: error.reason(),
            message: error.to_string(),
        })?;
        Ok(Some((
            Arc::new(catalog),
            Catalog::digest(&text).to_string(),
        )))
    });
    parsed.await.unwrap_or_else(|_| {
        Err(ReadError {
            reason: monok8s_api::reason::AcceptedReason::InvalidCatalog,
            message: "the catalog could not be read as one".to_owned(),
        })
    })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use monok8s_api::reason::AcceptedReason;

    use super::*;

    const REREAD: Duration = Duration::from_secs(60);

    fn reading(clock: u64, ok: bool) -> Reading {
        Reading {
            source: CatalogSource::default(),
            clock: Duration::from_secs(clock),
            wall: Timestamp::UNIX_EPOCH,
            outcome: if ok {
                Ok(None)
            } else {
                Err(ReadError {
                    reason: AcceptedReason::CatalogUnreachable,
                    message: String::new(),
                })
            },
        }
    }

    #[test]
    fn failures_are_tried_again_ever_later_and_no_later_than_a_minute() {
        let mut entry = Entry::new(CatalogSource::default());
        assert_eq!(entry.due(Urgency::Now, REREAD), Duration::ZERO);
        let mut clock = 100;
        for round in 0..40_u32 {
            entry.ended(&reading(clock, false), None);
            let pause = entry.due(Urgency::Now, REREAD).as_secs_f64()
                - f64::from(u32::try_from(clock).unwrap());
            let whole = f64::from(2_u32.saturating_pow(round.min(20) + 1)).min(60.0);
            assert!(
                pause >= whole / 2.0 - 0.01 && pause <= whole + 0.01,
                "{round}: {pause}"
            );
            assert_eq!(
                entry.due(Urgency::Eventually, REREAD),
                entry.due(Urgency::Now, REREAD)
            );
            clock += 100;
        }
        entry.ended(&reading(clock, true), None);
        assert_eq!(
            entry.due(Urgency::Now, REREAD),
            Duration::from_secs(clock) + LEAST_GAP
        );
        assert_eq!(
            entry.due(Urgency::Eventually, REREAD),
            Duration::from_secs(clock) + REREAD
        );
    }
}
