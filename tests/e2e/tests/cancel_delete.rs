//! Stopping an attempt by `spec.cancel`, by deleting its progress or by deleting its upgrade, in each
//! phase: before the switch the agent stops on the old system, after it the trial is finished.

use std::fs::File;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::events::v1::Event;
use kube::{Api, ResourceExt as _, api::ListParams};
use monok8s_api::{
    OSNode, OSUpgrade,
    reason::{ProgressPhase, SlotState},
};
use monok8s_e2e::{
    cases::{self, case},
    hold, objects,
    served::Served,
};
use monok8s_sandbox::{
    cluster::{Cluster, ClusterOptions},
    image_server::Fault,
    node::Node,
    wait,
};
use serde_json::json;

use ProgressPhase::{
    Cancelled, Completed, Confirming, Downloading, Pending, Rebooting, Staged, Verifying,
};

const OLD: &str = "v1.34.1";
const NEW: &str = "v1.34.2";

/// Answers stand still after a part of the image.
const STALL: Fault = Fault::StallAfter(3 << 20);

/// How an attempt is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    Cancel,
    DeleteProgress,
    DeleteUpgrade,
}

use Stop::{Cancel, DeleteProgress, DeleteUpgrade};

/// Every phase an attempt goes through, and how it is stopped there; the name is the node's.
const CASES: [(&str, Stop, ProgressPhase); 18] = [
    ("cancel-rebooting", Cancel, Rebooting),
    ("delete-rebooting", DeleteProgress, Rebooting),
    ("upgrade-rebooting", DeleteUpgrade, Rebooting),
    ("cancel-confirming", Cancel, Confirming),
    ("delete-confirming", DeleteProgress, Confirming),
    ("upgrade-confirming", DeleteUpgrade, Confirming),
    ("cancel-downloading", Cancel, Downloading),
    ("delete-downloading", DeleteProgress, Downloading),
    ("upgrade-downloading", DeleteUpgrade, Downloading),
    ("cancel-verifying", Cancel, Verifying),
    ("delete-verifying", DeleteProgress, Verifying),
    ("upgrade-verifying", DeleteUpgrade, Verifying),
    ("cancel-staged", Cancel, Staged),
    ("delete-staged", DeleteProgress, Staged),
    ("upgrade-staged", DeleteUpgrade, Staged),
    ("cancel-pending", Cancel, Pending),
    ("delete-pending", DeleteProgress, Pending),
    ("upgrade-pending", DeleteUpgrade, Pending),
];

/// A progress made by hand, deleted with its upgrade as the controller's own are.
async fn begin(cluster: &Cluster, served: &Served<'_>, name: &str, release: &str) -> Result<()> {
    let mut source = served.upgrade();
    source["spec"]["nodeSelector"] = json!({"matchLabels": {"case": "nobody"}});
    objects::apply(&cluster.kubectl(), &source).await?;
    let upgrades: Api<OSUpgrade> = Api::all(cluster.client());
    let owner = json!([{
        "apiVersion": "monok8s.io/v1alpha1", "kind": "OSUpgrade", "name": name,
        "uid": upgrades.get(name).await?.uid(),
    }]);
    let mut progress = served.progress(release);
    progress["metadata"]["ownerReferences"] = owner;
    objects::apply(&cluster.kubectl(), &progress).await
}

/// What holds an attempt in its phase.
enum Held<'a> {
    /// Nothing more than its objects, its image server or its machine.
    Enough,
    /// A machine whose agent is not started in the trial boot.
    Down(&'a Node),
    /// The boot variables, locked.
    Locked(File),
    /// A disk that takes no record.
    Unnoted(hold::Unnoted<'a>),
}

/// Brings the case's attempt into a phase and holds it there.
async fn bring<'a>(
    cluster: &'a Cluster,
    served: &Served<'_>,
    name: &str,
    phase: &ProgressPhase,
) -> Result<Held<'a>> {
    let (client, node) = (cluster.client(), cluster.node(name)?);
    let release = match phase {
        Pending => "Hold",
        Verifying | Staged => "Stage",
        _ => "Reboot",
    };
    let begin = begin(cluster, served, name, release);
    if *phase == Verifying {
        let held = hold::before_the_proof(node, begin).await?;
        objects::wait_phase(&client, name, node, Verifying).await?;
        return Ok(Held::Unnoted(held));
    }
    if *phase == Rebooting {
        hold::rebooting(&client, name, node, begin).await?;
        return Ok(Held::Down(node));
    }
    if *phase == Confirming {
        let lock = hold::confirming(&client, name, node, begin).await?;
        return Ok(Held::Locked(lock));
    }
    begin.await?;
    match phase {
        Pending => {}
        Downloading => hold::writing(&client, node).await?,
        phase => drop(objects::wait_phase(&client, name, node, phase.clone()).await?),
    }
    Ok(Held::Enough)
}

/// One case: the attempt is stopped in the phase, and ends as promised.
async fn stops(
    cluster: &Cluster,
    name: &'static str,
    stop: Stop,
    phase: ProgressPhase,
) -> Result<()> {
    let served = match phase {
        Downloading => Served::faulty(cluster, name, NEW, STALL)?,
        _ => Served::new(cluster, name, NEW)?,
    };
    let node = cluster.node(name)?;
    let held = bring(cluster, &served, name, &phase).await?;
    let kubectl = cluster.kubectl();
    match stop {
        Cancel => objects::patch(&kubectl, name, &json!({"cancel": true})).await?,
        DeleteProgress => drop(kubectl.ok(["delete", "osupgradeprogress", name]).await?),
        DeleteUpgrade => drop(kubectl.ok(["delete", "osupgrade", name]).await?),
    }
    if stop != Cancel {
        wait_gone(cluster, name).await?;
    }
    match held {
        Held::Enough => {}
        Held::Down(node) => node.start_agent(),
        Held::Locked(lock) => {
            if stop == Cancel {
                heard(cluster, node, name).await?;
            }
            drop(lock);
        }
        Held::Unnoted(unnoted) => unnoted.kill().await?,
    }

    let switched = matches!(phase, Rebooting | Confirming);
    let ending = if switched { Completed } else { Cancelled };
    if stop == Cancel {
        let ended = objects::wait_end(&cluster.client(), name, node, ending, &[]).await?;
        let message = ended.status.unwrap_or_default().message;
        ensure!(
            !switched || message.contains("cancel"),
            "{name}: the message does not say that the cancel was ignored: {message}"
        );
    } else if phase != Pending {
        wait_told(cluster, node, name, ending).await?;
    }
    if switched {
        return objects::boots(node, NEW).await;
    }
    if phase == Pending {
        ensure!(served.asked() == 0, "{name}: the image was asked for");
    } else {
        objects::wait_slot(&cluster.client(), node, "B", &SlotState::Bad).await?;
    }
    stays(cluster, name).await?;
    if stop == Cancel {
        taken_back(cluster, &served, name).await?;
    }
    Ok(())
}

/// Waits until the status tells of the cancel, which is another message and nothing more, so that it may take a minute:
/// an agent that is let go before it has heard of it ends without a word about it.
async fn heard(cluster: &Cluster, node: &Node, name: &str) -> Result<()> {
    let client = cluster.client();
    objects::wait_progress(
        &client,
        name,
        node,
        "the cancel to be told of",
        |progress| {
            let status = progress.status.as_ref();
            status.is_some_and(|status| status.message.contains("cancel"))
        },
    )
    .await
    .map(drop)
}

/// The cancel is taken back together with a nonce.
async fn taken_back(cluster: &Cluster, served: &Served<'_>, name: &str) -> Result<()> {
    served.cure();
    let again = json!({"cancel": false, "retryNonce": "taken-back", "release": "Reboot"});
    objects::patch(&cluster.kubectl(), name, &again).await?;
    let node = cluster.node(name)?;
    objects::wait_phase(&cluster.client(), name, node, Completed).await?;
    objects::boots(node, NEW).await
}

/// Waits until the node's OSNode and an Event tell how the attempt ended, its progress being gone.
async fn wait_told(
    cluster: &Cluster,
    node: &Node,
    progress: &str,
    phase: ProgressPhase,
) -> Result<()> {
    let api: Api<OSNode> = Api::all(cluster.client());
    wait::until(
        &format!("OSNode {} to tell of {progress}: {phase}", node.name()),
        objects::LIMIT,
        || async {
            let status = api.get(node.name()).await?.status.unwrap_or_default();
            let told = status
                .last_result
                .is_some_and(|last| last.progress == progress && last.phase == phase);
            Ok(told.then_some(()))
        },
    )
    .await
    .with_context(|| objects::log_tail(node))?;
    let events: Api<Event> = Api::namespaced(cluster.client(), "default");
    let by_reason = ListParams::default().fields(&format!("reason={phase}"));
    wait::until(
        &format!("an Event about {progress}: {phase}"),
        objects::LIMIT,
        || async {
            let told = events.list(&by_reason).await?.into_iter().any(|event| {
                let about = event.regarding.unwrap_or_default();
                about.kind.as_deref() == Some("OSUpgradeProgress")
                    && about.name.as_deref() == Some(progress)
                    && event.reporting_instance.as_deref() == Some(node.name())
            });
            Ok(told.then_some(()))
        },
    )
    .await
    .with_context(|| objects::log_tail(node))
}

/// The node runs and boots its old system.
async fn stays(cluster: &Cluster, name: &str) -> Result<()> {
    let node = cluster.node(name)?;
    ensure!(
        node.boot().is_some_and(|boot| boot.number == 1),
        "{name}: it was rebooted: {:?}",
        node.boot()
    );
    objects::boots(node, OLD).await
}

/// The garbage collector follows the owner reference.
async fn wait_gone(cluster: &Cluster, progress: &str) -> Result<()> {
    let kubectl = cluster.kubectl();
    let object = format!("osupgradeprogress/{progress}");
    kubectl
        .ok(["wait", "--for=delete", "--timeout=240s", &object])
        .await
        .map(drop)
}

/// An upgrade that the controller acts on, deleted while its progress is held, written and rebooting.
async fn controllers_own(
    cluster: &Cluster,
    name: &'static str,
    phase: ProgressPhase,
) -> Result<()> {
    let (client, node) = (cluster.client(), cluster.node(name)?);
    let served = match phase {
        Downloading => Served::faulty(cluster, name, NEW, STALL)?,
        _ => Served::new(cluster, name, NEW)?,
    };
    let mut upgrade = served.upgrade();
    upgrade["spec"]["paused"] = json!(phase == Pending);
    let kubectl = cluster.kubectl();
    let begin = objects::apply(&kubectl, &upgrade);
    let made = if phase == Rebooting {
        hold::rebooting(&client, name, node, begin).await?
    } else {
        begin.await?;
        objects::wait_phase(&client, name, node, phase.clone()).await?
    };
    if phase == Downloading {
        hold::writing(&client, node).await?;
    }
    cluster.kubectl().ok(["delete", "osupgrade", name]).await?;
    let progress = made.name_any();
    wait_gone(cluster, &progress).await?;
    match phase {
        Pending => stays(cluster, name).await,
        Downloading => {
            wait_told(cluster, node, &progress, Cancelled).await?;
            objects::wait_slot(&client, node, "B", &SlotState::Bad).await?;
            stays(cluster, name).await
        }
        _ => {
            node.start_agent();
            wait_told(cluster, node, &progress, Completed).await?;
            objects::boots(node, NEW).await
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_is_stopped_before_the_switch_and_finished_after_it() -> Result<()> {
    let own = [
        ("own-pending", Pending),
        ("own-downloading", Downloading),
        ("own-rebooting", Rebooting),
    ];
    let names = CASES.iter().map(|case| case.0);
    let nodes = names.chain(own.iter().map(|case| case.0)).map(cases::node);
    let cluster = Cluster::start(ClusterOptions {
        nodes: nodes.collect(),
        version: OLD.into(),
        images: vec![NEW.into()],
        // Several answers that stand still, so that no attempt ends by itself meanwhile.
        image_payload: 14 << 20,
        ..ClusterOptions::default()
    })
    .await?;
    let by_hand = CASES
        .into_iter()
        .map(|(name, stop, phase)| case(name, stops(&cluster, name, stop, phase)));
    let by_the_controller = own
        .into_iter()
        .map(|(name, phase)| case(name, controllers_own(&cluster, name, phase)));
    cases::all(by_hand.chain(by_the_controller).collect()).await?;
    cluster.stop().await
}
