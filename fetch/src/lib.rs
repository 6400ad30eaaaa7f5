//! Bytes from the network, for catalogs and for images.
//!
//! Two ways in, both on a [`Client`]:
//!
//! - [`Client::document`]: a small text as a whole (a catalog): a size limit, one deadline for
//!   everything, conditional requests.
//! - [`Client::open`]: a large file as a stream (an image): mirrors, resuming after a dropped
//!   connection, a floor and a ceiling for the rate, retries for as long as the caller allows.
//!
//! What may be asked for is decided in [`policy`], whether an answer carries on what was begun in
//! `resume`, when to ask again in `retry`: none of them does I/O. Every hop of a redirect and every
//! address a name resolves to passes through the policy. Errors say whether asking again may help,
//! show no URL's query, and never quote what a server sent.
//!
//! The crate knows nothing of Kubernetes.
#![forbid(unsafe_code)]

pub mod client;
pub mod credentials;
pub mod document;
pub mod error;
mod exchange;
pub mod image;
pub mod policy;
pub mod rate;
pub mod resolver;
mod resume;
pub mod retry;
pub mod url;
pub mod validators;

pub use client::{BuildError, Client, ClientBuilder, Timing};
pub use credentials::{Authorization, Credentials};
pub use document::{Document, Fetched};
pub use error::{Change, Fault, FetchError, Kind, Progress};
pub use image::{Event, ImageBody, ImageRequest};
pub use policy::{Policy, PolicyRefusal};
pub use rate::{Floor, RateLimit};
pub use resolver::Lookup;
pub use retry::Backoff;
pub use url::SourceUrl;
pub use validators::Validators;
