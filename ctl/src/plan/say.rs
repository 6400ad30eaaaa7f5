//! A plan for people.

use std::fmt::Write;

use super::decide::{NodePlan, Outcome, Plan};

/// The plan as a heading and a table.
pub(super) fn plan(plan: &Plan) -> String {
    let mut text = format!("{}: {} ({})", plan.upgrade, plan.phase, plan.reason);
    match &plan.resolved_version {
        Some(version) if *version == plan.desired => {
            let _ = write!(text, ", {version}");
        }
        Some(version) => {
            let _ = write!(text, ", {} is {version}", plan.desired);
        }
        None => {
            let _ = write!(text, ", {}", plan.desired);
        }
    }
    text.push('\n');
    if !plan.message.is_empty() {
        for line in plan.message.lines() {
            let _ = writeln!(text, "  {line}");
        }
    }
    if plan.is_accepted() {
        let going = plan
            .nodes
            .iter()
            .filter(|n| matches!(n.outcome, Outcome::Goes { .. }));
        let _ = writeln!(
            text,
            "  {} of {} nodes would go, at most {} at a time, each {}",
            going.count(),
            plan.nodes.len(),
            plan.max_unavailable,
            if plan.drained {
                "emptied of its pods before it reboots"
            } else {
                "with its pods on it"
            }
        );
    }
    if !plan.nodes.is_empty() {
        text.push_str(&table(&plan.nodes));
    }
    text
}

fn table(nodes: &[NodePlan]) -> String {
    let rows: Vec<[String; 3]> = std::iter::once(["NODE", "RUNS", "WOULD"].map(str::to_owned))
        .chain(nodes.iter().map(row))
        .collect();
    let width = |column: usize| {
        rows.iter()
            .map(|r| r[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let (first, second) = (width(0), width(1));
    let mut text = String::new();
    for [node, runs, would] in &rows {
        let _ = writeln!(text, "  {node:first$}  {runs:second$}  {would}");
    }
    text
}

fn row(node: &NodePlan) -> [String; 3] {
    let mut would = match &node.outcome {
        Outcome::Goes { hops } => format!("go to {}", hops.join(", then ")),
        Outcome::There => "stay: it is there already".to_owned(),
        Outcome::Refuses { reason, message } => format!("refuse ({reason}): {message}"),
        Outcome::GovernedBy { upgrade } => format!("stay: {upgrade} is newer and governs it"),
        Outcome::Unjudged => "not be judged".to_owned(),
    };
    if let Some(progress) = &node.waits_for {
        let _ = write!(would, ", once {progress} has ended");
    }
    let runs = node.version.clone().unwrap_or_else(|| "unknown".to_owned());
    [node.node.clone(), runs, would]
}
