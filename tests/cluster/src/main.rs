//! `cluster`: real nodes on this machine.
#![forbid(unsafe_code)]

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};
use monok8s_cluster::{
    cluster::{Cluster, ClusterOptions},
    first_process, launch,
};
use tracing_subscriber::EnvFilter;

/// Real nodes on this machine: kubelet and containerd in namespaces of their own.
#[derive(Parser)]
#[command(name = "cluster", version)]
struct Arguments {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Bring up a control plane and three nodes, until Ctrl-C.
    Up,
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
        Action::Up => up(),
        Action::Launch { folder } => match launch::launch(&folder)? {},
        Action::FirstProcess { folder } => match first_process::run(&folder)? {},
    }
}

#[tokio::main]
async fn up() -> Result<ExitCode> {
    let cluster = Cluster::start(ClusterOptions {
        images: vec!["v1.35.1".into()],
        ..ClusterOptions::default()
    })
    .await?;
    println!(
        "export KUBECONFIG={}",
        cluster.kubectl().kubeconfig().display()
    );
    println!("{}", cluster.catalog(&["v1.35.1"])?);
    tokio::signal::ctrl_c().await?;
    cluster.stop().await?;
    Ok(ExitCode::SUCCESS)
}
