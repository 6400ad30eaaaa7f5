//! What is said of nodes that are emptied: in the upgrade's message, as Events, and in the note that a
//! drain leaves which was given up.

use std::fmt::Write as _;

use monok8s_api::{osupgrade::OnDeadline, reason::EventReason};

use super::Staged;
use crate::decide::{
    drain::{Blocker, Decision, Held, Move},
    halt::{Failures, Halt},
    notice::{self, Notice},
    standing::Case,
    words::{cut, listed, nodes},
};

/// How many pods a message names.
const NAMED: usize = 3;

/// What is told of one node whose image is staged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::decide) struct Told {
    /// Name of the node.
    pub(in crate::decide) node: String,
    /// Whether its drain is going on; otherwise it waits for its turn.
    pub(in crate::decide) begun: bool,
    /// Whether a pod keeps it from being empty.
    pub(in crate::decide) blocked: bool,
    /// In words.
    pub(in crate::decide) words: String,
}

impl Told {
    /// Of a node that something is decided for.
    pub(super) fn of(
        case: &Case<'_>,
        staged: &Staged<'_>,
        decision: &Decision,
        held: Option<&Held>,
    ) -> Self {
        Self {
            node: staged.node.name.clone(),
            begun: decision.begun || decision.alone,
            blocked: !decision.blockers.is_empty(),
            words: words(case, staged, decision, held),
        }
    }

    /// Of a node whose upgrade stands still.
    pub(super) fn held(staged: &Staged<'_>, halt: &Halt) -> Self {
        Self {
            node: staged.node.name.clone(),
            begun: false,
            blocked: false,
            words: format!(
                "{} is staged, and held: {}",
                staged.node.name,
                halt_words(halt)
            ),
        }
    }
}

fn halt_words(halt: &Halt) -> String {
    let changed = halt
        .image_changed
        .as_ref()
        .map(|versions| format!("the checksum of {versions} has changed"));
    let failures = halt.failures.map(|failures| {
        let Failures { failed, max } = failures;
        format!("{} failed, rollout.maxFailures is {max}", nodes(failed))
    });
    let why: Vec<String> = changed.into_iter().chain(failures).collect();
    why.join("; ")
}

fn held_words(held: &Held) -> String {
    match held {
        Held::NotReady => "until it is Ready".to_owned(),
        Held::Others { down, max } => format!(
            "for others that are down ({}; rollout.maxUnavailable is {max})",
            if down.is_empty() {
                "others are drained before it".to_owned()
            } else {
                listed(down)
            }
        ),
        Held::ControlPlane(other) => format!(
            "for {other}: nodes of the control plane go one at a time, and only while the others \
             are Ready"
        ),
        Held::NowhereElse(other) => {
            format!("for {other} to come back: until then there is no other node for its pods")
        }
        Held::NoneLeft => {
            "until another node is Ready and schedulable: the last one went away in the middle"
                .to_owned()
        }
        Held::NowhereYet { until, .. } => {
            let until = until.map_or_else(String::new, |until| format!(" until {until:.0}"));
            format!(
                "for another node to be Ready and schedulable{until}: after that its pods go down \
                 with it"
            )
        }
        Held::Selector => "because rollout.drain.podSelector cannot be read: correct it".to_owned(),
    }
}

fn until_words(on_deadline: OnDeadline, until: Option<jiff::Timestamp>) -> String {
    let what = match on_deadline {
        OnDeadline::Wait => return String::new(),
        OnDeadline::Abort => "given up",
        OnDeadline::Force => "forced",
    };
    until.map_or_else(String::new, |until| format!(", {what} at {until:.0}"))
}

fn named(blockers: &[Blocker]) -> String {
    let first: Vec<String> = blockers
        .iter()
        .take(NAMED)
        .map(ToString::to_string)
        .collect();
    let mut text = first.join(", ");
    if blockers.len() > NAMED {
        write!(text, " and {} more", blockers.len() - NAMED).ok();
    }
    text
}

/// What a drain waited for when its time was up.
pub(super) fn waited_for(blockers: &[Blocker]) -> String {
    if blockers.is_empty() {
        "its pods to end".to_owned()
    } else {
        cut(&named(blockers))
    }
}

/// What is said of a node in the upgrade's message.
fn words(case: &Case<'_>, staged: &Staged<'_>, decision: &Decision, held: Option<&Held>) -> String {
    let name = &staged.node.name;
    let drain = &case.upgrade.object.spec.rollout.drain;
    let mut text = match staged.memory {
        _ if decision.alone => {
            return format!(
                "{name} is staged, and no other node is Ready and schedulable: nothing is \
                 evicted, its pods go down with it"
            );
        }
        Some(memory) => format!("{name} is drained since {:.0}", memory.began_wall),
        None if decision.begun => format!("{name} is drained"),
        None => format!("{name} is staged"),
    };
    if let Some(held) = held {
        text.push_str(", and waits ");
        text.push_str(&held_words(held));
    }
    let blockers = &decision.blockers;
    if !blockers.is_empty() {
        text.push_str(", waiting for ");
        text.push_str(&named(blockers));
        if let Some(memory) = staged.memory {
            let until = memory.began_wall.checked_add(drain.deadline.0);
            text.push_str(&until_words(drain.on_deadline, until.ok()));
        }
    }
    text
}

/// Adds what is told of a node as Events.
pub(super) fn notices(
    case: &Case<'_>,
    staged: &Staged<'_>,
    decision: &Decision,
    notices: &mut Vec<Notice>,
) {
    let mut tell = |warning, reason, detail: &str, message| {
        notices.push(about(case, staged, warning, reason, detail, message));
    };
    let name = &staged.node.name;
    if decision.next == Move::Cordon && staged.memory.is_none() {
        let message = format!("node {name} is cordoned and drained before its reboot");
        tell(false, &EventReason::Draining, "", message);
    }
    for blocker in &decision.blockers {
        let message = format!("the drain of node {name} waits for {blocker}");
        tell(true, &EventReason::DrainBlocked, &blocker.uid, message);
    }
    if decision.next == Move::Abort {
        let message = format!(
            "node {name} was not empty in time and is not rebooted: it waited for {}",
            waited_for(&decision.blockers)
        );
        tell(true, &EventReason::DrainTimedOut, "", message);
    }
}

/// What is told when a node reboots with its pods on it.
pub(super) fn goes_down(case: &Case<'_>, staged: &Staged<'_>) -> Notice {
    let name = &staged.node.name;
    let message =
        format!("node {name} reboots with its pods on it: no other node is Ready and schedulable");
    about(case, staged, false, &EventReason::PodsGoDown, "", message)
}

/// Something to be told once per attempt.
fn about(
    case: &Case<'_>,
    staged: &Staged<'_>,
    warning: bool,
    reason: &EventReason,
    detail: &str,
    message: String,
) -> Notice {
    let attempt = staged.progress.status().map_or(0, |s| s.attempt);
    let key = format!("{}/{attempt}/{reason}/{detail}", staged.uid);
    notice::about(&case.upgrade.object, warning, reason.as_str(), message, key)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use monok8s_sandbox::scratch;

    use super::*;
    use crate::{
        decide::drain::{Protection, Why},
        index::Ending,
    };

    const TIME: jiff::Timestamp = jiff::Timestamp::UNIX_EPOCH;

    /// A message with the page's words for what is different in each.
    fn as_on_the_page(words: &str) -> String {
        words
            .replace(&format!(" (since {TIME})"), "")
            .replace(&TIME.to_string(), "T")
            .replace('7', "N")
            .replace('8', "M")
    }

    /// Every reason to wait; a new one does not compile until it is among them.
    fn waits() -> Vec<Held> {
        let next = |held: &Held| match held {
            Held::NotReady => Some(Held::Others {
                down: vec!["…".into()],
                max: 7,
            }),
            Held::Others { .. } => Some(Held::ControlPlane("N".into())),
            Held::ControlPlane(_) => Some(Held::NowhereElse("N".into())),
            Held::NowhereElse(_) => Some(Held::NowhereYet {
                due: None,
                until: Some(TIME),
            }),
            Held::NowhereYet { .. } => Some(Held::NoneLeft),
            Held::NoneLeft => Some(Held::Selector),
            Held::Selector => None,
        };
        std::iter::successors(Some(Held::NotReady), next).collect()
    }

    /// Every reason why a pod is still there, but for what the API server says.
    fn keeps() -> Vec<Why> {
        let ending = |finalizers: &[&str]| Ending {
            until: None,
            grace: Duration::from_secs(7),
            finalizers: finalizers.iter().map(|&name| name.to_owned()).collect(),
            seen: Duration::ZERO,
        };
        vec![
            Why::Protected(Protection::Unmanaged),
            Why::Protected(Protection::EmptyDir),
            Why::Ending(ending(&[])),
            Why::Ending(ending(&["F"])),
        ]
    }

    #[test]
    fn every_message_stands_on_the_page() {
        let page = scratch::repository().join("docs/upgrade.md");
        let page = std::fs::read_to_string(page).unwrap();
        let (_, page) = page.split_once("### What it says").unwrap();
        let waits = waits()
            .into_iter()
            .map(|held| format!("`waits {}`", held_words(&held)));
        let keeps = keeps().into_iter().map(|why| {
            let pod = Blocker {
                pod: "P".into(),
                uid: String::new(),
                why,
                since: TIME,
            };
            format!("`waiting for {}`", named(&[pod]))
        });
        let deadlines = [OnDeadline::Abort, OnDeadline::Force].map(|on_deadline| {
            let words = until_words(on_deadline, Some(TIME));
            format!("`{}`", words.trim_start_matches(", "))
        });
        let mut halts = [Halt::default(), Halt::default()];
        halts[0].failures = Some(Failures { failed: 7, max: 8 });
        halts[1].image_changed = Some("V".into());
        let halts = halts.map(|halt| format!("`held: {}`", halt_words(&halt)));
        let all = waits.chain(keeps).chain(deadlines).chain(halts);
        for words in all.map(|words| as_on_the_page(&words)) {
            assert!(page.contains(&words), "the page has no {words}");
        }
    }
}
