//! What an agent's flags do to an installation.

use std::{fs, io::Write as _, os::unix::fs::MetadataExt as _};

use monok8s_api::reason::ProgressPhase;
use monok8s_boot::SlotName;
use monok8s_sandbox::node::NodeOptions;
use serde_json::json;

use crate::scene::{NEW, Scene};

/// What the slot holds already costs no write, down to the file system that the slot is a file of.
async fn compares(scene: &Scene) {
    let name = "compares";
    let node = scene.node(name);
    let image = scene.cluster.image(NEW).unwrap();
    let device = node.slot_device(SlotName::B).unwrap();
    // Not made anew: the slot stays the file that it is.
    let mut slot = fs::File::options().write(true).open(&device).unwrap();
    slot.write_all(&fs::read(&image.expanded).unwrap()).unwrap();
    slot.sync_all().unwrap();
    drop(slot);
    let written = |path| {
        let found = fs::metadata(path).unwrap();
        (found.mtime(), found.mtime_nsec(), found.blocks())
    };
    let before = written(&device);
    let url = scene.serve(name, None);
    scene
        .progress(
            name,
            json!({"image": scene.image(&url), "release": "Stage"}),
        )
        .await;
    let staged = scene.phase(name, ProgressPhase::Staged).await;
    assert_eq!(staged.bytes_done, i64::try_from(image.size).unwrap());
    assert_eq!(written(&device), before, "something was written");
    let log = node.agent_log();
    let said = format!(
        "0 bytes written, 0 cleared, {} found there already",
        image.size
    );
    assert!(log.contains(&said), "{log}");
}

/// One page that differs is all that is written.
async fn differs(scene: &Scene) {
    let name = "differs";
    let node = scene.node(name);
    let image = scene.cluster.image(NEW).unwrap();
    let device = node.slot_device(SlotName::B).unwrap();
    let mut content = fs::read(&image.expanded).unwrap();
    let payload = content.len() / 64;
    content[payload] ^= 1;
    let mut slot = fs::File::options().write(true).open(&device).unwrap();
    slot.write_all(&content).unwrap();
    slot.sync_all().unwrap();
    drop(slot);
    let url = scene.serve(name, None);
    scene
        .progress(
            name,
            json!({"image": scene.image(&url), "release": "Stage"}),
        )
        .await;
    scene.phase(name, ProgressPhase::Staged).await;
    let slot = fs::read(&device).unwrap();
    assert!(slot[..content.len()] == fs::read(&image.expanded).unwrap());
    let log = node.agent_log();
    let said = format!("{} found there already", image.size - 4096);
    assert!(log.contains(&said), "{log}");
}

/// A window over the limit is refused before anything is written.
async fn narrow(scene: &Scene) {
    let name = "narrow";
    let url = scene.serve(name, None);
    scene
        .progress(name, json!({"image": scene.image(&url)}))
        .await;
    let status = scene.fails(name, "WindowTooLarge").await;
    for part in ["the limit is 65536", "nothing was written"] {
        assert!(status.message.contains(part), "{part}: {}", status.message);
    }
    assert!(scene.slot_b_is_untouched(name));
}

/// The limit that there is without a flag: a frame that asks for twice as much is refused by its header.
async fn wide(scene: &Scene) {
    let name = "wide";
    let path = format!("/{name}/rootfs.ext4.zst");
    // Magic number, a frame header without content size, a window of 2^28 (RFC 8878, 3.1.1), then a last raw block of
    // one byte.
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, (28 - 10) << 3, 0x09, 0, 0, 7];
    let server = scene.cluster.image_server();
    server.publish(&path, frame.to_vec());
    let mut image = scene.image(&server.url(&path));
    image["size"] = json!(1);
    scene.progress(name, json!({"image": image})).await;
    let status = scene.fails(name, "WindowTooLarge").await;
    for part in ["268435456", "the limit is 134217728", "nothing was written"] {
        assert!(status.message.contains(part), "{part}: {}", status.message);
    }
    assert!(scene.slot_b_is_untouched(name));
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_decide_how_a_slot_is_filled() {
    let nodes = [
        ("compares", Some("--compare-before-write")),
        ("differs", Some("--compare-before-write=true")),
        ("narrow", Some("--window-limit=64Ki")),
        ("wide", None),
    ]
    .map(|(name, flag)| {
        let mut node = NodeOptions::new(name);
        node.agent_arguments = flag.map(ToOwned::to_owned).into_iter().collect();
        node
    });
    let scene = Scene::start(nodes.into()).await;
    tokio::join!(
        compares(&scene),
        differs(&scene),
        narrow(&scene),
        wide(&scene)
    );
}
