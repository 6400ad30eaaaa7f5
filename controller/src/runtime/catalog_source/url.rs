//! Catalogs from a URL.

use std::path::Path;

use monok8s_api::{catalog::MAX_CATALOG_BYTES, location, reason::AcceptedReason};
use monok8s_fetch::{Client, Fault, Fetched, Kind, Policy, SourceUrl, Validators};

use super::Found;
use crate::index::ReadError;

/// Reads catalogs from URLs.
#[derive(Clone, Debug)]
pub(in crate::runtime) struct Urls {
    client: Client,
    allow_http: bool,
}

impl Urls {
    /// `ca_file` holds authorities to trust besides the system's.
    pub(in crate::runtime) fn new(
        allow_http: bool,
        ca_file: Option<&Path>,
    ) -> Result<Self, monok8s_fetch::BuildError> {
        let mut builder = Client::builder().policy(Policy { allow_http });
        if let Some(path) = ca_file {
            builder = builder.ca_file(path)?;
        }
        let client = builder.build()?;
        Ok(Self { client, allow_http })
    }

    pub(super) async fn read(
        &self,
        url: &str,
        known: Option<&Validators>,
    ) -> Result<Found, ReadError> {
        let refuse = |message: String| ReadError {
            reason: AcceptedReason::InvalidSource,
            message: format!("spec.catalog.url cannot be used: {message}"),
        };
        location::catalog_url(url, self.allow_http).map_err(|e| refuse(e.to_string()))?;
        let url: SourceUrl = url
            .parse()
            .map_err(|e: monok8s_fetch::PolicyRefusal| refuse(e.to_string()))?;
        let limit = MAX_CATALOG_BYTES as u64;
        match self.client.document(&url, limit, known).await {
            Ok(Fetched::NotModified) => Ok(Found::Unchanged),
            Ok(Fetched::Document(document)) => String::from_utf8(document.bytes.to_vec())
                .map(|text| Found::Text(text, document.validators))
                .map_err(|error| ReadError {
                    reason: AcceptedReason::InvalidCatalog,
                    message: format!(
                        "{url}: the catalog is not UTF-8 text (byte {} of {})",
                        error.utf8_error().valid_up_to(),
                        error.as_bytes().len()
                    ),
                }),
            Err(error) => Err(ReadError {
                reason: reason(error.kind(), &error.fault),
                message: format!("cannot read the catalog: {error}"),
            }),
        }
    }
}

fn reason(kind: Kind, fault: &Fault) -> AcceptedReason {
    match kind {
        Kind::Forbidden => AcceptedReason::CatalogForbidden,
        Kind::RefusedByPolicy => AcceptedReason::InvalidSource,
        Kind::TooLarge => AcceptedReason::CatalogTooLarge,
        Kind::NotUsable if matches!(fault, Fault::NotADocument { .. }) => {
            AcceptedReason::InvalidCatalog
        }
        // A server that answers otherwise than it should may be mended without a word to us.
        Kind::NotFound
        | Kind::NotUsable
        | Kind::Untrusted
        | Kind::SourceChanged
        | Kind::Unreachable => AcceptedReason::CatalogUnreachable,
    }
}
