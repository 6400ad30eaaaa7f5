//! A reboot by systemd, over the system bus.

use std::path::PathBuf;

use async_trait::async_trait;
use zbus::Connection;
use zbus::connection::Builder;

use super::{LIMIT, Reboot, RebootError};
use crate::roots::Roots;

/// The system bus's socket, below the machine's root.
const SOCKET: &str = "run/dbus/system_bus_socket";

/// systemd's orderly reboot: services are stopped, file systems unmounted.
///
/// By logind where there is one (org.freedesktop.login1(5)), because then the kubelet's graceful shutdown takes
/// place; else by the manager (org.freedesktop.systemd1(5)). The manager's own method `Reboot` is not used: it stops
/// nothing. Neither call asks for kexec or a soft reboot.
#[derive(Clone, Debug)]
pub struct Systemd {
    socket: PathBuf,
}

impl Systemd {
    /// The systemd of the machine seen through `roots`.
    pub fn new(roots: &Roots) -> Self {
        Self {
            socket: roots.root.join(SOCKET),
        }
    }

    async fn ask(&self) -> Result<(), String> {
        if !self.socket.exists() {
            return Err(format!("there is no bus at {}", self.socket.display()));
        }
        let address = format!("unix:path={}", self.socket.display());
        let bus = Builder::address(address.as_str())
            .method_timeout(LIMIT)
            .build()
            .await
            .map_err(|e| format!("the bus at {}: {e}", self.socket.display()))?;
        let by_logind = match logind(&bus).await {
            Ok(()) => return Ok(()),
            Err(e) => e,
        };
        start_reboot_target(&bus)
            .await
            .map_err(|by_manager| format!("login1: {by_logind}; systemd1: {by_manager}"))
    }
}

async fn logind(bus: &Connection) -> zbus::Result<()> {
    let interactive = false;
    let to = Some("org.freedesktop.login1");
    let manager = Some("org.freedesktop.login1.Manager");
    bus.call_method(
        to,
        "/org/freedesktop/login1",
        manager,
        "Reboot",
        &interactive,
    )
    .await?;
    Ok(())
}

async fn start_reboot_target(bus: &Connection) -> zbus::Result<()> {
    let job = ("reboot.target", "replace-irreversibly");
    let to = Some("org.freedesktop.systemd1");
    let manager = Some("org.freedesktop.systemd1.Manager");
    bus.call_method(to, "/org/freedesktop/systemd1", manager, "StartUnit", &job)
        .await?;
    Ok(())
}

#[async_trait]
impl Reboot for Systemd {
    async fn reboot(&self) -> Result<(), RebootError> {
        let failed = |why: String| RebootError {
            tried: format!("D-Bus: {why}"),
        };
        match tokio::time::timeout(2 * LIMIT, self.ask()).await {
            Ok(answer) => answer.map_err(failed),
            Err(_) => Err(failed(format!(
                "no answer within {} s",
                (2 * LIMIT).as_secs()
            ))),
        }
    }
}
