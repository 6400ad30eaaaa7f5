//! The one clock that anything is decided by.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Time since the process began, on the boot-time clock (`CLOCK_BOOTTIME`, `clock_gettime(2)`): it
/// is never set, and goes on while the machine is suspended, so that a leader whose machine slept
/// knows that its Lease is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    start: Duration,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self { start: boot_time() }
    }

    pub(super) fn now(self) -> Duration {
        boot_time().saturating_sub(self.start)
    }
}

fn boot_time() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(
        u64::try_from(now.tv_sec).unwrap_or(0),
        u32::try_from(now.tv_nsec).unwrap_or(0),
    )
}
