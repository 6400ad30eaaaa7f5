//! What the agent counts. No label carries the name of a node or an object.

use std::sync::atomic::AtomicI64;

use monok8s_api::reason::ProgressPhase;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// Outcome of an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    phase: String,
    reason: String,
}

/// Outcome of a status write.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Write {
    result: &'static str,
}

/// The agent's metrics. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    attempts: Family<Outcome, Counter>,
    status_writes: Family<Write, Counter>,
    bytes_written: Counter,
    bytes_done: Gauge<i64, AtomicI64>,
    bytes_total: Gauge<i64, AtomicI64>,
    reboots: Counter,
}

impl Metrics {
    /// Registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "attempts",
            "Attempts that ended, by phase and failure reason",
            metrics.attempts.clone(),
        );
        registry.register(
            "status_writes",
            "Writes of a progress's status, by result",
            metrics.status_writes.clone(),
        );
        registry.register(
            "written_bytes",
            "Expanded bytes written to a slot",
            metrics.bytes_written.clone(),
        );
        registry.register(
            "image_done_bytes",
            "Expanded bytes of the image under way that are written",
            metrics.bytes_done.clone(),
        );
        registry.register(
            "image_size_bytes",
            "Expanded size of the image under way; 0 while not known",
            metrics.bytes_total.clone(),
        );
        registry.register(
            "reboots_requested",
            "Reboots asked for",
            metrics.reboots.clone(),
        );
        metrics
    }

    /// An attempt ended.
    pub fn ended(&self, phase: &ProgressPhase, reason: &str) {
        let outcome = Outcome {
            phase: phase.to_string(),
            reason: reason.to_owned(),
        };
        self.attempts.get_or_create(&outcome).inc();
    }

    /// A status was written, or not.
    pub fn status_written(&self, ok: bool) {
        let result = if ok { "ok" } else { "failed" };
        self.status_writes.get_or_create(&Write { result }).inc();
    }

    /// Bytes were written to the slot: so many in all of this image.
    pub fn bytes(&self, done: i64, total: i64) {
        let before = self.bytes_done.set(done);
        self.bytes_total.set(total);
        let more = u64::try_from(done.saturating_sub(before)).unwrap_or(0);
        self.bytes_written.inc_by(more);
    }

    /// So many bytes of the image under way were there already.
    pub fn resumed(&self, done: i64, total: i64) {
        self.bytes_done.set(done);
        self.bytes_total.set(total);
    }

    /// A reboot was asked for.
    pub fn reboot(&self) {
        self.reboots.inc();
    }
}
