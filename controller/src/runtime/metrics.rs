//! What Prometheus sees. No label holds a node's or another object's name.

use std::{sync::atomic::AtomicU64, time::Duration};

use monok8s_api::reason::{ProgressPhase, UpgradePhase};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use crate::index::Index;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Phase {
    phase: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Write {
    kind: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Source {
    source: &'static str,
    result: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Resource {
    resource: &'static str,
}

/// All metrics of the controller. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Metrics {
    leading: Gauge,
    nodes: Gauge,
    upgrades: Family<Phase, Gauge>,
    progresses: Family<Phase, Gauge>,
    plan_seconds: Histogram,
    act_seconds: Histogram,
    writes: Family<Write, Counter>,
    catalog_reads: Family<Source, Counter>,
    watch_errors: Family<Resource, Counter>,
    last_plan: Gauge<f64, AtomicU64>,
}

impl Metrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        // 0.1 ms to about 6.5 s.
        let seconds = || Histogram::new(exponential_buckets(0.000_1, 4.0, 9));
        let metrics = Self {
            leading: Gauge::default(),
            nodes: Gauge::default(),
            upgrades: Family::default(),
            progresses: Family::default(),
            plan_seconds: seconds(),
            act_seconds: seconds(),
            writes: Family::default(),
            catalog_reads: Family::default(),
            watch_errors: Family::default(),
            last_plan: Gauge::default(),
        };
        registry.register(
            "leading",
            "Whether this replica leads (1) or stands by (0)",
            metrics.leading.clone(),
        );
        registry.register("nodes", "Nodes known", metrics.nodes.clone());
        registry.register("upgrades", "OSUpgrades by phase", metrics.upgrades.clone());
        registry.register(
            "progresses",
            "OSUpgradeProgresses by phase",
            metrics.progresses.clone(),
        );
        registry.register(
            "plan_duration_seconds",
            "Time taken to decide what is to be done",
            metrics.plan_seconds.clone(),
        );
        registry.register(
            "act_duration_seconds",
            "Time taken to write what was decided",
            metrics.act_seconds.clone(),
        );
        registry.register(
            "last_plan_clock_seconds",
            "When the last plan was made, in seconds since this process began",
            metrics.last_plan.clone(),
        );
        registry.register(
            "writes",
            "Writes to the API server by kind and result",
            metrics.writes.clone(),
        );
        registry.register(
            "catalog_reads",
            "Attempts to read a catalog by source and result",
            metrics.catalog_reads.clone(),
        );
        registry.register(
            "watch_errors",
            "Watches that broke off, by resource",
            metrics.watch_errors.clone(),
        );
        metrics
    }

    pub(super) fn leads(&self, leads: bool) {
        self.leading.set(i64::from(leads));
    }

    /// Every phase of the contract is shown, zero included, so that a query never lacks a series.
    pub(super) fn observe(&self, index: &Index) {
        let (upgrades, progresses) = index.phases();
        let show = |family: &Family<Phase, Gauge>, phase: &str, count: i64| {
            let phase = phase.to_owned();
            family.get_or_create(&Phase { phase }).set(count);
        };
        for phase in UpgradePhase::ALL {
            let count = upgrades.get(phase.as_str()).copied().unwrap_or(0);
            show(&self.upgrades, phase.as_str(), count);
        }
        for phase in ProgressPhase::ALL {
            let count = progresses.get(phase.as_str()).copied().unwrap_or(0);
            show(&self.progresses, phase.as_str(), count);
        }
        let (nodes, _) = index.sizes();
        self.nodes.set(i64::try_from(nodes).unwrap_or(i64::MAX));
    }

    pub(super) fn planned(&self, took: Duration, clock: Duration) {
        self.plan_seconds.observe(took.as_secs_f64());
        self.last_plan.set(clock.as_secs_f64());
    }

    pub(super) fn acted(&self, took: Duration) {
        self.act_seconds.observe(took.as_secs_f64());
    }

    pub(super) fn wrote(&self, kind: &'static str, result: &'static str) {
        self.writes.get_or_create(&Write { kind, result }).inc();
    }

    pub(super) fn read_catalog(&self, source: &'static str, result: String) {
        self.catalog_reads
            .get_or_create(&Source { source, result })
            .inc();
    }

    pub(super) fn watch_broke(&self, resource: &'static str) {
        self.watch_errors
            .get_or_create(&Resource { resource })
            .inc();
    }
}
