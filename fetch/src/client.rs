//! The HTTP client both ways of fetching share: trust anchors, proxies, limits in time.

use std::{error::Error as _, path::Path, sync::Arc, time::Duration};

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use crate::{
    credentials::Credentials,
    file_roots::FileRoots,
    policy::Policy,
    rate::Floor,
    resolver::{GuardedResolver, Lookup, SystemLookup},
    retry::Backoff,
    url::SourceUrl,
};

/// What servers see as `User-Agent`.
pub const USER_AGENT: &str = concat!("monok8s/", env!("CARGO_PKG_VERSION"));

/// A client: connections, trust anchors, policy. Cheap to clone; clones share connections.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) http: reqwest::Client,
    pub(crate) policy: Policy,
    pub(crate) timing: Timing,
    pub(crate) file_roots: Arc<FileRoots>,
    pub(crate) credentials: Option<Arc<Credentials>>,
    /// Shows the credentials' certificate and trusts their authorities; asks nobody but the hosts
    /// that they name.
    identified: Option<reqwest::Client>,
    settings: Arc<ClientBuilder>,
}

/// How long to wait for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// For TCP and TLS to come up. Default: 10 s.
    pub connect: Duration,
    /// From asking to the head of an answer, connecting included. Default: 30 s.
    pub answer: Duration,
    /// For a document as a whole: redirects, body and retries included. Default: 30 s.
    pub document: Duration,
    /// Pauses between tries. Default: from 1 s to 30 s.
    pub backoff: Backoff,
    /// The rate below which a stream is taken for dead. Default: 30 KiB in 30 s.
    pub floor: Floor,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            answer: Duration::from_secs(30),
            document: Duration::from_secs(30),
            backoff: Backoff {
                first: Duration::from_secs(1),
                most: Duration::from_secs(30),
            },
            floor: Floor {
                bytes: 30 * 1024,
                window: Duration::from_secs(30),
            },
        }
    }
}

/// Settings of a [`Client`]; every one has a default that fits a node.
#[derive(Clone, Debug)]
pub struct ClientBuilder {
    policy: Policy,
    timing: Timing,
    authorities: Vec<reqwest::Certificate>,
    file_roots: Arc<FileRoots>,
    environment_proxies: bool,
    lookup: Arc<dyn Lookup>,
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
    /// The CA file holds no certificate.
    #[error(
        "{origin} holds no PEM certificate; expected at least one block that begins with -----BEGIN CERTIFICATE-----"
    )]
    NoCaCertificate {
        /// Where the text is from.
        origin: String,
    },
    /// Something in the CA file is no certificate.
    #[error("certificate {number} of {origin} cannot be used: {reason}")]
    CaCertificate {
        /// Where the text is from.
        origin: String,
        /// Which one, counted from 1.
        number: usize,
        /// Why.
        reason: String,
    },
    /// A client certificate or its key.
    #[error("the client certificate and its key cannot be used: {reason}")]
    ClientCertificate {
        /// Why.
        reason: String,
    },
    /// Anything else.
    #[error("cannot set up the HTTP client: {0}")]
    Setup(#[source] reqwest::Error),
}

impl Client {
    /// A builder with the defaults.
    pub fn builder() -> ClientBuilder {
        ClientBuilder {
            policy: Policy::HTTPS_ONLY,
            timing: Timing::default(),
            authorities: Vec::new(),
            file_roots: Arc::default(),
            environment_proxies: true,
            lookup: Arc::new(SystemLookup),
        }
    }

    /// What this client may ask for.
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// The same client, sharing connections, under another policy.
    #[must_use]
    pub fn with_policy(&self, policy: Policy) -> Self {
        Self {
            policy,
            ..self.clone()
        }
    }

    /// The same client, sharing connections, with credentials for the hosts they name.
    pub fn with_credentials(&self, credentials: Credentials) -> Result<Self, BuildError> {
        let (certificate, authorities) = (credentials.certificate(), credentials.authorities());
        let mut settings = (*self.settings).clone();
        if let Some(pem) = authorities {
            settings = settings.authorities_from(pem, "`ca.crt` of the credentials".into())?;
        }
        let unusable = |error: reqwest::Error| BuildError::ClientCertificate {
            // Its causes say where in the text it is wrong, and quote nothing of it.
            reason: error
                .source()
                .map_or_else(|| error.to_string(), ToString::to_string),
        };
        let identity = certificate
            .map(reqwest::Identity::from_pem)
            .transpose()
            .map_err(unusable)?;
        let identified = if certificate.is_some() || authorities.is_some() {
            Some(settings.connect(identity.as_ref()).map_err(unusable)?)
        } else {
            None
        };
        Ok(Self {
            credentials: Some(Arc::new(credentials)),
            identified,
            ..self.clone()
        })
    }

    /// The same client, sharing connections, which proves nothing to anybody.
    pub(crate) fn without_credentials(&self) -> Self {
        Self {
            credentials: None,
            identified: None,
            ..self.clone()
        }
    }

    /// Whether there are credentials that this URL's host may be sent.
    pub(crate) fn has_credentials_for(&self, url: &SourceUrl) -> bool {
        let credentials = self.credentials.as_ref();
        credentials.is_some_and(|credentials| credentials.are_for(url))
    }

    /// The connections of their own for a URL whose host the credentials name.
    pub(crate) fn identified_for(&self, url: &SourceUrl) -> Option<&reqwest::Client> {
        let named = self.credentials.as_ref()?.are_for(url);
        self.identified.as_ref().filter(|_| named)
    }
}

impl ClientBuilder {
    /// What may be asked for. Default: [`Policy::HTTPS_ONLY`].
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// How long to wait for what.
    #[must_use]
    pub fn timing(mut self, timing: Timing) -> Self {
        self.timing = timing;
        self
    }

    /// Trusts the PEM certificates of this file too, besides the system's.
    pub fn ca_file(self, path: &Path) -> Result<Self, BuildError> {
        let origin = path.display().to_string();
        match std::fs::read(path) {
            Ok(pem) => self.authorities_from(&pem, origin),
            Err(source) => Err(BuildError::CaFile {
                path: origin,
                source,
            }),
        }
    }

    /// Trusts these PEM certificates too, besides the system's.
    pub fn ca_pem(self, pem: &str) -> Result<Self, BuildError> {
        self.authorities_from(pem.as_bytes(), "the given text".into())
    }

    fn authorities_from(mut self, pem: &[u8], origin: String) -> Result<Self, BuildError> {
        // Tried here, one by one: the client would only say that something is wrong somewhere.
        let mut trial = RootCertStore::empty();
        let mut found = 0;
        for certificate in CertificateDer::pem_slice_iter(pem) {
            found += 1;
            let unusable = |reason: String| BuildError::CaCertificate {
                origin: origin.clone(),
                number: found,
                reason,
            };
            let der = certificate.map_err(|error| unusable(error.to_string()))?;
            trial
                .add(der.clone())
                .map_err(|error| unusable(error.to_string()))?;
            let certificate = reqwest::Certificate::from_der(&der)
                .map_err(|error| unusable(error.to_string()))?;
            self.authorities.push(certificate);
        }
        if found == 0 {
            return Err(BuildError::NoCaCertificate { origin });
        }
        Ok(self)
    }

    /// The folders that `file` URLs may name an image in. Default: none.
    #[must_use]
    pub fn file_roots(mut self, roots: FileRoots) -> Self {
        self.file_roots = Arc::new(roots);
        self
    }

    /// Whether `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` are heeded. Default: yes.
    ///
    /// Behind a proxy it is the proxy that resolves names, so what a name leads to is for the
    /// proxy to judge; addresses written in a URL are still judged here.
    #[must_use]
    pub fn environment_proxies(mut self, heed: bool) -> Self {
        self.environment_proxies = heed;
        self
    }

    /// Where addresses of host names come from. Default: the operating system. What it finds is
    /// still held against [`crate::policy::forbidden_address`].
    #[must_use]
    pub fn lookup(mut self, lookup: impl Lookup + 'static) -> Self {
        self.lookup = Arc::new(lookup);
        self
    }

    /// Makes the client. Installs ring as the process's TLS provider when there is none yet.
    ///
    /// A system without any CA certificates, as small images are, is no error: `http` works, and
    /// `https` with the given authorities.
    pub fn build(self) -> Result<Client, BuildError> {
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // Another thread may have been faster; either way there is one now.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let http = self.connect(None).map_err(BuildError::Setup)?;
        Ok(Client {
            http,
            policy: self.policy,
            timing: self.timing,
            file_roots: Arc::clone(&self.file_roots),
            credentials: None,
            identified: None,
            settings: Arc::new(self),
        })
    }

    /// Connections of their own, which show `identity` to servers that ask for one.
    fn connect(&self, identity: Option<&reqwest::Identity>) -> reqwest::Result<reqwest::Client> {
        let http = || match identity {
            Some(identity) => self.http().identity(identity.clone()),
            None => self.http(),
        };
        let authorities = || self.authorities.clone();
        http()
            .tls_certs_merge(authorities())
            .build()
            .or_else(|error| {
                let http = http().tls_certs_only(authorities()).build()?;
                tracing::warn!(
                    %error,
                    "no CA certificates of the system; only those of the CA file are trusted"
                );
                Ok(http)
            })
    }

    fn http(&self) -> reqwest::ClientBuilder {
        let builder = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            // Followed by hand, so that each hop passes the policy and none is sent what was meant
            // for another host.
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .connect_timeout(self.timing.connect)
            // A dead HTTP/2 connection would otherwise be handed out again for the retry.
            .http2_keep_alive_interval(self.timing.connect)
            .http2_keep_alive_timeout(self.timing.connect)
            .http2_adaptive_window(true)
            .dns_resolver(GuardedResolver(Arc::clone(&self.lookup)));
        if self.environment_proxies {
            builder
        } else {
            builder.no_proxy()
        }
    }
}

#[cfg(test)]
mod tests {
    use monok8s_fault_server::Tls;

    use super::*;

    #[test]
    fn a_ca_file_must_hold_certificates() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let good = Tls::default().acceptor(&[]).unwrap().1;
        let no_certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let broken_off = &good[..good.len() / 2];
        for (text, expected) in [
            (String::new(), "holds no PEM certificate"),
            ("not a certificate".into(), "holds no PEM certificate"),
            (format!("{good}{no_certificate}"), "certificate 2 of "),
            (broken_off.to_owned(), "certificate 1 of "),
        ] {
            std::fs::write(file.path(), text).unwrap();
            let error = Client::builder().ca_file(file.path()).unwrap_err();
            let told = error.to_string();
            assert!(told.contains(expected), "{told}");
            assert!(told.contains(file.path().to_str().unwrap()), "{told}");
        }
        std::fs::write(file.path(), format!("# two\n{good}{good}")).unwrap();
        let builder = Client::builder().ca_file(file.path()).unwrap();
        assert_eq!(builder.authorities.len(), 2);
        let error = Client::builder()
            .ca_file(Path::new("/no/such/file"))
            .unwrap_err();
        assert!(matches!(error, BuildError::CaFile { .. }), "{error}");
    }
}
