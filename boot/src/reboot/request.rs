//! A virtual node's reboot.

use std::path::PathBuf;

use async_trait::async_trait;

use super::{Reboot, RebootError};

/// Makes a file that the virtual node's firmware watches for.
#[derive(Clone, Debug)]
pub struct RequestFile {
    /// The file to make.
    pub path: PathBuf,
}

#[async_trait]
impl Reboot for RequestFile {
    async fn reboot(&self) -> Result<(), RebootError> {
        std::fs::write(&self.path, "").map_err(|e| RebootError {
            tried: format!("making the file {}: {e}", self.path.display()),
        })
    }
}
