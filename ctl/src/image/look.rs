//! What an image that is not compressed says of itself.

use std::{
    fs::File,
    io::{self, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use monok8s_boot::inspect;

/// The version that its os-release says, or why that is not known or it could not boot without one of the files that it
/// needs.
pub(super) fn version(image: &Path, keys: &[String], needs: &[PathBuf]) -> Result<String, String> {
    let inside = inspect::inspect(image, needs).map_err(|error| error.to_string())?;
    match inside.os_release.version(keys) {
        Some(version) => Ok(version.to_owned()),
        None => Err(format!("its os-release has none of {}", keys.join(", "))),
    }
}

/// Keeps an image in a file with holes where there are zeros: it need not be as large as the image.
pub(super) struct Sparse {
    file: File,
    length: u64,
}

impl Sparse {
    pub(super) fn new(file: File) -> Self {
        Self { file, length: 0 }
    }

    /// With its whole length, on the disk.
    pub(super) fn finish(self) -> io::Result<()> {
        self.file.set_len(self.length)?;
        self.file.sync_data()
    }
}

impl Write for Sparse {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A page at a time, so that a hole is a whole one.
        for page in bytes.chunks(4096) {
            if page.iter().any(|byte| *byte != 0) {
                self.file.seek(SeekFrom::Start(self.length))?;
                self.file.write_all(page)?;
            }
            self.length += page.len() as u64;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
