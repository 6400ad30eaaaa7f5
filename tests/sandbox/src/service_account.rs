//! Tokens of service accounts, as pods get them: in a file, renewed before they expire.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use kube::Client;

use crate::{
    control_plane::{self, BoundNode},
    kubeconfig::secret_file,
};

/// The namespace that everything of the project runs in.
pub const NAMESPACE: &str = "mono-system";

/// Pause after a token was refused.
const RETRY: Duration = Duration::from_millis(500);
/// A request for a token that takes longer is given up.
const LIMIT: Duration = Duration::from_secs(5);

/// A file that holds a service account's token.
#[derive(Clone)]
pub struct TokenFile {
    /// Where it is.
    pub path: PathBuf,
    /// The service account, in [`NAMESPACE`].
    pub account: &'static str,
    /// How long a token lives; the API server grants 10 min at least.
    pub lifetime: Duration,
    /// How often it is renewed.
    pub renewal: Duration,
    /// Who may make tokens.
    pub admin: Client,
}

impl TokenFile {
    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts a new token into the file, bound to a Node or to nothing.
    pub async fn write(&self, node: Option<&BoundNode>) -> Result<()> {
        let ask =
            control_plane::mint_token(&self.admin, NAMESPACE, self.account, node, self.lifetime);
        let token = tokio::time::timeout(LIMIT, ask)
            .await
            .context("no answer from the API server")??;
        secret_file(&self.path, &token.token)
    }

    /// Like [`write`](Self::write), however long the API server is away.
    pub async fn write_persistently(&self, node: Option<&BoundNode>) {
        while let Err(error) = self.write(node).await {
            tracing::debug!(account = self.account, "no token: {error:#}");
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Renews the token for as long as the future lives.
    pub async fn keep_fresh(&self, node: Option<&BoundNode>) {
        loop {
            tokio::time::sleep(self.renewal).await;
            self.write_persistently(node).await;
        }
    }
}
