//! A device that is not changed before somebody has agreed.

use std::{
    fmt, io,
    sync::{Mutex, PoisonError},
};

use super::{Access, Device, HostDevice};

type Guard = Box<dyn FnMut() -> io::Result<()> + Send>;

/// Calls a guard before the first change (a write or a clearing), on the thread that makes it. An error of the guard's
/// is that change's, and the guard is called again before the next one: nothing is changed until it has agreed.
pub struct Guarded {
    device: HostDevice,
    /// Until it has agreed.
    guard: Mutex<Option<Guard>>,
}

impl Guarded {
    /// The device, which nobody has changed yet.
    pub fn new(device: HostDevice, guard: impl FnMut() -> io::Result<()> + Send + 'static) -> Self {
        Self {
            device,
            guard: Mutex::new(Some(Box::new(guard))),
        }
    }

    /// Whether the guard has agreed to a change, so that the device need not be what it was.
    pub fn changed(&self) -> bool {
        self.guard
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_none()
    }

    fn pass(&self) -> io::Result<()> {
        let mut guard = self.guard.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ask) = &mut *guard {
            ask()?;
        }
        *guard = None;
        Ok(())
    }
}

impl fmt::Debug for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guarded")
            .field("device", &self.device)
            .finish_non_exhaustive()
    }
}

impl Device for Guarded {
    fn name(&self) -> &str {
        self.device.name()
    }

    fn size(&self) -> u64 {
        self.device.size()
    }

    fn access(&self) -> &Access {
        self.device.access()
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.pass()?;
        self.device.write_at(bytes, offset)
    }

    fn clear_at(&self, offset: u64, length: u64) -> io::Result<()> {
        self.pass()?;
        self.device.clear_at(offset, length)
    }

    fn flush(&self) -> io::Result<()> {
        self.device.flush()
    }

    fn read_back_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.device.read_back_at(buffer, offset)
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.device.drop_cache()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    #[test]
    fn nothing_is_changed_until_the_guard_agrees_which_is_asked_no_more() {
        type Change = fn(&Guarded) -> io::Result<()>;
        let write: Change = |device| device.write_at(&[1; 4096], 0).map(drop);
        let clear: Change = |device| device.clear_at(0, 4096);
        for change in [write, clear] {
            let slot = tempfile::NamedTempFile::new().unwrap();
            fs::write(slot.path(), [7; 8192]).unwrap();
            let file = File::options()
                .read(true)
                .write(true)
                .open(slot.path())
                .unwrap();
            let device = HostDevice::new(file, "a slot".to_owned()).unwrap();
            let mut asked = 0;
            let guarded = Guarded::new(device, move || {
                asked += 1;
                match asked {
                    1 | 2 => Err(io::Error::other(format!("no {asked}"))),
                    3 => Ok(()),
                    _ => Err(io::Error::other("asked again")),
                }
            });
            for refusal in ["no 1", "no 2"] {
                assert_eq!(change(&guarded).unwrap_err().to_string(), refusal);
                assert!(!guarded.changed());
                assert_eq!(fs::read(slot.path()).unwrap(), [7; 8192]);
            }
            for _ in 0..2 {
                change(&guarded).unwrap();
                assert!(guarded.changed());
                assert_ne!(fs::read(slot.path()).unwrap(), [7; 8192]);
            }
        }
    }
}
