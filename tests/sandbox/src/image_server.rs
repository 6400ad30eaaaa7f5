//! An HTTP server for images and catalogs on 127.0.0.1, with faults to order.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use monok8s_fault_server::FaultServer;
pub use monok8s_fault_server::{Content, Fault, Request, Resource};

use crate::images::Image;

/// Pieces a second that a limited answer comes in.
const PIECES: u64 = 20;

/// A running server. Dropping it stops it.
#[derive(Debug)]
pub struct ImageServer {
    server: FaultServer,
    site: Mutex<Site>,
}

#[derive(Debug, Default)]
struct Site {
    contents: BTreeMap<String, Content>,
    faults: BTreeMap<String, Fault>,
    bytes_per_second: u64,
}

impl Site {
    /// What a path is served as, with all that was ordered for it.
    fn resource(&self, path: &str) -> Resource {
        let content = self.contents.get(path).cloned();
        let known = content.is_some();
        let resource = Resource::new(content.unwrap_or_else(|| Vec::new().into()));
        match self.faults.get(path) {
            Some(fault) => resource.forever(fault.clone()),
            None if !known => resource.forever(Fault::status(404)),
            None if self.bytes_per_second > 0 => {
                let bytes =
                    usize::try_from((self.bytes_per_second / PIECES).max(1)).unwrap_or(usize::MAX);
                resource.forever(Fault::Drip {
                    bytes,
                    every: Duration::from_millis(1000 / PIECES),
                })
            }
            None => resource,
        }
    }
}

impl ImageServer {
    /// Serves nothing yet, on a free port of 127.0.0.1.
    pub async fn start() -> Result<Self> {
        Self::start_on(Ipv4Addr::LOCALHOST).await
    }

    /// The same on another address of this machine.
    pub async fn start_on(address: Ipv4Addr) -> Result<Self> {
        let server = FaultServer::builder()
            .listen((address, 0).into())
            .start()
            .await
            .with_context(|| format!("the image server cannot listen on {address}"))?;
        Ok(Self {
            server,
            site: Mutex::default(),
        })
    }

    /// The URL of a path such as `/catalog.yaml`.
    pub fn url(&self, path: &str) -> String {
        self.server.url(path)
    }

    /// Serves an image under its file's name, and returns the URL.
    pub fn publish_image(&self, image: &Image) -> Result<String> {
        let path = format!("/{}", image.file_name());
        let content = Content::file(&image.file)
            .with_context(|| format!("cannot serve {}", image.file.display()))?;
        self.publish(&path, content);
        Ok(self.url(&path))
    }

    /// Serves `content` at `path`, in place of what was there.
    pub fn publish(&self, path: &str, content: impl Into<Content>) {
        self.change(path, |site| {
            site.contents.insert(path.to_owned(), content.into());
        });
    }

    /// Orders a fault for every request to a path, until it is cured.
    pub fn fault(&self, path: &str, fault: Fault) {
        self.change(path, |site| {
            site.faults.insert(path.to_owned(), fault);
        });
    }

    /// Orders faults for the next requests to a path, one for each.
    pub fn fault_next(&self, path: &str, faults: impl IntoIterator<Item = Fault>) {
        self.server.inject(path, faults);
    }

    /// Ends a path's fault.
    pub fn cure(&self, path: &str) {
        self.change(path, |site| {
            site.faults.remove(path);
        });
    }

    /// Limits each answer to this many bytes a second; 0: no limit.
    pub fn limit(&self, bytes_per_second: u64) {
        let mut site = self.site.lock().unwrap_or_else(PoisonError::into_inner);
        site.bytes_per_second = bytes_per_second;
        for path in site.contents.keys() {
            self.server.set(path, site.resource(path));
        }
    }

    /// What was asked for so far, in order.
    pub fn requests(&self) -> Vec<Request> {
        self.server.requests()
    }

    /// Bytes of bodies sent so far.
    pub fn body_bytes(&self) -> u64 {
        self.server.body_bytes()
    }

    fn change(&self, path: &str, change: impl FnOnce(&mut Site)) {
        let mut site = self.site.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut site);
        self.server.set(path, site.resource(path));
    }
}
