//! A request as it came.

/// Longest head that is read.
pub(crate) const MAX_HEAD: usize = 16 * 1024;

/// A request without its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `HEAD`, ….
    pub method: String,
    /// Path and query as sent.
    pub target: String,
    /// Header fields as sent, in order.
    pub headers: Vec<(String, String)>,
}

impl Request {
    /// The first header field of this name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The path without the query.
    pub fn path(&self) -> &str {
        self.target
            .split_once('?')
            .map_or(self.target.as_str(), |(path, _)| path)
    }

    /// First and last offset asked for, of a `Range` with one open or closed range.
    pub fn range(&self) -> Option<(u64, Option<u64>)> {
        let (first, last) = self
            .header("range")?
            .strip_prefix("bytes=")?
            .split_once('-')?;
        let first = first.parse().ok()?;
        let last = match last {
            "" => None,
            number => Some(number.parse().ok().filter(|&last| last >= first)?),
        };
        Some((first, last))
    }

    /// Parses a head, the empty line left out.
    pub(crate) fn parse(head: &str) -> Option<Self> {
        let mut lines = head.split("\r\n");
        let mut words = lines.next()?.split(' ');
        let (method, target) = (words.next()?, words.next()?);
        words
            .next()
            .filter(|version| version.starts_with("HTTP/1."))?;
        let headers = lines
            .filter(|line| !line.is_empty())
            .map(|line| {
                let (name, value) = line.split_once(':')?;
                Some((name.to_owned(), value.trim().to_owned()))
            })
            .collect::<Option<_>>()?;
        Some(Self {
            method: method.into(),
            target: target.into(),
            headers,
        })
    }
}
