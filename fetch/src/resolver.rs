//! From host names to addresses that may be asked.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use futures::future::BoxFuture;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::{policy::forbidden_address, refusal::PolicyRefusal};

/// Turns a host name into addresses.
pub trait Lookup: fmt::Debug + Send + Sync {
    /// The addresses of a name, as far as this source knows.
    fn lookup(&self, host: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>>;
}

/// The operating system's resolver: `/etc/hosts`, DNS, whatever `nsswitch.conf` says.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemLookup;

impl Lookup for SystemLookup {
    fn lookup(&self, host: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            let found = tokio::net::lookup_host((host, 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    }
}

/// Lets no connection be made to a [`forbidden_address`] that hides behind a name.
///
/// The check is made on the very addresses that are connected to, so a name whose answer changes
/// between a check and its use gains nothing.
#[derive(Clone, Debug)]
pub(crate) struct GuardedResolver(pub(crate) Arc<dyn Lookup>);

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let found = self.0.lookup(name.as_str().to_owned());
        Box::pin(async move {
            let (refused, allowed): (Vec<_>, Vec<_>) = found
                .await?
                .into_iter()
                .partition(|&a| forbidden_address(a));
            if let (Some(&address), true) = (refused.first(), allowed.is_empty()) {
                return Err(PolicyRefusal::Address { address }.into());
            }
            // Port 0: the URL's port takes its place.
            let addresses = allowed.into_iter().map(|ip| SocketAddr::new(ip, 0));
            Ok(Box::new(addresses) as Addrs)
        })
    }
}
