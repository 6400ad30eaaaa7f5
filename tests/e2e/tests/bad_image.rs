//! Images that are not what the catalog promised, and servers that do not hand them out: each ends
//! with the promised reason, and the node boots its old system.

use std::{collections::BTreeSet, io::Write as _};

use anyhow::{Context, Result, ensure};
use kube::ResourceExt;
use monok8s_api::reason::{ProgressPhase, SlotState, UpgradePhase};
use monok8s_e2e::{
    cases::{self, case},
    objects::{self, entry},
    served::Served,
};
use monok8s_sandbox::{
    cluster::{Cluster, ClusterOptions},
    image_server::{Content, Fault},
    images::{Image, RootFs},
};

const OLD: &str = "v1.34.1";
const NEW: &str = "v1.34.2";
/// Larger than the slots.
const LARGER: &str = "v1.34.3";
/// With another version inside.
const OTHER_INSIDE: &str = "v1.34.4";
/// With the new version inside and no kernel.
const NO_KERNEL: &str = "v1.34.5";
const SLOT: u64 = 64 << 20;
/// The case whose catalog is corrected.
const CORRECTED: &str = "wrong-checksum";

/// What the server does, and what the catalog says, when everything is right.
struct Offer {
    content: Content,
    checksum: String,
    size: Option<u64>,
    fault: Option<Fault>,
}

impl Offer {
    fn of(image: &Image) -> Result<Self> {
        Ok(Self {
            content: Content::file(&image.file).context("the image is gone")?,
            checksum: image.file_sha256.clone(),
            size: Some(image.size),
            fault: None,
        })
    }

    fn with(image: &Image, fault: Fault) -> Result<Self> {
        Ok(Self {
            fault: Some(fault),
            ..Self::of(image)?
        })
    }

    fn bytes(image: &Image, bytes: Vec<u8>) -> Result<Self> {
        Ok(Self {
            content: bytes.into(),
            ..Self::of(image)?
        })
    }
}

/// Serves the offer to the case's own node and waits for the end that was promised.
async fn ends(
    cluster: &Cluster,
    name: &'static str,
    offer: Offer,
    reasons: &[&str],
    written: bool,
) -> Result<()> {
    let client = cluster.client();
    let node = cluster.node(name)?;
    let path = format!("/{name}/rootfs.ext4.zst");
    let server = cluster.image_server();
    server.publish(&path, offer.content);
    if let Some(fault) = offer.fault {
        server.fault(&path, fault);
    }
    let catalog = format!(
        "images:\n{}",
        entry(NEW, &server.url(&path), &offer.checksum, offer.size)
    );
    let upgrade = objects::upgrade(name, NEW, name, &objects::inline(catalog));
    objects::apply(&cluster.kubectl(), &upgrade).await?;

    let ended = objects::wait_end(&client, name, node, ProgressPhase::Failed, reasons).await?;
    let status = ended.status.unwrap_or_default();
    ensure!(
        u64::try_from(status.bytes_done)? <= SLOT,
        "{name}: {} bytes written",
        status.bytes_done
    );
    ensure!(
        !status.message.contains("PRIVATE"),
        "{name}: the message quotes what was fetched: {}",
        status.message
    );
    let state = if written {
        SlotState::Bad
    } else {
        SlotState::Empty
    };
    objects::wait_slot(&client, node, "B", &state).await?;
    objects::boots(node, OLD).await
}

/// The checksum in the catalog is wrong: the message says what helps, and it does. A retry alone would install the
/// same image, and a corrected catalog is another revision, with a progress of its own.
async fn corrected(cluster: &Cluster, name: &'static str) -> Result<()> {
    let (client, kubectl, node) = (cluster.client(), cluster.kubectl(), cluster.node(name)?);
    let wrong = Offer {
        checksum: "0".repeat(64),
        ..Offer::of(cluster.image(NEW)?)?
    };
    ends(cluster, name, wrong, &["ChecksumMismatch"], true).await?;
    let failed = objects::progresses(&client, name, name).await?.remove(0);
    let message = failed.status.clone().unwrap_or_default().message;
    ensure!(
        message.contains("A retry installs the same image")
            && message.contains("new revision of the OSUpgrade"),
        "the message does not say what helps: {message}"
    );
    let served = Served::new(cluster, name, NEW)?;
    served.begin_upgrade().await?;
    objects::wait_upgrade_phase(&client, name, UpgradePhase::Completed).await?;
    let names: BTreeSet<_> = objects::progresses(&client, name, name)
        .await?
        .iter()
        .map(ResourceExt::name_any)
        .collect();
    ensure!(
        names.len() == 2 && names.contains(&failed.name_any()),
        "the corrected catalog made no progress of its own: {names:?}"
    );
    objects::wait_runs(&client, node, NEW).await?;
    let told = kubectl
        .ok([
            "get",
            "osupgrade",
            name,
            "-o",
            "jsonpath={.status.revision}",
        ])
        .await?;
    ensure!(told == "2", "revision {told}");
    objects::boots(node, NEW).await
}

/// A case, what is offered, the reasons it may end with, and whether bytes reached the slot by then.
type Bad = (&'static str, Offer, &'static [&'static str], bool);

/// Every bad image.
fn offers(cluster: &Cluster) -> Result<Vec<Bad>> {
    let image = cluster.image(NEW)?;
    let file = std::fs::read(&image.file).context("the image is gone")?;
    let half = file.len() / 2;
    let of = |version: &str| cluster.image(version).and_then(Offer::of);
    Ok(vec![
        (
            "truncated",
            Offer::bytes(image, file[..half].to_vec())?,
            &["DecodeFailed"],
            true,
        ),
        (
            "corrupted",
            Offer::with(image, Fault::FlipBit(half as u64))?,
            &["ChecksumMismatch", "DecodeFailed"],
            true,
        ),
        (
            "wrong-size",
            Offer {
                size: Some(image.size + 4096),
                ..Offer::of(image)?
            },
            &["SizeMismatch"],
            true,
        ),
        ("larger-than-slot", of(LARGER)?, &["ImageTooLarge"], false),
        (
            "page",
            Offer::with(image, Fault::Html)?,
            &["NotAnImage"],
            false,
        ),
        (
            "not-zstd",
            Offer::bytes(image, b"<!DOCTYPE html><title>PRIVATE".to_vec())?,
            &["NotAnImage"],
            false,
        ),
        (
            "bomb",
            Offer {
                size: None,
                ..Offer::bytes(image, bomb()?)?
            },
            &["ImageTooLarge"],
            true,
        ),
        (
            "lying-bomb",
            Offer {
                // More than is expanded before the first of it is written.
                size: Some(48 << 20),
                ..Offer::bytes(image, bomb()?)?
            },
            &["SizeMismatch"],
            true,
        ),
        (
            "wrong-version",
            of(OTHER_INSIDE)?,
            &["WrongVersionInImage"],
            true,
        ),
        ("no-kernel", of(NO_KERNEL)?, &["BootFilesMissing"], true),
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_image_never_boots_and_says_why() -> Result<()> {
    let names = [
        "truncated",
        "corrupted",
        "wrong-size",
        "larger-than-slot",
        "page",
        "not-zstd",
        "bomb",
        "lying-bomb",
        "wrong-version",
        "no-kernel",
    ];
    let mut cluster = Cluster::start(ClusterOptions {
        nodes: cases::nodes(&[&names[..], &[CORRECTED]].concat()),
        version: OLD.into(),
        images: vec![NEW.into()],
        ..ClusterOptions::default()
    })
    .await?;
    cluster.add_image(&RootFs {
        size: SLOT + (32 << 20),
        ..RootFs::new(LARGER)
    })?;
    cluster.add_image(&RootFs {
        version_inside: Some("v1.34.9".into()),
        ..RootFs::new(OTHER_INSIDE)
    })?;
    let inside = Some(NEW.into());
    cluster.add_image(&RootFs {
        version_inside: inside,
        boot_files: false,
        ..RootFs::new(NO_KERNEL)
    })?;
    let offers = offers(&cluster)?;
    ensure!(
        offers.iter().map(|offer| offer.0).eq(names),
        "a case without a node, or a node without a case"
    );
    let mut cases: Vec<_> = offers
        .into_iter()
        .map(|(name, offer, reasons, written)| {
            case(name, ends(&cluster, name, offer, reasons, written))
        })
        .collect();
    cases.push(case(CORRECTED, corrected(&cluster, CORRECTED)));
    cases::all(cases).await?;
    cluster.stop().await
}

/// A few kilobytes that expand to a gigabyte and do not say so. No zeros: those need not be written, and what is to be
/// seen is a slot that is full when it is noticed.
fn bomb() -> Result<Vec<u8>> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 3)?;
    let filler = vec![0x5a; 1 << 20];
    for _ in 0..1024 {
        encoder.write_all(&filler)?;
    }
    Ok(encoder.finish()?)
}
