//! What a server says to recognise one version of a file by.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED},
};
use serde::{Deserialize, Serialize};

/// Longest validator kept; a server that sends more of it has none.
const MAX_LENGTH: usize = 512;

/// `ETag` and `Last-Modified` of a response (RFC 9110, section 8.8), as sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Validators {
    /// Entity tag, quotes and a `W/` prefix included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// HTTP date.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_modified: Option<String>,
}

impl Validators {
    /// Those of a response.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let text = |name: HeaderName| {
            let value = headers.get(name)?.to_str().ok()?;
            (!value.is_empty() && value.len() <= MAX_LENGTH).then(|| value.to_owned())
        };
        Self {
            etag: text(ETAG),
            last_modified: text(LAST_MODIFIED),
        }
    }

    /// Whether there is nothing to recognise a file by.
    pub fn is_empty(&self) -> bool {
        self.etag.is_none() && self.last_modified.is_none()
    }

    /// The entity tag, if it promises equal bytes and not only equal meaning.
    pub fn strong_etag(&self) -> Option<&str> {
        self.etag.as_deref().filter(|tag| tag.starts_with('"'))
    }

    /// The value of `If-Range`: a strong entity tag, else the date (RFC 9110, section 13.1.5, which
    /// forbids a weak tag).
    pub(crate) fn if_range(&self) -> Option<HeaderValue> {
        let text = self.strong_etag().or(self.last_modified.as_deref())?;
        HeaderValue::from_str(text).ok()
    }

    /// Asks for the document only when it is another one.
    pub(crate) fn make_conditional(&self, headers: &mut HeaderMap) {
        let fields = [
            (IF_NONE_MATCH, &self.etag),
            (IF_MODIFIED_SINCE, &self.last_modified),
        ];
        for (name, value) in fields {
            if let Some(value) = value.as_deref().and_then(|v| HeaderValue::from_str(v).ok()) {
                headers.insert(name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn if_range_takes_a_strong_tag_else_the_date() {
        let date = "Sat, 21 Nov 2026 09:00:00 GMT";
        for (etag, last_modified, expected) in [
            (Some("\"a\""), Some(date), Some("\"a\"")),
            (Some("W/\"a\""), Some(date), Some(date)),
            (Some("W/\"a\""), None, None),
            (None, None, None),
        ] {
            let validators = Validators {
                etag: etag.map(Into::into),
                last_modified: last_modified.map(Into::into),
            };
            let value = validators.if_range();
            assert_eq!(value.as_ref().map(|v| v.to_str().unwrap()), expected);
        }
    }

    #[test]
    fn a_validator_without_measure_is_none() {
        let mut headers = HeaderMap::new();
        headers.insert(
            ETAG,
            HeaderValue::from_str(&"x".repeat(MAX_LENGTH + 1)).unwrap(),
        );
        assert!(Validators::of(&headers).is_empty());
    }
}
