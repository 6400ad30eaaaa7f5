//! A virtual node behaves as a machine does, whatever runs on it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::{fs, time::Duration};

use k8s_openapi::api::{coordination::v1::Lease, core::v1};
use kube::{Api, Client};
use monok8s_boot::{BootLoader as _, SlotName, loader::grub::Grub};
use monok8s_sandbox::{
    assets::Assets,
    control_plane::{ControlPlane, Options},
    images::{self, Image, RootFs},
    kubelet,
    node::{Node, NodeOptions, Power, Storage},
    scratch, skip, wait,
};
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(60);

struct Bench {
    folder: TempDir,
    plane: ControlPlane,
    old: Image,
    new: Image,
}

async fn bench() -> Bench {
    let folder = scratch::folder("node").unwrap();
    let assets = Assets::find(|line| eprintln!("{line}")).await.unwrap();
    let options = Options {
        node_monitor_grace: Duration::from_secs(8),
        ..Options::default()
    };
    let plane = ControlPlane::start(&assets, &folder.path().join("control-plane"), options)
        .await
        .unwrap();
    let image = |version| {
        let root = RootFs {
            size: 8 << 20,
            payload: 1 << 20,
            ..RootFs::new(version)
        };
        images::build(folder.path(), &root).unwrap()
    };
    let (old, new) = (image("v1.34.1"), image("v1.35.1"));
    Bench {
        folder,
        plane,
        old,
        new,
    }
}

impl Bench {
    async fn node(&self, options: NodeOptions) -> Node {
        let folder = self.folder.path().join(&options.name);
        Node::start(&self.plane, &folder, &self.old, options)
            .await
            .unwrap()
    }

    async fn object(&self, client: &Client, name: &str) -> v1::Node {
        let _ = &self.folder;
        Api::all(client.clone()).get(name).await.unwrap()
    }
}

fn options(name: &str) -> NodeOptions {
    let slot_size = 16 << 20;
    NodeOptions {
        slot_size,
        agent: false,
        downtime: Duration::from_millis(50),
        ..NodeOptions::new(name)
    }
}

/// What an agent does before its reboot.
fn install(node: &Node, image: &Image) -> Grub {
    let grub = Grub::new(node.machine().grubenv());
    grub.mark_unbootable(SlotName::B).unwrap();
    let content = fs::read(&image.expanded).unwrap();
    let slot = fs::OpenOptions::new()
        .write(true)
        .open(node.slot_device(SlotName::B).unwrap());
    std::io::Write::write_all(&mut slot.unwrap(), &content).unwrap();
    grub.try_once(SlotName::B).unwrap();
    grub
}

fn reboot(node: &Node) {
    fs::write(node.machine().reboot_request(), "").unwrap();
}

async fn registers_and_boots_its_trial(bench: &Bench, options: NodeOptions) {
    let client = bench.plane.client().await.unwrap();
    let node = bench.node(options).await;
    let name = node.name().to_owned();
    let first = node.boot().unwrap();
    assert_eq!(
        (first.slot, first.trial, first.number),
        (SlotName::A, false, 1)
    );
    assert_eq!(first.version, "1.34.1");

    let object = bench.object(&client, &name).await;
    assert!(kubelet::is_ready(&object));
    assert_eq!(
        object.metadata.labels.as_ref().unwrap()["monok8s.io/managed"],
        "true"
    );
    let info = object.status.unwrap().node_info.unwrap();
    assert_eq!(
        (info.boot_id, info.os_image),
        (first.boot_id.clone(), "Sandbox OS 1.34.1".into())
    );

    // A trial that comes up runs the new system, once.
    let grub = install(&node, &bench.new);
    reboot(&node);
    let trial = node.wait_boot(2, LIMIT).await.unwrap();
    assert_eq!(
        (trial.slot, trial.trial, trial.version.as_str()),
        (SlotName::B, true, "1.35.1")
    );
    assert_ne!(trial.boot_id, first.boot_id);
    let line = fs::read_to_string(node.machine().cmdline()).unwrap();
    assert!(line.contains("monok8s.slot=B monok8s.trial=1"), "{line}");
    node.wait_registered(LIMIT).await.unwrap();

    // Not confirmed: the next boot is the old one again.
    reboot(&node);
    let back = node.wait_boot(3, LIMIT).await.unwrap();
    assert_eq!((back.slot, back.trial), (SlotName::A, false));

    // A trial that hangs falls back in one go.
    grub.try_once(SlotName::B).unwrap();
    node.fail_trial_boots(1);
    reboot(&node);
    let fallen = node.wait_boot(4, LIMIT).await.unwrap();
    assert_eq!((fallen.slot, fallen.attempts), (SlotName::A, 2));

    // Confirmed, it stays.
    grub.try_once(SlotName::B).unwrap();
    reboot(&node);
    node.wait_boot(5, LIMIT).await.unwrap();
    grub.mark_good(SlotName::B).unwrap();
    let stays = node.reset().await.unwrap();
    assert_eq!(
        (stays.slot, stays.trial, stays.number),
        (SlotName::B, false, 6)
    );
    node.stop().await.unwrap();
}

async fn a_node_of(storage: Storage) {
    if !storage.available() {
        skip::say(&format!("{storage:?} are not to be had here"));
        return;
    }
    let bench = bench().await;
    let options = NodeOptions {
        storage,
        ..options("node-1")
    };
    registers_and_boots_its_trial(&bench, options).await;
    bench.plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_files_registers_and_boots_its_trial() {
    a_node_of(Storage::Files).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_loop_devices_registers_and_boots_its_trial() {
    a_node_of(Storage::LoopDevices).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_partitions_registers_and_boots_its_trial() {
    a_node_of(Storage::Partitions).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_cannot_start_is_stuck_and_says_why() {
    let bench = bench().await;
    let node = bench.node(options("node-1")).await;
    let slot = fs::OpenOptions::new()
        .write(true)
        .open(node.slot_device(SlotName::A).unwrap());
    std::io::Write::write_all(&mut slot.unwrap(), &vec![0; 1 << 16]).unwrap();
    reboot(&node);
    let error = node.wait_boot(2, LIMIT).await.unwrap_err().to_string();
    assert!(error.contains("neither slot can be started"), "{error}");
    assert!(matches!(node.power(), Power::Stuck(_)));
    bench.plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_power_becomes_not_ready_and_comes_back() {
    let bench = bench().await;
    let client = bench.plane.client().await.unwrap();
    let node = bench.node(options("node-1")).await;
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
    // It is Ready a moment before it has its Lease.
    let lease = wait::until("its Lease", LIMIT, || async {
        Ok(leases.get_opt("node-1").await?)
    });
    let holder = lease.await.unwrap().spec.unwrap().holder_identity;
    assert_eq!(holder.as_deref(), Some("node-1"));

    node.power_cut().await.unwrap();
    assert_eq!(node.power(), Power::Off);
    wait::until("the node to be not Ready", LIMIT, || async {
        Ok((!kubelet::is_ready(&bench.object(&client, "node-1").await)).then_some(()))
    })
    .await
    .unwrap();
    assert_eq!(node.power_on().await.unwrap().number, 2);
    node.wait_registered(LIMIT).await.unwrap();

    let old = node.object_uid().unwrap();
    let new = node.recreate_object().await.unwrap();
    assert_ne!(old, new);
    assert_eq!(
        bench.object(&client, "node-1").await.metadata.uid.unwrap(),
        new
    );
    node.wait_registered(LIMIT).await.unwrap();
    bench.plane.stop().await;
}
