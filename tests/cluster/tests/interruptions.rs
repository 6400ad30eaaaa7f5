//! What happens to an agent in the middle of an attempt, other than a power cut.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use kube::ResourceExt as _;
use monok8s_api::reason::ProgressPhase;
use monok8s_sandbox::{image_server::Fault, wait};

use crate::{
    bench::{Bench, LIMIT, is_ready},
    case::Case,
};

/// So slow that the download of an image takes about 10 s.
fn slow() -> Fault {
    Fault::Drip {
        bytes: 48 << 10,
        every: Duration::from_millis(100),
    }
}

/// A server that stops in the middle.
pub fn stalled() -> Fault {
    Fault::StallAfter(1 << 20)
}

/// Every agent is replaced by a new one while it downloads.
pub async fn the_daemonset_is_updated_in_the_middle_of_a_download(bench: &Bench) -> Result<()> {
    let nodes = bench.cluster.nodes();
    let cases: Vec<Case<'_>> = nodes
        .iter()
        .map(|node| Case::new(bench, node, "updated"))
        .collect();
    let attempts =
        try_join_all(cases.iter().map(|case| case.begin("Reboot", Some(slow())))).await?;
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
        let pods = bench.agents(case.node).await?;
        let updated = pods
            .iter()
            .all(|pod| pod.annotations().contains_key("test"));
        ensure!(updated, "an agent on {} was not updated", case.node.name());
        case.tidy().await?;
    }
    Ok(())
}

/// Every agent is killed by the kernel, again and again, until somebody gives it more memory.
pub async fn the_agents_run_out_of_memory(bench: &Bench) -> Result<()> {
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

fn ran_out_of_memory(pod: &k8s_openapi::api::core::v1::Pod) -> bool {
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

/// The next agent carries on.
pub async fn the_agents_pod_is_deleted(case: &Case<'_>) -> Result<()> {
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
pub async fn the_api_server_is_out_of_reach(case: &Case<'_>) -> Result<()> {
    let attempt = case.begin("Reboot", Some(stalled())).await?;
    case.wait_phase(ProgressPhase::Downloading).await?;
    let api_server = case.bench.cluster.part().api_server().to_string();
    let route = ["ip", "route", "add", "blackhole", &api_server];
    case.node
        .run(route)
        .await
        .context("cannot cut the node off")?;
    let asked = case.bench.cluster.image_server().body_bytes();
    case.cure();
    wait::until("the node to be missed", LIMIT, || async {
        let shown = case
            .bench
            .shell(&format!(
                "kubectl get node {} --no-headers",
                case.node.name()
            ))
            .await?;
        Ok(shown.contains("NotReady").then_some(()))
    })
    .await?;
    let proven = "grep -q '\"proven\"' /var/lib/monok8s/*.json";
    let _ = (asked, proven);
    let running = case.node.running()?;
    let away = ["ip", "route", "del", "blackhole", &api_server];
    case.node
        .run(away)
        .await
        .context("cannot connect the node again")?;
    let before = case.progress().await?;
    ensure!(
        running.number == case.node.running()?.number,
        "it rebooted without asking: {before:?}"
    );
    attempt.completes(1).await
}

/// An agent needs no kubelet to get its node upgraded.
pub async fn the_kubelet_is_down(case: &Case<'_>) -> Result<()> {
    let attempt = case.begin("Reboot", Some(stalled())).await?;
    case.wait_phase(ProgressPhase::Downloading).await?;
    case.node.set_kubelet_running(false).await?;
    case.cure();
    // The reboot brings the kubelet back.
    attempt.completes(1).await
}

/// Nothing is lost, and when there is room again the attempt goes on, or the next one does.
pub async fn the_disk_is_full(case: &Case<'_>) -> Result<()> {
    let attempt = case.begin("Reboot", Some(stalled())).await?;
    case.wait_phase(ProgressPhase::Downloading).await?;
    let fill = "dd if=/dev/zero of=/var/lib/fill bs=1M 2>/dev/null; sync -f /var/lib/fill; df /var";
    case.node.run(["sh", "-c", fill]).await?;
    let running = case.node.running()?;
    case.cure();
    wait::until("the agent to meet the full disk", LIMIT, || async {
        let status = case.progress().await?.status.unwrap_or_default();
        Ok((status.phase != ProgressPhase::Downloading).then_some(()))
    })
    .await?;
    case.node.run(["rm", "/var/lib/fill"]).await?;
    let _ = running;
    attempt.completes(1).await
}
