//! Names that follow from content, so that two writers can only ever mean the same object.

use std::fmt;

use data_encoding::BASE32_NOPAD;
use sha2::{Digest, Sha256};

/// Name of the progress for one hop of one node: `osupgrade-` and ten base32 characters of the
/// SHA-256 over upgrade UID, revision, node UID and the hop's version (the word `previous` for a
/// Rollback that names none).
///
/// Fifty bits: at the API's limit of ten thousand nodes the odds of any collision are below one in
/// twenty million, and an object found under the name with other content is never adopted.
pub fn progress(
    upgrade_uid: &str,
    revision: i64,
    node_uid: &str,
    hop: &impl fmt::Display,
) -> String {
    let mut hash = Sha256::new();
    // A separator that occurs in none of the parts keeps ("a", "bc") apart from ("ab", "c").
    for part in [
        upgrade_uid,
        &revision.to_string(),
        node_uid,
        &hop.to_string(),
    ] {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    let text = BASE32_NOPAD.encode(&hash.finalize());
    format!("osupgrade-{}", text[..10].to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Version;

    #[test]
    fn every_part_counts_and_the_name_is_stable() {
        let hop: Version = "1.35.1".parse().unwrap();
        let name = progress("u", 1, "n", &hop);
        assert_eq!(name.len(), "osupgrade-x7k2m9q4ab".len());
        assert_eq!(
            name,
            progress("u", 1, "n", &"v1.35.1".parse::<Version>().unwrap())
        );
        for other in [
            progress("w", 1, "n", &hop),
            progress("u", 2, "n", &hop),
            progress("u", 1, "m", &hop),
            progress("u", 1, "n", &"1.35.2".parse::<Version>().unwrap()),
            progress("u1", 1, "n", &hop),
        ] {
            assert_ne!(name, other);
        }
    }

    /// Another hash, separator or order would make a new controller give every hop that is under way
    /// a second progress under another name. The names are by Python, from the documented parts:
    ///
    /// ```python
    /// import base64, hashlib
    /// parts = ["7f0c6a52-3f1e-4a44-9b0e-3d1a5b7c9e01", "3", "c2b1d3e4-5a69-4788-8796-a5b4c3d2e1f0", "v1.35.1"]
    /// digest = hashlib.sha256(b"".join(part.encode() + b"\0" for part in parts)).digest()
    /// print("osupgrade-" + base64.b32encode(digest).decode()[:10].lower())
    /// ```
    #[test]
    fn the_name_is_the_documented_one() {
        let upgrade = "7f0c6a52-3f1e-4a44-9b0e-3d1a5b7c9e01";
        let node = "c2b1d3e4-5a69-4788-8796-a5b4c3d2e1f0";
        let hop: Version = "1.35.1".parse().unwrap();
        assert_eq!(progress(upgrade, 3, node, &hop), "osupgrade-y6o6szarrw");
        assert_eq!(
            progress(upgrade, 3, node, &"previous"),
            "osupgrade-xfu2npighq"
        );
    }
}
