//! What an agent tells besides its statuses: Events, metrics, health, log lines.

use std::collections::BTreeSet;

use k8s_openapi::api::events::v1::Event;
use kube::{Api, api::ListParams};
use monok8s_api::reason::ProgressPhase;
use monok8s_sandbox::{image_server::Fault, node::NodeOptions, wait};
use serde_json::{Value, json};

use crate::{
    http,
    scene::{LIMIT, NEW, Scene},
};

/// Waits until Events of these reasons tell of a progress, and returns them.
async fn events(scene: &Scene, progress: &str, reasons: &[&str]) -> Vec<Event> {
    let api: Api<Event> = Api::namespaced(scene.cluster.client(), "default");
    let what = format!("the Events of {progress}");
    let told = wait::until(&what, LIMIT, || async {
        let mut all = api.list(&ListParams::default()).await?.items;
        all.retain(|event| {
            let about = event.regarding.as_ref();
            about.is_some_and(|o| {
                o.kind.as_deref() == Some("OSUpgradeProgress")
                    && o.name.as_deref() == Some(progress)
            })
        });
        let found: BTreeSet<_> = all.iter().filter_map(|e| e.reason.as_deref()).collect();
        Ok(reasons.iter().all(|r| found.contains(r)).then_some(all))
    });
    told.await
        .unwrap_or_else(|e| panic!("{e:#}\n{}", scene.node(progress).agent_log()))
}

fn of<'a>(events: &'a [Event], reason: &str) -> &'a Event {
    let mut fitting = events
        .iter()
        .filter(|e| e.reason.as_deref() == Some(reason));
    let event = fitting.next().unwrap();
    assert!(fitting.next().is_none(), "{reason} is told twice");
    event
}

/// An upgrade that works: the reboot and the end are told, and every line of the log is JSON.
async fn completed(scene: &Scene) {
    let name = "completed";
    let url = scene.serve(name, None);
    scene
        .progress(name, json!({"image": scene.image(&url)}))
        .await;
    scene.phase(name, ProgressPhase::Completed).await;
    let events = events(scene, name, &["Rebooting", "Completed"]).await;
    assert_eq!(events.len(), 2, "{events:#?}");
    for event in &events {
        assert_eq!(event.type_.as_deref(), Some("Normal"));
        assert_eq!(
            event.reporting_controller.as_deref(),
            Some("monok8s.io/node-agent")
        );
        assert_eq!(event.reporting_instance.as_deref(), Some(name));
    }
    let note = of(&events, "Completed").note.clone().unwrap();
    assert!(note.contains(NEW), "{note}");

    let log = scene.node(name).agent_log();
    // The last one may be half written.
    let (log, _) = log.rsplit_once('\n').unwrap();
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    assert!(lines.len() > 10);
    for line in &lines {
        assert!(
            line["timestamp"].is_string() && line["level"].is_string(),
            "{line}"
        );
    }
    let said = |field: &str, value: &str| {
        lines
            .iter()
            .any(|l| l["fields"][field] == value || l[field] == value)
    };
    assert!(
        said("phase", "Completed") && said("progress", name),
        "{log}"
    );
}

/// One that fails: a warning with the reason, and the count of it; no label names a node or an object.
async fn failed(scene: &Scene) {
    let name = "failed";
    let url = scene.serve(name, Some(Fault::status(404)));
    scene
        .progress(name, json!({"image": scene.image(&url)}))
        .await;
    scene.fails(name, "DownloadNotFound").await;
    let events = events(scene, name, &["DownloadNotFound"]).await;
    let event = of(&events, "DownloadNotFound");
    assert_eq!(event.type_.as_deref(), Some("Warning"));
    let note = event.note.clone().unwrap();
    assert!(
        note.starts_with("Failed: ") && note.contains("/failed/rootfs.ext4.zst"),
        "{note}"
    );

    let base = scene.node(name).agent_url().unwrap();
    assert_eq!(http::get(&base, "/healthz").await.0, 200);
    assert_eq!(http::get(&base, "/readyz").await.0, 200);
    let (code, metrics) = http::get(&base, "/metrics").await;
    assert_eq!(code, 200);
    for line in [
        r#"monok8s_agent_attempts_total{phase="Failed",reason="DownloadNotFound"} 1"#,
        "monok8s_agent_reboots_requested_total 0",
        "monok8s_agent_written_bytes_total 0",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    let labels: String = metrics
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('{')?.1.rsplit_once('}'))
        .map(|(labels, _)| labels)
        .collect();
    assert!(!labels.is_empty() && !labels.contains(name), "{labels}");
}

/// Before the API server has said anything the agent is alive and not ready.
async fn unheard(scene: &mut Scene) {
    let name = "unheard";
    scene.node(name).stop_agent().await;
    scene.cluster.control_plane_mut().stop_api_server().await;
    let node = scene.node(name);
    node.start_agent();
    wait::until("an agent that waits", LIMIT, || async {
        let Some(base) = node.agent_url() else {
            return Ok(None);
        };
        let ready = http::get(&base, "/readyz").await;
        Ok((ready.0 == 503 && ready.1.contains("watch")).then_some(()))
    })
    .await
    .unwrap_or_else(|e| panic!("{e:#}\n{}", node.agent_log()));
    let base = node.agent_url().unwrap();
    assert_eq!(http::get(&base, "/healthz").await.0, 200);
    let plane = scene.cluster.control_plane_mut();
    plane.start_api_server().await.unwrap();
    wait::until("an agent that has heard", LIMIT, || async {
        Ok((http::get(&base, "/readyz").await.0 == 200).then_some(()))
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_tells_what_it_does() {
    let nodes = ["completed", "failed", "unheard"].map(|name| {
        let mut node = NodeOptions::new(name);
        node.agent_arguments = vec!["--log-format=json".into()];
        node
    });
    let mut scene = Scene::start(nodes.into()).await;
    tokio::join!(completed(&scene), failed(&scene));
    unheard(&mut scene).await;
}
