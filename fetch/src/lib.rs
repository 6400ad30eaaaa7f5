//! Bytes from the network, for catalogs and for images.
//!
//! Two ways in, both on a [`Client`]:
//!
//! - [`Client::document`]: a small text as a whole (a catalog): a size limit, one deadline for
//!   everything, conditional requests.
//! - [`Client::open`]: a large file as a stream (an image), from an http server, an OCI registry or
//!   a folder of this machine: mirrors, resuming after a dropped connection, a floor and a ceiling
//!   for the rate, retries for as long as the caller allows.
//!
//! Each scheme has a file under `source`; the stream above them is one.
//!
//! What may be asked for is decided in [`policy`], whether an answer carries on what was begun in
//! `resume`, when to ask again in `retry`: none of them does I/O. Every hop of a redirect and every
//! address a name resolves to passes through the policy. Errors say whether asking again may help,
//! show no URL's query, and never quote what a server sent.
//!
//! The crate knows nothing of Kubernetes.
#![forbid(unsafe_code)]

pub mod artifact;
pub mod client;
pub mod credentials;
mod digest;
pub mod document;
pub mod error;
mod exchange;
pub mod file_roots;
pub mod identity;
pub mod image;
pub mod platform;
pub mod policy;
pub mod rate;
pub mod refusal;
pub mod resolver;
mod resume;
pub mod retry;
mod source;
pub mod url;
pub mod validators;

#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub use source::oci::promises as fuzzing;

pub use artifact::Artifact;
pub use client::{BuildError, Client, ClientBuilder, Timing};
pub use credentials::{Authorization, Credentials, CredentialsError};
pub use document::{Document, Fetched};
pub use error::{Change, Fault, FetchError, Kind, Progress};
pub use file_roots::FileRoots;
pub use identity::{FileIdentity, Resume};
pub use image::{Beginning, Event, ImageBody, ImageRequest};
pub use platform::{NotAPlatform, Platform};
pub use policy::Policy;
pub use rate::{Floor, RateLimit};
pub use refusal::PolicyRefusal;
pub use resolver::Lookup;
pub use retry::Backoff;
pub use url::{Scheme, SourceUrl};
pub use validators::Validators;
