//! The fleet: which upgrade governs which node, who goes when, and what to say about it.
//!
//! Three layers, so that a decision can be read without the plumbing: [`decide`] is pure, [`index`]
//! is what is known of the cluster, [`runtime`] talks to the API server.
#![forbid(unsafe_code)]

pub mod decide;
pub mod index;
pub mod runtime;
