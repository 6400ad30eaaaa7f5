//! The stages of an installation, each on a thread of its own.
//!
//! ```text
//! receive ──256 KiB──▶ expand ──4 MiB──▶ digest ──4 MiB──▶ write ──64 MiB──▶ medium ──2 MiB──▶ prove
//!  reader               SHA-256 of file   whole pages,      zeros, device's   flush, device's   digest, compare, checkpoints
//!                       decoder           digests           writes            reads             SHA-256 of a packed image
//!                         │                 ▲
//!                         ▼                 │
//!                        side by side: small frames, several at a time
//! ```
//!
//! What is written and what is read back meet as digests, so that no more of the image is in memory than is on its
//! way. Stages that wait for the network or the device and stages that compute alternate, so that two cores are busy
//! while the device is.
//!
//! Buffers go round between neighbours (see [`crate::buffer::pool`]), so that a slow stage holds back the ones before
//! it, down to the socket. A stage that cannot go on records why in [`control::Control`] and returns: its channels
//! close, and the others see that and return too. [`None`] from a stage means just that.

pub(crate) mod arrival;
pub(crate) mod control;
pub(crate) mod digest;
pub(crate) mod expand;
pub(crate) mod medium;
pub(crate) mod prove;
pub(crate) mod receive;
pub(crate) mod run;
pub(crate) mod segments;
pub(crate) mod side_by_side;
pub(crate) mod write;
