//! `sha256:` and 64 hex digits, as registries and catalogs write a digest. Pure.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

/// The digest of some bytes.
pub(crate) fn of(bytes: &[u8]) -> String {
    finish(Sha256::new_with_prefix(bytes))
}

/// The digest of what was hashed.
pub(crate) fn finish(hash: Sha256) -> String {
    let mut text = "sha256:".to_owned();
    for byte in hash.finalize() {
        // A String takes everything.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Whether a text is the one kind of digest that is used here.
pub(crate) fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| {
        hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notation() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(of(b""), empty);
        assert!(is_digest(empty));
        for text in [
            "",
            "sha256:",
            &empty[7..],
            &empty.to_uppercase(),
            "sha512:00",
        ] {
            assert!(!is_digest(text), "{text}");
        }
    }
}
