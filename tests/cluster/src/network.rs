//! The cable between the nodes: a switch in a network namespace of its own, with a port to this
//! machine and one to each node.
//!
//! Everything goes with the namespaces that hold it, whatever becomes of this process; nothing of
//! this machine's own network is changed but one interface that is added.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, bail};
use monok8s_sandbox::{
    process::{Process, Spawn},
    wait,
};

use crate::address::{MOST_NODES, Part};

/// How long the switch's namespace may take to be there.
const READY: Duration = Duration::from_secs(30);

/// The switch of a cluster. Dropping it takes every cable away.
#[derive(Debug)]
pub struct Switch {
    /// This machine's end of the cable.
    interface: String,
    /// Holds the namespace.
    holder: Process,
}

impl Drop for Switch {
    fn drop(&mut self) {
        // It would go with the namespace, but the kernel takes its time for that.
        let _ = ip(&["link", "delete", &self.interface]);
    }
}

impl Switch {
    /// Sets it up for the addresses in `part`, with its log in `folder`.
    pub async fn start(part: &Part, folder: &Path) -> Result<Self> {
        let spawn = Spawn::new("the switch", "/usr/bin/unshare", folder.join("switch.log"))
            .args(["--net", "--", "sleep", "infinity"]);
        let interface = format!("monok8s-{}", part.number());
        // That of a process that was just killed may still be there.
        let _ = ip(&["link", "delete", &interface]);
        let holder = Process::spawn(spawn).await?;
        let switch = Self {
            interface: interface.clone(),
            holder,
        };
        let own = std::fs::read_link("/proc/self/ns/net").context("cannot read a namespace")?;
        let theirs = format!("/proc/{}/ns/net", switch.pid());
        wait::until("the switch's namespace", READY, || async {
            Ok(std::fs::read_link(&theirs)
                .is_ok_and(|link| link != own)
                .then_some(()))
        })
        .await?;
        let pid = switch.pid().to_string();
        switch.inside(&["link", "add", "switch", "type", "bridge"])?;
        switch.inside(&["link", "set", "switch", "up"])?;
        ip(&[
            "link", "add", &interface, "type", "veth", "peer", "name", "uplink", "netns", &pid,
        ])?;
        switch.plug("uplink")?;
        let own = format!("{}/24", part.gateway());
        ip(&["address", "add", &own, "dev", &interface])?;
        let api_server = format!("{}/32", part.api_server());
        ip(&["address", "add", &api_server, "dev", &interface])?;
        ip(&["link", "set", &interface, "up"])?;
        for number in 1..=MOST_NODES {
            let (pods, node) = (part.pods(number), part.node(number).to_string());
            ip(&["route", "add", &pods, "via", &node, "dev", &interface])?;
        }
        Ok(switch)
    }

    fn pid(&self) -> u32 {
        self.holder.pid()
    }

    /// Puts a cable between the switch and the network namespace of the process `pid`, which sees it
    /// as `eth0`.
    pub fn connect(&self, number: u8, pid: u32) -> Result<()> {
        let port = format!("port{number}");
        let (switch, pid) = (self.pid().to_string(), pid.to_string());
        // Of a node that has just ended the old one may still be there.
        let _ = self.inside(&["link", "delete", &port]);
        ip(&[
            "link", "add", "name", &port, "netns", &switch, "type", "veth", "peer", "name", "eth0",
            "netns", &pid,
        ])?;
        self.plug(&port)
    }

    /// Pulls a node's cable at the switch, or puts it back.
    pub fn set_connected(&self, number: u8, connected: bool) -> Result<()> {
        let state = if connected { "up" } else { "down" };
        self.inside(&["link", "set", "dev", &format!("port{number}"), state])
    }

    fn plug(&self, port: &str) -> Result<()> {
        self.inside(&["link", "set", "dev", port, "master", "switch", "up"])
    }

    fn inside(&self, arguments: &[&str]) -> Result<()> {
        let target = self.pid().to_string();
        run(Command::new("nsenter")
            .args(["--target", &target, "--net", "--", "ip"])
            .args(arguments))
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    run(Command::new("ip").args(arguments))
}

/// Runs `ip`.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        let arguments: Vec<_> = command
            .get_args()
            .map(|word| word.to_string_lossy())
            .collect();
        bail!(
            "{program} {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
