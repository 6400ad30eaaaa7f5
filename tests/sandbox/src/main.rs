//! `sandbox`: a cluster of A/B nodes on this machine, to watch and to try things on.
#![forbid(unsafe_code)]

mod bench;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use monok8s_sandbox::{
    assets::Assets,
    cluster::Cluster,
    demo,
    instance::{Instance, Lock},
    supervisor::{self, Order, Plan},
};
use tracing_subscriber::EnvFilter;

/// A cluster of A/B nodes on this machine: real control plane, real images, virtual nodes.
#[derive(Parser)]
#[command(name = "sandbox", version)]
struct Arguments {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Upgrade three nodes before your eyes; then one fails and is cured.
    Demo {
        /// Leave everything up afterwards; `sandbox down` ends it.
        #[arg(long)]
        keep: bool,
    },
    /// Start a control plane without nodes and leave it running.
    ControlPlane,
    /// Find the control plane's programs, or build them, and print where they are.
    Assets,
    /// What a status write costs the API server, with and without watches.
    BenchWatches,
    #[command(flatten)]
    Order(Order),
    /// The process behind all these.
    #[command(hide = true)]
    Supervise {
        /// Its folder.
        folder: PathBuf,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("warn,kube_client=off"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    match run(Arguments::parse().command).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("sandbox: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(action: Action) -> Result<ExitCode> {
    match action {
        Action::Demo { keep } => return demo::run(&Instance::demo(), keep).await,
        Action::ControlPlane => control_plane().await?,
        Action::Assets => assets().await?,
        Action::BenchWatches => bench::run().await?,
        // There may be more than the demo to end.
        Action::Order(Order::Down) => {
            Instance::down_all([Instance::demo(), Instance::control_plane()]).await?;
        }
        Action::Order(order) => Instance::demo().order(&order).await?,
        Action::Supervise { folder } => supervise(&folder).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn supervise(folder: &Path) -> Result<()> {
    let _lock = Lock::hold(folder)?;
    let plan = std::fs::read_to_string(folder.join("plan.json")).context("there is no plan")?;
    let plan = serde_json::from_str(&plan).context("the plan is none")?;
    supervisor::supervise::<Cluster>(folder, plan).await
}

async fn assets() -> Result<()> {
    let assets = Assets::find(|line| println!("{line}")).await?;
    for program in [
        &assets.etcd,
        &assets.kube_apiserver,
        &assets.kube_controller_manager,
        &assets.kubectl,
    ] {
        println!("{}", program.display());
    }
    Ok(())
}

async fn control_plane() -> Result<()> {
    let plan = Plan {
        nodes: 0,
        controllers: 0,
        version: "v1.34.1".into(),
        images: Vec::new(),
        payload: 1 << 20,
        bytes_per_second: 0,
    };
    let up = Instance::control_plane()
        .start(&plan, true, &mut |line| println!("{line}"))
        .await?;
    println!("\nThe control plane is up; `make down` ends it.\n");
    println!("export KUBECONFIG={}", up.kubeconfig.display());
    println!("{} get namespaces", up.kubectl.display());
    Ok(())
}
