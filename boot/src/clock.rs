//! The boot-time clock.

use std::time::Duration;

/// Time since the machine booted, suspended time included (`CLOCK_BOOTTIME`). It never jumps and no one can set it.
pub fn since_boot() -> Duration {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(t.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(t.tv_nsec).unwrap_or(0);
    Duration::new(seconds, nanos)
}
