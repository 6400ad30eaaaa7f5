//! reboot(2).

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use rustix::system::RebootCommand;

use super::flush::Flush;
use super::{Reboot, RebootError};

/// What the system call may reboot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Realm {
    /// The machine whose procfs is at this path: the call is made in the process namespace of its first process, and
    /// nowhere else. In another one it would only end a container.
    ///
    /// Where that namespace is not the kernel's first one the machine is a container that stands for a node, and the
    /// call ends that node alone: reboot(2) kills the namespace's first process, and its parent sees it ended by
    /// SIGHUP. Such a node's first process says so by a variable `container=` (systemd's container interface);
    /// should it be found in the first namespace all the same, the call is refused, because it would reboot the machine that
    /// the node lives on.
    Machine(PathBuf),
    /// A virtual node in a process namespace of its own, of which the call ends every process. In the machine's own
    /// namespace it would reboot the machine.
    Sandbox,
}

/// reboot(2), after everything has been written to disk that can be in seconds.
#[derive(Clone, Debug)]
pub struct Syscall {
    /// What it may reboot.
    pub realm: Realm,
    pub(super) flush: Flush,
}

#[async_trait]
impl Reboot for Syscall {
    async fn reboot(&self) -> Result<(), RebootError> {
        let failed = |why: String| RebootError {
            tried: format!("reboot(2): {why}"),
        };
        self.allowed().map_err(failed)?;
        self.flush.flush().await;
        rustix::system::reboot(RebootCommand::Restart).map_err(|e| failed(e.to_string()))
    }
}

impl Syscall {
    fn allowed(&self) -> Result<(), String> {
        let own = Namespace::of(Path::new("/proc/self"))?;
        match &self.realm {
            Realm::Machine(proc) => {
                let first = proc.join("1");
                let machines = Namespace::of(&first)?;
                machine_allowed(&own, &machines, || is_container(&first)).map_err(|why| {
                    format!(
                        "{why} (this process: {}, the first process below {}: {})",
                        own.0,
                        proc.display(),
                        machines.0
                    )
                })
            }
            Realm::Sandbox if own.is_first() => {
                Err("a virtual node's agent may not reboot the machine it lives on".to_owned())
            }
            Realm::Sandbox => Ok(()),
        }
    }
}

fn machine_allowed(
    own: &Namespace,
    machines: &Namespace,
    is_container: impl FnOnce() -> Result<bool, String>,
) -> Result<(), String> {
    if own != machines {
        return Err(
            "this process is not in the process namespace of the machine's first process: it needs hostPID"
                .to_owned(),
        );
    }
    if own.is_first() && is_container()? {
        return Err(
            "the node is a container (its first process has `container=` in its environment) but shares the process \
             namespace of the machine it lives on, which the call would reboot"
                .to_owned(),
        );
    }
    Ok(())
}

/// A process namespace, as its link in /proc names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Namespace(String);

impl Namespace {
    /// The namespace of the process whose folder in a procfs this is.
    pub(super) fn of(process: &Path) -> Result<Self, String> {
        let link = process.join("ns/pid");
        match std::fs::read_link(&link) {
            Ok(target) => Ok(Self(target.to_string_lossy().into_owned())),
            Err(e) => Err(format!("{}: {e}", link.display())),
        }
    }

    /// Whether it is the kernel's first one.
    pub(super) fn is_first(&self) -> bool {
        // PROC_PID_INIT_INO in linux/proc_ns.h: the inode number of the first namespace, the same on every kernel.
        self.0 == format!("pid:[{}]", 0xEFFF_FFFC_u32)
    }
}

/// Whether the process whose folder in a procfs this is was started as a container's first one.
fn is_container(process: &Path) -> Result<bool, String> {
    let path = process.join("environ");
    let environment = std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(environment
        .split(|byte| *byte == 0)
        .any(|variable| variable.starts_with(b"container=")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_reboots_anything_else() {
        let first = Namespace("pid:[4026531836]".to_owned());
        let [node, pod] =
            [4_026_532_256_u32, 4_026_532_257].map(|n| Namespace(format!("pid:[{n}]")));
        let rows = [
            ("a machine", &first, &first, false, true),
            (
                "a node that shares the machine's",
                &first,
                &first,
                true,
                false,
            ),
            ("a node in one of its own", &node, &node, true, true),
            (
                "the same, and it does not say so",
                &node,
                &node,
                false,
                true,
            ),
            ("a pod on a machine", &pod, &first, false, false),
            ("a pod on a node", &pod, &node, true, false),
            ("the machine, of a node", &first, &node, true, false),
        ];
        for (what, own, machines, container, allowed) in rows {
            let answer = machine_allowed(own, machines, || Ok(container));
            assert_eq!(answer.is_ok(), allowed, "{what}: {answer:?}");
        }
        let unknown = machine_allowed(&first, &first, || Err("no such file".to_owned()));
        assert!(unknown.is_err(), "what cannot be told is not rebooted");
    }
}
