//! When a status is worth a write.
//!
//! A write costs the API server more the more nodes watch, so: one per change that means something, and while bytes
//! flow at most every [`Rate::interval`] and only after [`Rate::points`] further points.

use std::time::Duration;

use monok8s_api::OSUpgradeProgressStatus;

/// How often bytes are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Shortest time between two writes that only tell of bytes. Default 10 s.
    pub interval: Duration,
    /// Percentage points between two such writes. Default 5.
    pub points: i32,
}

impl Default for Rate {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            points: 5,
        }
    }
}

/// Shortest time between two writes that only tell another message, such as a server that is asked again.
pub const MESSAGE_EVERY: Duration = Duration::from_secs(60);

/// What was written last, and when on the boot-time clock.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    rate: Rate,
    last: Option<(Duration, OSUpgradeProgressStatus)>,
}

/// Whether to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// It says nothing new.
    Never,
    /// At once.
    Now,
    /// Not before this time on the boot-time clock.
    At(Duration),
}

impl Pace {
    /// Nothing was written yet.
    pub fn new(rate: Rate) -> Self {
        Self { rate, last: None }
    }

    /// Notes a write that was accepted.
    pub fn written(&mut self, now: Duration, status: OSUpgradeProgressStatus) {
        self.last = Some((now, status));
    }

    /// When `next` is to be written.
    pub fn due(&self, now: Duration, next: &OSUpgradeProgressStatus) -> Due {
        let Some((at, last)) = &self.last else {
            return Due::Now;
        };
        if essence(last) != essence(next) {
            return Due::Now;
        }
        let earliest = if next.percent >= last.percent.saturating_add(self.rate.points) {
            *at + self.rate.interval
        } else if next.message != last.message {
            *at + MESSAGE_EVERY
        } else {
            return Due::Never;
        };
        if earliest <= now {
            Due::Now
        } else {
            Due::At(earliest)
        }
    }
}

/// A status without what changes all the time.
fn essence(status: &OSUpgradeProgressStatus) -> OSUpgradeProgressStatus {
    let mut essence = status.clone();
    essence.last_updated_at = None;
    essence.bytes_done = 0;
    essence.bytes_total = 0;
    essence.percent = 0;
    essence.message.clear();
    for condition in &mut essence.conditions {
        condition.last_transition_time = k8s_openapi::jiff::Timestamp::UNIX_EPOCH.into();
        condition.observed_generation = None;
    }
    essence
}

#[cfg(test)]
mod tests {
    use monok8s_api::reason::ProgressPhase;

    use super::*;

    fn at(percent: i32, message: &str) -> OSUpgradeProgressStatus {
        OSUpgradeProgressStatus {
            phase: ProgressPhase::Downloading,
            percent,
            message: message.to_owned(),
            ..OSUpgradeProgressStatus::default()
        }
    }

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn bytes_are_told_rarely_and_phases_at_once() {
        let mut pace = Pace::default();
        assert_eq!(pace.due(s(100), &at(0, "")), Due::Now);
        pace.written(s(100), at(0, ""));
        for (now, next, expected) in [
            (101, at(0, ""), Due::Never),
            (200, at(4, ""), Due::Never),
            (101, at(5, ""), Due::At(s(110))),
            (110, at(5, ""), Due::Now),
            (300, at(99, ""), Due::Now),
            (101, at(0, "asked again"), Due::At(s(160))),
            (160, at(0, "asked again"), Due::Now),
            (101, at(90, "asked again"), Due::At(s(110))),
        ] {
            assert_eq!(pace.due(s(now), &next), expected, "{now} {next:?}");
        }
        for change in [
            |n: &mut OSUpgradeProgressStatus| n.phase = ProgressPhase::Verifying,
            |n: &mut OSUpgradeProgressStatus| n.failure_reason = "DownloadFailed".to_owned(),
            |n: &mut OSUpgradeProgressStatus| n.observed_retry_nonce = "n".to_owned(),
            |n: &mut OSUpgradeProgressStatus| n.attempt = 2,
        ] {
            let mut next = at(0, "");
            change(&mut next);
            assert_eq!(pace.due(s(101), &next), Due::Now);
        }
    }
}
