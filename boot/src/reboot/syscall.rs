//! reboot(2).

use async_trait::async_trait;
use rustix::system::RebootCommand;

use super::{Reboot, RebootError};

/// What the system call may reboot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Realm {
    /// The machine itself. Outside its own process namespace the call would only end a container.
    Machine,
    /// A virtual node in a process namespace of its own, of which the call ends every process. In the machine's own
    /// namespace it would reboot the machine.
    Sandbox,
}

/// reboot(2), after everything has been written to disk.
#[derive(Clone, Copy, Debug)]
pub struct Syscall {
    /// What it may reboot.
    pub realm: Realm,
}

#[async_trait]
impl Reboot for Syscall {
    async fn reboot(&self) -> Result<(), RebootError> {
        let failed = |why: String| RebootError {
            tried: format!("reboot(2): {why}"),
        };
        let namespace = std::fs::read_link("/proc/self/ns/pid")
            .map_err(|e| failed(format!("/proc/self/ns/pid: {e}")))?;
        allowed(self.realm, &namespace.to_string_lossy()).map_err(|why| failed(why.to_owned()))?;
        rustix::fs::sync();
        rustix::system::reboot(RebootCommand::Restart).map_err(|e| failed(e.to_string()))
    }
}

/// Whether the call reboots what it should, in the process namespace that `/proc/self/ns/pid` names.
fn allowed(realm: Realm, namespace: &str) -> Result<(), &'static str> {
    // PROC_PID_INIT_INO in linux/proc_ns.h: the inode number of the first namespace, the same on every kernel.
    let first = namespace == format!("pid:[{}]", 0xEFFF_FFFC_u32);
    match (realm, first) {
        (Realm::Machine, true) | (Realm::Sandbox, false) => Ok(()),
        (Realm::Machine, false) => {
            Err("this process is in a process namespace of its own: it needs hostPID")
        }
        (Realm::Sandbox, true) => {
            Err("a virtual node's agent may not reboot the machine it lives on")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The call itself is not tested here: it would reboot this machine.
    #[test]
    fn never_reboots_anything_else() {
        let (first, other) = ("pid:[4026531836]", "pid:[4026532256]");
        assert!(allowed(Realm::Machine, first).is_ok());
        assert!(allowed(Realm::Machine, other).is_err());
        assert!(allowed(Realm::Sandbox, first).is_err());
        assert!(allowed(Realm::Sandbox, other).is_ok());
    }
}
