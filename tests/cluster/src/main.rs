//! `cluster`: real nodes on this machine.
#![forbid(unsafe_code)]

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use monok8s_cluster::{cluster::Cluster, first_process, launch, requirements, runtime::Runtime};
use monok8s_sandbox::{
    assets::{Assets, PodAssets},
    demo,
    instance::{Instance, Lock},
    supervisor::{self, Order, Plan},
};
use tracing_subscriber::EnvFilter;

/// Real nodes on this machine: kubelet and containerd in namespaces of their own. Needs root.
#[derive(Parser)]
#[command(name = "cluster", version)]
struct Arguments {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Bring up a control plane and three nodes, and leave them running.
    Up,
    /// Upgrade three nodes before your eyes; then one fails and is cured.
    Demo {
        /// Leave everything up afterwards; `cluster down` ends it.
        #[arg(long)]
        keep: bool,
    },
    /// Find the programs that real nodes need, or build them. Where there can be no real nodes it says why.
    Assets,
    #[command(flatten)]
    Order(Order),
    /// The process behind all these.
    #[command(hide = true)]
    Supervise {
        /// Its folder.
        folder: PathBuf,
    },
    /// Become a node's machine.
    #[command(hide = true)]
    Launch {
        /// The node's folder.
        folder: PathBuf,
    },
    /// Be a node's first process.
    #[command(hide = true)]
    FirstProcess {
        /// The node's folder.
        folder: PathBuf,
    },
}

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("warn,kube_client=off"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("cluster: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(action: Action) -> Result<ExitCode> {
    match action {
        // These become something else, which threads of a runtime would not outlive.
        Action::Launch { folder } => match launch::launch(&folder)? {},
        Action::FirstProcess { folder } => match first_process::run(&folder)? {},
        other => tokio::runtime::Runtime::new()
            .context("no runtime")?
            .block_on(act(other)),
    }
}

async fn act(action: Action) -> Result<ExitCode> {
    match action {
        Action::Up => up().await?,
        Action::Demo { keep } => {
            ensure_possible()?;
            return demo::run(&Instance::real_demo(), keep).await;
        }
        Action::Assets => assets().await?,
        // There may be more than one to end.
        Action::Order(Order::Down) => {
            Instance::down_all([Instance::real(), Instance::real_demo()]).await?;
        }
        Action::Order(order) => {
            let up = [Instance::real(), Instance::real_demo()];
            let up = up.iter().find(|instance| instance.folder().exists());
            up.context("no cluster is up")?.order(&order).await?;
        }
        Action::Supervise { folder } => supervise(&folder).await?,
        Action::Launch { .. } | Action::FirstProcess { .. } => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn ensure_possible() -> Result<()> {
    match requirements::forbidden().or_else(requirements::missing) {
        Some(why) => bail!("{why}"),
        None => Ok(()),
    }
}

async fn up() -> Result<()> {
    ensure_possible()?;
    let plan = Plan {
        nodes: 3,
        controllers: 0,
        version: "v1.34.1".into(),
        images: vec!["v1.35.1".into(), "v1.36.0".into()],
        payload: 24 << 20,
        bytes_per_second: 0,
    };
    let instance = Instance::real();
    let up = instance
        .start(&plan, true, &mut |line| println!("{line}"))
        .await?;
    let catalog = instance.folder().join("catalog.yaml");
    std::fs::write(&catalog, &up.catalog).context("cannot write the catalog")?;
    println!("\nThree nodes are Ready; `make cluster-down` ends them.\n");
    println!("export KUBECONFIG={}", up.kubeconfig.display());
    println!(
        "{} label node --all monok8s.io/managed=true",
        up.kubectl.display()
    );
    println!("{} apply -k manifests", up.kubectl.display());
    println!(
        "\nA catalog of images for them is in {}.",
        catalog.display()
    );
    Ok(())
}

async fn assets() -> Result<()> {
    if let Some(why) = requirements::forbidden() {
        println!("{why}");
        return Ok(());
    }
    let say = |line: &str| println!("{line}");
    let assets = Assets::find(say).await?;
    PodAssets::find(&assets, say).await?;
    Runtime::find(say).await.map(drop)
}

async fn supervise(folder: &Path) -> Result<()> {
    let _lock = Lock::hold(folder)?;
    let plan = std::fs::read_to_string(folder.join("plan.json")).context("there is no plan")?;
    let plan = serde_json::from_str(&plan).context("the plan is none")?;
    supervisor::supervise::<Cluster>(folder, plan).await
}
