//! What talks to the API server: watches that feed the index, a writer that carries out plans, the
//! Lease, the catalogs' sources, and the loop that ties them together.

mod catalog_source;
mod catch_up;
mod client;
mod clock;
mod drain;
mod events;
mod lease;
mod metrics;
mod options;
mod pace;
mod pod_watches;
mod reconcile;
mod request;
mod run;
mod watches;
mod writer;

pub use options::Options;
pub use run::{RunError, run};
