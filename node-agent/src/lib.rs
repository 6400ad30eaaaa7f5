//! One node: the upgrade state machine, its record on disk, its watch.
//!
//! [`decide::next`] decides from the [`record`], the objects and the machine; [`act`] does it; [`run`] is the loop.
#![forbid(unsafe_code)]

pub mod act;
pub mod args;
pub mod decide;
pub mod durable;
pub mod record;
pub mod run;
