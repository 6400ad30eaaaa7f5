//! The product on real nodes: kubelets, containerd, pods, reboots.
//!
//! A cluster takes half a minute to come up, so that all tests share one, and this program is its own
//! harness: `cargo test -p monok8s-cluster --test cluster drain` runs those with `drain` in their name.
//! Tests of the fleet run one after the other; those of one node take the nodes at hand, one each.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod bench;
mod case;
mod drain;
mod install;
mod interruptions;
mod power_cuts;
mod rollout;
mod traces;
mod windows;
mod without_root;

use std::{
    collections::VecDeque,
    pin::Pin,
    process::ExitCode,
    sync::Mutex,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use bench::Bench;
use case::Case;
use futures::FutureExt as _;
use monok8s_cluster::requirements;
use traces::{Before, Place};

type Running<'a> = Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

/// A test that has the whole fleet.
type Fleet = (&'static str, for<'a> fn(&'a Bench) -> Running<'a>);
/// A test that has one node.
type Single = (&'static str, for<'a> fn(&'a Case<'a>) -> Running<'a>);

/// How long a test may take.
const LIMIT: Duration = Duration::from_secs(300);

macro_rules! tests {
    ($($file:ident :: $test:ident),* $(,)?) => {
        &[$((
            concat!(stringify!($file), "::", stringify!($test)),
            |on| Box::pin($file::$test(on)),
        )),*]
    };
}

/// In this order: each finds the fleet as the one before has left it, whole and idle.
const FLEET: &[Fleet] = tests![
    without_root::every_test_says_that_it_is_skipped,
    install::the_manifests_as_they_stand_make_a_working_fleet,
    install::the_pods_have_the_rights_that_the_page_says,
    install::a_node_without_the_image_says_so_and_its_page_cures_it,
    install::an_agent_stays_where_nobody_else_may,
    install::nobodys_drain_waits_for_the_controller,
    install::a_node_creates_the_controller,
    install::a_node_creates_the_controller_from_a_registry,
    rollout::all_nodes_go_down_one_by_one_and_the_controllers_with_them,
    interruptions::the_daemonset_is_updated_in_the_middle_of_a_download,
    interruptions::the_agents_run_out_of_memory,
];

const SINGLE: &[Single] = tests![
    windows::the_largest_fits_into_the_shipped_limit,
    interruptions::the_agents_pod_is_deleted,
    interruptions::the_api_server_is_out_of_reach,
    interruptions::the_kubelet_is_down,
    interruptions::the_disk_is_full,
    drain::a_node_that_is_not_ready_is_left_alone,
    drain::a_budget_that_never_allows,
    drain::every_pod_stays_or_goes_as_it_should,
    drain::whatever_ends_an_attempt_lets_its_node_go,
    drain::a_budget_that_allows_later,
    drain::a_pod_that_takes_its_time,
    drain::a_pod_that_ignores_its_end,
    drain::a_pod_that_nobody_would_make_again,
    drain::a_cordon_that_a_person_has_taken_over,
    drain::the_controllers_are_killed,
    power_cuts::while_pending,
    power_cuts::while_downloading,
    power_cuts::while_verifying,
    power_cuts::while_staged,
    // Not beside the other person: the pods of a third node would have nowhere to go.
    drain::a_person_who_cordons_during_the_download,
    power_cuts::while_rebooting,
    power_cuts::while_rebooting_into_nothing,
    power_cuts::before_the_new_system_is_up,
    power_cuts::while_confirming,
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&String> = arguments
        .iter()
        .filter(|word| !word.starts_with('-'))
        .collect();
    let wanted = |name: &&str| words.is_empty() || words.iter().any(|word| name.contains(*word));
    let fleet: Vec<Fleet> = FLEET
        .iter()
        .copied()
        .filter(|(name, _)| wanted(name))
        .collect();
    let single: Vec<Single> = SINGLE
        .iter()
        .copied()
        .filter(|(name, _)| wanted(name))
        .collect();
    let names = fleet
        .iter()
        .map(|(name, _)| name)
        .chain(single.iter().map(|(name, _)| name));
    if arguments.iter().any(|word| word == "--list") {
        names.for_each(|name| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let count = names.count();
    if count == 0 {
        return ExitCode::SUCCESS;
    }
    if let Some(why) = requirements::forbidden() {
        println!("skipped {count} tests on real nodes: {why}");
        return ExitCode::SUCCESS;
    }
    if let Some(why) = requirements::missing() {
        println!("FAILED: {why}");
        return ExitCode::FAILURE;
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    match runtime.block_on(run(&fleet, single)) {
        Ok(0) => {
            println!("\ntest result: ok. {count} passed\n");
            ExitCode::SUCCESS
        }
        Ok(failed) => {
            println!(
                "\ntest result: FAILED. {} passed; {failed} failed\n",
                count - failed
            );
            ExitCode::FAILURE
        }
        Err(error) => {
            println!("\nthe cluster is not as it should be: {error:#}\n");
            ExitCode::FAILURE
        }
    }
}

/// Runs the tests in one cluster, and returns how many failed.
async fn run(fleet: &[Fleet], single: Vec<Single>) -> Result<usize> {
    let start = Instant::now();
    let before = Before::look();
    let bench = Bench::start().await?;
    let (folder, part) = (bench.cluster.folder(), bench.cluster.part().number());
    let place = Place::new(folder.to_path_buf(), part);
    println!(
        "three real nodes are ready after {} s",
        start.elapsed().as_secs()
    );
    let mut failed = 0;
    for (name, test) in fleet {
        failed += usize::from(!told(name, test(&bench), &bench).await);
    }
    let waiting = Mutex::new(VecDeque::from(single));
    let lane = async |node| {
        let mut failed = 0;
        loop {
            let next = waiting.lock().expect("nobody panics with it").pop_front();
            let Some((name, test)) = next else {
                return failed;
            };
            let case = Case::new(&bench, node, name);
            failed += usize::from(!told(name, test(&case), &bench).await);
            // Whatever became of it: the next test gets a node that is whole.
            if let Err(error) = case.tidy().await {
                println!("{} cannot be tidied up: {error:#}", case.node.name());
                return failed + 1;
            }
        }
    };
    let lanes = bench.cluster.nodes().iter().map(lane);
    failed += futures::future::join_all(lanes)
        .await
        .into_iter()
        .sum::<usize>();
    // Held, so that no other cluster is taken for what this one has left.
    let part = bench.cluster.stop().await?;
    place.is_clean(&before)?;
    drop(part);
    println!(
        "done after {} s, and nothing is left",
        start.elapsed().as_secs()
    );
    Ok(failed)
}

/// Runs one test and tells of it; true when it went well.
async fn told(name: &str, test: Running<'_>, bench: &Bench) -> bool {
    let start = Instant::now();
    let limited = tokio::time::timeout(LIMIT, std::panic::AssertUnwindSafe(test).catch_unwind());
    let outcome = match limited.await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(panic)) => {
            let words = panic.downcast_ref::<String>().cloned();
            let words = words.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            Err(anyhow!("it panicked: {}", words.unwrap_or_default()))
        }
        Err(_) => Err(anyhow!("it did not end within {} s", LIMIT.as_secs())),
    };
    let took = start.elapsed().as_secs_f32();
    match outcome.with_context(|| name.to_owned()) {
        Ok(()) => {
            println!("test {name} ... ok ({took:.1} s)");
            true
        }
        Err(error) => {
            println!(
                "test {name} ... FAILED ({took:.1} s)\n{error:#}\n{}",
                bench.state().await
            );
            false
        }
    }
}
