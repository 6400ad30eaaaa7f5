//! The compressed image: a file, or what a URL serves.

use std::{
    convert::Infallible,
    env, fmt,
    fs::File,
    io::{self, Read},
    path::PathBuf,
    str::FromStr,
};

use monok8s_fetch::{Client, ImageBody, ImageRequest, Platform, Policy, SourceUrl};
use tokio::runtime::{Builder, Runtime};

use super::{FetchArgs, ImageError};

/// What was named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// With a scheme.
    Url(String),
    File(PathBuf),
}

impl FromStr for Source {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(if text.contains("://") {
            Self::Url(text.to_owned())
        } else {
            Self::File(text.into())
        })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // A query may hold a secret.
            Self::Url(url) => f.write_str(url.split('?').next().unwrap_or_default()),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// Its bytes, and how many there are where that is known.
pub(super) struct Opened {
    pub(super) bytes: Box<dyn Read + Send>,
    pub(super) length: Option<u64>,
}

impl Source {
    pub(super) fn open(&self, fetch: &FetchArgs) -> Result<Opened, ImageError> {
        match self {
            Self::File(path) => {
                let open = || -> io::Result<Opened> {
                    let file = File::open(path)?;
                    let metadata = file.metadata()?;
                    if metadata.is_dir() {
                        return Err(io::ErrorKind::IsADirectory.into());
                    }
                    Ok(Opened {
                        bytes: Box::new(file),
                        length: Some(metadata.len()),
                    })
                };
                open().map_err(|cause| ImageError::Open {
                    path: path.clone(),
                    cause,
                })
            }
            Self::Url(url) => {
                // Fails where somebody has installed one already.
                let _ = rustls::crypto::ring::default_provider().install_default();
                let url: SourceUrl = url.parse().map_err(|cause| ImageError::Read {
                    source_: self.to_string(),
                    cause: io::Error::other(cause),
                })?;
                let download = Download::open(url, fetch)?;
                Ok(Opened {
                    length: download.body.progress().total,
                    bytes: Box::new(download),
                })
            }
        }
    }
}

/// A download as a reader, with a runtime of its own: whoever reads may block.
struct Download {
    runtime: Runtime,
    body: ImageBody,
    chunk: bytes::Bytes,
}

impl Download {
    fn open(url: SourceUrl, fetch: &FetchArgs) -> Result<Self, ImageError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(ImageError::Runtime)?;
        // As the agent: the checksum came by another way.
        let mut client = Client::builder().policy(Policy::HTTP_ALLOWED);
        if let Some(path) = &fetch.ca_file {
            client = client.ca_file(path)?;
        }
        let client = client.build()?;
        let mut request = ImageRequest::new(url);
        request.platform = fetch.platform.clone().or_else(this_machine);
        let body = runtime.block_on(client.open(request))?;
        Ok(Self {
            runtime,
            body,
            chunk: bytes::Bytes::new(),
        })
    }
}

/// In the words of registries.
fn this_machine() -> Option<Platform> {
    let architecture = match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("{}/{architecture}", env::consts::OS).parse().ok()
}

impl Read for Download {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.runtime.block_on(self.body.next_chunk()) {
                Ok(Some(chunk)) => self.chunk = chunk,
                Ok(None) => return Ok(0),
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        let count = self.chunk.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.chunk.split_to(count));
        Ok(count)
    }
}

/// A reader that shows how far it is.
pub(super) struct Shown<'a> {
    pub(super) bytes: Box<dyn Read + Send>,
    pub(super) bar: &'a super::bar::Bar,
    pub(super) done: u64,
}

impl Read for Shown<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.bytes.read(buffer)?;
        self.done += count as u64;
        self.bar.at(self.done);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_name() {
        let name = this_machine().unwrap().to_string();
        assert!(name.starts_with("linux/") && !name.contains('_'), "{name}");
    }

    #[test]
    fn told_by_the_scheme_and_shown_without_the_query() {
        let parse = |text: &str| text.parse::<Source>().unwrap();
        assert_eq!(
            parse("https://x/a.zst?token=secret").to_string(),
            "https://x/a.zst"
        );
        assert_eq!(parse("./a.zst"), Source::File("./a.zst".into()));
    }
}
