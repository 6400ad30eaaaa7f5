//! What both daemons need of logs, metrics and health endpoints, and nothing else.
//!
//! ```no_run
//! # async fn daemon() -> Result<(), Box<dyn std::error::Error>> {
//! use monok8s_telemetry::{logs, metrics, server};
//!
//! logs::init(logs::Format::Json)?;
//! let registry = metrics::registry("controller", env!("CARGO_PKG_VERSION"));
//! let readiness = server::Readiness::default();
//! let watches = readiness.gate("watches");
//! let server = server::Server::bind("[::]:8080".parse()?).await?;
//! tokio::spawn(server.run(registry, readiness, std::future::pending()));
//! watches.open();
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

pub mod logs;
pub mod metrics;
pub mod server;
