//! The end-to-end tests, a file per subject.
//!
//! They are one program, so that the clusters of two tests run at a time and one waits while the other
//! computes. `cargo test -p monok8s-e2e --test e2e crash` runs one file's.

mod bad_catalog;
mod bad_image;
mod bad_server;
mod cancel_delete;
mod crash;
mod fence;
mod install;
mod node_replaced;
mod outages;
mod plan;
mod record;
mod retry;
mod samples;
mod schema;
mod slots;
mod troubleshoot;
mod two_upgrades;
mod upgrade;
