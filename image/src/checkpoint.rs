//! Where an installation that was killed can go on.

use sha2::{
    Sha256,
    digest::common::hazmat::{SerializableState, SerializedState},
};

/// The format's first bytes. Another one is not read: the installation then starts from the beginning, which costs
/// time and nothing else.
const MAGIC: [u8; 8] = *b"m8simg\x00\x02";

/// As `sha2` writes a hash that is not finished.
const HASH_STATE: usize = size_of::<SerializedState<Sha256>>();

const LENGTH: usize = MAGIC.len() + 32 + 8 + 8 + 32 + HASH_STATE + 32;

/// A place at a frame's boundary up to which the device is proven to hold the image.
///
/// It is a claim, to be kept by the caller on storage that survives, and believed by [`crate::Start::verify`] only
/// after the device has been read again. What installation it belongs to is said by the caller's own words (its
/// binding).
#[derive(Clone, Debug)]
pub struct Checkpoint {
    pub(crate) binding: [u8; 32],
    pub(crate) file_bytes: u64,
    pub(crate) image_bytes: u64,
    /// Digest of the marks of all pieces before.
    pub(crate) chain: [u8; 32],
    /// SHA-256 of the file so far.
    pub(crate) file_hash: Sha256,
}

/// Why a checkpoint is of no use. The installation then starts from the beginning.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// It is damaged, or was written by another release.
    #[error("it is damaged or of another release")]
    Malformed,
    /// Its binding is another.
    #[error("it belongs to another installation")]
    AnotherInstallation,
    /// The device does not hold what the checkpoint says.
    #[error("{device} does not hold what the checkpoint says of its first {image_bytes} bytes")]
    DeviceDiffers {
        /// The device.
        device: String,
        /// What the checkpoint says is proven, in bytes.
        image_bytes: u64,
    },
    /// The device could not be read.
    #[error(transparent)]
    Device(crate::InstallError),
}

impl Checkpoint {
    /// Where to go on in the file, in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// How much of the image is proven, in bytes.
    pub fn image_bytes(&self) -> u64 {
        self.image_bytes
    }

    /// For keeping: a few hundred bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(LENGTH);
        bytes.extend(MAGIC);
        bytes.extend(self.binding);
        bytes.extend(self.file_bytes.to_le_bytes());
        bytes.extend(self.image_bytes.to_le_bytes());
        bytes.extend(self.chain);
        bytes.extend(self.file_hash.serialize());
        bytes.extend(blake3::hash(&bytes).as_bytes());
        bytes
    }

    /// Reads what [`Checkpoint::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CheckpointError> {
        let malformed = || CheckpointError::Malformed;
        let (body, digest) = bytes.split_last_chunk::<32>().ok_or_else(malformed)?;
        if bytes.len() != LENGTH || blake3::hash(body) != *digest {
            return Err(malformed());
        }
        let mut rest = body.strip_prefix(&MAGIC).ok_or_else(malformed)?;
        let binding = take(&mut rest).ok_or_else(malformed)?;
        let file_bytes = take(&mut rest).ok_or_else(malformed)?;
        let image_bytes = take(&mut rest).ok_or_else(malformed)?;
        let chain = take(&mut rest).ok_or_else(malformed)?;
        let state = SerializedState::<Sha256>::try_from(rest).map_err(|_| malformed())?;
        Ok(Self {
            binding,
            file_bytes: u64::from_le_bytes(file_bytes),
            image_bytes: u64::from_le_bytes(image_bytes),
            chain,
            file_hash: Sha256::deserialize(&state).map_err(|_| malformed())?,
        })
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*first)
}

/// The caller's words, at a fixed length.
pub(crate) fn bind(words: &[u8]) -> [u8; 32] {
    *blake3::hash(words).as_bytes()
}

#[cfg(test)]
mod tests {
    use sha2::Digest as _;

    use super::*;

    fn checkpoint() -> Checkpoint {
        Checkpoint {
            binding: bind(b"uid 1"),
            file_bytes: 12_345,
            image_bytes: 64 << 20,
            chain: [7; 32],
            file_hash: Sha256::new_with_prefix([3; 12_345]),
        }
    }

    #[test]
    fn goes_on_hashing_where_it_was() {
        let kept = checkpoint().to_bytes();
        assert_eq!(kept.len(), LENGTH);
        let back = Checkpoint::from_bytes(&kept).unwrap();
        assert_eq!(
            (back.binding, back.file_bytes, back.image_bytes, back.chain),
            (bind(b"uid 1"), 12_345, 64 << 20, [7; 32])
        );
        let digest = |hash: Sha256| hash.chain_update(b"the rest").finalize();
        assert_eq!(digest(back.file_hash), digest(checkpoint().file_hash));
    }

    #[test]
    fn damage_of_any_byte_is_seen() {
        let kept = checkpoint().to_bytes();
        for at in 0..kept.len() {
            let mut damaged = kept.clone();
            damaged[at] ^= 0x20;
            assert!(Checkpoint::from_bytes(&damaged).is_err(), "{at}");
            assert!(Checkpoint::from_bytes(&kept[..at]).is_err(), "{at}");
        }
        assert!(Checkpoint::from_bytes(&[&kept[..], &[0]].concat()).is_err());
    }
}
