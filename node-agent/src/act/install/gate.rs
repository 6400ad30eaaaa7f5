//! Holds an installation before its first write: what the boot loader and the record have to say of the slot comes
//! before the first byte.

use std::io;

use monok8s_image::{Guarded, HostDevice};
use tokio::sync::oneshot;

/// The device, which asks before its first write and waits for the answer; what tells that it asks; and the answer.
pub(super) fn before_the_first_write(
    device: HostDevice,
) -> (Guarded, oneshot::Receiver<()>, oneshot::Sender<()>) {
    let (ask, asked) = oneshot::channel();
    let (permit, permitted) = oneshot::channel();
    let mut question = Some((ask, permitted));
    let guarded = Guarded::new(device, move || {
        let stopped = || io::Error::other("stopped before the first write");
        let (ask, permitted) = question.take().ok_or_else(stopped)?;
        let _ = ask.send(());
        permitted.blocking_recv().map_err(|_| stopped())
    });
    (guarded, asked, permit)
}

#[cfg(test)]
mod tests {
    use monok8s_image::Device as _;

    use super::*;

    #[test]
    fn nothing_reaches_a_slot_before_it_is_permitted() {
        type Change = fn(&Guarded) -> io::Result<()>;
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
            let (guarded, mut asked, permit) = before_the_first_write(device);
            drop(permit);
            let refused = change(&guarded).unwrap_err();
            assert!(refused.to_string().contains("before the first write"));
            let refused = change(&guarded).unwrap_err();
            assert!(refused.to_string().contains("before the first write"));
            assert!(asked.try_recv().is_ok());
            assert_eq!(std::fs::read(slot.path()).unwrap(), [7; 8192]);
        }
    }
}
