//! Agents killed in the middle of a packed image: they go on where the slot is proven, and download little of it twice.

use std::{
    cell::Cell,
    env,
    fs::{self, File},
    ops::ControlFlow,
    path::{Path, PathBuf},
    time::Duration,
};

use k8s_openapi::api::events::v1::Event;
use kube::{Api, api::ListParams};
use monok8s_api::reason::{ProgressPhase, SlotState};
use monok8s_boot::SlotName;
use monok8s_image::Digest;
use monok8s_node_agent::act::checkpoint;
use monok8s_sandbox::{
    image_server::{Content, Request},
    images::{self, RootFs},
    node::{Node, NodeOptions},
    wait,
};
use serde_json::{Value, json};

use crate::{
    idle,
    process::resident,
    scene::{LIMIT, NEW, Scene},
};

const MIB: u64 = 1 << 20;

/// Written, flushed and read back as one: what a crash costs is two of them at most.
const EPOCH: u64 = 64 * MIB;

/// What may be between the socket and the device at any moment: the engine's own buffers of compressed and expanded
/// frames (52 MiB), and what the kernel's sockets hold on both ends.
const UNDER_WAY: u64 = 64 * MIB;

/// Nearly all of it is noise, so that bytes of the file are bytes of the image.
const IMAGE: u64 = 384 * MIB;

/// Bytes a second: some seconds for the whole, so that there is a middle to be killed in.
const RATE: u64 = 32 * MIB;

/// Most memory that an agent takes to install it, in bytes: 64 MiB beyond the decoder's window, which is a frame here.
const MEMORY: u64 = 68 * MIB;

/// How often one agent is killed; the release's own run sets 200.
fn kills() -> u64 {
    env::var("MONOK8S_KILLS").map_or(6, |count| count.parse().unwrap())
}

/// A packed image.
struct Packed {
    file: PathBuf,
    expanded: PathBuf,
    file_bytes: u64,
    image_digest: Digest,
    file_digest: Digest,
}

fn packed(folder: &Path) -> Packed {
    fs::create_dir_all(folder).unwrap();
    let root = RootFs {
        size: IMAGE,
        payload: IMAGE - 64 * MIB,
        ..RootFs::new(NEW)
    };
    let image = images::build(folder, &root).unwrap();
    let file = folder.join("packed.ext4.zst");
    let packed = monok8s_image::pack(
        &mut File::open(&image.expanded).unwrap(),
        &mut File::create(&file).unwrap(),
        1,
        &mut |_| ControlFlow::Continue(()),
    )
    .unwrap();
    Packed {
        file_bytes: fs::metadata(&file).unwrap().len(),
        file,
        expanded: image.expanded,
        image_digest: packed.image_digest,
        file_digest: packed.file_digest,
    }
}

impl Packed {
    /// Serves it as the case's own, and returns what its progress says of it.
    fn publish(&self, scene: &Scene, name: &str, digest: &Digest) -> Value {
        let server = scene.cluster.image_server();
        let path = path(name);
        server.publish(&path, Content::file(&self.file).unwrap());
        json!({"version": NEW, "url": server.url(&path), "checksum": digest.to_string(), "size": IMAGE})
    }

    /// Begins to install it, at a pace that leaves time to be killed in.
    async fn begin(&self, scene: &Scene, name: &str, digest: &Digest) {
        let image = self.publish(scene, name, digest);
        let node = scene.node_of(name).unwrap().name();
        let download = json!({"retryFor": "5m", "maxBytesPerSecond": RATE});
        let spec =
            json!({"nodeName": node, "image": image, "release": "Stage", "download": download});
        scene.progress(name, spec).await;
    }

    /// That the slot holds the image.
    fn is_in(&self, node: &Node) {
        let slot = fs::read(node.slot_device(SlotName::B).unwrap()).unwrap();
        let image = fs::read(&self.expanded).unwrap();
        assert!(slot[..image.len()] == image, "slot B holds something else");
    }
}

fn path(name: &str) -> String {
    format!("/{name}/packed.ext4.zst")
}

fn asked_for(scene: &Scene, name: &str) -> Vec<Request> {
    let mut requests = scene.cluster.image_server().requests();
    requests.retain(|r| r.path() == path(name));
    requests
}

/// What the kept checkpoint says is proven; 0 where there is none.
fn proven(node: &Node) -> u64 {
    let kept = node
        .machine()
        .data()
        .join("monok8s")
        .join(checkpoint::FILE_NAME);
    fs::read(kept)
        .ok()
        .and_then(|text| serde_json::from_slice::<Value>(&text).ok())
        .and_then(|kept| kept["provenBytes"].as_u64())
        .unwrap_or(0)
}

/// Waits until a checkpoint beyond `bytes` is kept, or the image is in the slot.
async fn past(scene: &Scene, name: &str, bytes: u64) {
    let node = scene.node_of(name).unwrap();
    let what = format!("{name} to have proven more than {bytes} bytes");
    wait::until(&what, LIMIT, || async {
        let staged = scene.status(name).await.phase == ProgressPhase::Staged;
        Ok((proven(node) > bytes || staged).then_some(()))
    })
    .await
    .unwrap_or_else(|e| panic!("{e:#}\n{}", node.agent_log()));
}

/// Waits until the agent's log says so.
async fn says(scene: &Scene, name: &str, what: &str) {
    let node = scene.node(name);
    scene
        .until(name, what, |_| node.agent_log().contains(what))
        .await;
}

/// kill -9 once, in the middle.
async fn once(scene: &Scene, image: &Packed) {
    let name = "once";
    let node = scene.node(name);
    // Without its code, which is larger in a program that was built to be debugged.
    let memory = || node.agent_pid().and_then(|pid| resident(pid, "RssAnon"));
    let at_first = memory().unwrap();
    image.begin(scene, name, &image.image_digest).await;
    past(scene, name, EPOCH).await;
    node.kill_agent_and_hold().await;
    let kept = proven(node);
    assert!(
        kept > 0 && kept < IMAGE,
        "killed at {kept}, which is no middle"
    );
    let before = asked_for(scene, name).len();
    node.start_agent();
    let most = Cell::new(0);
    let staged = scene
        .until(name, "Staged", |status| {
            most.set(most.get().max(memory().unwrap_or(0)));
            status.phase == ProgressPhase::Staged
        })
        .await;
    let taken = most.get().saturating_sub(at_first);
    eprintln!(
        "{name}: {} KiB of its own when idle, {} KiB more at most",
        at_first >> 10,
        taken >> 10
    );
    assert!(taken <= MEMORY, "{taken} bytes, {MEMORY} are allowed");
    wait::until("the memory to be given back", LIMIT, || async {
        let now = memory().unwrap_or(u64::MAX);
        eprintln!("{name}: {} KiB of its own when done", now >> 10);
        Ok((now < idle::MEMORY).then_some(()))
    })
    .await
    .unwrap();
    image.is_in(node);
    assert_eq!(staged.attempt, 1);
    assert_eq!(staged.bytes_done, i64::try_from(IMAGE).unwrap());
    assert_eq!(staged.checksum_matched.as_deref(), Some("Image"));
    assert_eq!(proven(node), 0, "what is proven needs no checkpoint");

    let again = asked_for(scene, name).split_off(before);
    assert_eq!(again.len(), 1, "{again:?}");
    let (from, to) = again[0].range().unwrap();
    assert!(
        from > kept / 2 && to.is_none(),
        "asked for {from} with {kept} bytes proven"
    );
    assert!(again[0].header("if-range").is_some());

    let log = node.agent_log();
    assert!(log.contains(&format!("resumed: {kept} bytes")), "{log}");
    let events: Api<Event> = Api::namespaced(scene.cluster.client(), "default");
    wait::until("the Event of the resumption", LIMIT, || async {
        let all = events.list(&ListParams::default()).await?.items;
        Ok(all.into_iter().find(|event| {
            event.reason.as_deref() == Some("Resumed")
                && event
                    .regarding
                    .as_ref()
                    .is_some_and(|o| o.name.as_deref() == Some(name))
                && event
                    .note
                    .as_deref()
                    .is_some_and(|note| note.contains(&format!("{kept} of {IMAGE}")))
        }))
    })
    .await
    .unwrap();
}

/// Killed as often as it is asked for, in as many installations as that takes.
async fn often(scene: &Scene, image: &Packed) {
    let (wanted, mut killed) = (kills(), 0);
    let slot = scene.node("often").slot_device(SlotName::B).unwrap();
    for round in 1.. {
        // What an earlier installation has left there is no use to this one.
        let slot = File::options().write(true).open(&slot).unwrap();
        let size = slot.metadata().unwrap().len();
        slot.set_len(0).unwrap();
        slot.set_len(size).unwrap();
        let name = format!("often-{round}");
        killed += killed_until_staged(scene, image, &name, wanted - killed).await;
        if killed >= wanted {
            break;
        }
        scene.patch(&name, json!({"cancel": true})).await;
        scene.phase(&name, ProgressPhase::Cancelled).await;
    }
}

/// kill -9 again and again, wherever it happens to be, and power cuts; what the server has sent is counted. Returns how
/// often: at most `most`.
async fn killed_until_staged(scene: &Scene, image: &Packed, name: &str, most: u64) -> u64 {
    let node = scene.node_of(name).unwrap();
    let server = scene.cluster.image_server();
    let begun = server.body_bytes();
    image.begin(scene, name, &image.file_digest).await;
    let mut kills = 0;
    let mut reached = 0;
    let mut restarts = Vec::new();
    while scene.status(name).await.phase != ProgressPhase::Staged && kills < most {
        match kills % 4 {
            // Once a checkpoint is kept, and before there is a new one.
            0 | 2 => past(scene, name, reached).await,
            1 => {
                let enough = server.body_bytes() + rand::random_range(0..EPOCH);
                wait::until("some more bytes to be sent", LIMIT, || async {
                    let staged = scene.status(name).await.phase == ProgressPhase::Staged;
                    Ok((server.body_bytes() >= enough || staged).then_some(()))
                })
                .await
                .unwrap();
            }
            // While it starts, looks at what there is, or asks for the rest.
            _ => {
                let pause = Duration::from_millis(rand::random_range(0..2000));
                tokio::time::sleep(pause).await;
            }
        }
        let power = kills % 4 == 2;
        if power {
            node.power_cut().await.unwrap();
        } else {
            node.kill_agent_and_hold().await;
        }
        kills += 1;
        let kept = proven(node);
        assert!(
            kept >= reached || kept == 0,
            "{reached} bytes were proven, {kept} are"
        );
        reached = reached.max(kept);
        restarts.push((asked_for(scene, name).len(), kept));
        if power {
            node.power_on().await.unwrap();
        } else {
            node.start_agent();
        }
    }
    let staged = scene.phase(name, ProgressPhase::Staged).await;
    image.is_in(node);
    assert_eq!(staged.attempt, 1);
    assert_eq!(staged.checksum_matched.as_deref(), Some("File"));
    let asked = asked_for(scene, name);
    for (request, kept) in restarts.into_iter().filter(|(_, kept)| *kept > 0) {
        // None when it was all there.
        let range = asked.get(request).map(Request::range);
        let goes_on = range.is_none_or(|r| r.is_some_and(|(from, _)| from > kept / 2));
        assert!(goes_on, "asked for {range:?} with {kept} bytes proven");
    }
    let sent = server.body_bytes() - begun;
    let extra = sent.saturating_sub(image.file_bytes);
    let allowed = kills * (2 * EPOCH + UNDER_WAY);
    assert!(
        extra <= allowed,
        "{extra} bytes twice after {kills} kills, {allowed} are allowed"
    );
    eprintln!(
        "{name}: killed {kills} times, {} MiB of {} MiB were downloaded twice",
        extra / MIB,
        image.file_bytes / MIB
    );
    kills
}

/// A slot that something else has written to, and a file that is another one now: neither is gone on with.
async fn distrusted(scene: &Scene, image: &Packed) {
    let name = "distrusted";
    let node = scene.node(name);
    image.begin(scene, name, &image.image_digest).await;
    past(scene, name, 0).await;
    node.kill_agent_and_hold().await;
    {
        use std::os::unix::fs::FileExt as _;
        let slot = File::options()
            .read(true)
            .write(true)
            .open(node.slot_device(SlotName::B).unwrap())
            .unwrap();
        let mut byte = [0];
        slot.read_exact_at(&mut byte, MIB).unwrap();
        slot.write_all_at(&[!byte[0]], MIB).unwrap();
        slot.sync_all().unwrap();
    }
    assert!(proven(node) > 0);
    node.start_agent();
    says(scene, name, "does not hold what the checkpoint says").await;
    past(scene, name, 0).await;

    // Kept beside the record by a person who means well.
    node.kill_agent_and_hold().await;
    let kept = node
        .machine()
        .data()
        .join("monok8s")
        .join(checkpoint::FILE_NAME);
    let mut text: Value = serde_json::from_slice(&fs::read(&kept).unwrap()).unwrap();
    text["installation"]["attempt"] = json!(7);
    fs::write(&kept, text.to_string()).unwrap();
    node.start_agent();
    says(scene, name, "it is of attempt 7").await;
    past(scene, name, 0).await;

    // The same image, packed anew: another file, as its server says.
    node.kill_agent_and_hold().await;
    let other = image.file.with_file_name("again.ext4.zst");
    fs::copy(&image.file, &other).unwrap();
    scene
        .cluster
        .image_server()
        .publish(&path(name), Content::file(&other).unwrap());
    node.start_agent();
    scene.phase(name, ProgressPhase::Staged).await;
    image.is_in(node);
    let log = node.agent_log();
    assert!(log.contains("does not go on with the file"), "{log}");
    wait::until("OSNode to show a proven slot", LIMIT, || async {
        let os_node = scene.os_node(name).await;
        let slot = os_node.slots.iter().find(|s| s.name == "B").unwrap();
        Ok((slot.state == SlotState::Trial).then_some(()))
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_goes_on_where_the_slot_is_proven() {
    let nodes = ["once", "often", "distrusted"].map(|name| {
        let mut node = NodeOptions::new(name);
        node.slot_size = IMAGE + 16 * MIB;
        node
    });
    let scene = Scene::start(nodes.into()).await;
    let folder = scene.cluster.folder().join("packed");
    let image = tokio::task::spawn_blocking(move || packed(&folder))
        .await
        .unwrap();
    // What the server has sent is counted from here on, and is this case's alone.
    often(&scene, &image).await;
    once(&scene, &image).await;
    distrusted(&scene, &image).await;
}
