//! kubeconfig files: how a process is told where the API server is and who it is.

use std::path::Path;

use anyhow::{Context, Result};
use data_encoding::BASE64;
use kube::config::{
    AuthInfo, Cluster, Context as Entry, Kubeconfig, NamedAuthInfo, NamedCluster, NamedContext,
};

use crate::pki::Credential;

/// Who a process is to the API server.
#[derive(Clone, Copy)]
pub enum Identity<'a> {
    /// A client certificate.
    Certificate(&'a Credential),
    /// A file with a bearer token; its readers look again about every minute.
    TokenFile(&'a Path),
}

/// The text of a kubeconfig for `server`, whose certificate `authority` (PEM) signed.
pub fn text(server: &str, authority: &str, identity: Identity<'_>) -> Result<String> {
    serde_json::to_string_pretty(&document(server, authority, identity))
        .context("a kubeconfig cannot be written")
}

/// Writes it, readable by its owner alone.
pub fn write(path: &Path, server: &str, authority: &str, identity: Identity<'_>) -> Result<()> {
    secret_file(path, &text(server, authority, identity)?)
}

/// Writes a file that holds a secret, whole or not at all, readable by its owner alone.
pub fn secret_file(path: &Path, content: &str) -> Result<()> {
    use std::{fs, io::Write as _};
    let folder = path
        .parent()
        .with_context(|| format!("{} has no folder", path.display()))?;
    // tempfile makes it with mode 0600.
    let mut file = tempfile::NamedTempFile::new_in(folder)
        .with_context(|| format!("cannot write in {}", folder.display()))?;
    file.write_all(content.as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))?;
    let (_, temporary) = file
        .keep()
        .with_context(|| format!("cannot keep {}", path.display()))?;
    fs::rename(&temporary, path).with_context(|| format!("cannot name {}", path.display()))
}

fn document(server: &str, authority: &str, identity: Identity<'_>) -> Kubeconfig {
    let mut user = AuthInfo::default();
    match identity {
        Identity::Certificate(credential) => {
            user.client_certificate_data = Some(BASE64.encode(credential.certificate.as_bytes()));
            user.client_key_data = Some(BASE64.encode(credential.key.as_bytes()).into());
        }
        Identity::TokenFile(path) => user.token_file = Some(path.display().to_string()),
    }
    let name = String::from("sandbox");
    Kubeconfig {
        api_version: Some("v1".into()),
        kind: Some("Config".into()),
        clusters: vec![NamedCluster {
            name: name.clone(),
            cluster: Some(Cluster {
                server: Some(server.into()),
                certificate_authority_data: Some(BASE64.encode(authority.as_bytes())),
                ..Cluster::default()
            }),
            ..NamedCluster::default()
        }],
        auth_infos: vec![NamedAuthInfo {
            name: name.clone(),
            auth_info: Some(user),
            ..NamedAuthInfo::default()
        }],
        contexts: vec![NamedContext {
            name: name.clone(),
            context: Some(Entry {
                cluster: name.clone(),
                user: Some(name.clone()),
                ..Entry::default()
            }),
            ..NamedContext::default()
        }],
        current_context: Some(name),
        ..Kubeconfig::default()
    }
}
