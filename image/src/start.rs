//! Where an installation begins.

use sha2::Sha256;

use crate::{
    Checkpoint, CheckpointError, Device, InstallError, Observer, Progress, Stage,
    checkpoint::bind,
    proof::Chain,
    stages::{
        control::Control,
        expand::Beginning,
        run::{self, Watcher},
    },
};

/// Where an installation begins: at the beginning, or where an earlier run had got to.
#[derive(Clone, Debug)]
pub struct Start {
    pub(crate) file_bytes: u64,
    pub(crate) image_bytes: u64,
    pub(crate) file_hash: Sha256,
    /// Of what is on the device before.
    pub(crate) image_hash: Sha256,
    pub(crate) chain: Chain,
}

impl Start {
    /// The first byte.
    pub fn at_the_beginning() -> Self {
        Self {
            file_bytes: 0,
            image_bytes: 0,
            file_hash: Sha256::default(),
            image_hash: Sha256::default(),
            chain: Chain::default(),
        }
    }

    /// Reads what the checkpoint says is on the device, and believes it when that is so. `binding` is what the
    /// checkpoint was made with ([`crate::Options::binding`]).
    ///
    /// The observer is shown [`Stage::Resuming`] and how much was read; it can stop this.
    pub fn verify(
        checkpoint: Checkpoint,
        device: &dyn Device,
        binding: &[u8],
        observer: &mut dyn Observer,
    ) -> Result<Self, CheckpointError> {
        if checkpoint.binding != bind(binding) {
            return Err(CheckpointError::AnotherInstallation);
        }
        let differs = || CheckpointError::DeviceDiffers {
            device: device.name().to_owned(),
            image_bytes: checkpoint.image_bytes,
        };
        if checkpoint.image_bytes > device.size() {
            return Err(differs());
        }
        let control = Control::new(Progress {
            stage: Stage::Resuming,
            ..Progress::default()
        });
        let mut watcher = Watcher::new(&control, observer).map_err(CheckpointError::Device)?;
        // What a run that was killed has left in the page cache must not be what is read.
        device.drop_cache().map_err(|error| {
            CheckpointError::Device(InstallError::WriteFailed {
                device: device.name().to_owned(),
                operation: "flush",
                offset: 0,
                proven: control.proven(),
                error,
            })
        })?;
        let seen = run::read_again(device, checkpoint.image_bytes, &mut watcher)
            .map_err(CheckpointError::Device)?;
        if seen.chain.digest() != Some(checkpoint.chain) {
            return Err(differs());
        }
        Ok(Self {
            file_bytes: checkpoint.file_bytes,
            image_bytes: checkpoint.image_bytes,
            file_hash: checkpoint.file_hash,
            image_hash: seen.image_hash,
            chain: seen.chain,
        })
    }

    /// Where the source begins in the file, in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// So much of the image is there, in bytes.
    pub fn image_bytes(&self) -> u64 {
        self.image_bytes
    }

    pub(crate) fn into_beginning(self) -> Beginning {
        Beginning {
            file_bytes: self.file_bytes,
            image_bytes: self.image_bytes,
            file_hash: self.file_hash,
        }
    }
}
