//! Debian's docker-registry with TLS, run for a test, and whom it lets in.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a test that cannot go on fails"
)]

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SigningKey, date_time_ymd,
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Media type of a manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an index of manifests.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Whom [`Access::Password`] lets in.
pub const USER: &str = "node";
/// With what.
pub const PASSWORD: &str = "letmein";
/// The password above, as `htpasswd -B` writes it.
const PASSWORD_LINE: &str = "node:$2b$05$P9JP7MLdfNTrIsfsFvSLBeVoqGUvszdnHK11jZonXrY2sWTsDLLbW\n";
const PROGRAM: &str = "/usr/bin/docker-registry";
/// Longest that a registry may take to come up on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Who may read.
pub enum Access {
    /// Everybody.
    Anyone,
    /// [`USER`] with [`PASSWORD`].
    Password,
    /// Who shows a certificate of the registry's own authority.
    Certificate,
    /// Who shows a token that was signed by this authority's key.
    Token {
        /// Where tokens are to be had.
        realm: String,
        /// The authority.
        pki: Box<Pki>,
    },
}

/// A certificate authority.
pub struct Pki {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

impl Default for Pki {
    fn default() -> Self {
        Self::new()
    }
}

impl Pki {
    /// A new one.
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "registry test CA");
        let certificate = params.self_signed(&key).unwrap();
        Self {
            issuer: Issuer::new(params, key),
            certificate,
        }
    }

    /// Its own certificate.
    pub fn ca_pem(&self) -> String {
        self.certificate.pem()
    }

    /// A certificate for a name besides this machine's, and its key, both PEM.
    pub fn issue(&self, name: &str) -> (String, String) {
        let (certificate, key) = self.issue_key(name);
        (certificate.pem(), key.serialize_pem())
    }

    fn issue_key(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let names = ["127.0.0.1", "localhost", name].map(str::to_owned);
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = date_time_ymd(2000, 1, 1);
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// A token to pull from a repository (a JWT, RFC 7519, with the claims of
    /// <https://distribution.github.io/distribution/spec/auth/jwt/>).
    pub fn token(&self, repository: &str) -> String {
        let (certificate, key) = self.issue_key("tokens");
        let now = jiff::Timestamp::now().as_second();
        let header =
            json!({"typ": "JWT", "alg": "ES256", "x5c": [BASE64.encode(certificate.der())]});
        let claims = json!({
            "iss": "tokens", "sub": "", "aud": "registry", "jti": "1",
            "iat": now - 60, "nbf": now - 60, "exp": now + 3600,
            "access": [{"type": "repository", "name": repository, "actions": ["pull"]}],
        });
        let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
        let signed = format!("{}.{}", part(&header), part(&claims));
        let signature = plain_signature(&key.sign(signed.as_bytes()).unwrap());
        format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature))
    }
}

/// Of an ECDSA signature in DER the two numbers alone, 32 bytes each, as a JWT has them (RFC 7518,
/// section 3.4).
fn plain_signature(der: &[u8]) -> Vec<u8> {
    let (mut rest, mut plain) = (&der[2..], Vec::new());
    for _ in 0..2 {
        let len = usize::from(rest[1]);
        let number = &rest[2..2 + len];
        let number = &number[number.iter().take_while(|b| **b == 0).count()..];
        plain.extend(std::iter::repeat_n(0, 32 - number.len()));
        plain.extend_from_slice(number);
        rest = &rest[2 + len..];
    }
    plain
}

/// `sha256:` and 64 hex digits.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", HEXLOWER.encode(&Sha256::digest(bytes)))
}

/// What says what some bytes are, as manifests name their parts.
pub fn descriptor(bytes: &[u8], media_type: &str) -> Value {
    json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()})
}

/// The artifact's empty configuration, which is a blob like any other.
const NOTHING: &[u8] = b"{}";

/// A manifest whose layers are these.
pub fn manifest(layers: &[&[u8]]) -> Vec<u8> {
    let layers: Vec<Value> = layers
        .iter()
        .map(|bytes| descriptor(bytes, "application/vnd.oci.image.layer.v1.tar+zstd"))
        .collect();
    json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(NOTHING, "application/vnd.oci.empty.v1+json"),
        "layers": layers,
    })
    .to_string()
    .into_bytes()
}

/// A registry under way, with one repository. Dropping it ends it.
pub struct Registry {
    /// Signs the registry's own certificate, and those that it lets in.
    pub pki: Pki,
    folder: tempfile::TempDir,
    process: Child,
    port: u16,
}

impl Registry {
    /// Starts a registry; none where the program is not installed, which root's tests need.
    pub async fn start(access: Access) -> Option<Self> {
        if !Path::new(PROGRAM).exists() {
            let line = format!("{PROGRAM} is not there (apt-get install docker-registry)");
            assert!(!rustix::process::geteuid().is_root(), "{line}");
            let name = std::thread::current().name().unwrap_or("a test").to_owned();
            // Past the harness, which shows nothing of a test that passes.
            let _ = writeln!(std::io::stderr(), "skipped: {name}: {line}");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::new();
        let (process, port) = run(folder.path(), &pki, access, None).await;
        Some(Self {
            pki,
            folder,
            process,
            port,
        })
    }

    /// The same storage under other rules, at another port.
    pub async fn restart(mut self, access: Access) -> Self {
        end(&mut self.process);
        (self.process, self.port) = run(self.folder.path(), &self.pki, access, None).await;
        self
    }

    /// The same before storage elsewhere: whoever asks for a blob is redirected below this URL.
    pub async fn restart_before(mut self, storage: &str, access: Access) -> Self {
        end(&mut self.process);
        let folder = self.folder.path();
        (self.process, self.port) = run(folder, &self.pki, access, Some(storage)).await;
        self
    }

    /// Address and port.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// An `oci` URL for a `:tag` or `@digest`.
    pub fn name(&self, reference: &str) -> String {
        format!("oci://{}/monok8s/rootfs{reference}", self.host())
    }

    fn url(&self, path: &str) -> String {
        format!("https://{}/v2/monok8s/rootfs/{path}", self.host())
    }

    /// Puts an artifact there whose only layer is this, and returns its digest. Needs [`Access::Anyone`].
    pub async fn push(&self, tag: &str, layer: &[u8]) -> String {
        self.push_blob(layer).await;
        let manifest = manifest(&[layer]);
        self.push_manifest(tag, &manifest).await;
        digest(&manifest)
    }

    /// Puts a part there; with the first comes the configuration that artifacts share.
    pub async fn push_blob(&self, bytes: &[u8]) {
        let client = self.client();
        for bytes in [NOTHING, bytes] {
            let begun = client
                .post(self.url("blobs/uploads/"))
                .send()
                .await
                .unwrap();
            assert_eq!(begun.status(), 202);
            let place = begun.headers()["location"].to_str().unwrap();
            let mut place = begun.url().join(place).unwrap();
            place
                .query_pairs_mut()
                .append_pair("digest", &digest(bytes));
            let put = client.put(place).body(bytes.to_vec()).send().await.unwrap();
            assert_eq!(put.status(), 201);
        }
    }

    /// Puts a manifest or an index there, all parts of which are there already.
    pub async fn push_manifest(&self, tag: &str, bytes: &[u8]) {
        let media_type = serde_json::from_slice::<Value>(bytes).unwrap()["mediaType"].clone();
        let put = self
            .client()
            .put(self.url(&format!("manifests/{tag}")))
            .header("content-type", media_type.as_str().unwrap())
            .body(bytes.to_vec())
            .send()
            .await
            .unwrap();
        assert_eq!(put.status(), 201, "{tag}");
    }

    fn client(&self) -> reqwest::Client {
        // There may be one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let ca = reqwest::Certificate::from_pem(self.pki.ca_pem().as_bytes()).unwrap();
        reqwest::Client::builder()
            .tls_certs_only([ca])
            .no_proxy()
            .build()
            .unwrap()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        end(&mut self.process);
    }
}

fn end(process: &mut Child) {
    process.kill().ok();
    process.wait().ok();
}

/// Runs a registry over a folder, and waits until it listens.
async fn run(folder: &Path, pki: &Pki, access: Access, storage: Option<&str>) -> (Child, u16) {
    let put = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let (certificate, key) = pki.issue("registry");
    let mut tls = json!({
        "certificate": put("tls.crt", &certificate),
        "key": put("tls.key", &key),
    });
    let mut config = json!({
        "version": "0.1",
        // At this level it says at which port it listens.
        "log": {"level": "info"},
        "storage": {"filesystem": {"rootdirectory": folder.join("storage")}},
    });
    if let Some(storage) = storage {
        let redirect = json!({"name": "redirect", "options": {"baseurl": storage}});
        config["middleware"] = json!({"storage": [redirect]});
    }
    match access {
        Access::Anyone => {}
        Access::Password => {
            let path = put("htpasswd", PASSWORD_LINE);
            config["auth"] = json!({"htpasswd": {"realm": "registry", "path": path}});
        }
        Access::Certificate => tls["clientcas"] = json!([put("ca.crt", &pki.ca_pem())]),
        Access::Token { realm, pki } => {
            config["auth"] = json!({"token": {
                "realm": realm, "service": "registry", "issuer": "tokens",
                "rootcertbundle": put("tokens.crt", &pki.ca_pem()),
            }});
        }
    }
    // A port that somebody else chose might be taken by the time the registry asks for it.
    config["http"] = json!({"addr": "127.0.0.1:0", "tls": tls});
    // JSON is YAML.
    let config = put("config.yml", &config.to_string());
    let log = folder.join("log");
    let mut process = Command::new(PROGRAM)
        .arg("serve")
        .arg(config)
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let listens = async {
        loop {
            let ended = process.try_wait().unwrap();
            let log = fs::read_to_string(&log).unwrap_or_default();
            if let Some(port) = port_in(&log) {
                return port;
            }
            assert!(ended.is_none(), "the registry ended: {log}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let port = tokio::time::timeout(PATIENCE, listens).await.unwrap();
    (process, port)
}

/// What follows `listening on 127.0.0.1:`, once the whole line is there.
fn port_in(log: &str) -> Option<u16> {
    let (_, after) = log.split_once("listening on 127.0.0.1:")?;
    let end = after.find(|c: char| !c.is_ascii_digit())?;
    after[..end].parse().ok()
}
