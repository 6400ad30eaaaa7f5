//! What a name in a registry stands for.

use serde::{Deserialize, Serialize};

/// What a name in a registry stood for when it was resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// Digest of what the name itself led to, an index perhaps: `sha256:` and 64 hex digits. The
    /// same name with `@` and this digest is this artifact for ever
    /// ([`ImageBody::pinned`](crate::ImageBody::pinned)).
    pub digest: String,
    /// Digest of the layer, which is the file that is downloaded.
    pub layer: String,
    /// Length of the layer in bytes.
    pub size: u64,
}
