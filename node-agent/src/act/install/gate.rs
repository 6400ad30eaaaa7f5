//! Holds an installation before its first write: what the boot loader and the record have to say of the slot comes
//! before the first byte.

use std::{
    io,
    sync::{Mutex, PoisonError},
};

use monok8s_image::{Access, Device, HostDevice};
use tokio::sync::oneshot;

/// A device that asks before its first write, and waits for the answer.
pub(super) struct Gated {
    device: HostDevice,
    gate: Mutex<Option<(oneshot::Sender<()>, oneshot::Receiver<()>)>>,
}

impl Gated {
    /// The device, what tells that it asks, and the answer.
    pub(super) fn new(device: HostDevice) -> (Self, oneshot::Receiver<()>, oneshot::Sender<()>) {
        let (ask, asked) = oneshot::channel();
        let (permit, permitted) = oneshot::channel();
        let gate = Mutex::new(Some((ask, permitted)));
        (Self { device, gate }, asked, permit)
    }

    fn pass(&self) -> io::Result<()> {
        let mut gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((ask, permitted)) = gate.take() {
            let _ = ask.send(());
            permitted
                .blocking_recv()
                .map_err(|_| io::Error::other("stopped before the first write"))?;
        }
        Ok(())
    }
}

impl Device for Gated {
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
    use super::*;

    #[test]
    fn nothing_reaches_a_slot_before_it_is_permitted() {
        type Change = fn(&Gated) -> io::Result<()>;
        let write: Change = |device| device.write_at(&[1; 4096], 0).map(drop);
        let clear: Change = |device| device.clear_at(0, 4096);
        for change in [write, clear] {
            let slot = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(slot.path(), [7; 8192]).unwrap();
            let file = std::fs::File::options()
                .read(true)
                .write(true)
                .open(slot.path())
                .unwrap();
            let device = HostDevice::new(file, "a slot".to_owned()).unwrap();
            let (gated, mut asked, permit) = Gated::new(device);
            drop(permit);
            let refused = change(&gated).unwrap_err();
            assert!(refused.to_string().contains("before the first write"));
            assert!(asked.try_recv().is_ok());
            assert_eq!(std::fs::read(slot.path()).unwrap(), [7; 8192]);
        }
    }
}
