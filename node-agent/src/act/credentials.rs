//! What proves to an image server who asks: a Secret that the progress names, or files of the node.
//!
//! A Secret is read once for each installation, and is neither kept nor shown: messages name it and its fields, never
//! what is in them.

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use monok8s_api::reason::FailureReason;
use monok8s_fetch::Credentials;

use crate::{
    act::{calls, effects::Away},
    record::Trouble,
};

/// The type that a Secret with credentials must have. Whoever may write an OSUpgrade may name any Secret of the
/// namespace; no other is used.
pub const SECRET_TYPE: &str = "monok8s.io/download";

/// The Role that is shipped without rules.
const ROLE: &str = "node-agent-download";

/// Why there are no credentials.
#[derive(Clone, Debug, PartialEq)]
pub enum NoCredentials {
    /// Not known yet.
    Away(Away),
    /// There will be none.
    Refused(Trouble),
}

/// Reads Secrets of the agents' namespace.
#[derive(Clone)]
pub struct Secrets {
    api: Api<Secret>,
    namespace: String,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secrets({})", self.namespace)
    }
}

impl Secrets {
    /// Those in `namespace`.
    pub fn new(client: Client, namespace: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
        }
    }

    /// A Secret as messages call it.
    pub fn called(&self, name: &str) -> String {
        format!("Secret {}/{name}", self.namespace)
    }

    /// Reads one. Messages end without saying what was written.
    pub async fn read(&self, name: &str) -> Result<Credentials, NoCredentials> {
        let called = self.called(name);
        let refused =
            |reason, message: String| NoCredentials::Refused(Trouble::new(reason, message));
        // It becomes a part of a URL's path.
        if !is_object_name(name) {
            return Err(refused(
                FailureReason::DownloadForbidden,
                "download.credentials is not the name of a Secret".to_owned(),
            ));
        }
        let secret = match calls::limited(self.api.get(name)).await {
            Ok(secret) => secret,
            Err(e) if e.is_gone(name) => {
                return Err(refused(
                    FailureReason::DownloadNotFound,
                    format!(
                        "there is no {called}, which download.credentials names: make it (type {SECRET_TYPE}, with \
                         `hosts`), then change spec.retryNonce"
                    ),
                ));
            }
            Err(e) if e.is_forbidden() => {
                return Err(refused(
                    FailureReason::DownloadForbidden,
                    format!(
                        "the node agents may not read {called}, which download.credentials names: add to the Role \
                         {ROLE} in namespace {} the rule {{apiGroups: [\"\"], resources: [secrets], resourceNames: \
                         [{name}], verbs: [get]}} (without resourceNames it would be every Secret there), then change \
                         spec.retryNonce",
                        self.namespace
                    ),
                ));
            }
            Err(e) => return Err(NoCredentials::Away(e.into())),
        };
        let of_type = secret.type_.as_deref().unwrap_or_default();
        if of_type != SECRET_TYPE {
            return Err(refused(
                FailureReason::DownloadForbidden,
                format!(
                    "{called} is of type {of_type} and not {SECRET_TYPE}, so it is sent nowhere: a Secret's type cannot \
                     be changed, so make it anew, then change spec.retryNonce"
                ),
            ));
        }
        let fields = secret
            .data
            .unwrap_or_default()
            .into_iter()
            .map(|(field, value)| (field, value.0))
            .collect();
        Credentials::from_fields(&fields).map_err(|e| {
            refused(
                FailureReason::DownloadForbidden,
                format!("{called} cannot be used: {e}; mend it, then change spec.retryNonce"),
            )
        })
    }
}

/// Whether it is a DNS subdomain (RFC 1123), as Secrets are called.
fn is_object_name(name: &str) -> bool {
    let is_label = |label: &str| {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        label.bytes().next().is_some_and(plain)
            && label.bytes().last().is_some_and(plain)
            && label.bytes().all(|b| plain(b) || b == b'-')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Secrets behind an API server that gives one answer.
    fn answering(code: u16, answer: &Value) -> Secrets {
        let answer = answer.to_string();
        let server = tower::service_fn(move |_: http::Request<kube::client::Body>| {
            let body = kube::client::Body::from(answer.clone().into_bytes());
            let response = http::Response::builder().status(code).body(body).unwrap();
            async move { Ok::<_, std::convert::Infallible>(response) }
        });
        Secrets::new(Client::new(server, "default"), "agents")
    }

    fn status(code: u16, reason: &str, name: &str) -> Value {
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
               "message": "m", "details": {"name": name, "kind": "secrets"}})
    }

    fn secret(of_type: &str, fields: &Value) -> Value {
        json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "s"}, "type": of_type, "data": fields})
    }

    #[tokio::test]
    async fn what_ends_the_search_says_which_secret_and_what_to_do() {
        let hosts = "aW1hZ2VzLmV4YW1wbGU=";
        let token = "aHVudGVyMg==";
        for (code, answer, reason, parts) in [
            (
                403,
                status(403, "Forbidden", "s"),
                "DownloadForbidden",
                &[
                    "Secret agents/s",
                    "Role node-agent-download",
                    "resourceNames: [s]",
                ][..],
            ),
            (
                404,
                status(404, "NotFound", "s"),
                "DownloadNotFound",
                &["no Secret agents/s", "monok8s.io/download"],
            ),
            (
                200,
                secret("Opaque", &json!({"hosts": hosts, "token": token})),
                "DownloadForbidden",
                &["of type Opaque", "sent nowhere"],
            ),
            (
                200,
                secret(SECRET_TYPE, &json!({"token": token})),
                "DownloadForbidden",
                &["`hosts` is missing"],
            ),
        ] {
            let Err(NoCredentials::Refused(trouble)) = answering(code, &answer).read("s").await
            else {
                panic!("{code} {answer} gives credentials or hope");
            };
            assert_eq!(trouble.reason.as_str(), reason, "{}", trouble.message);
            for part in parts {
                assert!(
                    trouble.message.contains(part),
                    "{part}: {}",
                    trouble.message
                );
            }
            assert!(!trouble.message.contains("hunter2"), "{}", trouble.message);
        }
        let whole = secret(SECRET_TYPE, &json!({"hosts": hosts, "token": token}));
        let credentials = answering(200, &whole).read("s").await.unwrap();
        assert!(!format!("{credentials:?}").contains("hunter2"));
        for answer in [
            status(500, "InternalError", "s"),
            status(404, "NotFound", ""),
        ] {
            let code = u16::try_from(answer["code"].as_u64().unwrap()).unwrap();
            let found = answering(code, &answer).read("s").await;
            assert!(matches!(found, Err(NoCredentials::Away(_))), "{answer}");
        }
    }

    #[tokio::test]
    async fn a_name_leads_to_no_other_kind_of_object() {
        for name in [
            "",
            ".",
            "..",
            "a/b",
            "../configmaps/a",
            "a?b",
            "A",
            "a b",
            "-a",
            "a..b",
        ] {
            let found = answering(200, &json!({})).read(name).await;
            let Err(NoCredentials::Refused(trouble)) = found else {
                panic!("{name:?} was asked for");
            };
            assert!(
                trouble.message.contains("not the name"),
                "{}",
                trouble.message
            );
        }
        assert!(is_object_name("my-secret.v2"));
    }
}
