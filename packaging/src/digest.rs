//! SHA-256 of what passes by.

use std::io::{self, Write};

use sha2::{Digest as _, Sha256};

/// What was written: how many bytes, and their SHA-256.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// 64 hexadecimal digits.
    pub hex: String,
    /// How many bytes.
    pub size: u64,
}

impl Digest {
    /// Of bytes in memory.
    pub fn of(bytes: &[u8]) -> Self {
        let mut writer = DigestWriter::new(io::sink());
        writer.take(bytes);
        writer.finish().1
    }

    /// `sha256:…`, as the OCI image specification writes it.
    pub fn prefixed(&self) -> String {
        format!("sha256:{}", self.hex)
    }
}

/// Passes bytes on and keeps account of them.
pub struct DigestWriter<W> {
    inner: W,
    hash: Sha256,
    size: u64,
}

impl<W: Write> DigestWriter<W> {
    /// Passes on to `inner`.
    pub fn new(inner: W) -> Self {
        Self {
            inner,
            hash: Sha256::new(),
            size: 0,
        }
    }

    /// The writer below, and what it was given.
    pub fn finish(self) -> (W, Digest) {
        use std::fmt::Write as _;
        let mut hex = String::with_capacity(64);
        for byte in self.hash.finalize() {
            // Writing to a String cannot fail.
            let _ = write!(hex, "{byte:02x}");
        }
        let size = self.size;
        (self.inner, Digest { hex, size })
    }

    fn take(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
    }
}

impl<W: Write> Write for DigestWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.inner.write(bytes)?;
        self.take(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_the_writer_below_took() {
        let mut writer = DigestWriter::new(Vec::new());
        writer.write_all(b"abc").unwrap();
        let (bytes, digest) = writer.finish();
        assert_eq!(bytes, b"abc");
        assert_eq!(digest.size, 3);
        // FIPS 180-4's own example.
        assert_eq!(
            digest.prefixed(),
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(digest, Digest::of(b"abc"));
    }
}
