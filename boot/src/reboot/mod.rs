//! Making the machine reboot, through its firmware.
//!
//! Through the firmware, because only then does the boot loader run and read its variables: a kernel loaded for
//! kexec is unloaded first, and a soft reboot (systemd's, which keeps the kernel) is never asked for.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use async_trait::async_trait;

use crate::Reason;
use crate::host::VirtualNode;
use crate::roots::Roots;
use flush::Flush;

mod command;
mod dbus;
mod flush;
mod kexec;
mod request;
mod syscall;

pub use command::Command;
pub use dbus::Systemd;
pub use request::RequestFile;
pub use syscall::{Realm, Syscall};

/// How long one way of rebooting may take to accept.
const LIMIT: Duration = Duration::from_secs(30);

/// Something that makes the machine reboot.
#[async_trait]
pub trait Reboot: Send + Sync + fmt::Debug {
    /// Asks for the reboot. `Ok` means that it is under way, and that this process will soon be ended; it may also
    /// not return at all.
    async fn reboot(&self) -> Result<(), RebootError>;
}

/// How to reboot, as configured (`auto|dbus|syscall|command:PATH`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RebootMethod {
    /// systemd, then the system call; on a virtual node its request file.
    #[default]
    Auto,
    /// systemd, over the system bus.
    Dbus,
    /// reboot(2).
    Syscall,
    /// A program of the integrator's, without arguments.
    Command(PathBuf),
}

/// A text is no way to reboot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no way to reboot: write auto, dbus, syscall or command:/ABSOLUTE/PATH")]
pub struct NotARebootMethod(pub String);

impl FromStr for RebootMethod {
    type Err = NotARebootMethod;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s {
            "auto" => Ok(Self::Auto),
            "dbus" => Ok(Self::Dbus),
            "syscall" => Ok(Self::Syscall),
            _ => match s.strip_prefix("command:").map(PathBuf::from) {
                Some(path) if path.is_absolute() => Ok(Self::Command(path)),
                _ => Err(NotARebootMethod(s.to_owned())),
            },
        }
    }
}

/// The configured way to reboot the machine seen through `roots`. Before that everything is written to disk, as far as
/// that can be done in seconds, beginning with the file systems of `flush_first` (files or folders).
pub fn for_machine(
    method: &RebootMethod,
    roots: &Roots,
    flush_first: Vec<PathBuf>,
) -> Box<dyn Reboot> {
    let flush = Flush::new(flush_first);
    let systemd = || Box::new(Systemd::new(roots)) as Box<dyn Reboot>;
    let syscall = || {
        Box::new(Syscall {
            realm: Realm::Machine(roots.proc.clone()),
            flush: flush.clone(),
        }) as Box<dyn Reboot>
    };
    let ways = match method {
        RebootMethod::Auto => vec![systemd(), syscall()],
        RebootMethod::Dbus => vec![systemd()],
        RebootMethod::Syscall => vec![syscall()],
        RebootMethod::Command(path) => {
            vec![Box::new(Command { path: path.clone() }) as Box<dyn Reboot>]
        }
    };
    Box::new(ThroughFirmware {
        roots: roots.clone(),
        flush: flush.clone(),
        ways,
    })
}

/// The configured way to reboot a virtual node. Nothing of it may reach the machine that the node lives on: systemd
/// is that machine's, and the system call is refused in its process namespace.
pub fn for_virtual_node(method: &RebootMethod, node: &VirtualNode) -> Box<dyn Reboot> {
    match method {
        RebootMethod::Auto | RebootMethod::Dbus => Box::new(RequestFile {
            path: node.reboot_request(),
        }),
        RebootMethod::Syscall => Box::new(Syscall {
            realm: Realm::Sandbox,
            flush: Flush::new(Vec::new()),
        }),
        RebootMethod::Command(path) => Box::new(Command { path: path.clone() }),
    }
}

/// Several ways, of which the first that is accepted counts; before them a kexec kernel is unloaded and everything
/// is written to disk.
#[derive(Debug)]
struct ThroughFirmware {
    roots: Roots,
    flush: Flush,
    ways: Vec<Box<dyn Reboot>>,
}

#[async_trait]
impl Reboot for ThroughFirmware {
    async fn reboot(&self) -> Result<(), RebootError> {
        // A node in a process namespace of its own shares its kernel, and what is loaded there is not the node's.
        if syscall::Namespace::of(Path::new("/proc/self")).is_ok_and(|own| own.is_first()) {
            kexec::unload(&self.roots.sys)?;
        }
        self.flush.flush().await;
        let mut tried = Vec::new();
        for way in &self.ways {
            match way.reboot().await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    tracing::warn!(%error, "one way to reboot failed");
                    tried.push(error.tried);
                }
            }
        }
        Err(RebootError {
            tried: tried.join("; "),
        })
    }
}

/// The machine could not be made to reboot.
#[derive(Debug, thiserror::Error)]
#[error("the machine could not be rebooted: {tried}; reboot it by hand, the switch stays prepared")]
pub struct RebootError {
    /// Everything that was tried, and how it failed.
    pub tried: String,
}

impl RebootError {
    /// Always [`Reason::RebootFailed`].
    pub fn reason(&self) -> Reason {
        Reason::RebootFailed
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn reads_the_flag() {
        let table = [
            ("auto", Some(RebootMethod::Auto)),
            ("dbus", Some(RebootMethod::Dbus)),
            ("syscall", Some(RebootMethod::Syscall)),
            (
                "command:/sbin/reboot",
                Some(RebootMethod::Command("/sbin/reboot".into())),
            ),
            ("command:reboot", None),
            ("kexec", None),
            ("", None),
        ];
        for (text, expected) in table {
            assert_eq!(text.parse().ok(), expected, "{text:?}");
        }
    }

    /// A sysfs without a kexec kernel.
    fn roots(dir: &std::path::Path) -> Roots {
        std::fs::create_dir_all(dir.join("sys/kernel")).unwrap();
        std::fs::write(dir.join("sys/kernel/kexec_loaded"), "0\n").unwrap();
        Roots::under(dir)
    }

    #[tokio::test]
    async fn the_first_way_that_works_counts() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            Box::new(RequestFile {
                path: dir.path().join(name),
            }) as Box<dyn Reboot>
        };
        let way = ThroughFirmware {
            roots: roots(dir.path()),
            flush: Flush::new(Vec::new()),
            ways: vec![file("no/1"), file("2"), file("3")],
        };
        way.reboot().await.unwrap();
        assert!(dir.path().join("2").exists() && !dir.path().join("3").exists());
    }

    #[tokio::test]
    async fn an_error_names_all_that_was_tried() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            Box::new(RequestFile {
                path: dir.path().join(name),
            }) as Box<dyn Reboot>
        };
        let way = ThroughFirmware {
            roots: roots(dir.path()),
            flush: Flush::new(Vec::new()),
            ways: vec![file("no/1"), file("no/2")],
        };
        let message = way.reboot().await.unwrap_err().to_string();
        assert!(
            message.contains("no/1") && message.contains("no/2"),
            "{message}"
        );
    }

    #[tokio::test]
    async fn a_file_system_that_hangs_does_not_hold_up_the_reboot() {
        let dir = tempfile::tempdir().unwrap();
        // The sync ends when the test does, or by itself when it is waited for.
        let (hold, end) = std::sync::mpsc::channel::<()>();
        let end = std::sync::Mutex::new(end);
        let ended = Arc::new(AtomicBool::new(false));
        let says = Arc::clone(&ended);
        let way = ThroughFirmware {
            roots: roots(dir.path()),
            flush: Flush {
                limit: Duration::from_millis(10),
                sync: Arc::new(move || {
                    let _ = end.lock().unwrap().recv_timeout(LIMIT);
                    says.store(true, Ordering::SeqCst);
                }),
            },
            ways: vec![Box::new(RequestFile {
                path: dir.path().join("request"),
            })],
        };
        way.reboot().await.unwrap();
        assert!(dir.path().join("request").exists());
        assert!(!ended.load(Ordering::SeqCst), "the sync was waited for");
        drop(hold);
    }

    #[tokio::test]
    async fn a_virtual_nodes_reboot_is_a_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("run")).unwrap();
        let node = VirtualNode::new(dir.path());
        for method in [RebootMethod::Auto, RebootMethod::Dbus] {
            for_virtual_node(&method, &node).reboot().await.unwrap();
            std::fs::remove_file(node.reboot_request()).unwrap();
        }
    }
}
