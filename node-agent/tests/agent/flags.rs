//! What an agent's flags do to an installation.

use std::{fs, io::Write as _, os::unix::fs::MetadataExt as _, path::Path};

use monok8s_api::{OSUpgradeProgressStatus, reason::ProgressPhase};
use monok8s_boot::SlotName;
use monok8s_sandbox::node::NodeOptions;
use serde_json::json;

use crate::scene::{NEW, Scene};

/// Has a slot hold something. It is not made anew: it stays the file that it is.
fn fill(slot: &Path, content: &[u8]) {
    let mut slot = fs::File::options().write(true).open(slot).unwrap();
    slot.write_all(content).unwrap();
    slot.sync_all().unwrap();
}

/// Installs the image, and waits until it is proven.
async fn stage(scene: &Scene, name: &str) -> OSUpgradeProgressStatus {
    let image = scene.image(&scene.serve(name, None));
    let spec = json!({"image": image, "release": "Stage"});
    scene.progress(name, spec).await;
    scene.phase(name, ProgressPhase::Staged).await
}

/// What the slot holds already costs no write, down to the file system that the slot is a file of.
async fn compares(scene: &Scene) {
    let name = "compares";
    let node = scene.node(name);
    let image = scene.cluster.image(NEW).unwrap();
    let slot = node.slot_device(SlotName::B).unwrap();
    fill(&slot, &fs::read(&image.expanded).unwrap());
    let written = || {
        let found = fs::metadata(&slot).unwrap();
        (found.mtime(), found.mtime_nsec(), found.blocks())
    };
    let before = written();
    let staged = stage(scene, name).await;
    assert_eq!(staged.bytes_done, i64::try_from(image.size).unwrap());
    assert_eq!(written(), before, "something was written");
    let log = node.agent_log();
    let said = format!(
        "0 bytes written, 0 cleared, {} found there already, 0 from before; ",
        image.size
    );
    assert!(log.contains(&said), "{log}");
}

/// One page that differs is all that is written.
async fn differs(scene: &Scene) {
    let name = "differs";
    let node = scene.node(name);
    let image = scene.cluster.image(NEW).unwrap();
    let slot = node.slot_device(SlotName::B).unwrap();
    let promised = fs::read(&image.expanded).unwrap();
    let mut content = promised.clone();
    content[promised.len() / 64] ^= 1;
    fill(&slot, &content);
    stage(scene, name).await;
    assert!(fs::read(&slot).unwrap()[..promised.len()] == promised);
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
