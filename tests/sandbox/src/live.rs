//! An upgrade as it happens: a row with a bar for each node, redrawn in place on a terminal; else a
//! line for each change.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use futures::TryStreamExt as _;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client, ResourceExt as _,
    runtime::{WatchStreamExt as _, watcher},
};
use monok8s_api::{OSUpgrade, OSUpgradeProgress, reason::ProgressPhase};

use crate::screen::Screen;

/// What is known of an upgrade and its nodes.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// The upgrade.
    pub(crate) upgrade: Option<OSUpgrade>,
    /// Its progresses, by name.
    pub(crate) progresses: BTreeMap<String, OSUpgradeProgress>,
    /// Nodes that take no pods.
    pub(crate) cordoned: BTreeSet<String>,
}

impl Seen {
    /// The progresses of one target, by node.
    pub(crate) fn towards<'a>(
        &'a self,
        target: &str,
    ) -> impl Iterator<Item = &'a OSUpgradeProgress> {
        let target = target.to_owned();
        self.progresses.values().filter(move |progress| {
            progress
                .spec
                .image
                .as_ref()
                .is_some_and(|image| image.version == target)
        })
    }

    fn note_node(&mut self, node: &Node) {
        let closed = node.spec.as_ref().and_then(|spec| spec.unschedulable);
        if closed == Some(true) {
            self.cordoned.insert(node.name_any());
        } else {
            self.cordoned.remove(&node.name_any());
        }
    }

    /// The condition of a type: status and reason.
    pub(crate) fn condition(&self, kind: &str) -> Option<(String, String)> {
        let status = self.upgrade.as_ref()?.status.as_ref()?;
        let found = status
            .conditions
            .iter()
            .find(|condition| condition.type_ == kind)?;
        Some((found.status.clone(), found.reason.clone()))
    }
}

/// A progress's phase; `Pending` before the agent has said anything.
pub(crate) fn phase(progress: &OSUpgradeProgress) -> ProgressPhase {
    progress
        .status
        .as_ref()
        .map_or(ProgressPhase::Pending, |status| status.phase.clone())
}

/// Watches the upgrade `name` on its way to `target`, showing it, until `done` returns something.
pub(crate) async fn watch<T>(
    view: &mut View,
    client: &Client,
    (name, target): (&str, &str),
    limit: Duration,
    mut done: impl FnMut(&Seen) -> Option<T>,
) -> Result<T> {
    let labels = format!("monok8s.io/upgrade={name}");
    let fields = format!("metadata.name={name}");
    let upgrades = watcher(
        Api::<OSUpgrade>::all(client.clone()),
        watcher::Config::default().fields(&fields),
    );
    let progresses = watcher(
        Api::<OSUpgradeProgress>::all(client.clone()),
        watcher::Config::default().labels(&labels),
    );
    let nodes = watcher(Api::<Node>::all(client.clone()), watcher::Config::default());
    let mut nodes = Box::pin(nodes.default_backoff().applied_objects());
    let mut upgrades = Box::pin(upgrades.default_backoff().applied_objects());
    let mut progresses = Box::pin(progresses.default_backoff().applied_objects());
    let mut seen = Seen::default();
    let end = tokio::time::sleep(limit);
    tokio::pin!(end);
    loop {
        tokio::select! {
            upgrade = upgrades.try_next() => seen.upgrade = upgrade.context("cannot watch the upgrade")?,
            progress = progresses.try_next() => {
                let progress = progress.context("cannot watch the progresses")?.context("the watch ended")?;
                seen.progresses.insert(progress.name_any(), progress);
            }
            node = nodes.try_next() => {
                seen.note_node(&node.context("cannot watch the nodes")?.context("the watch ended")?);
            }
            () = &mut end => bail!("the upgrade {name} got no further within {} s", limit.as_secs()),
        }
        for progress in seen.towards(target) {
            view.show(progress, seen.cordoned.contains(&progress.spec.node_name));
        }
        if let Some(found) = done(&seen) {
            return Ok(found);
        }
    }
}

/// How it is shown.
pub(crate) enum View {
    /// A row for each node.
    Rows {
        /// Where they stay at the end.
        screen: Screen,
        /// Draws them together.
        rows: MultiProgress,
        /// By node.
        bars: BTreeMap<String, ProgressBar>,
    },
    /// A line for each change.
    Lines {
        /// Where lines go.
        screen: Screen,
        /// When it began.
        begin: Instant,
        /// The last line of each node.
        last: BTreeMap<String, String>,
    },
}

impl View {
    /// A view of these nodes.
    pub(crate) fn new(screen: Screen, nodes: &[String]) -> Result<Self> {
        if !screen.is_terminal() {
            return Ok(Self::Lines {
                screen,
                begin: Instant::now(),
                last: BTreeMap::new(),
            });
        }
        let style =
            ProgressStyle::with_template("  {prefix:<8} [{bar:30.green}] {percent:>3}%  {msg}")
                .context("the bar's template is none")?
                .progress_chars("=> ");
        let rows = MultiProgress::new();
        let bar = |node: &String| {
            let bar = rows.add(
                ProgressBar::new(100)
                    .with_style(style.clone())
                    .with_prefix(node.clone()),
            );
            bar.set_message("waiting");
            (node.clone(), bar)
        };
        let bars = nodes.iter().map(bar).collect();
        Ok(Self::Rows { screen, rows, bars })
    }

    fn show(&mut self, progress: &OSUpgradeProgress, cordoned: bool) {
        let status = progress.status.clone().unwrap_or_default();
        let target = progress
            .spec
            .image
            .as_ref()
            .map_or("", |image| image.version.as_str());
        let way = match status.current_version.as_str() {
            "" => format!("-> {target}"),
            there if there == target => format!("runs {target}"),
            from => format!("{from} -> {target}"),
        };
        let mut what = format!("{:<11}  {way}", status.phase);
        if !status.failure_reason.is_empty() {
            what = format!("{what}  {}", status.failure_reason);
        }
        if cordoned {
            what.push_str("  (cordoned)");
        }
        let percent = status.percent.clamp(0, 100);
        match self {
            Self::Rows { bars, .. } => {
                if let Some(bar) = bars.get(&progress.spec.node_name) {
                    bar.set_position(percent.unsigned_abs().into());
                    bar.set_message(what);
                }
            }
            Self::Lines {
                screen,
                begin,
                last,
            } => {
                let line = format!("{:<8} {percent:>3}%  {what}", progress.spec.node_name);
                if last.get(&progress.spec.node_name) != Some(&line) {
                    screen.line(&format!(
                        "  {:>5.1} s  {line}",
                        begin.elapsed().as_secs_f64()
                    ));
                    last.insert(progress.spec.node_name.clone(), line);
                }
            }
        }
    }

    /// Says something beside the rows.
    pub(crate) fn say(&self, text: &str) {
        match self {
            // An error is a terminal that is gone.
            Self::Rows { rows, .. } => drop(rows.println(text)),
            Self::Lines { screen, .. } => screen.line(text),
        }
    }

    /// Leaves the rows as they are and gives the terminal back.
    pub(crate) fn finish(self) {
        if let Self::Rows { screen, rows, bars } = self {
            // An error is a terminal that is gone.
            let _ = rows.clear();
            // Bars that go redraw those that are left.
            rows.set_draw_target(ProgressDrawTarget::hidden());
            for (node, bar) in bars {
                screen.line(&format!(
                    "  {node:<8} {:>3}%  {}",
                    bar.position(),
                    bar.message()
                ));
            }
        }
    }
}
