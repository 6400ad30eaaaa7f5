//! The image taken apart, its programs in an empty root, and its pods before a real API server.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "shared functions of tests"
)]

mod command;
mod empty_root;
mod image;
mod manifests;
mod other_machine;
mod pod_security;
mod unpacked;
