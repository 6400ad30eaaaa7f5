//! Debian's docker-registry with TLS, and who it lets in.

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

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const USER: &str = "node";
pub const PASSWORD: &str = "letmein";
/// The password above, as `htpasswd -B` writes it.
const PASSWORD_LINE: &str = "node:$2b$05$P9JP7MLdfNTrIsfsFvSLBeVoqGUvszdnHK11jZonXrY2sWTsDLLbW\n";
/// Longest that a registry may take to come up on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Who may read.
pub enum Access {
    Anyone,
    Password,
    /// Who shows a certificate of the registry's own authority.
    Certificate,
    /// Who shows a token that was signed by this authority's key.
    Token {
        realm: String,
        pki: Box<Pki>,
    },
}

/// A certificate authority.
pub struct Pki {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

impl Pki {
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

/// A registry under way, with one repository.
pub struct Registry {
    pub pki: Pki,
    folder: tempfile::TempDir,
    process: Child,
    port: u16,
}

impl Registry {
    /// Starts a registry; none where the program is not installed, which root's tests need.
    pub async fn start(access: Access) -> Option<Self> {
        let program = "/usr/bin/docker-registry";
        if !Path::new(program).exists() {
            let line = format!("{program} is not there (apt-get install docker-registry)");
            assert!(!rustix::process::geteuid().is_root(), "{line}");
            let name = std::thread::current().name().unwrap_or("a test").to_owned();
            // Past the harness, which shows nothing of a test that passes.
            let _ = writeln!(std::io::stderr(), "skipped: {name}: {line}");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::new();
        let (process, port) = run(program, folder.path(), &pki, access).await;
        Some(Self {
            pki,
            folder,
            process,
            port,
        })
    }

    /// The same storage under other rules.
    pub async fn restart(mut self, access: Access) -> Self {
        end(&mut self.process);
        let folder = self.folder.path();
        (self.process, self.port) = run("docker-registry", folder, &self.pki, access).await;
        self
    }

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

    pub async fn push_blob(&self, client: &reqwest::Client, bytes: &[u8]) {
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

    pub async fn push_manifest(&self, client: &reqwest::Client, tag: &str, bytes: &[u8]) {
        let media_type = serde_json::from_slice::<Value>(bytes).unwrap()["mediaType"].clone();
        let put = client
            .put(self.url(&format!("manifests/{tag}")))
            .header("content-type", media_type.as_str().unwrap())
            .body(bytes.to_vec())
            .send()
            .await
            .unwrap();
        assert_eq!(put.status(), 201, "{tag}");
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

/// Runs a registry over a folder, and waits until it answers.
async fn run(program: &str, folder: &Path, pki: &Pki, access: Access) -> (Child, u16) {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
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
        "log": {"level": "warn"},
        "storage": {"filesystem": {"rootdirectory": folder.join("storage")}},
    });
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
    config["http"] = json!({"addr": format!("127.0.0.1:{port}"), "tls": tls});
    // JSON is YAML.
    let config = put("config.yml", &config.to_string());
    let log = fs::File::create(folder.join("log")).unwrap();
    let mut process = Command::new(program)
        .arg("serve")
        .arg(config)
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let answers = async {
        while tokio::net::TcpStream::connect(("127.0.0.1", port))
            .await
            .is_err()
        {
            let ended = process.try_wait().unwrap();
            let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
            assert!(ended.is_none(), "the registry ended: {log}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, answers).await.unwrap();
    (process, port)
}
