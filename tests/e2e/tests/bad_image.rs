//! Images that are not what the catalog promised, and servers that do not hand them out: each ends
//! with the promised reason, and the node boots its old system.

use std::io::Write as _;

use anyhow::{Context, Result, ensure};
use monok8s_api::reason::{ProgressPhase, SlotState};
use monok8s_e2e::{
    cases::{self, case},
    objects::{self, entry},
};
use monok8s_sandbox::{
    cluster::{Cluster, ClusterOptions},
    image_server::{Content, Fault},
    images::{Image, RootFs},
};

const OLD: &str = "v1.34.1";
const NEW: &str = "v1.34.2";
const SLOT: u64 = 64 << 20;

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
    let other = objects::slot_of(&client, node.name(), "B").await?;
    let expected = if written {
        SlotState::Bad
    } else {
        SlotState::Empty
    };
    ensure!(
        other.state == expected,
        "{name}: slot B is {} instead of {expected}",
        other.state
    );
    objects::boots(node, OLD).await
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
        "wrong-checksum",
    ];
    let mut cluster = Cluster::start(ClusterOptions {
        nodes: cases::nodes(&names),
        version: OLD.into(),
        images: vec![NEW.into()],
        ..ClusterOptions::default()
    })
    .await?;
    let larger = cluster
        .add_image(&RootFs {
            size: SLOT + (32 << 20),
            ..RootFs::new("v1.34.3")
        })?
        .clone();
    let other_inside = cluster
        .add_image(&RootFs {
            version_inside: Some("v1.34.9".into()),
            ..RootFs::new("v1.34.4")
        })?
        .clone();
    let no_kernel = cluster
        .add_image(&RootFs {
            version_inside: Some(NEW.into()),
            boot_files: false,
            ..RootFs::new("v1.34.5")
        })?
        .clone();
    let cluster = &cluster;
    let image = cluster.image(NEW)?;
    let file = std::fs::read(&image.file).context("the image is gone")?;
    let page = b"<!DOCTYPE html><title>PRIVATE</title>".to_vec();
    let half = file.len() / 2;

    cases::all(vec![
        case("truncated", async {
            ends(
                cluster,
                "truncated",
                Offer::bytes(image, file[..half].to_vec())?,
                &["DecodeFailed"],
                true,
            )
            .await
        }),
        case("corrupted", async {
            let offer = Offer::with(image, Fault::FlipBit(half as u64))?;
            ends(
                cluster,
                "corrupted",
                offer,
                &["ChecksumMismatch", "DecodeFailed"],
                true,
            )
            .await
        }),
        case("wrong-size", async {
            let offer = Offer {
                size: Some(image.size + 4096),
                ..Offer::of(image)?
            };
            ends(cluster, "wrong-size", offer, &["SizeMismatch"], false).await
        }),
        case("larger-than-slot", async {
            ends(
                cluster,
                "larger-than-slot",
                Offer::of(&larger)?,
                &["ImageTooLarge"],
                false,
            )
            .await
        }),
        case("page", async {
            ends(
                cluster,
                "page",
                Offer::with(image, Fault::Html)?,
                &["NotAnImage"],
                false,
            )
            .await
        }),
        case("not-zstd", async {
            ends(
                cluster,
                "not-zstd",
                Offer::bytes(image, page)?,
                &["NotAnImage"],
                false,
            )
            .await
        }),
        case("bomb", async {
            let offer = Offer {
                size: None,
                ..Offer::bytes(image, bomb()?)?
            };
            ends(cluster, "bomb", offer, &["ImageTooLarge"], true).await
        }),
        case("lying-bomb", async {
            let offer = Offer {
                size: Some(32 << 20),
                ..Offer::bytes(image, bomb()?)?
            };
            ends(cluster, "lying-bomb", offer, &["SizeMismatch"], true).await
        }),
        case("wrong-version", async {
            ends(
                cluster,
                "wrong-version",
                Offer::of(&other_inside)?,
                &["WrongVersionInImage"],
                true,
            )
            .await
        }),
        case("no-kernel", async {
            ends(
                cluster,
                "no-kernel",
                Offer::of(&no_kernel)?,
                &["BootFilesMissing"],
                true,
            )
            .await
        }),
        case("wrong-checksum", async {
            let offer = Offer {
                checksum: "0".repeat(64),
                ..Offer::of(image)?
            };
            ends(
                cluster,
                "wrong-checksum",
                offer,
                &["ChecksumMismatch"],
                true,
            )
            .await
        }),
    ])
    .await
}

/// A few kilobytes that expand to a gigabyte and do not say so.
fn bomb() -> Result<Vec<u8>> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 3)?;
    let zeros = vec![0; 1 << 20];
    for _ in 0..1024 {
        encoder.write_all(&zeros)?;
    }
    Ok(encoder.finish()?)
}
