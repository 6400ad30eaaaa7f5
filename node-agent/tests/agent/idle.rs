//! What an agent costs that has nothing to do.

use std::time::Duration;

use monok8s_api::reason::ProgressPhase;
use monok8s_sandbox::{
    node::{Node, NodeOptions},
    wait,
};
use serde_json::json;

use crate::{
    process::{Cost, resident},
    scene::{LIMIT, Scene},
};

/// What looks again and again at what has not changed does so several times meanwhile.
const WINDOW: Duration = Duration::from_secs(30);

/// How often an agent with nothing to do may wake in a [`WINDOW`]: for a bookmark of its watch, say. 30 were measured in
/// 10 minutes.
const WAKES: u64 = 5;

/// Most memory of an idle agent, in bytes.
pub(crate) const MEMORY: u64 = 20 << 20;

/// Most CPU of an idle agent in so long a time, in milliseconds: a second in ten minutes.
fn most_cpu(time: Duration) -> u64 {
    time.as_secs() * 1000 / 600
}

/// Waits for a while in which hardly anything wakes the agent. A busy machine can delay that while and cannot prevent
/// it; a timer of the agent's own, or what it asks for again and again, does.
async fn is_quiet(node: &Node) {
    let name = node.name();
    wait::until("a quiet while", LIMIT, || async {
        let Some(pid) = node.agent_pid() else {
            return Ok(None);
        };
        let before = Cost::of(pid);
        tokio::time::sleep(WINDOW).await;
        let after = Cost::of(pid);
        let (wakes, cpu) = (after.wakes_since(&before), after.cpu - before.cpu);
        // The code of a program that was built to be debugged is many times larger, so that only the rest can be judged
        // here; the measurement below judges all of it.
        let memory = resident(pid, "RssAnon").unwrap();
        eprintln!(
            "{name}: {wakes} wake-ups and {cpu} ms of CPU in {} s, {} KiB of its own",
            WINDOW.as_secs(),
            memory >> 10
        );
        let quiet = wakes <= WAKES && cpu <= most_cpu(WINDOW) && memory < MEMORY;
        Ok(quiet.then_some(()))
    })
    .await
    .unwrap_or_else(|e| panic!("{name}: {e:#}\n{}", node.agent_log()));
}

/// Neither one that has no progress, nor one whose progress waits: for its turn, or to be released for its reboot.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_wakes_an_idle_agent() {
    let names = ["alone", "held", "staged"];
    let scene = Scene::start(names.map(NodeOptions::new).into()).await;
    for (name, release) in [("held", "Hold"), ("staged", "Stage")] {
        let image = scene.image(&scene.serve(name, None));
        let spec = json!({"image": image, "release": release});
        scene.progress(name, spec).await;
    }
    scene.phase("staged", ProgressPhase::Staged).await;
    tokio::join!(
        is_quiet(scene.node("alone")),
        is_quiet(scene.node("held")),
        is_quiet(scene.node("staged"))
    );
}

/// A measurement, by hand: `cargo test --release -p monok8s-node-agent --test agent idle -- --ignored --nocapture`.
/// `MONOK8S_IDLE_SECONDS` is how long it takes, 10 minutes unless said otherwise.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes ten minutes, and measures"]
async fn an_idle_agent() {
    let seconds = std::env::var("MONOK8S_IDLE_SECONDS");
    let time = Duration::from_secs(seconds.map_or(600, |text| text.parse().unwrap()));
    let names = ["new", "installed"];
    let scene = Scene::start(names.map(NodeOptions::new).into()).await;
    let image = scene.image(&scene.serve("installed", None));
    let spec = json!({"image": image, "release": "Stage"});
    scene.progress("installed", spec).await;
    scene.phase("installed", ProgressPhase::Staged).await;

    let pids = names.map(|name| scene.node(name).agent_pid().unwrap());
    let before = pids.map(Cost::of);
    tokio::time::sleep(time).await;
    for ((name, pid), before) in names.iter().zip(pids).zip(before) {
        let after = Cost::of(pid);
        let cpu = after.cpu - before.cpu;
        let memory = resident(pid, "VmRSS").unwrap();
        println!(
            "{name}: {} s idle: {cpu} ms of CPU, {} wake-ups, {} KiB resident",
            time.as_secs(),
            after.wakes_since(&before),
            memory >> 10
        );
        assert!(cpu <= most_cpu(time), "more than 1 s of CPU in 10 min");
        assert!(memory < MEMORY, "more than 20 MiB");
    }
}
