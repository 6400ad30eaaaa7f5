//! A SHA-256.

use std::fmt;

/// A SHA-256 digest, shown as catalogs write it: `sha256:` and 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Ends a hash.
    pub(crate) fn of(hasher: sha2::Sha256) -> Self {
        Self(sha2::Digest::finalize(hasher).into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use sha2::Digest as _;

    use super::Digest;

    #[test]
    fn written_as_in_catalogs() {
        // FIPS 180-2, appendix B.1.
        assert_eq!(
            Digest::of(sha2::Sha256::new_with_prefix("abc")).to_string(),
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
