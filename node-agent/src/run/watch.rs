//! The watch of this node's progresses, and when to ask which Node this is.

use std::time::Duration;

use futures::{StreamExt as _, pin_mut};
use kube::{
    Api, Client, ResourceExt as _,
    runtime::{WatchStreamExt as _, watcher},
};
use monok8s_api::OSUpgradeProgress;
use monok8s_telemetry::server::Gate;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use crate::{
    act::{
        calls::{self, Backoff},
        objects::Objects,
        this_node::ThisNode,
    },
    decide::next::View,
};

/// Longest wait for a question that a fault of the watch raises: the Node may have been made again meanwhile.
const AFTER_A_FAULT: Duration = Duration::from_secs(10);

/// When the Node is asked for next. No watch tells of it: the agent's role has none on Nodes, and thousands of watches
/// for what almost never happens would be dear.
struct Questions {
    every: Duration,
    at: Instant,
    backoff: Backoff,
}

impl Questions {
    fn new(every: Duration) -> Self {
        Self {
            every,
            at: Instant::now(),
            backoff: Backoff::default(),
        }
    }

    /// The answer to the last one has come.
    fn asked(&mut self, known: bool) {
        let pause = if known {
            self.backoff.reset();
            calls::jittered(self.every)
        } else {
            self.backoff.next_pause()
        };
        self.at = Instant::now() + pause;
    }

    /// The watch has failed. While the last question had no answer, its own pauses count.
    fn fault(&mut self, known: bool) {
        if known {
            let soon = Instant::now() + AFTER_A_FAULT.mul_f64(rand::random_range(0.1..1.0));
            self.at = self.at.min(soon);
        }
    }
}

/// Keeps `objects` up to date, for ever.
///
/// Faults are bridged with a jittered backoff and change nothing: an API server that answers 403, 404 or 410 to a
/// watch is away, it has not deleted anything.
///
/// `every` is about how often the Node is asked for although nothing is heard of it.
pub async fn run(
    client: Client,
    node_name: &str,
    node: ThisNode,
    objects: Objects,
    heard: Gate,
    every: Duration,
) {
    let api: Api<OSUpgradeProgress> = Api::all(client);
    let config = watcher::Config::default().fields(&format!("spec.nodeName={node_name}"));
    let stream = watcher(api, config).default_backoff();
    pin_mut!(stream);
    let mut listing = Vec::new();
    let mut questions = Questions::new(every);
    let mut away = false;
    loop {
        let listed = objects.view() != View::Away;
        let event = tokio::select! {
            event = stream.next() => event,
            () = sleep_until(questions.at), if listed => {
                questions.asked(node.ask().await.is_some());
                continue;
            }
        };
        let Some(event) = event else { return };
        if event.is_ok() && std::mem::take(&mut away) {
            info!("the watch of this node's progresses goes on");
        }
        match event {
            Ok(watcher::Event::Init) => listing.clear(),
            Ok(watcher::Event::InitApply(object)) => listing.push(object),
            Ok(watcher::Event::InitDone) => {
                // A new list follows a long silence or a new token: the Node may be another one.
                questions.asked(node.ask().await.is_some());
                objects.list(std::mem::take(&mut listing));
                heard.open();
            }
            Ok(watcher::Event::Apply(object)) => objects.put(object),
            Ok(watcher::Event::Delete(object)) => {
                objects.remove(&object.uid().unwrap_or_default());
            }
            Err(e) => {
                questions.fault(objects.node_uid().is_some());
                debug!("watch: {e}");
                if !std::mem::replace(&mut away, true) {
                    warn!(
                        "the watch of this node's progresses is interrupted and will be opened again: {e}"
                    );
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(600);

    #[test]
    fn a_known_node_is_asked_for_rarely_and_soon_after_a_fault() {
        let now = Instant::now();
        let mut questions = Questions::new(EVERY);
        questions.asked(true);
        let at = questions.at;
        assert!(at >= now + EVERY / 2 && at <= Instant::now() + EVERY.mul_f64(1.5));
        questions.fault(true);
        assert!(questions.at <= Instant::now() + AFTER_A_FAULT);
        let soon = questions.at;
        questions.asked(false);
        questions.fault(false);
        assert_ne!(questions.at, soon, "an outage is not hurried by its faults");
        for _ in 0..20 {
            questions.asked(false);
        }
        assert!(questions.at > Instant::now() + AFTER_A_FAULT);
        assert!(
            questions.at < now + EVERY / 2,
            "and an unknown one not forgotten"
        );
    }
}
