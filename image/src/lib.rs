//! A stream of bytes to a partition.
//!
//! [`install`] takes a reader (the image's file as it comes from the network) and a [`Device`] (the inactive slot), and ends in one of two ways: the device holds the image whose SHA-256 was promised, as read back from the
//! medium, or an [`InstallError`] says what happened, where, and after how many bytes. There is no third way: what
//! is reported as installed has been read back and compared.
//!
//! [`pack()`] makes files that are decoded on several cores and from whose middle an installation that was killed can go on
//! ([`Checkpoint`], [`Start::verify`]); every other `.zst` is installed too, and so are gzip, xz and an image that is not
//! compressed ([`Format`]). [`inspect()`] tells what a file is.
//!
//! The caller opens the device and decides which one it is; this crate knows neither slots, nor boot loaders, nor
//! networks. It is synchronous: call it on a thread that may block.

mod buffer;
mod checkpoint;
mod decode;
mod device;
mod digest;
mod error;
mod inspect;
mod install;
mod kernel;
mod pack;
mod progress;
mod proof;
mod seek_table;
mod stages;
mod start;
mod window;

pub use checkpoint::{Checkpoint, CheckpointError};
pub use decode::{Decoder, Format, FrameHeader, Step, StreamError};
pub use device::{Access, Device, Guarded, HostDevice};
pub use digest::Digest;
pub use error::{Done, InstallError};
pub use inspect::{InspectError, Inspection, SeekTable, inspect};
pub use install::{ChecksumMatched, Expectation, Installed, Options, install, install_from};
pub use kernel::release_memory;
pub use pack::{DEFAULT_LEVEL, PackError, Packed, pack};
pub use progress::{Observer, Progress, Stage, StageTimes, Timed};
pub use seek_table::{MOST_FRAMES, SeekEntry, SeekTableError, read_seek_table, write_seek_table};
pub use start::Start;
pub use window::{WindowLimit, WindowLimitError};
