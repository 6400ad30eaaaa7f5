//! Catalogs from a ConfigMap in the controller's namespace.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use monok8s_api::{catalog, reason::AcceptedReason};
use monok8s_fetch::Validators;

use super::Found;
use crate::index::ReadError;

/// Reads a catalog from its ConfigMap, one GET each: the role that the administrator may grant then
/// needs no more than that verb, and can name the one ConfigMap.
#[derive(Clone, Debug)]
pub(super) struct ConfigMaps {
    api: Api<ConfigMap>,
    namespace: String,
}

impl ConfigMaps {
    pub(super) fn new(client: Client, namespace: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
        }
    }

    pub(super) async fn read(&self, name: &str) -> Result<Found, ReadError> {
        match self.api.get_opt(name).await {
            Ok(Some(map)) => match catalog::text_in(&map) {
                Ok(text) => Ok(Found::Text(text.to_owned(), Validators::default())),
                Err(error) => Err(ReadError {
                    reason: error.reason(),
                    message: format!("ConfigMap {name}: {error}"),
                }),
            },
            Ok(None) => Err(ReadError {
                reason: AcceptedReason::ConfigMapNotFound,
                message: format!(
                    "there is no ConfigMap {name} in namespace {}; make it, with the catalog \
                     under the key catalog.yaml",
                    self.namespace
                ),
            }),
            Err(kube::Error::Api(status)) if status.code == 403 => Err(ReadError {
                reason: AcceptedReason::CatalogForbidden,
                message: forbidden(&self.namespace, name),
            }),
            Err(error) => Err(ReadError {
                reason: AcceptedReason::CatalogUnreachable,
                message: format!(
                    "cannot read ConfigMap {name} in namespace {}: {error}",
                    self.namespace
                ),
            }),
        }
    }
}

/// What to grant, word for word as the manifests have it commented out.
fn forbidden(namespace: &str, name: &str) -> String {
    format!(
        "the controller may not read ConfigMap {name}: add this line to the rules of Role \
         controller in namespace {namespace}: - {{apiGroups: [\"\"], resources: [configmaps], \
         verbs: [get]}}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_grant_is_in_the_message() {
        let message = forbidden("mono-system", "images-cm");
        assert!(message.contains("- {apiGroups: [\"\"], resources: [configmaps], verbs: [get]}"));
        assert!(message.contains("Role controller in namespace mono-system"));
    }
}
