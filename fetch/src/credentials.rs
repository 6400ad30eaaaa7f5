//! What proves to a server who asks, and which server may see it.

use std::fmt;

use crate::url::SourceUrl;

/// A proof of identity for named hosts. Its `Debug` shows the hosts alone.
#[derive(Clone)]
pub struct Credentials {
    hosts: Vec<String>,
    authorization: Authorization,
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

impl Credentials {
    /// Credentials that are sent to these hosts and nowhere else: `host` for https on port 443,
    /// `host:port` for another port. They are never sent without TLS.
    pub fn new(hosts: impl IntoIterator<Item = String>, authorization: Authorization) -> Self {
        let hosts = hosts.into_iter().map(|host| host.to_lowercase()).collect();
        Self {
            hosts,
            authorization,
        }
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
            Authorization::Basic { user, password } => request.basic_auth(user, Some(password)),
            Authorization::Bearer(token) => request.bearer_auth(token),
        }
    }

    fn are_for(&self, url: &SourceUrl) -> bool {
        // An origin names the port only where it is not 443, which is how hosts are given.
        let origin = url.origin();
        origin
            .strip_prefix("https://")
            .is_some_and(|place| self.hosts.iter().any(|host| host == place))
    }
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
}
