//! `ctl image write`: what the agent does to a slot, by hand.

use std::{fs, ops::ControlFlow, path::Path};

use monok8s_boot::{
    BootLoader, Host, Machine, Roots, SlotName,
    host::{RealMachine, VirtualNode},
    loader::grub::Grub,
};
use monok8s_image::{
    ChecksumMatched, DEFAULT_WINDOW_LIMIT, Device as _, Digest, Expectation, HostDevice,
    InstallError, Installed, Options, Progress, Stage, StageTimes, Start, Timed, install_from,
};
use serde::Serialize;

use super::{ImageError, MachineArgs, WriteArgs, bar::Bar, look};
use crate::answer::Answer;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    slot: String,
    device: String,
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
    version: String,
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
    let stage = |(stage, timed): (&'static str, Timed)| StageSeconds {
        stage,
        bytes: timed.bytes,
        seconds: timed.busy.as_secs_f64(),
    };
    [
        ("receive", times.receive),
        ("hash file", times.hash_file),
        ("decode", times.decode),
        ("digest", times.digest),
        ("write", times.write),
        ("clear zeros", times.clear),
        ("flush", times.flush),
        ("read back", times.read_back),
        ("compare", times.compare),
        ("hash image", times.hash_image),
    ]
    .map(stage)
    .into()
}

pub(super) fn write(args: &WriteArgs) -> Result<Answer, ImageError> {
    let (host, grub) = machine(&args.machine);
    let slots = host.identify()?;
    let slot = which(&slots, &args.device)?;
    let target = host.open_target(slot, &args.machine.state_dir)?;
    let device = target.slot.device.clone();
    let opened = args.source.open(&args.fetch)?;
    let target = HostDevice::new(target.file, device.display().to_string()).map_err(|cause| {
        ImageError::Open {
            path: device.clone(),
            cause,
        }
    })?;
    if let Some(grub) = grub {
        // A slot that is half written must not be what a fallback finds.
        grub.mark_unbootable(slot)
            .map_err(|cause| ImageError::BootLoader { slot, cause })?;
    }

    let bar = Bar::new("writing", args.size);
    let mut show = |progress: Progress| {
        bar.total(progress.total);
        if progress.stage == Stage::Verifying {
            bar.message("reading back");
            bar.at(progress.proven.min(progress.hashed.max(progress.proven)));
        } else {
            bar.at(progress.written);
        }
        ControlFlow::Continue(())
    };
    let expectation = Expectation {
        checksum: Digest(*args.checksum.as_bytes()),
        size: args.size,
        window_limit: DEFAULT_WINDOW_LIMIT,
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
    let outcome = Outcome {
        slot: slot.to_string(),
        device: target.name().to_owned(),
        error: installed.as_ref().err().map(|error| told(args, error)),
        holds: installed
            .ok()
            .map(|installed| holds(args, &installed, &device)),
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
    let grub = (!args.no_boot_loader).then(|| Grub::new(&args.grubenv));
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

fn told(args: &WriteArgs, error: &InstallError) -> String {
    format!("{}: {error}", args.source)
}

fn holds(args: &WriteArgs, installed: &Installed, device: &Path) -> Holds {
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
        version: look::version(device, &args.keys.version_key)
            .unwrap_or_else(|why| format!("not known: {why}")),
        stages: stages(&installed.times),
    }
}

fn text(outcome: &Outcome) -> String {
    let Outcome {
        slot,
        device,
        error,
        holds,
    } = outcome;
    if let Some(error) = error {
        return format!(
            "slot {slot} ({device}) was not written as promised and is not to be booted: {error}\n"
        );
    }
    let Some(w) = holds else {
        return String::new();
    };
    format!(
        "slot {slot} ({device}) holds {}, {} bytes, read back from the medium ({}); the checksum was the {}'s\n\
         {} bytes were written, {} zeros cleared, {} found there already. Which slot boots was not changed, and this \
         one is marked not bootable where the boot loader knows such a mark\n",
        w.version,
        w.image_bytes,
        w.access,
        w.checksum_matched.to_lowercase(),
        w.written,
        w.cleared,
        w.unchanged,
    )
}
