//! One node: the upgrade state machine, its record on disk, its watch.
//!
//! [`next`] decides from the [`record`], the objects and the machine.
#![forbid(unsafe_code)]

pub mod effects;
pub mod executor;
pub mod next;
pub mod objects;
pub mod record;
#[cfg(test)]
mod simulation;
pub mod status;
