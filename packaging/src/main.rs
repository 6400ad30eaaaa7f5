//! `make container`.
#![forbid(unsafe_code)]

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use cargo_metadata::MetadataCommand;
use clap::Parser;
use monok8s_packaging::{
    build::{self, Order},
    image::About,
    platform::Platform,
    programs,
};

/// Builds the container image of node-agent, controller and ctl as an OCI archive.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// The machine to build for; several times for an image for several. Default: this machine.
    #[arg(long, value_enum)]
    platform: Vec<Platform>,

    /// The image's name.
    #[arg(long, default_value = "localhost/monok8s/ota:local")]
    name: String,

    /// Where the archive and the lists of what is inside go. Default: container/ in cargo's target folder.
    #[arg(long)]
    output: Option<PathBuf>,

    /// Take the programs in this folder instead of building them.
    #[arg(long)]
    programs: Option<PathBuf>,

    /// How hard to compress: zstd's level.
    #[arg(long, default_value_t = 19, value_parser = clap::value_parser!(i32).range(1..=22))]
    level: i32,

    /// The time of every file, in seconds since 1970. Default: the last commit's.
    #[arg(long, env = "SOURCE_DATE_EPOCH")]
    epoch: Option<u64>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let metadata = MetadataCommand::new()
        .no_deps()
        .other_options(vec!["--locked".to_owned()])
        .exec()?;
    let root = metadata.workspace_root.as_std_path();
    let target = metadata.target_directory.as_std_path();
    let platforms = if args.platform.is_empty() {
        let own =
            Platform::own().context("images are made for amd64 and arm64: give --platform")?;
        vec![own]
    } else {
        args.platform
    };
    let mut chosen = BTreeMap::new();
    for platform in platforms {
        let files = match &args.programs {
            Some(folder) => programs::ready_built(folder)?,
            None => programs::build(root, target, platform)?,
        };
        chosen.insert(platform, files);
    }
    ensure!(
        args.programs.is_none() || chosen.len() == 1,
        "--programs has the programs of one machine: give one --platform"
    );
    let (revision, committed) = build::commit(root).unzip();
    let Some(epoch) = args.epoch.or(committed) else {
        bail!("this is no git repository: give the time of the files, --epoch SECONDS");
    };
    let built = build::build(&Order {
        root: root.to_path_buf(),
        about: About {
            name: args.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision,
            epoch,
        },
        programs: chosen,
        level: args.level,
        output: args.output.unwrap_or_else(|| target.join("container")),
    })?;
    println!("{}", args.name);
    println!(
        "  archive   {} ({})",
        built.archive.display(),
        mib(built.digest.size)
    );
    println!("  digest    {}", built.image);
    for (platform, (layer, list)) in &built.platforms {
        println!(
            "  {platform} {} packed, {} on the node; inside: {}",
            mib(layer.blob.size),
            mib(layer.content.size),
            list.display()
        );
    }
    Ok(())
}

/// In MiB with one digit behind the point.
fn mib(bytes: u64) -> String {
    let tenths = bytes * 10 / (1 << 20);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}
