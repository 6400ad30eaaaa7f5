//! Images: packing, looking into them, writing them to a slot by hand.

mod bar;
mod inspect;
mod look;
mod pack;
mod source;
mod write;

use std::{io, path::PathBuf};

use clap::{
    Args, Subcommand,
    builder::{OsStringValueParser, TypedValueParser as _},
};
use monok8s_api::{Sha256Digest, Version};
use monok8s_boot::SlotAddress;
use monok8s_fetch::Platform;
use monok8s_image::WindowLimit;

use crate::answer::{Answer, Format};
use source::Source;

const EXIT_CODES: &str = "Exit code: 0 yes, 1 no, 2 the question could not be asked.";

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Compress an image so that nodes decode it on up to three cores and go on where they were after a
    /// crash, and print its catalog entry. The file is a standard .zst, the same every time.
    #[command(after_help = EXIT_CODES)]
    Pack(PackArgs),
    /// Say what is in an image: format, frames, sizes, digests, the version inside.
    #[command(after_help = EXIT_CODES)]
    Inspect(InspectArgs),
    /// Write an image to the slot that does not run, as the agent does it and with all its
    /// refusals, and read it back. Does not change which slot boots.
    #[command(after_help = EXIT_CODES)]
    Write(Box<WriteArgs>),
}

/// Where os-release has the version.
#[derive(Debug, Args)]
pub(crate) struct VersionKeys {
    /// Keys of os-release that carry the version; the first that is there counts.
    #[arg(long, value_delimiter = ',', default_values = ["IMAGE_VERSION", "VERSION_ID"])]
    version_key: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PackArgs {
    /// The image: an ext4 file system, uncompressed.
    image: PathBuf,
    /// The file to write.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Overwrite the file if it is there.
    #[arg(long)]
    force: bool,
    /// zstd's level.
    #[arg(long, default_value_t = monok8s_image::DEFAULT_LEVEL)]
    level: i32,
    /// Where the file will be served, for the catalog entry.
    #[arg(long)]
    url: Option<String>,
    /// The image's version, where it does not say itself.
    #[arg(long = "version", value_name = "VERSION", id = "image_version")]
    image_version: Option<Version>,
    /// The platform, for the catalog entry.
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<String>,
    #[command(flatten)]
    keys: VersionKeys,
    /// How to print the catalog entry; text is YAML.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct FetchArgs {
    /// PEM certificates to trust besides the system's.
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Which image to take where a name in a registry stands for one of each platform, such as linux/amd64. Default: this
    /// machine's.
    #[arg(long, value_name = "OS/ARCHITECTURE")]
    platform: Option<Platform>,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// A file or a URL.
    source: Source,
    /// The largest memory that the image's decoder may take for its window, in bytes or with Ki, Mi or Gi.
    #[arg(long, value_name = "BYTES", default_value_t)]
    window_limit: WindowLimit,
    #[command(flatten)]
    fetch: FetchArgs,
    #[command(flatten)]
    keys: VersionKeys,
    /// How to print it.
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: Format,
}

#[derive(Debug, Args)]
pub(crate) struct WriteArgs {
    /// A file or a URL.
    source: Source,
    /// The slot that does not run: A, B, or its device.
    device: PathBuf,
    /// SHA-256 of the file or of the expanded image, as in a catalog: sha256:…
    #[arg(long)]
    checksum: Sha256Digest,
    /// The expanded image's size in bytes, as in a catalog.
    #[arg(long)]
    size: Option<u64>,
    /// The version that the image has to say it is, as in a catalog.
    #[arg(long = "version", value_name = "VERSION", id = "image_version")]
    image_version: Option<Version>,
    /// Files that the slot must hold to boot. Give an empty text for none.
    #[arg(long, value_name = "FILE", value_delimiter = ',', default_values = ["/boot/vmlinuz"],
          value_parser = OsStringValueParser::new().map(PathBuf::from))]
    boot_file: Vec<PathBuf>,
    /// Read the slot first and write only what differs: for flash, which wears.
    #[arg(long)]
    compare_before_write: bool,
    /// The largest memory that the image's decoder may take for its window, in bytes or with Ki, Mi or Gi.
    #[arg(long, value_name = "BYTES", default_value_t)]
    window_limit: WindowLimit,
    #[command(flatten)]
    fetch: FetchArgs,
    #[command(flatten)]
    keys: VersionKeys,
    #[command(flatten)]
    machine: MachineArgs,
    /// How to print the outcome.
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: Format,
}

/// As the agent has them.
#[derive(Debug, Args)]
pub(crate) struct MachineArgs {
    /// Slot A: PARTLABEL=…, PARTUUID=… or a device's path.
    #[arg(long, default_value = "PARTLABEL=monok8s-a")]
    slot_a: SlotAddress,
    /// Slot B.
    #[arg(long, default_value = "PARTLABEL=monok8s-b")]
    slot_b: SlotAddress,
    /// GRUB's environment block, where the slot is marked not bootable before its first byte changes.
    #[arg(long, value_name = "FILE", default_value = "/boot/grub/grubenv")]
    grubenv: PathBuf,
    /// There is no boot loader to be told: nothing may boot the slot while it is half written.
    #[arg(long)]
    no_boot_loader: bool,
    /// A folder whose file system must not be overwritten.
    #[arg(long, value_name = "DIR", default_value = "/")]
    state_dir: PathBuf,
    /// Where the machine's / is mounted.
    #[arg(long, value_name = "DIR", default_value = "/")]
    host_root: PathBuf,
    /// Write to the virtual node in this folder.
    #[arg(long, value_name = "DIR")]
    sandbox: Option<PathBuf>,
}

/// Why the question could not be asked, or nothing was done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    #[error("cannot open {path}: {cause}", path = path.display())]
    Open { path: PathBuf, cause: io::Error },
    #[error("cannot write {path}: {cause}", path = path.display())]
    Create { path: PathBuf, cause: io::Error },
    #[error("{path} is there already; --force overwrites it", path = path.display())]
    Exists { path: PathBuf },
    #[error("{path} cannot be packed: {what}; give the file system itself, not compressed", path = path.display())]
    NotPlain { path: PathBuf, what: String },
    #[error("the version is not known: {cause}; name it with --version")]
    VersionUnknown { cause: String },
    #[error("{path}: {cause}", path = path.display())]
    Pack {
        path: PathBuf,
        cause: monok8s_image::PackError,
    },
    #[error(transparent)]
    Fetch(#[from] monok8s_fetch::FetchError),
    #[error("cannot fetch: {0}")]
    Client(#[from] monok8s_fetch::BuildError),
    #[error("cannot fetch: {0}")]
    Runtime(io::Error),
    #[error("cannot keep the expanded image: {0}")]
    Scratch(io::Error),
    #[error("{source_}: {cause}")]
    Read { source_: String, cause: io::Error },
    #[error(transparent)]
    Slot(#[from] monok8s_boot::SlotError),
    #[error("{device} is neither slot: A is {a}, B is {b}", device = device.display(), a = a.display(), b = b.display())]
    NotASlot {
        device: PathBuf,
        a: PathBuf,
        b: PathBuf,
    },
    #[error(
        "the boot loader cannot be told that slot {slot} is not to be booted: {cause}; nothing was written. \
         Name its environment block with --grubenv, or say --no-boot-loader if nothing can boot the slot by itself"
    )]
    BootLoader {
        slot: monok8s_boot::SlotName,
        cause: monok8s_boot::loader::LoaderError,
    },
}

pub(crate) fn answer(command: &ImageCommand) -> Result<Answer, ImageError> {
    match command {
        ImageCommand::Pack(args) => pack::pack(args),
        ImageCommand::Inspect(args) => inspect::inspect(args),
        ImageCommand::Write(args) => write::write(args),
    }
}
