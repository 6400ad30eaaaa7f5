//! Decisions: pure functions from what was observed to what is to be done or said.

pub mod next;
pub mod pace;
pub mod reasons;
pub mod resume;
pub mod state_table;
pub mod status;
