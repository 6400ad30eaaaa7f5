//! `ctl image write`: what the agent does to a slot, by hand.

use std::{
    fs, io,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use monok8s_api::Version;
use monok8s_boot::{
    BootLoader, Host, Machine, Roots, SlotName,
    host::{RealMachine, VirtualNode},
    loader::grub::Grub,
};
use monok8s_image::{
    ChecksumMatched, Digest, Expectation, Guarded, HostDevice, Installed, Options, Progress, Stage,
    StageTimes, Start, install_from,
};
use serde::Serialize;

use super::{ImageError, MachineArgs, WriteArgs, bar::Bar, look};
use crate::answer::Answer;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    slot: String,
    device: String,
    /// It is not what it was.
    changed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(flatten)]
    holds: Option<Holds>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Holds {
    image_bytes: u64,
    /// File or Image.
    checksum_matched: &'static str,
    /// Direct or buffered.
    access: String,
    written: u64,
    cleared: u64,
    unchanged: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    /// They ran side by side.
    stages: Vec<StageSeconds>,
}

#[derive(Debug, Serialize)]
struct StageSeconds {
    stage: &'static str,
    bytes: u64,
    /// Spent on them, waiting for other stages left out.
    seconds: f64,
}

fn stages(times: &StageTimes) -> Vec<StageSeconds> {
    times
        .named()
        .map(|(stage, timed)| StageSeconds {
            stage,
            bytes: timed.bytes,
            seconds: timed.busy.as_secs_f64(),
        })
        .into()
}

pub(super) fn write(args: &WriteArgs) -> Result<Answer, ImageError> {
    let (host, grub) = machine(&args.machine);
    let slots = host.identify()?;
    let slot = which(&slots, &args.device)?;
    let target = host.open_target(slot, &args.machine.state_dir)?;
    let device = target.slot.device.clone();
    let loader = |cause| ImageError::BootLoader { slot, cause };
    if let Some(grub) = &grub {
        // One that cannot be told is no reason to fetch anything.
        grub.state().map_err(loader)?;
    }
    let opened = args.source.open(&args.fetch)?;
    let target = HostDevice::new(target.file, device.display().to_string()).map_err(|cause| {
        ImageError::Open {
            path: device.clone(),
            cause,
        }
    })?;
    // A slot that is half written must not be what a fallback finds, and one that is not written to, because there is no
    // image to write, stays as good as it was.
    let refused = Arc::new(OnceLock::new());
    let told = Arc::clone(&refused);
    let target = Guarded::new(target, move || {
        let marked = grub
            .as_ref()
            .map_or(Ok(()), |grub| grub.mark_unbootable(slot));
        marked.map_err(|why| {
            let refusal = io::Error::other(why.to_string());
            // Nothing is written after the first.
            let _ = told.set(why);
            refusal
        })
    });

    let bar = Bar::new("writing", args.size);
    let mut show = |progress: Progress| {
        bar.total(progress.total);
        if progress.stage == Stage::Verifying {
            bar.message("reading back");
            // Where the checksum is not the file's, what is proven may have to be read once more.
            let again = progress.total == Some(progress.proven) && progress.hashed > 0;
            bar.at(if again {
                progress.hashed
            } else {
                progress.proven
            });
        } else {
            bar.at(progress.written);
        }
        ControlFlow::Continue(())
    };
    let expectation = Expectation {
        checksum: Digest(*args.checksum.as_bytes()),
        size: args.size,
        window_limit: args.window_limit,
    };
    let options = Options {
        compare_before_write: args.compare_before_write,
        ..Options::default()
    };
    let mut source = opened.bytes;
    let installed = install_from(
        Start::at_the_beginning(),
        &mut source,
        &target,
        &expectation,
        &options,
        &mut show,
    );
    drop(bar);
    let changed = target.changed();
    drop(target);
    if let Some(cause) = Arc::into_inner(refused).and_then(OnceLock::into_inner) {
        return Err(loader(cause));
    }
    let (error, holds) = match &installed {
        Ok(installed) => {
            let version = version(args, &device);
            let error = version.as_ref().err().cloned();
            (error, Some(holds(installed, version.ok())))
        }
        Err(error) => (Some(format!("{}: {error}", args.source)), None),
    };
    let outcome = Outcome {
        slot: slot.to_string(),
        device: device.display().to_string(),
        changed,
        error,
        holds,
    };
    let good = outcome.error.is_none();
    Ok(Answer::new(args.output, good, &outcome, text))
}

/// The machine, and its boot loader unless there is none to be told.
fn machine(args: &MachineArgs) -> (Box<dyn Host>, Option<Grub>) {
    if let Some(folder) = &args.sandbox {
        let node = VirtualNode::new(folder);
        let grub = Grub::new(node.grubenv());
        return (Box::new(node), Some(grub));
    }
    let host = RealMachine::new(
        Roots::under(&args.host_root),
        args.slot_a.clone(),
        args.slot_b.clone(),
    );
    let grub = (!args.no_boot_loader).then(|| Grub::of(&host, &args.grubenv));
    (Box::new(host), grub)
}

/// The slot of that name or with that device.
fn which(slots: &Machine, named: &Path) -> Result<SlotName, ImageError> {
    if let Some(slot) = named.to_str().and_then(|name| name.parse().ok()) {
        return Ok(slot);
    }
    let same = |slot: SlotName| -> bool {
        let resolved = |path: &Path| fs::canonicalize(path).ok();
        let device = resolved(&slots.slot(slot).device);
        device.is_some() && device == resolved(named)
    };
    [SlotName::A, SlotName::B]
        .into_iter()
        .find(|slot| same(*slot))
        .ok_or_else(|| ImageError::NotASlot {
            device: named.to_path_buf(),
            a: slots.a.device.clone(),
            b: slots.b.device.clone(),
        })
}

/// The version in the slot, or why the agent would not boot it.
fn version(args: &WriteArgs, device: &Path) -> Result<String, String> {
    let needs: Vec<PathBuf> = (args.boot_file.iter())
        .filter(|file| !file.as_os_str().is_empty())
        .cloned()
        .collect();
    let found = look::version(device, &args.keys.version_key, &needs)?;
    match &args.image_version {
        Some(promised) if found.parse::<Version>().ok().as_ref() != Some(promised) => Err(format!(
            "it was promised to be {promised}, and its os-release says {found:?}"
        )),
        _ => Ok(found),
    }
}

fn holds(installed: &Installed, version: Option<String>) -> Holds {
    Holds {
        image_bytes: installed.image_bytes,
        checksum_matched: match installed.matched {
            ChecksumMatched::File => "File",
            ChecksumMatched::Image => "Image",
        },
        access: installed.access.to_string(),
        written: installed.times.write.bytes,
        cleared: installed.times.clear.bytes,
        unchanged: installed.times.unchanged.bytes,
        version,
        stages: stages(&installed.times),
    }
}

fn text(outcome: &Outcome) -> String {
    let Outcome {
        slot,
        device,
        changed,
        error,
        holds,
    } = outcome;
    let error = error.as_deref().unwrap_or_default();
    let Some(w) = holds else {
        return if *changed {
            format!(
                "slot {slot} ({device}) was not written as promised and is not to be booted: {error}\n"
            )
        } else {
            format!("slot {slot} ({device}) is as it was: {error}\n")
        };
    };
    let system = match &w.version {
        Some(version) => version.clone(),
        None => format!("an image that is not to be booted: {error}"),
    };
    let marked = if *changed {
        "this one is marked not bootable where the boot loader knows such a mark"
    } else {
        "nothing had to be written"
    };
    format!(
        "slot {slot} ({device}) holds {system}\n\
         {} bytes, read back from the medium ({}); the checksum was the {}'s\n\
         {} bytes were written, {} zeros cleared, {} found there already. Which slot boots was not changed, and {marked}\n",
        w.image_bytes,
        w.access,
        w.checksum_matched.to_lowercase(),
        w.written,
        w.cleared,
        w.unchanged,
    )
}
