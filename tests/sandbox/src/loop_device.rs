//! Loop devices that are gone with this process, whatever becomes of it.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::machine::{self, run};

/// A loop device over a file.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    /// The last one to close a device that is marked for clearing detaches it: while this process
    /// lives, it stays.
    _held: File,
}

impl LoopDevice {
    /// Attaches `file`. Needs root and a kernel with loop devices.
    pub fn attach(file: &Path) -> Result<Self> {
        // With --partscan its partitions go when it does.
        let shown = run(
            Command::new("losetup")
                .args(["--find", "--show", "--nooverlap", "--partscan"])
                .arg(file),
            "mount",
        )?;
        let path = PathBuf::from(shown.trim());
        let held = File::open(&path).with_context(|| format!("cannot open {}", path.display()));
        // Detaching a device that somebody has open marks it for clearing instead.
        let marked = run(Command::new("losetup").arg("--detach").arg(&path), "mount");
        let held = held?;
        marked?;
        Ok(Self { path, _held: held })
    }

    /// Whether this machine lets this process have loop devices: tried, as a container may show
    /// them and refuse them.
    ///
    /// Not whether `losetup` is installed: root's tests are to fail without it, not to be skipped.
    pub fn available() -> bool {
        let try_one = || -> Result<Self> {
            let file = tempfile::NamedTempFile::new()?;
            file.as_file().set_len(1 << 20)?;
            Self::attach(file.path())
        };
        if !rustix::process::geteuid().is_root() {
            return false;
        }
        match try_one() {
            Ok(_) => true,
            Err(error) => machine::is_missing_program(&error),
        }
    }

    /// Makes its partitions known to a kernel that cannot read a GPT itself; else they are already.
    pub fn add_partitions(&self) -> Result<()> {
        run(
            Command::new("partx").arg("--update").arg(&self.path),
            "util-linux",
        )
        .map(drop)
    }

    /// Its device node.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::{skip, wait};

    #[test]
    fn a_device_is_there_while_it_is_held() {
        if !LoopDevice::available() {
            skip::say("no loop devices for this user");
            return;
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let device = LoopDevice::attach(file.path()).unwrap();
        let backing = Path::new("/sys/block")
            .join(device.path().file_name().unwrap())
            .join("loop/backing_file");
        assert!(backing.exists());
        drop(device);
        // Whoever looks through all loop devices at this moment, or was just forked, has it open too.
        let deadline = Instant::now() + Duration::from_secs(60);
        let attached = || {
            std::fs::read_to_string(&backing)
                .is_ok_and(|now| now.trim() == file.path().to_str().unwrap())
        };
        while attached() {
            assert!(Instant::now() < deadline, "still attached");
            std::thread::sleep(wait::INTERVAL);
        }
    }
}
