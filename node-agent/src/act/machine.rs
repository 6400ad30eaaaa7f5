//! One look at the machine: slots, boot loader, running system.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use monok8s_api::reason::{BootLoaderKind, FailureReason, SlotState};
use monok8s_boot::{
    BootLoader, BootState, Host, Machine as Slots, SlotName,
    inspect::{self, InspectError, OsRelease},
    loader::{LoaderError, LoaderKind, grub::Grub},
};

use crate::{
    act::lock::{LockError, StateLock},
    decide::{next::System, reasons, status::shown_version},
    record::{Record, SlotRecord, Store, Trouble},
};

/// The machine's parts.
#[derive(Clone, Debug)]
pub struct Hardware {
    /// Slots and running system.
    pub host: Arc<dyn Host>,
    /// The boot loader.
    pub loader: Loader,
    /// Keys of os-release that carry the version.
    pub version_keys: Vec<String>,
    /// The folder that both slots share.
    pub state_dir: PathBuf,
    /// That folder's lock.
    pub lock: Arc<Mutex<StateLock>>,
}

/// Which boot loader it is, or where to look for it.
#[derive(Clone, Debug)]
pub enum Loader {
    /// This one.
    Given(Arc<dyn BootLoader>),
    /// The one that is recognised, looked for each time: /boot may be mounted late.
    Auto {
        /// Where GRUB's environment block would be.
        grubenv: PathBuf,
        /// GRUB, if it is there.
        grub: Arc<Grub>,
    },
}

/// What one look has shown.
#[derive(Clone, Debug)]
pub struct Look {
    /// The kernel's ID of this boot; empty when even that cannot be read.
    pub boot_id: String,
    /// Version that runs; empty when not known.
    pub version: String,
    /// Both slots, and which runs.
    pub slots: Result<Slots, Trouble>,
    /// What decisions are made from.
    pub system: Result<System, Trouble>,
}

impl Hardware {
    /// Looks. Blocks on a disk.
    pub fn look(&self) -> Look {
        let slots = self
            .host
            .identify()
            .map_err(|e| Trouble::new(reasons::of_boot(e.reason()), e.to_string()));
        let version = running_version(self.host.running_os(), &self.version_keys);
        let boot_id = match &slots {
            Ok(slots) => slots.boot_id.clone(),
            Err(_) => self.host.boot_id().unwrap_or_default(),
        };
        let state = self
            .loader()
            .and_then(|loader| loader.state().map_err(|e| loader_trouble(&e)));
        let system = match (&slots, state, &version) {
            (Ok(slots), Ok(state), Ok(version)) => Ok(system(slots, version, state)),
            (Err(trouble), _, _) | (_, _, Err(trouble)) => Err(trouble.clone()),
            (_, Err(trouble), _) => Err(trouble),
        };
        Look {
            boot_id,
            version: version.unwrap_or_default(),
            slots,
            system,
        }
    }

    /// Which boot loader it is.
    pub fn loader_kind(&self) -> Option<BootLoaderKind> {
        let loader = self.loader().ok()?;
        Some(match loader.kind() {
            LoaderKind::Grub => BootLoaderKind::GRUB,
            LoaderKind::Hook => BootLoaderKind::Hook,
        })
    }

    /// Changes the boot loader's variables.
    pub fn change(
        &self,
        change: impl FnOnce(&dyn BootLoader) -> Result<(), LoaderError>,
    ) -> Result<(), Trouble> {
        change(&*self.loader()?).map_err(|e| loader_trouble(&e))
    }

    /// What a slot holds of which there is no record.
    pub fn look_into(&self, slot: SlotName) -> SlotRecord {
        let mut found = SlotRecord {
            state: SlotState::Unknown,
            version: String::new(),
            checksum: String::new(),
        };
        let Ok(slots) = self.host.identify() else {
            return found;
        };
        let device = &slots.slot(slot).device;
        match inspect::inspect(device, &[]) {
            Ok(inside) => {
                let version = inside.os_release.version(&self.version_keys);
                found.version = shown_version(version.unwrap_or_default());
            }
            Err(_) if begins_with_nothing(device) => found.state = SlotState::Empty,
            Err(_) => {}
        }
        found
    }

    /// Reads the record. That takes no more than a folder that can be read.
    pub fn load(&self) -> Result<Option<Record>, Trouble> {
        let store = Store::new(&self.state_dir);
        store.load().map_err(|e| e.trouble())
    }

    /// Whether the record's folder can hold one: on storage that both slots share, writable, and this agent's alone.
    pub fn can_save(&self) -> Result<(), Trouble> {
        // Only the last folder: when the one above is missing, the storage is not mounted. What is wrong otherwise is
        // told by the check.
        let _ = std::fs::create_dir(&self.state_dir);
        let not_persistent = |e: &dyn std::fmt::Display| {
            Trouble::new(FailureReason::StateNotPersistent, e.to_string())
        };
        self.host
            .check_persistent(&self.state_dir)
            .map_err(|e| not_persistent(&e))?;
        self.take_lock().map_err(|e| not_persistent(&e))
    }

    /// Takes the state folder's lock, if this process does not hold it.
    pub fn take_lock(&self) -> Result<(), LockError> {
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        lock.take()
    }

    /// Replaces the record.
    pub fn save(&self, record: &Record) -> Result<(), Trouble> {
        self.can_save()?;
        let store = Store::new(&self.state_dir);
        store.save(record).map_err(|e| e.trouble())
    }

    fn loader(&self) -> Result<Arc<dyn BootLoader>, Trouble> {
        match &self.loader {
            Loader::Given(loader) => Ok(Arc::clone(loader)),
            Loader::Auto { grubenv, grub } if grubenv.exists() => Ok(Arc::clone(grub) as _),
            Loader::Auto { grubenv, .. } => Err(Trouble::new(
                FailureReason::BootLoaderUnknown,
                format!(
                    "no boot loader was recognised: there is no GRUB environment block at {}; say where it is with \
                     --grubenv",
                    grubenv.display()
                ),
            )),
        }
    }
}

/// What runs, empty when it does not say. An os-release that could not be read says nothing of either kind.
fn running_version(
    os: Result<OsRelease, InspectError>,
    keys: &[String],
) -> Result<String, Trouble> {
    match os {
        Ok(os) => Ok(os.version(keys).unwrap_or_default().to_owned()),
        Err(InspectError::NoOsRelease { .. }) => Ok(String::new()),
        Err(e) => Err(Trouble::new(
            FailureReason::SlotAmbiguous,
            format!(
                "the version of the running system cannot be told: {e}; see the kernel's log (`dmesg`)"
            ),
        )),
    }
}

fn loader_trouble(e: &LoaderError) -> Trouble {
    Trouble::new(
        reasons::of_boot(e.reason()),
        format!(
            "{e}; see that the boot folder is mounted and writable, then change spec.retryNonce"
        ),
    )
}

fn system(slots: &Slots, version: &str, state: BootState) -> System {
    let active = slots.active;
    // What grub.cfg does: the default if it may be started, else the other one; without a default the first.
    let named = state.default.unwrap_or(SlotName::A);
    System {
        active,
        version: version.to_owned(),
        default: [named, named.other()].into_iter().find(|s| state.ok(*s)),
        settled: state.default == Some(active) && state.ok(active),
        no_trial: slots.trial == Some(false),
        trial: state.trial,
    }
}

/// Whether a device begins with a mebibyte of zeros, as one that was never written to does.
fn begins_with_nothing(device: &std::path::Path) -> bool {
    use std::io::Read as _;
    let mut begin = Vec::new();
    std::fs::File::open(device)
        .and_then(|file| file.take(1 << 20).read_to_end(&mut begin))
        .is_ok_and(|n| n > 0 && begin.iter().all(|b| *b == 0))
}

#[cfg(test)]
mod tests {
    use monok8s_boot::host::VirtualNode;

    use super::*;

    #[test]
    fn a_boot_folder_that_is_mounted_late_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let grubenv = folder.path().join("grub/grubenv");
        let hardware = Hardware {
            host: Arc::new(VirtualNode::new(folder.path())),
            loader: Loader::Auto {
                grub: Arc::new(Grub::new(&grubenv)),
                grubenv: grubenv.clone(),
            },
            version_keys: Vec::new(),
            state_dir: folder.path().to_path_buf(),
            lock: Arc::new(Mutex::new(StateLock::new(folder.path()))),
        };
        assert_eq!(hardware.loader_kind(), None);
        let unknown = hardware.change(|_| Ok(())).unwrap_err();
        assert_eq!(unknown.reason, FailureReason::BootLoaderUnknown);
        assert!(unknown.message.contains(grubenv.to_str().unwrap()));
        std::fs::create_dir(folder.path().join("grub")).unwrap();
        std::fs::write(&grubenv, "").unwrap();
        assert_eq!(hardware.loader_kind(), Some(BootLoaderKind::GRUB));
        assert_eq!(hardware.change(|_| Ok(())), Ok(()));
    }

    #[test]
    fn a_version_that_cannot_be_read_is_not_a_system_without_one() {
        let keys = ["IMAGE_VERSION".to_owned()];
        let path = || "/".into();
        let found = |os| running_version(os, &keys);
        let none = InspectError::NoOsRelease { path: path() };
        assert_eq!(found(Err(none)), Ok(String::new()));
        let unreadable = InspectError::Unreadable {
            path: path(),
            source: std::io::Error::other("too many open files"),
        };
        let trouble = found(Err(unreadable)).unwrap_err();
        assert_eq!(trouble.reason, FailureReason::SlotAmbiguous);
        assert!(trouble.message.contains("too many open files"));
    }

    fn slots(active: SlotName, trial: Option<bool>) -> Slots {
        let slot = |name| monok8s_boot::Slot {
            name,
            device: PathBuf::from("/dev/slot"),
            part_uuid: None,
            size: 1,
        };
        Slots {
            active,
            a: slot(SlotName::A),
            b: slot(SlotName::B),
            boot_id: "boot".to_owned(),
            trial,
        }
    }

    #[test]
    fn only_what_the_boot_loader_says_is_no_trial_is_none() {
        let state = BootState {
            default: Some(SlotName::B),
            trial: None,
            a_ok: true,
            b_ok: true,
        };
        for (told, no_trial) in [(Some(false), true), (Some(true), false), (None, false)] {
            let system = system(&slots(SlotName::A, told), "v1.35.1", state);
            assert_eq!(system.no_trial, no_trial, "{told:?}");
        }
    }

    #[test]
    fn the_default_is_the_slot_that_would_be_started() {
        use SlotName::{A, B};
        for (default, a_ok, b_ok, effective, settled) in [
            (Some(A), true, true, Some(A), true),
            (Some(B), true, true, Some(B), false),
            (Some(B), true, false, Some(A), false),
            (None, true, true, Some(A), false),
            (None, false, true, Some(B), false),
            (Some(A), false, false, None, false),
        ] {
            let state = BootState {
                default,
                trial: None,
                a_ok,
                b_ok,
            };
            let system = system(&slots(A, None), "v1.35.1", state);
            assert_eq!(
                (system.default, system.settled),
                (effective, settled),
                "{state:?}"
            );
        }
    }
}
