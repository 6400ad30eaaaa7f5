//! The stages of an installation, each on a thread of its own.
//!
//! ```text
//! receive ──256 KiB──▶ expand ──1 MiB──▶ write ──epochs of 64 pieces──▶ prove
//!  reader               SHA-256 of file   digest, device's writes        flush, read back, compare
//!                       decoder
//! ```
//!
//! Buffers go round between neighbours (see [`crate::buffer::pool`]), so that a slow stage holds back the ones before
//! it, down to the socket. A stage that cannot go on records why in [`control::Control`] and returns: its channels
//! close, and the others see that and return too. [`None`] from a stage means just that.

pub(crate) mod control;
pub(crate) mod expand;
pub(crate) mod prove;
pub(crate) mod receive;
pub(crate) mod write;
