//! How far the image under way is proven, kept beside the record for the next start of the agent.
//!
//! It saves time and decides nothing: what cannot be used is thrown away, and the slot is filled from its beginning.

use std::{
    io,
    path::{Path, PathBuf},
};

use data_encoding::BASE64;
use monok8s_fetch::FileIdentity;
use monok8s_image::Checkpoint;
use serde::{Deserialize, Serialize};

use crate::{decide::resume::Installation, durable};

/// Name of the file in the state folder.
pub const FILE_NAME: &str = "checkpoint.json";

/// Another format is not read: it costs a download its beginning, and nothing else.
const FORMAT: u32 = 1;

/// Largest file that is read or written, in bytes. One has about a kilobyte; servers choose the length of their tags.
const MAX_SIZE: u64 = 16 << 10;

/// What is kept.
#[derive(Clone, Debug)]
pub struct Kept {
    /// The installation that it is of.
    pub installation: Installation,
    /// The file that the image came from.
    pub file: FileIdentity,
    /// What the engine needs to go on.
    pub checkpoint: Checkpoint,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    format: u32,
    installation: Installation,
    file: FileIdentity,
    /// For people: the engine has its own.
    proven_bytes: u64,
    checkpoint: String,
}

/// The file's place.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    folder: PathBuf,
}

impl Checkpoints {
    /// The one in `folder`.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
        }
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.folder.join(FILE_NAME)
    }

    /// What is kept; the error says why it is of no use.
    pub fn load(&self) -> Result<Option<Kept>, String> {
        let bytes = durable::read(&self.path(), MAX_SIZE).map_err(|e| e.to_string())?;
        bytes.map(|bytes| parse(&bytes)).transpose()
    }

    /// Keeps it in place of what was kept; when this returns it survives a power cut.
    pub fn save(&self, kept: &Kept) -> io::Result<()> {
        let text = serde_json::to_vec(&Written {
            format: FORMAT,
            installation: kept.installation.clone(),
            file: kept.file.clone(),
            proven_bytes: kept.checkpoint.image_bytes(),
            checkpoint: BASE64.encode(&kept.checkpoint.to_bytes()),
        })?;
        if text.len() as u64 > MAX_SIZE {
            return Err(io::Error::other(format!(
                "it has {} bytes, more than the {MAX_SIZE} that are read",
                text.len()
            )));
        }
        durable::replace(&self.folder, FILE_NAME, &text)
    }

    /// Throws it away; whether there was one.
    pub fn forget(&self) -> io::Result<bool> {
        if !Path::is_dir(&self.folder) {
            return Ok(false);
        }
        durable::remove(&self.folder, FILE_NAME)
    }
}

fn parse(bytes: &[u8]) -> Result<Kept, String> {
    if bytes.len() as u64 > MAX_SIZE {
        return Err(format!("it is larger than {MAX_SIZE} bytes"));
    }
    let damaged = |_| "it is damaged or of another release".to_owned();
    let written: Written = serde_json::from_slice(bytes).map_err(damaged)?;
    if written.format != FORMAT {
        return Err(format!("a release wrote it in format {}", written.format));
    }
    let state = BASE64
        .decode(written.checkpoint.as_bytes())
        .map_err(|_| "it is damaged".to_owned())?;
    Ok(Kept {
        installation: written.installation,
        file: written.file,
        checkpoint: Checkpoint::from_bytes(&state).map_err(|e| e.to_string())?,
    })
}
