//! Nodes are emptied before they go down, by the controller, through the eviction API, under real
//! kubelets.

use std::fs;

use anyhow::{Context, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, WatchEvent, WatchParams},
};
use monok8s_api::{
    osupgradeprogress::Release,
    reason::{ProgressPhase, UpgradePhase},
};
use monok8s_cluster::container_image::TOOLBOX;
use monok8s_e2e::objects;
use monok8s_sandbox::{scratch, wait};
use serde_json::{Value, json};

use crate::{
    bench::{LIMIT, is_ready},
    case::Case,
};

/// A command that ends as soon as it is asked to.
const OBEDIENT: &str = "trap 'exit 0' TERM; while :; do sleep 0.2; done";

/// The drain is given up, and nothing has happened to the pod or to the node; until somebody says that
/// the node has to go down whatever the budget says.
pub(crate) async fn a_budget_that_never_allows(case: &Case<'_>) -> Result<()> {
    let pod = workload(case, OBEDIENT, 5, true).await?;
    let attempt = case.begin_upgrade(json!({})).await?;
    let (name, budget) = (pod.name_any(), "PodDisruptionBudget default/");
    blocked(case, &[budget, &name]).await?;
    event(case, "DrainBlocked", &[budget, &name]).await?;
    // Only now, so that on no machine the time is up before anybody looked.
    case.set_drain(json!({"deadline": "1s"})).await?;
    let progress = case.wait_phase(ProgressPhase::Failed).await?;
    let status = progress.status.unwrap_or_default();
    ensure!(status.failure_reason == "DrainTimedOut", "{status:?}");
    event(case, "DrainTimedOut", &[budget, &name]).await?;
    attempt.not_rebooted()?;
    untouched(case, &pod).await?;
    case.bench.wait_schedulable(case.node, true).await?;

    case.set_drain(json!({"onDeadline": "Force"})).await?;
    case.retry().await?;
    gone_before_the_reboot(case, &pod).await?;
    attempt.completes_at_last(1).await?;
    case.bench.wait_schedulable(case.node, true).await
}

/// Who is left, who blocks, and who goes before whom.
pub(crate) async fn every_pod_stays_or_goes_as_it_should(case: &Case<'_>) -> Result<()> {
    let name = case.progress_name();
    case.bench.kubectl.apply(&crowd(case).to_string()).await?;
    let before = wait::until("fifteen pods", LIMIT, || async {
        let all = pods(case).await?;
        let bound = |pod: &&Pod| pod.spec.as_ref().is_some_and(|s| s.node_name.is_some());
        let up = all.iter().filter(|pod| is_ready(pod)).count() == 3;
        Ok((up && all.iter().filter(bound).count() == 15).then_some(all))
    })
    .await?;
    let of = |part: &str| {
        let found = before.iter().find(|pod| pod.labels()["part"] == part);
        found.cloned().with_context(|| format!("no pod {part}"))
    };

    let attempt = case
        .begin_upgrade(json!({
            "podSelector": {"matchLabels": {"part": "left"}},
            "skipPodsWithPriorityAbove": 1_000_000_000,
            "deleteEmptyDir": false,
        }))
        .await?;
    let protected =
        "the data of its emptyDir volume would be lost (rollout.drain.deleteEmptyDir is false)";
    let data = format!("pod default/{}: {protected}", of("data")?.name_any());
    blocked(case, &[&data]).await?;
    // Nobody else is disturbed before somebody has decided about it.
    for pod in &before {
        untouched(case, pod).await?;
    }
    let order = departures(case).await?;
    case.set_drain(json!({"deleteEmptyDir": true})).await?;
    let (twice, one, two) = (
        of("twice")?.name_any(),
        format!("{name}-one"),
        format!("{name}-two"),
    );
    let both =
        format!("pod default/{twice}: PodDisruptionBudget default/{one} and default/{two}: ");
    blocked(case, &[&both]).await?;
    // What to do about it stands on the page.
    let page = fs::read_to_string(scratch::repository().join("docs/upgrade.md"))?;
    let row = page
        .lines()
        .find(|line| line.contains("PodDisruptionBudget B and C: "));
    ensure!(row.is_some_and(|row| row.contains("Delete one")), "{row:?}");
    attempt.not_rebooted()?;
    case.bench
        .shell(&format!("kubectl delete poddisruptionbudget {one}"))
        .await?;

    let gone = order.of(13).await?;
    let (lower, others) = gone.split_at(10);
    let is_low =
        |name: &String| name.starts_with(&format!("{name}-low", name = case.progress_name()));
    ensure!(
        lower.iter().all(is_low) && !others.iter().any(is_low),
        "{gone:?}"
    );
    attempt.completes(1).await?;
    // They went down with the node, and came up with it.
    for part in ["left", "important"] {
        untouched(case, &of(part)?).await?;
    }
    case.bench.wait_schedulable(case.node, true).await
}

/// Workloads of every sort, and two budgets for one of them.
fn crowd(case: &Case<'_>) -> Value {
    let name = case.progress_name();
    let part = |part: &str, replicas: usize, more: Value| {
        let labels = json!({"case": name, "part": part});
        let mut template = template(case, OBEDIENT, 2);
        template["metadata"]["labels"] = labels.clone();
        for (key, value) in more.as_object().into_iter().flatten() {
            template["spec"][key] = value.clone();
        }
        json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": format!("{name}-{part}"), "namespace": "default", "labels": labels},
            "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template},
        })
    };
    let budget = |budget: &str| {
        let labels = json!({"case": name, "part": "twice"});
        json!({
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {"name": format!("{name}-{budget}"), "namespace": "default", "labels": labels},
            "spec": {"minAvailable": 0, "selector": {"matchLabels": labels}},
        })
    };
    // They wait for their volume, which costs the node nothing.
    let waiting = json!({"name": "none", "configMap": {"name": "there-is-none"}});
    let low = json!({
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": name, "labels": {"case": name}},
        "value": -10,
    });
    let items = [
        low,
        part("left", 1, json!({})),
        part(
            "important",
            1,
            json!({"priorityClassName": "system-cluster-critical"}),
        ),
        part("twice", 1, json!({})),
        part(
            "low",
            10,
            json!({"priorityClassName": name, "volumes": [waiting]}),
        ),
        part("high", 1, json!({"volumes": [waiting]})),
        part(
            "data",
            1,
            json!({"volumes": [waiting, {"name": "data", "emptyDir": {}}]}),
        ),
        budget("one"),
        budget("two"),
    ];
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

/// It goes on when somebody lifts the budget.
pub(crate) async fn a_budget_that_allows_later(case: &Case<'_>) -> Result<()> {
    let pod = workload(case, OBEDIENT, 5, true).await?;
    let attempt = case.begin_upgrade(json!({})).await?;
    blocked(case, &["PodDisruptionBudget default/", &pod.name_any()]).await?;
    attempt.not_rebooted()?;
    lift_budget(case).await?;
    attempt.completes(1).await?;
    case.bench.wait_schedulable(case.node, true).await
}

/// The node waits for it.
pub(crate) async fn a_pod_that_takes_its_time(case: &Case<'_>) -> Result<()> {
    let slow = "trap 'until [ -e /tmp/end ]; do sleep 0.2; done; exit 0' TERM; while :; do sleep 0.2; done";
    let pod = workload(case, slow, 1200, false).await?;
    let attempt = case.begin_upgrade(json!({})).await?;
    let words = "it is ending and has a grace period of 1200 s";
    blocked(case, &[words, &pod.name_any()]).await?;
    attempt.not_rebooted()?;
    let end = format!("kubectl exec {} -- touch /tmp/end", pod.name_any());
    case.bench.shell(&end).await?;
    gone_before_the_reboot(case, &pod).await?;
    attempt.completes(1).await?;
    case.bench.wait_schedulable(case.node, true).await
}

/// Its kubelet kills it when its grace period is over.
pub(crate) async fn a_pod_that_ignores_its_end(case: &Case<'_>) -> Result<()> {
    let deaf = "trap '' TERM; while :; do sleep 0.2; done";
    let pod = workload(case, deaf, 4, false).await?;
    let attempt = case.begin_upgrade(json!({})).await?;
    gone_before_the_reboot(case, &pod).await?;
    attempt.completes(1).await?;
    case.bench.wait_schedulable(case.node, true).await
}

/// It is the administrator's to delete.
pub(crate) async fn a_pod_that_nobody_would_make_again(case: &Case<'_>) -> Result<()> {
    let mut pod = template(case, OBEDIENT, 2);
    let name = case.progress_name();
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    pod["metadata"]["name"] = json!(name);
    case.bench.kubectl.apply(&pod.to_string()).await?;
    let pod = running(case).await?;
    let attempt = case.begin_upgrade(json!({})).await?;
    blocked(
        case,
        &["no controller would make it again", &pod.name_any()],
    )
    .await?;
    attempt.not_rebooted()?;
    case.bench
        .shell(&format!("kubectl delete pod {name}"))
        .await?;
    attempt.completes(1).await?;
    case.bench.wait_schedulable(case.node, true).await
}

/// Other replicas find a node that is cordoned and not empty, and finish what was begun.
pub(crate) async fn the_controllers_are_killed(case: &Case<'_>) -> Result<()> {
    let pod = workload(case, OBEDIENT, 5, true).await?;
    let attempt = case.begin_upgrade(json!({})).await?;
    blocked(case, &["PodDisruptionBudget default/", &pod.name_any()]).await?;
    case.bench
        .shell(
            "kubectl -n mono-system delete pods -l app.kubernetes.io/component=controller \
             --force --grace-period=0 2>&1",
        )
        .await?;
    lift_budget(case).await?;
    attempt.completes(1).await?;
    case.bench.wait_schedulable(case.node, true).await
}

/// The cordon is theirs then, and stays.
pub(crate) async fn a_cordon_that_a_person_has_taken_over(case: &Case<'_>) -> Result<()> {
    let pod = workload(case, OBEDIENT, 5, true).await?;
    let attempt = case.begin_upgrade(json!({})).await?;
    blocked(case, &["PodDisruptionBudget default/", &pod.name_any()]).await?;
    case.bench.wait_schedulable(case.node, false).await?;
    let name = case.node.name();
    case.bench
        .shell(&format!(
            "kubectl annotate node {name} monok8s.io/cordoned-for-"
        ))
        .await?;
    lift_budget(case).await?;
    attempt.completes(1).await?;
    stays_cordoned(case).await
}

/// Whose cordon was there before the drain keeps it: the node is emptied and rebooted all the same.
pub(crate) async fn a_person_who_cordons_during_the_download(case: &Case<'_>) -> Result<()> {
    let pod = workload(case, OBEDIENT, 5, false).await?;
    // The agent waits for the boot variables before its first byte.
    let lock = case.boot_variables()?;
    let attempt = case.begin_upgrade(json!({})).await?;
    case.wait_phase(ProgressPhase::Downloading).await?;
    let name = case.node.name();
    case.bench.shell(&format!("kubectl cordon {name}")).await?;
    drop(lock);
    gone_before_the_reboot(case, &pod).await?;
    attempt.completes(1).await?;
    stays_cordoned(case).await
}

/// Cancelled in the middle of its drain, taken back, fallen back: each time it takes pods again.
pub(crate) async fn whatever_ends_an_attempt_lets_its_node_go(case: &Case<'_>) -> Result<()> {
    // With a grace period that only the upgrade's own setting makes short.
    let deaf = "trap '' TERM; while :; do sleep 0.2; done";
    let pod = workload(case, deaf, 1200, true).await?;
    let (name, budget) = (pod.name_any(), "PodDisruptionBudget default/");
    let attempt = case.begin_upgrade(json!({})).await?;
    blocked(case, &[budget, &name]).await?;
    case.bench.wait_schedulable(case.node, false).await?;
    case.forget().await?;
    case.bench.wait_schedulable(case.node, true).await?;

    case.begin_upgrade(json!({"gracePeriodSeconds": 2})).await?;
    blocked(case, &[budget, &name]).await?;
    case.bench.wait_schedulable(case.node, false).await?;
    let (kubectl, progress) = (&case.bench.kubectl, case.progress().await?.name_any());
    objects::patch(kubectl, &progress, &json!({"cancel": true})).await?;
    case.wait_phase(ProgressPhase::Cancelled).await?;
    case.bench.wait_schedulable(case.node, true).await?;
    attempt.not_rebooted()?;
    untouched(case, &pod).await?;

    lift_budget(case).await?;
    case.node.fail_trial_boots(1)?;
    let again = json!({"cancel": false, "retryNonce": "again"});
    objects::patch(kubectl, &progress, &again).await?;
    gone_before_the_reboot(case, &pod).await?;
    attempt.rolls_back(1).await?;
    case.bench.wait_schedulable(case.node, true).await
}

/// Nobody knows what runs on it: nothing is evicted, and it is not rebooted.
pub(crate) async fn a_node_that_is_not_ready_is_left_alone(case: &Case<'_>) -> Result<()> {
    let pod = workload(case, OBEDIENT, 5, true).await?;
    let attempt = case.begin_upgrade(json!({})).await?;
    blocked(case, &["PodDisruptionBudget default/", &pod.name_any()]).await?;
    case.node.set_kubelet_running(false).await?;
    blocked(case, &["until it is Ready"]).await?;
    lift_budget(case).await?;
    untouched(case, &pod).await?;
    attempt.not_rebooted()?;
    case.node.set_kubelet_running(true).await?;
    attempt.completes(1).await?;
    case.bench.wait_schedulable(case.node, true).await
}

/// The upgrade ends, and the controller does not lift the cordon.
async fn stays_cordoned(case: &Case<'_>) -> Result<()> {
    let name = case.progress_name();
    objects::wait_upgrade_phase(&case.bench.client, &name, UpgradePhase::Completed).await?;
    case.node.wait_ready().await?;
    // What the controller would do after the end, it has done when it has seen what came later.
    let line = format!(
        "kubectl patch osupgrade {name} --type merge -p '{{\"spec\":{{\"paused\":true}}}}' \
         -o jsonpath='{{.metadata.generation}}'"
    );
    let generation: i64 = case.bench.shell(&line).await?.trim().parse()?;
    objects::wait_upgrade(&case.bench.client, &name, "to be paused", |status| {
        status.observed_generation == Some(generation)
    })
    .await?;
    case.bench.wait_schedulable(case.node, false).await
}

/// A Deployment of one pod on the case's node, and perhaps a budget that lets nobody touch it; returns
/// its pod once it runs.
async fn workload(case: &Case<'_>, command: &str, grace: u32, budget: bool) -> Result<Pod> {
    let (name, template) = (case.progress_name(), template(case, command, grace));
    let labels = json!({"case": name});
    let mut items = vec![json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default", "labels": labels},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": template},
    })];
    if budget {
        items.push(json!({
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {"name": name, "namespace": "default", "labels": labels},
            "spec": {"minAvailable": 1, "selector": {"matchLabels": labels}},
        }));
    }
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
    case.bench.kubectl.apply(&list.to_string()).await?;
    running(case).await
}

fn template(case: &Case<'_>, command: &str, grace: u32) -> Value {
    json!({
        "metadata": {"labels": {"case": case.progress_name()}},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": case.node.name()},
            "terminationGracePeriodSeconds": grace,
            "containers": [{
                "name": "toolbox",
                "image": TOOLBOX,
                "imagePullPolicy": "Never",
                "command": ["/bin/sh", "-c", command],
            }],
        },
    })
}

/// The case's pods.
async fn pods(case: &Case<'_>) -> Result<Vec<Pod>> {
    let api: Api<Pod> = Api::namespaced(case.bench.client.clone(), "default");
    let label = format!("case={}", case.progress_name());
    Ok(api.list(&ListParams::default().labels(&label)).await?.items)
}

/// Waits until the case's pod runs.
async fn running(case: &Case<'_>) -> Result<Pod> {
    wait::until("the workload's pod", LIMIT, || async {
        let runs = |pod: &Pod| {
            let phase = pod
                .status
                .as_ref()
                .and_then(|status| status.phase.as_deref());
            phase == Some("Running")
        };
        Ok(pods(case).await?.into_iter().find(runs))
    })
    .await
}

/// The pod is still there, and nobody has asked it to end.
async fn untouched(case: &Case<'_>, pod: &Pod) -> Result<()> {
    let now = pods(case).await?;
    let same = now.iter().find(|now| now.uid() == pod.uid());
    let asked = same.is_none_or(|same| same.metadata.deletion_timestamp.is_some());
    ensure!(!asked, "{} was asked to end", pod.name_any());
    Ok(())
}

/// A watch on who is asked to end.
struct Departures<'a> {
    events: BoxStream<'a, kube::Result<WatchEvent<Pod>>>,
}

/// Watches the case's pods from now on.
async fn departures(case: &Case<'_>) -> Result<Departures<'static>> {
    let api: Api<Pod> = Api::namespaced(case.bench.client.clone(), "default");
    let label = format!("case={}", case.progress_name());
    let now = api.list(&ListParams::default().labels(&label)).await?;
    let now = now
        .metadata
        .resource_version
        .context("a list without a version")?;
    let params = WatchParams::default().labels(&label).timeout(290);
    let events = api.watch(&params, &now).await?.boxed();
    Ok(Departures { events })
}

impl Departures<'_> {
    /// The names of the first so many, in the order in which they were asked.
    async fn of(mut self, number: usize) -> Result<Vec<String>> {
        let mut asked: Vec<String> = Vec::new();
        while asked.len() < number {
            let event = tokio::time::timeout(LIMIT, self.events.try_next()).await;
            let event = event.with_context(|| format!("only {asked:?} were asked to end"))??;
            let (WatchEvent::Modified(pod) | WatchEvent::Deleted(pod)) =
                event.context("the watch ended")?
            else {
                continue;
            };
            let name = pod.name_any();
            if pod.metadata.deletion_timestamp.is_some() && !asked.contains(&name) {
                asked.push(name);
            }
        }
        Ok(asked)
    }
}

/// Waits until the upgrade says what it waits for, in these words, and that it drains.
async fn blocked(case: &Case<'_>, words: &[&str]) -> Result<()> {
    let line = format!(
        "kubectl get osupgrade {} -o jsonpath='{{.status.conditions[?(@.type==\"Progressing\")].reason}} {{.status.message}}'",
        case.progress_name()
    );
    let what = format!("{words:?} in the upgrade's message");
    let seen = wait::until(&what, LIMIT, || async {
        let text = case.bench.shell(&line).await?;
        let said = text.starts_with("Draining ") && words.iter().all(|word| text.contains(word));
        Ok(said.then_some(()))
    });
    match seen.await {
        Ok(()) => Ok(()),
        Err(error) => Err(error.context(case.bench.shell(&line).await.unwrap_or_default())),
    }
}

/// Waits for an Event of the upgrade with this reason, in these words.
async fn event(case: &Case<'_>, reason: &str, words: &[&str]) -> Result<()> {
    let line = format!(
        "kubectl get events -n default -o jsonpath='{{.items[*].message}}' \
         --field-selector involvedObject.name={},reason={reason}",
        case.progress_name()
    );
    wait::until(
        &format!("the Event {reason} with {words:?}"),
        LIMIT,
        || async {
            let text = case.bench.shell(&line).await?;
            Ok(words.iter().all(|word| text.contains(word)).then_some(()))
        },
    )
    .await
}

async fn lift_budget(case: &Case<'_>) -> Result<()> {
    let line = format!(
        "kubectl delete poddisruptionbudget {}",
        case.progress_name()
    );
    case.bench.shell(&line).await.map(drop)
}

/// Waits until the progress is released to reboot, and checks that the pod had ended.
async fn gone_before_the_reboot(case: &Case<'_>, pod: &Pod) -> Result<()> {
    wait::until("the release to reboot", LIMIT, || async {
        let progress = case.progress().await.ok();
        let released = progress.filter(|now| now.spec.release == Release::Reboot);
        Ok(released.map(drop))
    })
    .await?;
    let left = pods(case).await?;
    let left = left.iter().find(|left| left.uid() == pod.uid());
    let phase = left.map(|left| {
        left.status
            .clone()
            .unwrap_or_default()
            .phase
            .unwrap_or_default()
    });
    // Its object may stay for a moment when its containers have ended.
    let ended = phase
        .as_deref()
        .is_none_or(|phase| ["Succeeded", "Failed"].contains(&phase));
    ensure!(ended, "the node was released with the pod on it: {phase:?}");
    Ok(())
}
