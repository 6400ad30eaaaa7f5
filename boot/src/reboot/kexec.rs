//! A kernel loaded for kexec: with one, some ways to reboot start it instead of the firmware.

use std::io;
use std::path::Path;

use super::RebootError;
use crate::kernel;

/// Unloads the kernel that kexec would start, if there is one (`/sys/kernel/kexec_loaded`).
pub(super) fn unload(sys: &Path) -> Result<(), RebootError> {
    let failed = |what: String| RebootError { tried: what };
    let flag = sys.join("kernel/kexec_loaded");
    match std::fs::read_to_string(&flag) {
        Ok(text) if text.trim() == "0" => return Ok(()),
        Ok(_) => {}
        // A kernel without kexec.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => {
            return Err(failed(format!(
                "whether a kexec kernel is loaded: {}: {e}",
                flag.display()
            )));
        }
    }
    kernel::unload_kexec().map_err(|e| {
        failed(format!("a kernel loaded for kexec would be started past the boot loader and cannot be unloaded: {e} (try kexec -u)"))
    })?;
    tracing::info!("unloaded the kernel that was loaded for kexec");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_loaded_kernel_is_unloaded() {
        let dir = tempfile::tempdir().unwrap();
        assert!(unload(dir.path()).is_ok(), "no such file");
        std::fs::create_dir(dir.path().join("kernel")).unwrap();
        std::fs::write(dir.path().join("kernel/kexec_loaded"), "0\n").unwrap();
        assert!(unload(dir.path()).is_ok());
    }
}
