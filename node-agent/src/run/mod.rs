//! The loops: a watch that feeds the executor, and the executor, which observes, decides and acts.

pub mod daemon;
pub mod executor;
pub mod node;
#[cfg(test)]
mod simulation;
pub mod watch;
