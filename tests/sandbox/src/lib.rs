//! A whole cluster of A/B nodes on one machine: the real control plane, an image server and virtual
//! nodes whose firmware, disks and identity behave as a machine's do.
//!
//! Nothing here is a mock: `kube-apiserver`, `etcd` and `kube-controller-manager` are the real ones,
//! root file systems are ext4, boot variables stand in a GRUB environment block, and the agent and
//! the controller are the shipped binaries. Only the machine itself is played by [`node`].
//!
//! ```no_run
//! # async fn test() -> anyhow::Result<()> {
//! use monok8s_sandbox::cluster::{Cluster, ClusterOptions};
//!
//! let cluster = Cluster::start(ClusterOptions::default()).await?;
//! cluster.kubectl().ok(["get", "nodes"]).await?;
//! cluster.stop().await?;
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

pub mod agent;
pub mod assets;
pub mod binaries;
mod boot_cycle;
pub mod cluster;
pub mod control_plane;
pub mod controller;
pub mod daemon;
pub mod demo;
pub mod firmware;
pub mod go_modules;
pub mod image_server;
pub mod images;
pub mod instance;
pub mod kubeconfig;
pub mod kubectl;
pub mod kubelet;
mod live;
pub mod loop_device;
pub mod machine;
pub mod manifests;
pub mod node;
pub mod pki;
pub mod ports;
pub mod process;
pub mod scratch;
mod screen;
pub mod served_images;
pub mod service_account;
pub mod site;
pub mod skip;
pub mod supervisor;
pub mod wait;

/// Chooses the TLS implementation of this process, once; further calls change nothing.
pub fn install_crypto_provider() {
    // An error says that one is installed already, which is what is wanted.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
