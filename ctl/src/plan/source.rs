//! The catalog that an upgrade names.

use std::fmt::Display;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client, ResourceExt};
use monok8s_api::{
    OSUpgrade,
    catalog::{Catalog, MAX_CATALOG_BYTES, text_in},
    location::catalog_url,
    osupgrade::Operation,
    reason::AcceptedReason,
};
use monok8s_fetch::{Client as Fetcher, Fault, FetchError, Fetched, Kind, Policy, SourceUrl};
use serde_json::Value;

use super::world::World;

/// Where catalogs are looked for.
pub(super) struct Sources<'w> {
    /// The text of `--catalog`.
    pub(super) override_text: Option<String>,
    /// What lay in the file beside the upgrade.
    pub(super) brought: Vec<Value>,
    pub(super) world: &'w World,
    pub(super) namespace: &'w str,
    pub(super) allow_http: bool,
}

/// Why there is no catalog, as the Accepted condition would say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NoCatalog {
    pub(super) reason: AcceptedReason,
    pub(super) message: String,
}

impl NoCatalog {
    fn new(reason: AcceptedReason, message: impl Display) -> Self {
        Self {
            reason,
            message: message.to_string(),
        }
    }
}

impl Sources<'_> {
    /// The catalog of this upgrade; none for a Rollback.
    pub(super) async fn catalog(&self, upgrade: &OSUpgrade) -> Result<Option<Catalog>, NoCatalog> {
        if upgrade.spec.operation == Operation::Rollback {
            return Ok(None);
        }
        if let Some(text) = &self.override_text {
            return parse_own(text);
        }
        let source = upgrade.spec.catalog.clone().unwrap_or_default();
        match (source.inline, source.url, source.config_map) {
            (Some(text), None, None) => parse_own(&text),
            (None, Some(url), None) => parse(&self.fetch(&url).await?),
            (None, None, Some(name)) => {
                let map = self.config_map(&name).await?;
                let text = text_in(&map);
                parse(text.map_err(|e| NoCatalog::new(e.reason(), format!("{name}: {e}")))?)
            }
            _ => Err(NoCatalog::new(
                AcceptedReason::InvalidSource,
                "spec.catalog must have exactly one of inline, url and configMap",
            )),
        }
    }

    async fn fetch(&self, url: &str) -> Result<String, NoCatalog> {
        let invalid = |e: &dyn Display| NoCatalog::new(AcceptedReason::InvalidSource, e);
        catalog_url(url, self.allow_http)
            .map_err(|e| invalid(&format!("the catalog's URL cannot be used: {e}")))?;
        let url: SourceUrl = url.parse().map_err(|e| invalid(&e))?;
        // Another provider installed before would be as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let policy = Policy {
            allow_http: self.allow_http,
        };
        let fetcher = Fetcher::builder()
            .policy(policy)
            .build()
            .map_err(|e| NoCatalog::new(AcceptedReason::CatalogUnreachable, e))?;
        let limit = u64::try_from(MAX_CATALOG_BYTES).unwrap_or(u64::MAX);
        let answer = fetcher.document(&url, limit, None).await;
        let answer = answer.map_err(|e| NoCatalog::new(reason_of(&e), e))?;
        let Fetched::Document(document) = answer else {
            let message = "the server answered that nothing has changed, which was not asked";
            return Err(NoCatalog::new(AcceptedReason::CatalogUnreachable, message));
        };
        String::from_utf8(document.bytes.into()).map_err(|_| {
            NoCatalog::new(
                AcceptedReason::InvalidCatalog,
                "the catalog is not UTF-8 text",
            )
        })
    }

    /// From the file first: it would be applied together with the upgrade.
    async fn config_map(&self, name: &str) -> Result<ConfigMap, NoCatalog> {
        let is_it = |map: &ConfigMap| {
            let namespace = map.namespace();
            map.name_any() == name
                && namespace.as_deref().unwrap_or(self.namespace) == self.namespace
        };
        let brought = self
            .brought
            .iter()
            .filter(|d| d.get("kind") == Some(&"ConfigMap".into()));
        let mut brought =
            brought.filter_map(|d| serde_json::from_value::<ConfigMap>(d.clone()).ok());
        if let Some(map) = brought.find(|map| is_it(map)) {
            return Ok(map);
        }
        if let Some(map) = self.world.config_maps.iter().find(|map| is_it(map)) {
            return Ok(map.clone());
        }
        let missing = || {
            let message = format!(
                "there is no ConfigMap {name} in namespace {}; put it into the same file, save it along with the other objects, or name its text with --catalog",
                self.namespace
            );
            NoCatalog::new(AcceptedReason::ConfigMapNotFound, message)
        };
        match &self.world.client {
            Some(client) => self.ask_for(client, name).await?.ok_or_else(missing),
            None => Err(missing()),
        }
    }

    async fn ask_for(&self, client: &Client, name: &str) -> Result<Option<ConfigMap>, NoCatalog> {
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), self.namespace);
        api.get_opt(name).await.map_err(|error| {
            let message = format!("ConfigMap {name} in namespace {}: {error}", self.namespace);
            NoCatalog::new(AcceptedReason::CatalogForbidden, message)
        })
    }
}

/// A text that the user holds: the offending line may be shown.
fn parse_own(text: &str) -> Result<Option<Catalog>, NoCatalog> {
    let catalog = Catalog::parse(text);
    let catalog = catalog.map_err(|e| NoCatalog::new(e.reason(), e.in_text(text)))?;
    Ok(Some(catalog))
}

fn parse(text: &str) -> Result<Option<Catalog>, NoCatalog> {
    let catalog = Catalog::parse(text);
    let catalog = catalog.map_err(|e| NoCatalog::new(e.reason(), e))?;
    Ok(Some(catalog))
}

/// The reason that the controller would give for the same failure.
fn reason_of(error: &FetchError) -> AcceptedReason {
    match error.kind() {
        Kind::Forbidden => AcceptedReason::CatalogForbidden,
        Kind::RefusedByPolicy => AcceptedReason::InvalidSource,
        Kind::TooLarge => AcceptedReason::CatalogTooLarge,
        Kind::NotUsable if matches!(error.fault, Fault::NotADocument { .. }) => {
            AcceptedReason::InvalidCatalog
        }
        _ => AcceptedReason::CatalogUnreachable,
    }
}
