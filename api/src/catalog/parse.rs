//! From YAML nodes to a catalog.
use super::{Catalog, CatalogError, MAX_CATALOG_BYTES};

pub(super) fn catalog(text: &str) -> Result<Catalog, CatalogError> {
    Err(CatalogError::TooLarge {
        bytes: text.len().max(MAX_CATALOG_BYTES),
    })
}
