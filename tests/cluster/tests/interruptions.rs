//! What happens to an agent in the middle of an attempt, other than a power cut.

use std::fs::File;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use monok8s_api::reason::ProgressPhase;
use monok8s_sandbox::{image_server::Fault, wait};

use crate::{
    bench::{Bench, LIMIT, is_ready},
    case::{Attempt, Case},
};

/// A server that stops in the middle.
pub(crate) fn stalled() -> Fault {
    Fault::StallAfter(1 << 20)
}

/// Every agent is replaced by a new one while it downloads.
pub(crate) async fn the_daemonset_is_updated_in_the_middle_of_a_download(
    bench: &Bench,
) -> Result<()> {
    let nodes = bench.cluster.nodes();
    let cases: Vec<Case<'_>> = nodes
        .iter()
        .map(|node| Case::new(bench, node, "updated"))
        .collect();
    let attempts = try_join_all(
        cases
            .iter()
            .map(|case| case.begin("Reboot", Some(stalled()))),
    )
    .await?;
    try_join_all(
        cases
            .iter()
            .map(|case| case.wait_phase(ProgressPhase::Downloading)),
    )
    .await?;
    let patch = r#"{"spec":{"template":{"metadata":{"annotations":{"test":"updated"}}}}}"#;
    bench
        .shell(&format!(
            "kubectl -n mono-system patch daemonset node-agent -p '{patch}'"
        ))
        .await?;
    cases.iter().for_each(Case::cure);
    try_join_all(attempts.iter().map(|attempt| attempt.completes(1))).await?;
    bench
        .shell("kubectl -n mono-system rollout status daemonset/node-agent --timeout=180s")
        .await?;
    for case in &cases {
        let updated = |pod: &Pod| pod.annotations().contains_key("test") && is_ready(pod);
        bench.wait_agent(case.node, "updated", updated).await?;
        case.tidy().await?;
    }
    Ok(())
}

/// Every agent is killed by the kernel, again and again, until somebody gives it more memory.
pub(crate) async fn the_agents_run_out_of_memory(bench: &Bench) -> Result<()> {
    let nodes = bench.cluster.nodes();
    let cases: Vec<Case<'_>> = nodes
        .iter()
        .map(|node| Case::new(bench, node, "memory"))
        .collect();
    let attempts = try_join_all(
        cases
            .iter()
            .map(|case| case.begin("Reboot", Some(stalled()))),
    )
    .await?;
    try_join_all(
        cases
            .iter()
            .map(|case| case.wait_phase(ProgressPhase::Downloading)),
    )
    .await?;
    bench
        .shell("kubectl -n mono-system set resources daemonset/node-agent --requests=memory=8Mi --limits=memory=12Mi")
        .await?;
    wait::until("an agent to be killed", LIMIT, || async {
        for node in nodes {
            let pods = bench.agents(node).await?;
            if pods.iter().any(ran_out_of_memory) {
                return Ok(Some(()));
            }
        }
        Ok(None)
    })
    .await?;
    bench.shell("kubectl apply -k manifests").await?;
    cases.iter().for_each(Case::cure);
    try_join_all(attempts.iter().map(|attempt| attempt.completes(1))).await?;
    for case in &cases {
        case.tidy().await?;
    }
    Ok(())
}

fn ran_out_of_memory(pod: &Pod) -> bool {
    let statuses = pod
        .status
        .as_ref()
        .and_then(|status| status.container_statuses.as_ref());
    statuses.into_iter().flatten().any(|status| {
        let states = [&status.state, &status.last_state].into_iter().flatten();
        let mut ended = states.filter_map(|state| state.terminated.as_ref());
        ended.any(|ended| ended.reason.as_deref() == Some("OOMKilled"))
    })
}

/// An attempt whose agent waits, before its first byte, until the lock is dropped.
async fn before_the_first_byte<'a>(case: &'a Case<'_>) -> Result<(Attempt<'a>, File)> {
    let lock = case.boot_variables()?;
    let attempt = case.begin("Reboot", None).await?;
    case.wait_phase(ProgressPhase::Downloading).await?;
    Ok((attempt, lock))
}

/// The next agent carries on.
pub(crate) async fn the_agents_pod_is_deleted(case: &Case<'_>) -> Result<()> {
    let attempt = case.begin("Reboot", Some(stalled())).await?;
    case.wait_phase(ProgressPhase::Downloading).await?;
    let old = case
        .bench
        .wait_agent(case.node, "ready", is_ready)
        .await?
        .name_any();
    case.bench
        .shell(&format!(
            "kubectl -n mono-system delete pod {old} --wait=false"
        ))
        .await?;
    case.cure();
    case.bench
        .wait_agent(case.node, "another one", |pod| {
            pod.name_any() != old && is_ready(pod)
        })
        .await?;
    attempt.completes(1).await
}

/// The download goes on; the switch waits until the API server has been asked.
pub(crate) async fn the_api_server_is_out_of_reach(case: &Case<'_>) -> Result<()> {
    let (attempt, hold) = before_the_first_byte(case).await?;
    let api_server = case.bench.cluster.part().api_server().to_string();
    let cut = async |what| {
        let command = ["ip", "route", what, "blackhole", &api_server];
        case.node
            .run(command)
            .await
            .context("cannot change the node's routes")
    };
    cut("add").await?;
    drop(hold);
    wait::until("the proof on the disk", LIMIT, || async {
        Ok(case.is_proven().then_some(()))
    })
    .await?;
    let name = case.node.name();
    wait::until("the node to be missed", LIMIT, || async {
        let line = format!("kubectl get node {name} --no-headers");
        Ok(case
            .bench
            .shell(&line)
            .await?
            .contains("NotReady")
            .then_some(()))
    })
    .await?;
    attempt.not_rebooted()?;
    cut("delete").await?;
    attempt.completes(1).await
}

/// An agent needs no kubelet to get its node upgraded.
pub(crate) async fn the_kubelet_is_down(case: &Case<'_>) -> Result<()> {
    let (attempt, hold) = before_the_first_byte(case).await?;
    case.node.set_kubelet_running(false).await?;
    drop(hold);
    // The reboot brings the kubelet back.
    attempt.completes(1).await
}

/// Neither the attempt nor the node is lost: an agent that can note nothing switches nothing, and one
/// that still could finishes when there is room for its pod again.
pub(crate) async fn the_disk_is_full(case: &Case<'_>) -> Result<()> {
    use ProgressPhase::{Completed, Downloading, Failed, Verifying};
    let (attempt, hold) = before_the_first_byte(case).await?;
    // Most of it without writing; then what is left.
    let fill = "fallocate -l $(( ($(stat -fc %a /var) - 4096) * $(stat -fc %S /var) )) /var/lib/fill-most; \
                cat /dev/zero > /var/lib/fill-rest; sync --file-system /var";
    case.node.run(["sh", "-c", fill]).await?;
    drop(hold);
    wait::until("the agent to get on with a full disk", LIMIT, || async {
        let phase = case.progress().await?.status.unwrap_or_default().phase;
        Ok((!matches!(phase, Downloading | Verifying)).then_some(()))
    })
    .await?;
    // In a reboot there is a moment without a node to do it on.
    wait::until("room on the disk", LIMIT, || async {
        let room = ["rm", "-f", "/var/lib/fill-most", "/var/lib/fill-rest"];
        Ok(case.node.run(room).await.ok().map(drop))
    })
    .await?;
    let status = wait::until("the end of the attempt", LIMIT, || async {
        let status = case.progress().await?.status.unwrap_or_default();
        Ok([Completed, Failed]
            .contains(&status.phase)
            .then_some(status))
    })
    .await?;
    if status.phase == Failed {
        ensure!(status.failure_reason == "StateNotPersistent", "{status:?}");
        attempt.not_rebooted()?;
        case.retry().await?;
    }
    attempt.completes_at_last(1).await
}
