//! What proves to a server who asks, and which server may see it.

use std::{collections::BTreeMap, fmt};

use url::Url;

use crate::url::SourceUrl;

/// A proof of identity for named hosts. Its `Debug` shows the hosts alone.
#[derive(Clone)]
pub struct Credentials {
    hosts: Vec<String>,
    authorization: Option<Authorization>,
    /// Certificates and key, PEM.
    certificate: Option<Vec<u8>>,
    /// Authorities that the hosts' own certificates may be signed by besides those trusted anyway,
    /// PEM.
    authorities: Option<Vec<u8>>,
}

/// The kinds of `Authorization` (RFC 7617, RFC 6750).
#[derive(Clone)]
#[non_exhaustive]
pub enum Authorization {
    /// User name and password.
    Basic {
        /// User name.
        user: String,
        /// Password.
        password: String,
    },
    /// A token.
    Bearer(String),
}

/// Why a Secret's fields are no credentials. No message repeats a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialsError {
    /// No host may be sent them.
    #[error(
        "`hosts` is missing or empty; name each host that may be sent them, as HOST or HOST:PORT"
    )]
    NoHosts,
    /// Something in `hosts` is no host.
    #[error("entry {number} of `hosts` is not HOST or HOST:PORT (no scheme, path or wildcard)")]
    NotAHost {
        /// Which one, counted from 1.
        number: usize,
    },
    /// Half of a pair.
    #[error("`{missing}` is missing beside `{given}`")]
    Half {
        /// The field that is there.
        given: &'static str,
        /// The field that is not.
        missing: &'static str,
    },
    /// Two ways at once.
    #[error("both `token` and `username` are there; a request can carry one of them")]
    Both,
    /// Nothing that proves anything.
    #[error(
        "neither `token`, nor `username` and `password`, nor `tls.crt` and `tls.key`, nor `ca.crt` is there"
    )]
    Nothing,
    /// A value that is no text.
    #[error("`{field}` is not UTF-8 text")]
    NotText {
        /// The field.
        field: &'static str,
    },
}

impl Credentials {
    /// Credentials that are sent to these hosts and nowhere else: `host` for https on port 443,
    /// `host:port` for another port. They are never sent without TLS.
    pub fn new(hosts: impl IntoIterator<Item = String>, authorization: Authorization) -> Self {
        let hosts = hosts.into_iter().map(|host| host.to_lowercase()).collect();
        Self {
            hosts,
            authorization: Some(authorization),
            certificate: None,
            authorities: None,
        }
    }

    /// From the fields of a Secret of type `monok8s.io/download`: `hosts` (separated by commas,
    /// blanks or line breaks), and `token`, or `username` and `password`, or a client certificate
    /// in `tls.crt` and its key in `tls.key`, which may stand beside either. The authorities in
    /// `ca.crt` are trusted to vouch for these hosts, and for no other.
    ///
    /// Whether certificates and key can be used is told by [`crate::Client::with_credentials`].
    pub fn from_fields(fields: &BTreeMap<String, Vec<u8>>) -> Result<Self, CredentialsError> {
        let text = |field: &'static str| {
            let value = fields.get(field).filter(|value| !value.is_empty());
            value
                .map(|value| {
                    // A file that an editor wrote ends with a line break.
                    std::str::from_utf8(value)
                        .map(|text| text.trim_end_matches(['\r', '\n']).to_owned())
                        .map_err(|_| CredentialsError::NotText { field })
                })
                .transpose()
        };
        let named = text("hosts")?.unwrap_or_default();
        let hosts = named
            .split(|c: char| c == ',' || c.is_whitespace())
            .filter(|entry| !entry.is_empty())
            .zip(1..)
            .map(|(entry, number)| host(entry).ok_or(CredentialsError::NotAHost { number }))
            .collect::<Result<Vec<_>, _>>()?;
        if hosts.is_empty() {
            return Err(CredentialsError::NoHosts);
        }
        let both = |first, second| match (text(first)?, text(second)?) {
            (Some(a), Some(b)) => Ok(Some((a, b))),
            (None, None) => Ok(None),
            (Some(_), None) => Err(CredentialsError::Half {
                given: first,
                missing: second,
            }),
            (None, Some(_)) => Err(CredentialsError::Half {
                given: second,
                missing: first,
            }),
        };
        let authorization = match (text("token")?, both("username", "password")?) {
            (Some(_), Some(_)) => return Err(CredentialsError::Both),
            (Some(token), None) => Some(Authorization::Bearer(token)),
            (None, Some((user, password))) => Some(Authorization::Basic { user, password }),
            (None, None) => None,
        };
        let certificate = both("tls.crt", "tls.key")?
            .map(|(certificate, key)| format!("{certificate}\n{key}\n").into_bytes());
        let authorities = text("ca.crt")?.map(String::into_bytes);
        if authorization.is_none() && certificate.is_none() && authorities.is_none() {
            return Err(CredentialsError::Nothing);
        }
        Ok(Self {
            hosts,
            authorization,
            certificate,
            authorities,
        })
    }

    /// Certificates and key, PEM.
    pub(crate) fn certificate(&self) -> Option<&[u8]> {
        self.certificate.as_deref()
    }

    /// Authorities for the named hosts, PEM.
    pub(crate) fn authorities(&self) -> Option<&[u8]> {
        self.authorities.as_deref()
    }

    /// Adds them to a request for this URL, if they are meant for it. Asked anew for each hop of a
    /// redirect.
    pub(crate) fn authorize(
        &self,
        url: &SourceUrl,
        request: reqwest::RequestBuilder,
    ) -> reqwest::RequestBuilder {
        if !self.are_for(url) {
            return request;
        }
        match &self.authorization {
            Some(Authorization::Basic { user, password }) => {
                request.basic_auth(user, Some(password))
            }
            Some(Authorization::Bearer(token)) => request.bearer_auth(token),
            None => request,
        }
    }

    pub(crate) fn are_for(&self, url: &SourceUrl) -> bool {
        // An origin names the port only where it is not 443, which is how hosts are given.
        let origin = url.origin();
        origin
            .strip_prefix("https://")
            .is_some_and(|place| self.hosts.iter().any(|host| host == place))
    }
}

/// A host as an origin names it, if it is nothing but a host and perhaps a port.
fn host(entry: &str) -> Option<String> {
    let url = Url::parse(&format!("https://{entry}/")).ok()?;
    let plain = url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none()
        && !entry.ends_with(['/', ':'])
        && !entry.contains(['*', '\\', '@']);
    let origin = url.origin().ascii_serialization();
    origin
        .strip_prefix("https://")
        .filter(|_| plain)
        .map(ToOwned::to_owned)
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("hosts", &self.hosts)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authorization(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_for_the_hosts_they_name_and_only_with_tls() {
        let hosts = ["Images.example", "lab.example:8443", "[fd00::1]"].map(String::from);
        let credentials = Credentials::new(hosts, Authorization::Bearer("t".into()));
        for (url, expected) in [
            ("https://images.example/a?b", true),
            ("https://IMAGES.example:443/", true),
            ("https://lab.example:8443/", true),
            ("https://[fd00::1]/", true),
            ("https://images.example:8443/", false),
            ("https://lab.example/", false),
            ("http://images.example/", false),
            ("https://images.example.evil.example/", false),
            ("https://sub.images.example/", false),
        ] {
            assert_eq!(
                credentials.are_for(&url.parse().unwrap()),
                expected,
                "{url}"
            );
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let basic = Authorization::Basic {
            user: "user".into(),
            password: "hunter2".into(),
        };
        let credentials = Credentials::new(["h".to_owned()], basic.clone());
        let shown = format!("{credentials:?} {basic:?}");
        assert!(
            !shown.contains("hunter2") && !shown.contains("user"),
            "{shown}"
        );
    }

    fn fields(fields: &[(&str, &str)]) -> BTreeMap<String, Vec<u8>> {
        fields
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()))
            .collect()
    }

    #[test]
    fn a_secrets_fields() {
        let parsed = |given: &[(&str, &str)]| Credentials::from_fields(&fields(given));
        let both = parsed(&[
            ("hosts", "Images.example, lab.example:8443\n[FD00::1]\n"),
            ("token", "t\n"),
            ("tls.crt", "c"),
            ("tls.key", "k\n"),
        ])
        .unwrap();
        assert_eq!(
            both.hosts,
            ["images.example", "lab.example:8443", "[fd00::1]"]
        );
        assert!(matches!(&both.authorization, Some(Authorization::Bearer(t)) if t == "t"));
        assert_eq!(both.certificate(), Some(&b"c\nk\n"[..]));
        let authority = parsed(&[("hosts", "h"), ("ca.crt", "a\n")]).unwrap();
        assert_eq!(authority.authorities(), Some(&b"a"[..]));
        let basic = parsed(&[("hosts", "h"), ("username", "u"), ("password", "p ")]).unwrap();
        assert!(matches!(
            &basic.authorization,
            Some(Authorization::Basic { user, password }) if user == "u" && password == "p "
        ));

        for (given, expected) in [
            (&[("token", "t")][..], CredentialsError::NoHosts),
            (
                &[("hosts", " ,\n"), ("token", "t")],
                CredentialsError::NoHosts,
            ),
            (&[("hosts", "h")], CredentialsError::Nothing),
            (&[("hosts", "h"), ("token", "")], CredentialsError::Nothing),
            (
                &[("hosts", "h"), ("username", "u")],
                CredentialsError::Half {
                    given: "username",
                    missing: "password",
                },
            ),
            (
                &[("hosts", "h"), ("tls.key", "k")],
                CredentialsError::Half {
                    given: "tls.key",
                    missing: "tls.crt",
                },
            ),
            (
                &[
                    ("hosts", "h"),
                    ("token", "t"),
                    ("username", "u"),
                    ("password", "p"),
                ],
                CredentialsError::Both,
            ),
        ] {
            assert_eq!(parsed(given).unwrap_err(), expected, "{given:?}");
        }
        for entry in [
            "https://h",
            "h/",
            "h/path",
            "*",
            "*.example",
            "u@h",
            "h:",
            "h:port",
            "h?q",
            "h#f",
            "a\\b",
        ] {
            let given = [
                ("hosts", format!("ok.example {entry}")),
                ("token", "t".into()),
            ];
            let given = given.map(|(name, value)| (name.to_owned(), value.into_bytes()));
            assert_eq!(
                Credentials::from_fields(&given.into()).unwrap_err(),
                CredentialsError::NotAHost { number: 2 },
                "{entry}"
            );
        }
        let mut binary = fields(&[("hosts", "h")]);
        binary.insert("token".into(), vec![0xff]);
        assert_eq!(
            Credentials::from_fields(&binary).unwrap_err(),
            CredentialsError::NotText { field: "token" }
        );
    }
}
