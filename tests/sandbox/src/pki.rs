//! Certificates and keys of the control plane.

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub struct Credential {
    /// The certificate.
    pub certificate: String,
    /// The private key, PKCS #8.
    pub key: String,
}

/// A certificate authority.
pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new one, with a P-256 key.
    pub fn new(name: &str) -> Result<Self> {
        let mut params = parameters(name, None, Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().context("cannot make a key")?;
        let certificate = params
            .self_signed(&key)
            .with_context(|| format!("cannot sign {name}"))?
            .pem();
        Ok(Self {
            certificate,
            issuer: Issuer::new(params, key),
        })
    }

    /// Its certificate, in PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A client's certificate: `user` and, for the API server, the group it is in.
    pub fn client(&self, user: &str, group: Option<&str>) -> Result<Credential> {
        self.issue(
            parameters(user, group, Vec::new())?,
            &[ExtendedKeyUsagePurpose::ClientAuth],
        )
    }

    /// A server's certificate for `names`, DNS names and IP addresses. It serves as a client's too,
    /// as etcd calls itself with it.
    pub fn server(&self, name: &str, names: &[&str]) -> Result<Credential> {
        let names = names.iter().map(ToString::to_string).collect();
        let usages = [
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        self.issue(parameters(name, None, names)?, &usages)
    }

    fn issue(
        &self,
        mut params: CertificateParams,
        usages: &[ExtendedKeyUsagePurpose],
    ) -> Result<Credential> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages.to_vec();
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().context("cannot make a key")?;
        let certificate = params
            .signed_by(&key, &self.issuer)
            .context("cannot sign a certificate")?
            .pem();
        Ok(Credential {
            certificate,
            key: key.serialize_pem(),
        })
    }
}

/// A P-256 key pair for service account tokens (ES256): private and public half, in PEM.
pub fn signing_key() -> Result<(String, String)> {
    let key = KeyPair::generate().context("cannot make a key")?;
    Ok((key.serialize_pem(), key.public_key_pem()))
}

fn parameters(name: &str, group: Option<&str>, names: Vec<String>) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(names)
        .with_context(|| format!("{name}: a name or address is not one"))?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    if let Some(group) = group {
        params
            .distinguished_name
            .push(DnType::OrganizationName, group);
    }
    Ok(params)
}
