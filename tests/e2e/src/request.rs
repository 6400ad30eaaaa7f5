//! One request to the API server in somebody's name, and who refused it.

use std::path::Path;

use anyhow::{Context, Result};
use kube::Client;
use monok8s_sandbox::control_plane::{self, ControlPlane};
use serde_json::Value;

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was carried out.
    Allowed,
    /// RBAC refused it.
    Rbac,
    /// The admission policy refused it.
    Policy,
    /// The token is no longer one.
    Unauthorized,
    /// Something else; the text says what.
    Other(String),
}

/// A client with this token and nothing else.
pub async fn client_with_token(plane: &ControlPlane, folder: &Path, token: &str) -> Result<Client> {
    let token_file = folder.join("token");
    let kubeconfig = folder.join("kubeconfig");
    std::fs::write(&token_file, token).context("cannot keep the token")?;
    plane.write_token_kubeconfig(&kubeconfig, &token_file)?;
    control_plane::client(&kubeconfig).await
}

/// Sends `body` (none for DELETE) to a path below `/apis/monok8s.io/v1alpha1/`. A PATCH is a
/// server-side apply, as the agent's are.
pub async fn send(
    client: &Client,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> Result<Verdict> {
    let mut uri = format!("/apis/monok8s.io/v1alpha1/{path}");
    let content_type = if method == "PATCH" {
        uri.push_str("?fieldManager=monok8s-node-agent&force=true");
        "application/apply-patch+yaml"
    } else {
        "application/json"
    };
    let body = body
        .map(serde_json::to_vec)
        .transpose()?
        .unwrap_or_default();
    let request = http::Request::builder()
        .method(method)
        .uri(uri)
        .header(http::header::CONTENT_TYPE, content_type)
        .body(body)
        .context("no such request")?;
    Ok(match client.request_text(request).await {
        Ok(_) => Verdict::Allowed,
        Err(kube::Error::Api(status)) if status.code == 401 => Verdict::Unauthorized,
        Err(kube::Error::Api(status)) if status.message.contains("ValidatingAdmissionPolicy") => {
            Verdict::Policy
        }
        Err(kube::Error::Api(status))
            if status.code == 403 && status.message.contains(" cannot ") =>
        {
            Verdict::Rbac
        }
        Err(error) => Verdict::Other(error.to_string()),
    })
}
