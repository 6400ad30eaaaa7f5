//! One small promise per node.

use std::{
    collections::BTreeSet,
    path::Path,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, future::LocalBoxFuture, stream};
use kube::{ResourceExt as _, runtime::watcher::Event};
use monok8s_api::{OSUpgradeProgressStatus, reason::ProgressPhase};
use monok8s_boot::SlotName;
use monok8s_node_agent::record::Step;
use monok8s_sandbox::{image_server::Fault, node::NodeOptions, wait};
use serde_json::{Value, json};

use crate::scene::{LIMIT, NEW, OLD, Scene, drip, stall};

type Case<'a> = (&'static str, LocalBoxFuture<'a, ()>);

async fn all(cases: Vec<Case<'_>>) {
    stream::iter(cases)
        .for_each_concurrent(4, |(name, case)| async move {
            case.await;
            eprintln!("{name}: ok");
        })
        .await;
}

/// Refused before the first byte: the slot is untouched, and the message says so.
async fn refused(scene: &Scene, name: &'static str, reason: &str, spec: Value) {
    scene.progress(name, spec).await;
    let status = scene.fails(name, reason).await;
    assert!(
        status.message.contains("nothing was written"),
        "{name}: {}",
        status.message
    );
    assert_eq!(status.attempt, 1, "{name}");
    assert!(
        scene.slot_b_is_untouched(name),
        "{name}: bytes were written"
    );
}

/// The same for what its source OSUpgrade asks: a progress made by hand carries none of it itself.
async fn source_refused(scene: &Scene, node: &'static str, reason: &str, policy: Value) {
    let name = format!("{node}-source");
    let path = format!("/{name}/rootfs.ext4.zst");
    let url = scene.serve(&name, None);
    let checksum = scene.image(&url)["checksum"].clone();
    let catalog = json!({"images": [{"version": NEW, "url": url, "checksum": checksum}]});
    let mut source = json!({
        "apiVersion": "monok8s.io/v1alpha1", "kind": "OSUpgrade", "metadata": {"name": name},
        "spec": {"version": NEW, "catalog": {"inline": catalog.to_string()},
                 "nodeSelector": {"matchLabels": {"nobody": "has"}}},
    });
    for (key, value) in policy.as_object().unwrap() {
        source["spec"][key] = value.clone();
    }
    scene.apply(source).await;
    scene.progress(&name, json!({"nodeName": node})).await;
    let status = scene.fails(&name, reason).await;
    assert!(
        status.message.contains("nothing was written") && status.message.contains(&name),
        "{name}: {}",
        status.message
    );
    assert!(
        scene.slot_b_is_untouched(node),
        "{name}: bytes were written"
    );
    let requests = scene.cluster.image_server().requests();
    assert!(
        requests.iter().all(|request| request.path() != path),
        "{name}: the image was asked for"
    );
}

/// Checks in the progress itself, and in its source.
async fn checks(scene: &Scene) {
    let name = "checks";
    let health = json!({"checks": [{"name": "k", "systemdUnit": "kubelet.service"}]});
    let image = scene.image("http://127.0.0.1:9/none");
    let own = json!({"image": image, "health": health});
    refused(scene, name, "PolicyRefused", own).await;
    source_refused(scene, name, "PolicyRefused", json!({"health": health})).await;
}

/// A Rollback in the progress itself, and in its source.
async fn rollback(scene: &Scene) {
    let (name, reason) = ("rollback", "RollbackUnavailable");
    let own = json!({"operation": "Rollback", "image": {"version": "previous"}});
    refused(scene, name, reason, own).await;
    source_refused(scene, name, reason, json!({"operation": "Rollback"})).await;
}

/// SIGTERM in the middle of a download: within 10 s the process is gone and the record says that the slot is being
/// written; the next start carries the attempt on.
async fn sigterm(scene: &Scene) {
    let name = "sigterm";
    let url = scene.serve(name, Some(stall()));
    scene
        .progress(
            name,
            json!({"image": scene.image(&url), "download": {"retryFor": "10m"}}),
        )
        .await;
    scene
        .until(name, "bytes", |_| {
            scene
                .record(name)
                .and_then(|r| r.under_way().map(monok8s_node_agent::record::Attempt::step))
                == Some(Step::Writing)
        })
        .await;
    let node = scene.node(name);
    let pid = node.agent_pid().unwrap();
    node.stop_agent().await;
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    let log = node.agent_log();
    let last = log.lines().last().unwrap_or_default();
    assert!(
        last.ends_with("ended"),
        "it was killed before it came to its end: {log}"
    );
    let record = scene.record(name).unwrap();
    assert_eq!(record.under_way().unwrap().step(), Step::Writing);
    scene
        .cluster
        .image_server()
        .cure(&format!("/{name}/rootfs.ext4.zst"));
    node.start_agent();
    let status = scene.phase(name, ProgressPhase::Completed).await;
    assert_eq!(status.attempt, 1);
}

/// Deleted so early that nothing was written: the slot keeps what it had, and OSNode tells.
async fn deleted_early(scene: &Scene) {
    let name = "deleted-early";
    let url = scene.serve(name, Some(Fault::NeverAnswer));
    scene
        .progress(
            name,
            json!({"image": scene.image(&url), "download": {"retryFor": "10m"}}),
        )
        .await;
    scene.phase(name, ProgressPhase::Downloading).await;
    let kubectl = scene.cluster.kubectl();
    kubectl
        .ok(["delete", "osupgradeprogress", name])
        .await
        .unwrap();
    scene
        .until(name, "OSNode's last result", |_| {
            scene
                .record(name)
                .is_some_and(|r| r.under_way().is_none() && r.last_result.is_some())
        })
        .await;
    let end = Instant::now() + LIMIT;
    loop {
        let told = scene.os_node(name).await.last_result;
        if told.is_some_and(|r| r.progress == name && r.phase == ProgressPhase::Cancelled) {
            break;
        }
        assert!(Instant::now() < end, "{}", scene.node(name).agent_log());
        tokio::time::sleep(wait::INTERVAL).await;
    }
    assert!(scene.slot_b_is_untouched(name));
}

/// Two progresses for one node run one after the other, the older first.
async fn two(scene: &Scene) {
    let name = "two";
    let url = scene.serve(name, Some(drip()));
    let image = scene.image(&url);
    let spec = |release: &str| json!({"nodeName": name, "image": image, "release": release});
    scene.progress("two-a", spec("Reboot")).await;
    scene.phase("two-a", ProgressPhase::Downloading).await;
    scene.progress("two-b", spec("Reboot")).await;
    scene.cluster.image_server().cure("/two/rootfs.ext4.zst");
    let end = Instant::now() + LIMIT;
    loop {
        // In this order: the second may begin as soon as the first has ended.
        let b = scene.status("two-b").await;
        let a = scene.status("two-a").await;
        if a.phase.is_terminal() {
            break;
        }
        assert_eq!(b.phase, ProgressPhase::Pending, "both run: {}", a.phase);
        assert!(Instant::now() < end, "{}", scene.node(name).agent_log());
        tokio::time::sleep(wait::INTERVAL).await;
    }
    scene.phase("two-a", ProgressPhase::Completed).await;
    // By then the node runs what the second one asks for.
    let second = scene.phase("two-b", ProgressPhase::Completed).await;
    assert!(
        second.message.contains("nothing was written"),
        "{}",
        second.message
    );
}

/// The agent resolves the source's catalog, and shows what it chose without the URL's query.
async fn by_hand(scene: &Scene) {
    let name = "by-hand";
    let url = scene.serve(name, None);
    let image = scene.cluster.image(NEW).unwrap();
    let catalog = format!(
        "stable: {NEW}\nimages:\n- version: {NEW}\n  url: {url}?signature=secret\n  checksum: sha256:{}\n",
        image.file_sha256
    );
    scene
        .apply(json!({
            "apiVersion": "monok8s.io/v1alpha1", "kind": "OSUpgrade", "metadata": {"name": name},
            "spec": {"version": "stable", "catalog": {"inline": catalog},
                     "nodeSelector": {"matchLabels": {"nobody": "has"}}},
        }))
        .await;
    scene.progress(name, json!({})).await;
    let status = scene.phase(name, ProgressPhase::Completed).await;
    let chosen = status.image.clone().unwrap();
    assert_eq!((chosen.version.as_str(), chosen.url), (NEW, Some(url)));
    assert_eq!(status.current_version, NEW);
    assert_eq!(status.checksum_matched.as_deref(), Some("File"));
    assert_eq!(status.percent, 100);
    let holds: BTreeSet<_> = status
        .conditions
        .iter()
        .filter(|c| c.status == "True")
        .map(|c| c.type_.as_str())
        .collect();
    assert_eq!(
        holds,
        ["Completed", "Confirmed", "Switched", "Verified"].into()
    );
    let log = scene.node(name).agent_log();
    assert!(!log.contains("secret"), "a URL's query was logged: {log}");
}

/// An image on the machine itself, in a folder that is for images; one beside that folder is refused.
async fn by_file(scene: &Scene, folder: &Path) {
    let name = "by-file";
    let from = scene.cluster.image(NEW).unwrap().file.clone();
    let beside = folder.with_extension("beside");
    std::fs::create_dir(&beside).unwrap();
    for (folder, object) in [(beside.as_path(), "by-file-beside"), (folder, name)] {
        let file = folder.join("rootfs.ext4.zst");
        std::fs::copy(&from, &file).unwrap();
        let url = format!("file://{}", file.display());
        let spec = json!({"nodeName": name, "image": scene.image(&url)});
        scene.progress(object, spec).await;
        if object == name {
            scene.phase(object, ProgressPhase::Completed).await;
        } else {
            scene
                .until(object, "an end", |s| s.phase.is_terminal())
                .await;
            assert_eq!(scene.status(object).await.phase, ProgressPhase::Failed);
            assert!(scene.slot_b_is_untouched(name));
        }
    }
    std::fs::remove_dir_all(&beside).unwrap();
}

/// Neither source has what was promised: the failure tells of the one that was read last, where it was written to, and
/// how far.
async fn mirrors(scene: &Scene) {
    let name = "mirrors";
    let (first, last) = (scene.serve(name, None), scene.serve("mirrors/last", None));
    let mut image = scene.image(&first);
    image["mirrors"] = json!([last]);
    image["checksum"] = json!(format!("sha256:{:064}", 0));
    scene.progress(name, json!({"image": image})).await;
    let status = scene.fails(name, "ChecksumMismatch").await;
    let size = image["size"].as_i64().unwrap();
    assert_eq!((status.bytes_done, status.bytes_total), (size, size));
    let slot = scene.node(name).slot_device(SlotName::B).unwrap();
    for part in [
        last,
        format!("slot B ({})", slot.display()),
        format!("{size} of {size} bytes were written; the slot is marked bad"),
    ] {
        assert!(status.message.contains(&part), "{part}: {}", status.message);
    }
    assert!(!status.message.contains(&first), "{}", status.message);
}

/// A catalog in a ConfigMap that the agents may not read: the message names what to grant.
async fn config_map(scene: &Scene) {
    let name = "config-map";
    scene
        .apply(json!({
            "apiVersion": "monok8s.io/v1alpha1", "kind": "OSUpgrade", "metadata": {"name": name},
            "spec": {"version": "stable", "catalog": {"configMap": "images"},
                     "nodeSelector": {"matchLabels": {"nobody": "has"}}},
        }))
        .await;
    scene.progress(name, json!({})).await;
    let status = scene.fails(name, "DownloadForbidden").await;
    for word in [
        "mono-system/images",
        "Role",
        "configmaps",
        "nothing was written",
    ] {
        assert!(status.message.contains(word), "{}", status.message);
    }
}

/// A nonce that comes while the attempt runs is noted, has no effect, and the failure says so; the next one counts.
async fn nonce(scene: &Scene) {
    let name = "nonce";
    let url = scene.serve(name, Some(stall()));
    scene
        .progress(
            name,
            json!({"image": scene.image(&url), "retryNonce": "at-creation",
                   "download": {"retryFor": "10m"}}),
        )
        .await;
    scene
        .until(name, "the first nonce", |s| {
            s.observed_retry_nonce == "at-creation" && s.phase == ProgressPhase::Downloading
        })
        .await;
    scene.patch(name, json!({"retryNonce": "early"})).await;
    let running = scene
        .until(name, "the second nonce", |s| {
            s.observed_retry_nonce == "early"
        })
        .await;
    assert_eq!((running.attempt, running.retry_count), (1, 0));
    scene
        .cluster
        .image_server()
        .fault(&format!("/{name}/rootfs.ext4.zst"), Fault::status(404));
    // The answer under way goes on; a restart asks anew.
    scene.node(name).kill_agent().await;
    let failed = scene.fails(name, "DownloadNotFound").await;
    assert!(
        failed.message.contains("has no effect"),
        "{}",
        failed.message
    );
    assert!(
        failed.message.contains("/nonce/rootfs.ext4.zst"),
        "{}",
        failed.message
    );
    scene
        .cluster
        .image_server()
        .cure(&format!("/{name}/rootfs.ext4.zst"));
    scene.patch(name, json!({"retryNonce": "late"})).await;
    let done = scene.phase(name, ProgressPhase::Completed).await;
    assert_eq!((done.attempt, done.retry_count), (2, 1));
    assert_eq!(done.failure_reason, "");
}

/// A reboot that does not come: the switch is taken back, and a retry works when the cause is gone.
async fn no_reboot(scene: &Scene) {
    let name = "no-reboot";
    let url = scene.serve(name, None);
    scene
        .progress(name, json!({"image": scene.image(&url)}))
        .await;
    let status = scene.fails(name, "RebootFailed").await;
    assert_eq!(status.current_version, OLD);
    let node = scene.os_node(name).await;
    assert_eq!(node.active_slot, "A");
    // What the firmware would start now is the old system.
    let boot = scene.node(name).reset().await.unwrap();
    assert_eq!((boot.slot, boot.trial), (SlotName::A, false));
}

/// Statuses: one per phase while bytes are slow, and numbers that only grow.
async fn quiet(scene: &Scene) {
    let name = "quiet";
    let url = scene.serve(
        name,
        Some(Fault::Drip {
            bytes: 256 << 10,
            every: Duration::from_millis(150),
        }),
    );
    let watcher = kube::runtime::watcher(
        scene.progresses(),
        kube::runtime::watcher::Config::default().fields(&format!("spec.nodeName={name}")),
    );
    scene
        .progress(
            name,
            json!({"image": scene.image(&url), "release": "Stage"}),
        )
        .await;
    let mut seen: Vec<OSUpgradeProgressStatus> = Vec::new();
    let mut last = None;
    let mut events = Box::pin(watcher);
    let begun = Instant::now();
    let end = Instant::now() + LIMIT;
    while seen.last().is_none_or(|s| s.phase != ProgressPhase::Staged) {
        assert!(Instant::now() < end, "{}", scene.node(name).agent_log());
        let event = tokio::time::timeout(LIMIT, events.next()).await.unwrap();
        if let Some(Ok(Event::Apply(p) | Event::InitApply(p))) = event
            && p.name_any() == name
            // A watch that begins anew tells what it told before.
            && std::mem::replace(&mut last, p.resource_version()) != p.resource_version()
            && let Some(status) = p.status
        {
            seen.push(status);
        }
    }
    let phases: BTreeSet<_> = seen.iter().map(|s| s.phase.to_string()).collect();
    // One write per phase, and further ones only after 10 s and 5 points each.
    let spent = seen.len() - phases.len();
    let allowed = usize::try_from(begun.elapsed().as_secs() / 10).unwrap() + 1;
    assert!(
        spent <= allowed,
        "{} writes in {} phases: {seen:#?}",
        seen.len(),
        phases.len()
    );
    assert!(seen.windows(2).all(|w| w[0].bytes_done <= w[1].bytes_done));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_keeps_its_promises() {
    let names = [
        "checks",
        "rollback",
        "downgrade",
        "no-checksum",
        "no-source",
        "sigterm",
        "deleted-early",
        "two",
        "by-hand",
        "by-file",
        "mirrors",
        "config-map",
        "nonce",
        "quiet",
        "no-reboot",
    ];
    let images = tempfile::tempdir().unwrap();
    let nodes = names.map(|name| {
        let mut node = NodeOptions::new(name);
        if name == "by-file" {
            node.agent_arguments = vec![format!("--file-root={}", images.path().display())];
        }
        if name == "no-reboot" {
            node.agent_arguments = vec![
                "--reboot=command:/bin/true".into(),
                "--reboot-timeout=2s".into(),
            ];
        }
        node
    });
    let scene = Scene::start(nodes.into()).await;
    let image = scene.image("http://127.0.0.1:9/none");
    let lower = json!({"version": "v1.33.0", "url": "http://127.0.0.1:9/none", "checksum": image["checksum"]});
    let scene = &scene;
    all(vec![
        ("checks", Box::pin(checks(scene))),
        ("rollback", Box::pin(rollback(scene))),
        (
            "downgrade",
            Box::pin(refused(
                scene,
                "downgrade",
                "PolicyRefused",
                json!({"image": lower}),
            )),
        ),
        (
            "no-checksum",
            Box::pin(refused(
                scene,
                "no-checksum",
                "PolicyRefused",
                json!({"image": {"version": NEW, "url": "http://127.0.0.1:9/none"}}),
            )),
        ),
        (
            "no-source",
            Box::pin(refused(scene, "no-source", "SourceNotFound", json!({}))),
        ),
        ("sigterm", Box::pin(sigterm(scene))),
        ("deleted-early", Box::pin(deleted_early(scene))),
        ("two", Box::pin(two(scene))),
        ("by-hand", Box::pin(by_hand(scene))),
        ("by-file", Box::pin(by_file(scene, images.path()))),
        ("mirrors", Box::pin(mirrors(scene))),
        ("config-map", Box::pin(config_map(scene))),
        ("nonce", Box::pin(nonce(scene))),
        ("quiet", Box::pin(quiet(scene))),
        ("no-reboot", Box::pin(no_reboot(scene))),
    ])
    .await;
}
