//! A slot that the boot loader does not boot from its first changed byte on.

use std::{
    io,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use monok8s_boot::{
    BootLoader as _, SlotName,
    loader::{LoaderError, grub::Grub},
};
use monok8s_image::{Access, Device, HostDevice};

/// Tells the boot loader before the first write: a slot that is half written must not be what a fallback finds. A slot that
/// is not written to, because there is no image to write, stays as good as it was.
pub(super) struct Marking {
    device: HostDevice,
    slot: SlotName,
    /// Until it was told; None where there is none to be told.
    untold: Mutex<Option<Grub>>,
    refused: OnceLock<LoaderError>,
    changed: AtomicBool,
}

impl Marking {
    pub(super) fn new(device: HostDevice, slot: SlotName, loader: Option<Grub>) -> Self {
        Self {
            device,
            slot,
            untold: Mutex::new(loader),
            refused: OnceLock::new(),
            changed: AtomicBool::new(false),
        }
    }

    /// Whether anything was written, so that the slot is not what it was.
    pub(super) fn changed(&self) -> bool {
        self.changed.load(Ordering::Relaxed)
    }

    /// What the boot loader had against it; then nothing was written.
    pub(super) fn refused(self) -> Option<LoaderError> {
        self.refused.into_inner()
    }

    fn tell(&self) -> io::Result<()> {
        let mut untold = self.untold.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(loader) = &*untold
            && let Err(why) = loader.mark_unbootable(self.slot)
        {
            let told = io::Error::other(why.to_string());
            let _ = self.refused.set(why);
            return Err(told);
        }
        *untold = None;
        self.changed.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl Device for Marking {
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
        self.tell()?;
        self.device.write_at(bytes, offset)
    }

    fn clear_at(&self, offset: u64, length: u64) -> io::Result<()> {
        self.tell()?;
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
