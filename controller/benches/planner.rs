//! What one plan costs over a fleet of 100, 1,000 and 10,000 nodes, and what keeping the index up
//! to date costs. Prints a table; `cargo bench -p monok8s-controller --bench planner`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a bench that cannot set up its fleet is to stop"
)]

#[path = "../tests/fleet/mod.rs"]
mod fleet;

use std::time::{Duration, Instant};

use fleet::{Fate, Fleet, spec};
use monok8s_controller::decide::planner::plan;

const VERSIONS: [&str; 3] = ["v1.33.4", "v1.34.6", "v1.35.1"];
/// Measurements per figure; the median is shown.
const ROUNDS: usize = 15;

fn median(mut measure: impl FnMut() -> Duration) -> Duration {
    let mut taken: Vec<Duration> = (0..ROUNDS).map(|_| measure()).collect();
    taken.sort();
    taken[ROUNDS / 2]
}

fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let begin = Instant::now();
    let result = work();
    (begin.elapsed(), result)
}

/// A fleet in the middle of a rollout: a tenth done, some under way, the rest held. An older
/// upgrade selects every node too, as in a cluster with a history.
fn midway(nodes: usize) -> Fleet {
    let mut fleet = Fleet::of(nodes, "v1.34.1");
    fleet.apply("older", spec("v1.34.6", &VERSIONS));
    fleet.clock += 1;
    let mut wanted = spec("v1.35.1", &VERSIONS);
    wanted["rollout"] = serde_json::json!({"maxUnavailable": "10%"});
    fleet.apply("up", wanted);
    fleet.settle();
    for _ in 0..5 {
        for name in fleet.movable() {
            fleet.step(&name, Fate::Well);
        }
    }
    fleet.settle();
    fleet
}

fn main() {
    println!(
        "{:>7}  {:>14}  {:>14}  {:>14}  {:>14}",
        "nodes", "first plan", "plan, midway", "one event", "full relist"
    );
    for nodes in [100, 1_000, 10_000] {
        let mut fresh = Fleet::of(nodes, "v1.34.1");
        fresh.apply("up", spec("v1.35.1", &VERSIONS));
        fresh.carry_out(fresh.plan());
        let index = fresh.index();
        let first = median(|| timed(|| plan(&index, &fresh.settings, fresh.now())).0);

        let fleet = midway(nodes);
        let mut index = fleet.index();
        let middle = median(|| timed(|| plan(&index, &fleet.settings, fleet.now())).0);
        let one = fleet.progresses.values().next().unwrap().clone();
        let mut version = 1_u64 << 40;
        let event = median(|| {
            version += 1;
            let mut next = one.clone();
            next.metadata.resource_version = Some(version.to_string());
            next.status.get_or_insert_default().percent += 1;
            timed(|| index.apply_progress(next, fleet.now().clock)).0
        });
        let relist = median(|| timed(|| fleet.feed(&mut index)).0);
        println!(
            "{nodes:>7}  {:>11.3} ms  {:>11.3} ms  {:>11.4} ms  {:>11.3} ms",
            millis(first),
            millis(middle),
            millis(event),
            millis(relist)
        );
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}
