//! The stages of an installation, each on a thread of its own.
//!
//! ```text
//! receive ──256 KiB──▶ expand ──1 MiB──▶ write ──64 pieces──▶ read back ──1 MiB──▶ prove
//!  reader               SHA-256 of file   digest               flush                digest, compare
//!                       decoder           device's writes      device's reads
//! ```
//!
//! What is written and what is read back meet as digests, so that no more of the image is in memory than is on its
//! way. Stages that wait for the network or the device and stages that compute alternate, so that two cores are busy
//! while the device is.
//!
//! Buffers go round between neighbours (see [`crate::buffer::pool`]), so that a slow stage holds back the ones before
//! it, down to the socket. A stage that cannot go on records why in [`control::Control`] and returns: its channels
//! close, and the others see that and return too. [`None`] from a stage means just that.

pub(crate) mod control;
pub(crate) mod expand;
pub(crate) mod prove;
pub(crate) mod read_back;
pub(crate) mod receive;
pub(crate) mod run;
pub(crate) mod write;
