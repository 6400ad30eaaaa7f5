//! Catalogs from a ConfigMap in the controller's namespace.

use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use monok8s_api::{catalog, reason::AcceptedReason};
use monok8s_fetch::Validators;
use tokio::time::timeout;

use super::Found;
use crate::index::ReadError;

/// How long one reading may take: as long as one from a URL.
const LIMIT: Duration = Duration::from_secs(30);

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
        let Ok(answer) = timeout(LIMIT, self.api.get_opt(name)).await else {
            return Err(self.unreachable(name, &format!("no answer within {} s", LIMIT.as_secs())));
        };
        match answer {
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
            Err(error) => Err(self.unreachable(name, &error.to_string())),
        }
    }

    fn unreachable(&self, name: &str, why: &str) -> ReadError {
        ReadError {
            reason: AcceptedReason::CatalogUnreachable,
            message: format!(
                "cannot read ConfigMap {name} in namespace {}: {why}",
                self.namespace
            ),
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

    /// The clock is tokio's own: it jumps to the next deadline whenever nothing else is to be done.
    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_never_answers_is_not_waited_for_for_ever() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = kube::Config::new(format!("http://{address}").parse().unwrap());
        let client = Client::try_from(config).unwrap();
        let read = ConfigMaps::new(client, "mono-system");
        let Err(error) = timeout(LIMIT * 2, read.read("images-cm")).await.unwrap() else {
            panic!("nobody answered");
        };
        assert_eq!(error.reason, AcceptedReason::CatalogUnreachable);
        assert!(
            error.message.contains("no answer within 30 s"),
            "{}",
            error.message
        );
    }
}
