//! A reboot asked of systemd over a real bus, on which this test plays logind and the manager.
//!
//! Needs the Debian package dbus-daemon; no root. Nothing here can reach this machine's own bus.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's own functions"
)]

mod needs;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use monok8s_boot::reboot::{Reboot as _, Systemd};
use monok8s_boot::{Reason, Roots};

/// A bus of its own below `root`.
struct Bus(Child);

impl Bus {
    fn start(root: &Path) -> Self {
        let socket = root.join("run/dbus/system_bus_socket");
        fs::create_dir_all(socket.parent().unwrap()).unwrap();
        let config = format!(
            "<busconfig><type>session</type><listen>unix:path={}</listen><auth>EXTERNAL</auth>\
             <policy context=\"default\"><allow send_destination=\"*\" eavesdrop=\"true\"/><allow eavesdrop=\"true\"/>\
             <allow own=\"*\"/><allow user=\"*\"/></policy>\
             </busconfig>",
            socket.display()
        );
        fs::write(root.join("bus.conf"), config).unwrap();
        let mut daemon = Command::new("dbus-daemon")
            .arg(format!("--config-file={}", root.join("bus.conf").display()))
            .args(["--nofork", "--print-address"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // The address is printed once the socket is there.
        let mut line = String::new();
        BufReader::new(daemon.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert!(line.starts_with("unix:"), "{line}");
        Self(daemon)
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Plays the service called `name`: answers each call by `answers`, and tells what was called.
struct Service {
    calls: mpsc::Receiver<String>,
    _bus: zbus::Connection,
}

impl Service {
    async fn start(root: &Path, name: &'static str, answers: bool) -> Self {
        let address = format!(
            "unix:path={}",
            root.join("run/dbus/system_bus_socket").display()
        );
        let bus = zbus::connection::Builder::address(address.as_str())
            .name(name)
            .build()
            .await
            .unwrap();
        let (tell, calls) = mpsc::channel();
        let mut messages = zbus::MessageStream::from(&bus);
        let replies = bus.clone();
        tokio::spawn(async move {
            use futures::StreamExt as _;
            while let Some(Ok(message)) = messages.next().await {
                let header = message.header();
                if header.message_type() != zbus::message::Type::MethodCall {
                    continue;
                }
                let arguments = match message.body().deserialize::<(String, String)>() {
                    Ok((unit, mode)) => format!("{unit} {mode}"),
                    Err(_) => format!("{}", message.body().deserialize::<bool>().unwrap()),
                };
                let (path, member) = (header.path().unwrap(), header.member().unwrap());
                tell.send(format!(
                    "{path} {}.{member} {arguments}",
                    header.interface().unwrap()
                ))
                .unwrap();
                if answers {
                    replies.reply(&header, &()).await.unwrap();
                } else {
                    let refused = "org.freedesktop.DBus.Error.AccessDenied";
                    replies
                        .reply_error(&header, refused, &"inhibited")
                        .await
                        .unwrap();
                }
            }
        });
        Self { calls, _bus: bus }
    }
}

const LOGIN1: &str = "/org/freedesktop/login1 org.freedesktop.login1.Manager.Reboot false";
const SYSTEMD1: &str = "/org/freedesktop/systemd1 org.freedesktop.systemd1.Manager.StartUnit reboot.target replace-irreversibly";

fn bus() -> Option<(tempfile::TempDir, Bus)> {
    if !needs::program("dbus-daemon", "dbus-daemon") {
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let bus = Bus::start(dir.path());
    Some((dir, bus))
}

#[tokio::test(flavor = "multi_thread")]
async fn logind_is_asked_first() {
    let Some((dir, _bus)) = bus() else { return };
    let logind = Service::start(dir.path(), "org.freedesktop.login1", true).await;
    let manager = Service::start(dir.path(), "org.freedesktop.systemd1", true).await;
    Systemd::new(&Roots::under(dir.path()))
        .reboot()
        .await
        .unwrap();
    assert_eq!(logind.calls.try_recv().unwrap(), LOGIN1);
    assert!(manager.calls.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_manager_when_logind_is_not_there_or_refuses() {
    for logind_is_there in [false, true] {
        let Some((dir, _bus)) = bus() else { return };
        let mut logind = None;
        if logind_is_there {
            logind = Some(Service::start(dir.path(), "org.freedesktop.login1", false).await);
        }
        let manager = Service::start(dir.path(), "org.freedesktop.systemd1", true).await;
        Systemd::new(&Roots::under(dir.path()))
            .reboot()
            .await
            .unwrap();
        assert_eq!(manager.calls.try_recv().unwrap(), SYSTEMD1);
        assert_eq!(
            logind.map(|l| l.calls.try_recv().unwrap()),
            logind_is_there.then(|| LOGIN1.to_owned())
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_names_both() {
    let Some((dir, _bus)) = bus() else { return };
    let _manager = Service::start(dir.path(), "org.freedesktop.systemd1", false).await;
    let error = Systemd::new(&Roots::under(dir.path()))
        .reboot()
        .await
        .unwrap_err();
    assert_eq!(error.reason(), Reason::RebootFailed);
    let text = error.to_string();
    assert!(
        text.contains("login1: ") && text.contains("systemd1: ") && text.contains("inhibited"),
        "{text}"
    );
}

#[tokio::test]
async fn a_machine_without_a_bus_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = Systemd::new(&Roots::under(dir.path()))
        .reboot()
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("there is no bus at") && error.contains("system_bus_socket"),
        "{error}"
    );
}
