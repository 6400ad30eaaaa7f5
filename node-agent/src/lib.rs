//! One node: the upgrade state machine, its record on disk, its watch.
//!
//! [`next`] decides from the [`record`], the objects and the machine.
#![forbid(unsafe_code)]

pub mod args;
pub mod calls;
pub mod daemon;
pub mod effects;
pub mod events;
pub mod executor;
pub mod install;
pub mod lock;
pub mod machine;
pub mod metrics;
pub mod next;
pub mod node;
pub mod objects;
pub mod osnode;
pub mod pace;
pub mod reasons;
pub mod record;
pub mod reporter;
#[cfg(test)]
mod simulation;
pub mod source;
pub mod state_table;
pub mod status;
pub mod watch;
