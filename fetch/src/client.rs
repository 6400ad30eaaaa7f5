//! The HTTP client both ways of fetching share.

use std::{path::Path, time::Duration};

use crate::policy::Policy;

/// A client: connections, trust anchors, policy. Cheap to clone; clones share connections.
#[derive(Clone, Debug)]
pub struct Client {
    policy: Policy,
}

/// Settings of a [`Client`]; every one has a default that fits a node.
#[derive(Clone, Debug)]
pub struct ClientBuilder {
    policy: Policy,
    connect_timeout: Duration,
    ca_pem: Vec<u8>,
    environment_proxies: bool,
}

/// Why no client could be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The CA file is not there or not readable.
    #[error("cannot read the CA file {path}: {source}; give a file of PEM certificates")]
    CaFile {
        /// Its path.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The CA file holds no certificate, or one that is none.
    #[error("the CA file holds no usable PEM certificate")]
    CaCertificate,
    /// Anything else, such as a proxy variable that is no URL.
    #[error("cannot set up the HTTP client: {0}")]
    Setup(String),
}

impl Client {
    /// A builder with the defaults.
    pub fn builder() -> ClientBuilder {
        ClientBuilder {
            policy: Policy::HTTPS_ONLY,
            connect_timeout: Duration::from_secs(10),
            ca_pem: Vec::new(),
            environment_proxies: true,
        }
    }

    /// What this client may ask for.
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// The same client, sharing connections, under another policy.
    #[must_use]
    pub fn with_policy(&self, policy: Policy) -> Self {
        Self { policy }
    }
}

impl ClientBuilder {
    /// What may be asked for. Default: [`Policy::HTTPS_ONLY`].
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// Limit for TCP and TLS to come up. Default: 10 s.
    #[must_use]
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = limit;
        self
    }

    /// Trusts the PEM certificates of this file too, besides the system's.
    pub fn ca_file(mut self, path: &Path) -> Result<Self, BuildError> {
        let pem = std::fs::read(path).map_err(|source| BuildError::CaFile {
            path: path.display().to_string(),
            source,
        })?;
        self.ca_pem.extend(pem);
        self.ca_pem.push(b'\n');
        Ok(self)
    }

    /// Whether `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` are heeded. Default: yes.
    #[must_use]
    pub fn environment_proxies(mut self, heed: bool) -> Self {
        self.environment_proxies = heed;
        self
    }

    /// Makes the client.
    pub fn build(self) -> Result<Client, BuildError> {
        Ok(Client {
            policy: self.policy,
        })
    }
}
