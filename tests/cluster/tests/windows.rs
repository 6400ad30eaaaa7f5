//! What a decoder may take of an agent's memory, under the limit that the DaemonSet is shipped with.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::Path,
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use monok8s_api::reason::ProgressPhase;
use monok8s_sandbox::images::{self, Image, RootFs};
use sha2::{Digest as _, Sha256};

use crate::{bench::is_ready, case::Case};

/// The largest window that an agent accepts: `zstd --long=27`.
const LARGEST: u32 = 27;

/// The largest window is in memory as a whole, and its image is installed; the next one is refused.
pub(crate) async fn the_largest_fits_into_the_shipped_limit(case: &Case<'_>) -> Result<()> {
    let agent = case.bench.wait_agent(case.node, "ready", is_ready).await?;
    let container = agent.spec.as_ref().and_then(|spec| spec.containers.first());
    let limits = container.and_then(|one| one.resources.as_ref()?.limits.as_ref());
    let limit = limits.and_then(|limits| limits.get("memory"));
    ensure!(limit.is_some_and(|limit| limit.0 == "512Mi"), "{limit:?}");

    let folder = tempfile::tempdir_in(case.bench.cluster.folder())?;
    let root = RootFs {
        // More than the window, so that all of it is filled.
        size: 160 << 20,
        mountable: true,
        ..RootFs::new(case.next_version().await?)
    };
    let path = folder.path().to_path_buf();
    let (fits, refused) = tokio::task::spawn_blocking(move || {
        let image = images::build(&path, &root)?;
        let fits = with_window(&image, LARGEST, u64::MAX, &path.join("fits.zst"))?;
        let refused = with_window(&image, LARGEST + 1, 1 << 20, &path.join("refused.zst"))?;
        anyhow::Ok((fits, refused))
    })
    .await??;

    let attempt = case.begin_with(&refused, "Reboot", None).await?;
    let progress = case.wait_phase(ProgressPhase::Failed).await?;
    let status = progress.status.unwrap_or_default();
    ensure!(status.failure_reason == "WindowTooLarge", "{status:?}");
    attempt.not_rebooted()?;
    case.forget().await?;

    let attempt = case.begin_with(&fits, "Stage", None).await?;
    case.wait_phase(ProgressPhase::Staged).await?;
    let peak = peak_of_the_agent(case).await?;
    ensure!(
        peak > 1 << LARGEST,
        "the window was not in memory, of which {peak} bytes were used"
    );
    let now = case.bench.wait_agent(case.node, "ready", is_ready).await?;
    let restarts = |pod: &Pod| {
        let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
        Some((pod.metadata.uid.clone()?, statuses.first()?.restart_count))
    };
    ensure!(restarts(&now) == restarts(&agent), "it was ended: {now:?}");
    case.release().await?;
    attempt.completes(1).await
}

/// The first bytes of an image, compressed for a decoder with a window of 2 to the power of `log`. The
/// frame says nothing of its size, or the window would be no larger than that.
fn with_window(image: &Image, log: u32, bytes: u64, file: &Path) -> Result<Image> {
    let compress = || -> io::Result<()> {
        let mut encoder = zstd::Encoder::new(File::create(file)?, 1)?;
        encoder.window_log(log)?;
        io::copy(&mut File::open(&image.expanded)?.take(bytes), &mut encoder)?;
        encoder.finish()?.flush()
    };
    compress().with_context(|| format!("cannot make {}", file.display()))?;
    let compressed = fs::read(file).context("the file just made is gone")?;
    let digest = Sha256::digest(&compressed);
    Ok(Image {
        file: file.to_path_buf(),
        compressed_size: compressed.len().try_into()?,
        file_sha256: data_encoding::HEXLOWER.encode(&digest),
        ..image.clone()
    })
}

/// The most memory that the agent on the case's node has had so far, in bytes.
async fn peak_of_the_agent(case: &Case<'_>) -> Result<u64> {
    let find = "for p in /proc/[0-9]*; do \
                [ \"$(cat $p/comm)\" = node-agent ] && grep VmHWM $p/status; done; true";
    let found = case.node.run(["sh", "-c", find]).await?;
    let words: Vec<&str> = found.split_whitespace().collect();
    ensure!(words.len() == 3, "not one agent: {found}");
    let kib: u64 = words[1].parse().context("no number")?;
    Ok(kib * 1024)
}
