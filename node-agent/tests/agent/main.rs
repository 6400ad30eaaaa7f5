//! The agent's own promises on a real control plane, without a controller: virtual nodes run the real binary, and
//! progresses are made by hand. What takes a controller besides is in tests/e2e.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says by a panic what it found"
)]

mod again;
mod credentials;
mod disk;
mod flags;
mod http;
mod idle;
mod outage;
mod process;
mod promises;
mod refused;
mod resume;
mod scene;
mod sources;
mod told;
