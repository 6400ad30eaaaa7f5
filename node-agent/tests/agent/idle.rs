//! What an agent costs that has nothing to do.

use std::{fs, time::Duration};

use monok8s_sandbox::node::NodeOptions;

use crate::scene::Scene;

/// Ticks of CPU, context switches that were its own wish, and resident bytes of a process.
fn cost(pid: u32) -> (u64, u64, u64) {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // After the name in parentheses, which may hold anything.
    let fields: Vec<&str> = text
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    let number = |at: usize| fields[at].parse::<u64>().unwrap();
    let switches = fs::read_dir(format!("/proc/{pid}/task"))
        .unwrap()
        .filter_map(|task| fs::read_to_string(task.unwrap().path().join("status")).ok())
        .filter_map(|status| {
            let line = status.lines().find(|l| l.starts_with("voluntary"))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        })
        .sum();
    (number(11) + number(12), switches, number(21) * 4096)
}

/// A measurement, by hand: `cargo test --release -p monok8s-node-agent --test agent idle -- --ignored --nocapture`.
/// `MONOK8S_IDLE_SECONDS` is how long it takes, 10 minutes unless said otherwise.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes ten minutes, and measures"]
async fn an_idle_agent() {
    let seconds = std::env::var("MONOK8S_IDLE_SECONDS");
    let seconds: u64 = seconds.map_or(600, |text| text.parse().unwrap());
    let scene = Scene::start(vec![NodeOptions::new("idle")]).await;
    let pid = scene.node("idle").agent_pid().unwrap();
    let before = cost(pid);
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let after = cost(pid);
    let ticks = after.0 - before.0;
    println!(
        "{seconds} s idle: {} ms of CPU, {} wake-ups, {} KiB resident",
        ticks * 10,
        after.1 - before.1,
        after.2 / 1024
    );
    assert!(
        ticks * 10 * 600 <= 1000 * seconds,
        "more than 1 s of CPU in 10 min"
    );
    assert!(after.2 < 20 << 20, "more than 20 MiB");
}
