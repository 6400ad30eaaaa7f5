//! What an agent's process costs, by the kernel's account.

use std::{collections::BTreeMap, fs};

/// The length of a tick of `proc_pid_stat(5)`, in milliseconds.
const TICK: u64 = 10;

/// What a process has used since it was started.
pub(crate) struct Cost {
    /// Milliseconds of CPU.
    pub(crate) cpu: u64,
    /// How often each thread went to sleep of its own accord: as often as it was woken.
    sleeps: BTreeMap<String, u64>,
}

impl Cost {
    /// `proc_pid_stat(5)`, `proc_pid_task(5)`.
    pub(crate) fn of(pid: u32) -> Self {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        // After the name in parentheses, which may hold anything.
        let fields: Vec<&str> = text
            .rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .collect();
        let ticks = |at: usize| fields[at].parse::<u64>().unwrap();
        let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let sleeps = threads.filter_map(|thread| {
            let thread = thread.unwrap();
            // It may have ended meanwhile.
            let status = fs::read_to_string(thread.path().join("status")).ok()?;
            let id = thread.file_name().into_string().unwrap();
            Some((id, field(&status, "voluntary_ctxt_switches")?))
        });
        Self {
            cpu: (ticks(11) + ticks(12)) * TICK,
            sleeps: sleeps.collect(),
        }
    }

    /// How often a thread woke since `before`.
    pub(crate) fn wakes_since(&self, before: &Self) -> u64 {
        let woken = self.sleeps.iter().map(|(thread, sleeps)| {
            let before = before.sleeps.get(thread).copied().unwrap_or(0);
            sleeps.saturating_sub(before)
        });
        woken.sum()
    }
}

/// Memory that is resident, in bytes: `VmRSS` is all of it, `RssAnon` what the program has taken for itself, without
/// its code. None when it has ended.
pub(crate) fn resident(pid: u32, which: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(field(&status, which)? << 10)
}

/// A number of `proc_pid_status(5)`; one that is ending has no memory any more.
fn field(status: &str, name: &str) -> Option<u64> {
    let mut lines = status.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = lines.find(|(found, _)| *found == name)?;
    value.split_whitespace().next()?.parse().ok()
}
