//! One question and its answer, redirects included.

use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{ACCEPT_ENCODING, LOCATION},
};
use reqwest::Response;
use tokio::time::timeout;

use crate::{client::Client, error::Fault, refusal::PolicyRefusal, url::SourceUrl};

/// What proves to one server who asks.
#[derive(Clone)]
pub(crate) struct Proof {
    /// The only origin that it is sent to.
    pub(crate) origin: String,
    pub(crate) header: HeaderName,
    /// Marked as sensitive, so that it is in no log.
    pub(crate) value: HeaderValue,
}

impl Client {
    /// Asks for a URL and follows redirects as the policy allows. The answer is whatever the last
    /// hop said, its body unread.
    pub(crate) async fn ask(&self, url: &SourceUrl, headers: HeaderMap) -> Result<Response, Fault> {
        self.ask_as(url, headers, None).await
    }

    /// The same with a proof of identity for one origin, which no other one is sent.
    pub(crate) async fn ask_as(
        &self,
        url: &SourceUrl,
        headers: HeaderMap,
        proof: Option<&Proof>,
    ) -> Result<Response, Fault> {
        self.policy.check(url)?;
        let mut visited = vec![url.clone()];
        loop {
            let Some(here) = visited.last() else {
                return Err(PolicyRefusal::NotAUrl.into());
            };
            let response = self.hop(here, headers.clone(), proof).await?;
            let Some(location) = redirection(&response)? else {
                return Ok(response);
            };
            let next = self
                .policy
                .redirect(&visited, &location)
                .inspect_err(|refusal| {
                    let to = here.join(&location).map(|to| to.origin());
                    tracing::warn!(from = %here, ?to, %refusal, "redirect not followed");
                })?;
            tracing::debug!(from = %here, to = %next.origin(), "redirected");
            visited.push(next);
        }
    }

    async fn hop(
        &self,
        url: &SourceUrl,
        mut headers: HeaderMap,
        proof: Option<&Proof>,
    ) -> Result<Response, Fault> {
        // Offsets and limits count the bytes as they are stored.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let http = self.identified_for(url).unwrap_or(&self.http);
        let mut request = http.get(url.full().clone()).headers(headers);
        if let Some(proof) = proof.filter(|proof| proof.origin == url.origin()) {
            request = request.header(proof.header.clone(), proof.value.clone());
        } else if let Some(credentials) = &self.credentials {
            request = credentials.authorize(url, request);
        }
        match timeout(self.timing.answer, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(Fault::of(&error, self.timing.connect)),
            Err(_) => Err(Fault::TimedOut {
                after: self.timing.answer,
            }),
        }
    }
}

/// Where an answer sends us, if it does.
fn redirection(response: &Response) -> Result<Option<String>, Fault> {
    let redirect = matches!(
        response.status(),
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    );
    if !redirect {
        return Ok(None);
    }
    response
        .headers()
        .get(LOCATION)
        .and_then(|location| location.to_str().ok())
        .map(|location| Some(location.to_owned()))
        .ok_or(Fault::Protocol {
            what: "a redirect that leads nowhere",
        })
}
