//! One node: the upgrade state machine, its record on disk, its watch.
//!
//! [`next`] decides from the [`record`], the objects and the machine.
#![forbid(unsafe_code)]

pub mod next;
pub mod record;
