//! The kind of machine that an entry of a registry's index is for. Pure.

use std::{fmt, str::FromStr};

/// Operating system and architecture in Go's words, as registries and Kubernetes write them:
/// `linux/amd64`, or with a variant `linux/arm/v7`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

/// Something else than `OS/ARCHITECTURE` or `OS/ARCHITECTURE/VARIANT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a platform; expected OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT, such as linux/amd64")]
pub struct NotAPlatform;

impl Platform {
    /// Whether an entry for this is as good a match: of one variant, or of none where the entry
    /// names none. 64-bit ARM is `v8` whether that is said or not.
    pub(crate) fn takes(&self, os: &str, architecture: &str, variant: Option<&str>) -> bool {
        let said = |variant: Option<&str>| {
            let implied = architecture == "arm64" && variant == Some("v8");
            variant
                .filter(|v| !v.is_empty() && !implied)
                .map(ToOwned::to_owned)
        };
        self.os == os
            && self.architecture == architecture
            && said(variant) == said(self.variant.as_deref())
    }

    /// The same kind of machine, whatever its variant.
    pub(crate) fn without_variant(&self) -> Self {
        Self {
            variant: None,
            ..self.clone()
        }
    }
}

impl FromStr for Platform {
    type Err = NotAPlatform;

    fn from_str(text: &str) -> Result<Self, NotAPlatform> {
        let is_word = |word: &&str| {
            (1..=32).contains(&word.len())
                && word
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        let mut words = text.split('/').map(|word| Some(word).filter(is_word));
        let (Some(Some(os)), Some(Some(architecture)), variant, None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(NotAPlatform);
        };
        let variant = variant.map(|word| word.ok_or(NotAPlatform)).transpose()?;
        Ok(Self {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(ToOwned::to_owned),
        })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notation() {
        for text in ["linux/amd64", "linux/arm/v7", "linux/arm64/v8"] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "linux",
            "linux/",
            "/amd64",
            "linux/arm/",
            "a/b/c/d",
            "linux/am d",
        ] {
            assert_eq!(text.parse::<Platform>(), Err(NotAPlatform), "{text}");
        }
    }

    #[test]
    fn variants() {
        for (wanted, variant, expected) in [
            ("linux/arm64", None, true),
            ("linux/arm64", Some("v8"), true),
            ("linux/arm64/v8", None, true),
            ("linux/arm64/v8", Some(""), true),
            ("linux/arm64", Some("v9"), false),
            ("linux/arm64/v9", None, false),
            ("linux/arm64/v9", Some("v9"), true),
            ("linux/amd64", None, false),
            ("windows/arm64", None, false),
        ] {
            let wanted: Platform = wanted.parse().unwrap();
            let takes = wanted.takes("linux", "arm64", variant);
            assert_eq!(takes, expected, "{wanted} {variant:?}");
        }
    }
}
