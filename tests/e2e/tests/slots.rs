//! Targets that must not be written: each is refused with zero bytes written, and says why. With
//! root and loop devices the same on block devices.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt as _,
    process::Command,
};

use anyhow::{Context, Result, ensure};
use monok8s_api::reason::{ProgressPhase, SlotState};
use monok8s_boot::SlotName;
use monok8s_e2e::{
    cases::{self, case},
    objects,
    served::Served,
};
use monok8s_sandbox::{
    cluster::{Cluster, ClusterOptions},
    loop_device::LoopDevice,
    node::Storage,
    skip,
};
use serde_json::json;

const OLD: &str = "v1.34.1";
const NEW: &str = "v1.34.2";

/// Begins an attempt and waits for the promised refusal; slot B's device must be as it was.
async fn refused(cluster: &Cluster, name: &'static str, reasons: &[&str]) -> Result<()> {
    let node = cluster.node(name)?;
    Served::new(cluster, name, NEW)?.begin("Reboot").await?;
    let ended = objects::wait_end(
        &cluster.client(),
        name,
        node,
        ProgressPhase::Failed,
        reasons,
    )
    .await?;
    let status = ended.status.unwrap_or_default();
    ensure!(
        status.bytes_done == 0,
        "{name}: {} bytes were written",
        status.bytes_done
    );
    Ok(())
}

/// After the cure a nonce brings the node to the new version.
async fn retried(cluster: &Cluster, name: &'static str) -> Result<()> {
    let node = cluster.node(name)?;
    objects::patch(&cluster.kubectl(), name, &json!({"retryNonce": "cured"})).await?;
    objects::wait_phase(&cluster.client(), name, node, ProgressPhase::Completed).await?;
    objects::wait_slot(&cluster.client(), node, "B", &SlotState::Good).await?;
    objects::boots(node, NEW).await
}

async fn missing(cluster: &Cluster) -> Result<()> {
    let slot = cluster.node("missing")?.machine().dir().join("slot-b.img");
    let aside = slot.with_extension("aside");
    std::fs::rename(&slot, &aside)?;
    refused(cluster, "missing", &["SlotNotFound"]).await?;
    std::fs::rename(&aside, &slot)?;
    retried(cluster, "missing").await
}

async fn active(cluster: &Cluster) -> Result<()> {
    let machine = cluster.node("active")?.machine().clone();
    let before = std::fs::read(machine.dir().join("slot-a.img"))?;
    std::fs::write(
        machine.machine_file(),
        json!({"slotB": "slot-a.img"}).to_string(),
    )?;
    refused(cluster, "active", &["SlotActive", "SlotAmbiguous"]).await?;
    ensure!(
        std::fs::read(machine.dir().join("slot-a.img"))? == before,
        "the running slot was written to"
    );
    std::fs::remove_file(machine.machine_file())?;
    objects::boots(cluster.node("active")?, OLD).await
}

async fn busy_file(cluster: &Cluster) -> Result<()> {
    let slot = File::open(cluster.node("busy")?.slot_device(SlotName::B)?)?;
    rustix::fs::flock(&slot, rustix::fs::FlockOperation::LockExclusive)?;
    refused(cluster, "busy", &["SlotBusy"]).await?;
    drop(slot);
    retried(cluster, "busy").await
}

async fn held_device(cluster: &Cluster) -> Result<()> {
    let device = cluster.node("held-device")?.slot_device(SlotName::B)?;
    let exclusive = i32::try_from(rustix::fs::OFlags::EXCL.bits())?;
    let held = OpenOptions::new()
        .read(true)
        .custom_flags(exclusive)
        .open(&device)?;
    refused(cluster, "held-device", &["SlotBusy"]).await?;
    drop(held);
    retried(cluster, "held-device").await
}

async fn read_only_device(cluster: &Cluster) -> Result<()> {
    let device = cluster.node("read-only-device")?.slot_device(SlotName::B)?;
    run(Command::new("blockdev").arg("--setro").arg(&device))?;
    let refusal = refused(cluster, "read-only-device", &["SlotReadOnly"]).await;
    run(Command::new("blockdev").arg("--setrw").arg(&device))?;
    refusal?;
    retried(cluster, "read-only-device").await
}

async fn mounted_device(cluster: &Cluster) -> Result<()> {
    let device = cluster.node("mounted-device")?.slot_device(SlotName::B)?;
    run(Command::new("mkfs.ext4").arg("-q").arg(&device))?;
    let point = tempfile::tempdir_in(cluster.folder())?;
    run(Command::new("mount")
        .arg("-o")
        .arg("ro")
        .arg(&device)
        .arg(point.path()))?;
    let refusal = refused(cluster, "mounted-device", &["SlotBusy"]).await;
    run(Command::new("umount").arg(point.path()))?;
    refusal?;
    retried(cluster, "mounted-device").await
}

fn run(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_not_free_is_refused_untouched() -> Result<()> {
    let devices = LoopDevice::available();
    if !devices {
        skip::say("no loop devices here: the cases on block devices");
    }
    let mut nodes = cases::nodes(&["missing", "active", "busy"]);
    if devices {
        nodes.extend(
            cases::nodes(&["held-device", "read-only-device", "mounted-device"])
                .into_iter()
                .map(|mut node| {
                    node.storage = Storage::LoopDevices;
                    node
                }),
        );
    }
    let cluster = Cluster::start(ClusterOptions {
        nodes,
        version: OLD.into(),
        images: vec![NEW.into()],
        ..ClusterOptions::default()
    })
    .await?;
    let mut all = vec![
        case("missing", missing(&cluster)),
        case("active", active(&cluster)),
        case("busy", busy_file(&cluster)),
    ];
    if devices {
        all.push(case("held-device", held_device(&cluster)));
        all.push(case("read-only-device", read_only_device(&cluster)));
        all.push(case("mounted-device", mounted_device(&cluster)));
    }
    cases::all(all).await?;
    cluster.stop().await
}
