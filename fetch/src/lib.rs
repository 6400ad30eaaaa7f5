//! Bytes from the network, for catalogs and for images.
//!
//! Two ways in, both on a [`Client`]:
//!
//! - [`Client::document`]: a small text as a whole (a catalog): a size limit, one deadline for
//!   everything, conditional requests.
//! - [`Client::open`]: a large file as a stream (an image): mirrors, resuming after a dropped
//!   connection, a floor and a ceiling for the rate, retries for as long as the caller allows.
//!
//! What may be asked for is decided in [`policy`], which does no I/O; every hop of a redirect and
//! every address a name resolves to passes through it. Errors say whether asking again may help,
//! show no URL's query, and never quote what a server sent.
//!
//! The crate knows nothing of Kubernetes.
#![forbid(unsafe_code)]

pub mod client;
pub mod document;
pub mod error;
pub mod image;
pub mod policy;
pub mod rate;
pub mod url;
pub mod validators;

pub use client::{BuildError, Client, ClientBuilder};
pub use document::{Document, Fetched};
pub use error::{Fault, FetchError, Kind, Progress};
pub use image::{Event, ImageBody, ImageRequest};
pub use policy::{Policy, PolicyRefusal};
pub use rate::RateLimit;
pub use url::SourceUrl;
pub use validators::Validators;
