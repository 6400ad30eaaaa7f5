//! An HTTP server that fails on demand.
//!
//! It serves files over HTTP/1.1, with or without TLS, correctly (ranges, `If-Range`, conditional
//! requests, entity tags), except where a script of [`Fault`]s says otherwise: each request to a
//! [`Resource`] takes the next fault of its script, and is served correctly when there is none
//! left. It writes to the socket itself, because a real HTTP library refuses to lie about lengths.
//!
//! ```
//! # async fn example() -> std::io::Result<()> {
//! use monok8s_fault_server::{Fault, FaultServer};
//! // The first answer breaks off after 1000 bytes; the second request is served.
//! let server = FaultServer::start(vec![7; 4096], vec![Fault::ResetAfter(1000)]).await?;
//! println!("{}", server.url("/image"));
//! # Ok(()) }
//! ```
//!
//! Dropping the server closes it and every connection.
#![forbid(unsafe_code)]

mod answer;
mod content;
mod fault;
mod request;
mod server;
mod tls;
mod tunnel;

pub use content::{Content, Resource};
pub use fault::{Fault, FaultSyntax};
pub use request::Request;
pub use server::{Builder, FaultServer};
pub use tls::{ClientCertificate, Tls};
pub use tunnel::Tunnels;
