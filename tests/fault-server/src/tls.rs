//! A certificate authority and a server certificate of its own, for one server.

use std::{io, sync::Arc};

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use rustls::{
    RootCertStore,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    server::WebPkiClientVerifier,
};
use tokio_rustls::TlsAcceptor;

/// How the server's certificate is made.
#[derive(Clone, Debug)]
pub struct Tls {
    names: Vec<String>,
    valid: ((i32, u8, u8), (i32, u8, u8)),
    clients: bool,
}

/// What proves to a server who asks: a certificate and its key, both PEM.
#[derive(Clone, Debug)]
pub struct ClientCertificate {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

/// What a server with TLS runs on, and what its clients need.
pub(crate) struct Material {
    pub(crate) acceptor: TlsAcceptor,
    /// The authority, PEM.
    pub(crate) ca_pem: String,
    /// Where the server asks for one.
    pub(crate) client: Option<ClientCertificate>,
}

impl Default for Tls {
    /// For `127.0.0.1` and `localhost`, valid from 1975 to 4096.
    fn default() -> Self {
        Self {
            names: vec!["127.0.0.1".into(), "localhost".into()],
            valid: ((1975, 1, 1), (4096, 1, 1)),
            clients: false,
        }
    }
}

impl Tls {
    /// For other names or addresses.
    #[must_use]
    pub fn names(mut self, names: &[&str]) -> Self {
        self.names = names.iter().map(|&name| name.to_owned()).collect();
        self
    }

    /// Valid between these days (year, month, day).
    #[must_use]
    pub fn valid(mut self, from: (i32, u8, u8), to: (i32, u8, u8)) -> Self {
        self.valid = (from, to);
        self
    }

    /// Lets in nobody but who shows a client certificate of the server's own authority:
    /// [`FaultServer::client_certificate`](crate::FaultServer::client_certificate).
    #[must_use]
    pub fn client_certificates(mut self) -> Self {
        self.clients = true;
        self
    }

    /// An acceptor that offers these protocols (ALPN), for servers of one's own, and the
    /// certificate of its authority as PEM.
    pub fn acceptor(&self, protocols: &[&str]) -> io::Result<(TlsAcceptor, String)> {
        let made = self.make(protocols)?;
        Ok((made.acceptor, made.ca_pem))
    }

    pub(crate) fn make(&self, protocols: &[&str]) -> io::Result<Material> {
        let day = |(year, month, day)| date_time_ymd(year, month, day);
        let authority_key = KeyPair::generate().map_err(io::Error::other)?;
        let mut authority = CertificateParams::new(Vec::new()).map_err(io::Error::other)?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority
            .distinguished_name
            .push(rcgen::DnType::CommonName, "fault-server CA");
        let authority_certificate = authority
            .self_signed(&authority_key)
            .map_err(io::Error::other)?;
        let issuer = Issuer::new(authority, authority_key);

        let key = KeyPair::generate().map_err(io::Error::other)?;
        let mut params = CertificateParams::new(self.names.clone()).map_err(io::Error::other)?;
        params.not_before = day(self.valid.0);
        params.not_after = day(self.valid.1);
        let certificate = params.signed_by(&key, &issuer).map_err(io::Error::other)?;

        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?;
        let (builder, client) = if self.clients {
            let mut trusted = RootCertStore::empty();
            trusted
                .add(authority_certificate.der().clone())
                .map_err(io::Error::other)?;
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(trusted), provider)
                .build()
                .map_err(io::Error::other)?;
            let client = client_certificate(&issuer)?;
            (builder.with_client_cert_verifier(verifier), Some(client))
        } else {
            (builder.with_no_client_auth(), None)
        };
        let mut config = builder
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            )
            .map_err(io::Error::other)?;
        config.alpn_protocols = protocols
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        Ok(Material {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            ca_pem: authority_certificate.pem(),
            client,
        })
    }
}

fn client_certificate(issuer: &Issuer<'_, KeyPair>) -> io::Result<ClientCertificate> {
    let key = KeyPair::generate().map_err(io::Error::other)?;
    let mut params = CertificateParams::new(Vec::new()).map_err(io::Error::other)?;
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "fault-server client");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&key, issuer).map_err(io::Error::other)?;
    Ok(ClientCertificate {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    })
}
