//! Who has which address.
//!
//! Everything is in 198.18.0.0/15, which RFC 2544 keeps for tests of network devices: no network that
//! a developer's machine is in uses it. Each cluster has a part of 4,096 addresses of its own:
//!
//! ```text
//! +0.1          this machine, and with it the image server and the registry
//! +0.2 …        the nodes
//! +N.0/24       the pods of node N, from 1 on
//! +15.0/24      Services; +15.1 is the API server
//! ```

use std::{
    fs::{self, File},
    net::Ipv4Addr,
    path::Path,
};

use anyhow::{Context, Result, bail};

/// Parts in the range.
const PARTS: u8 = 32;

/// Nodes that have addresses.
pub const MOST_NODES: u8 = 9;

/// A part of the range, of which this process is the only user while the value lives.
#[derive(Debug)]
pub struct Part {
    number: u8,
    _lock: File,
}

impl Part {
    /// Takes a part that no other process has.
    pub fn take() -> Result<Self> {
        let folder = Path::new("/run/lock/monok8s-cluster");
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        for number in 0..PARTS {
            let path = folder.join(number.to_string());
            // The file stays: whoever removed it could take away the lock of somebody who just opened it.
            let lock =
                File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
            if lock.try_lock().is_ok() {
                return Ok(Self {
                    number,
                    _lock: lock,
                });
            }
        }
        bail!("{PARTS} clusters are up on this machine, and there are addresses for no more")
    }

    /// Its number, which is in the names of everything that the machine has only once.
    pub fn number(&self) -> u8 {
        self.number
    }

    fn at(&self, third: u8, fourth: u8) -> Ipv4Addr {
        Ipv4Addr::new(
            198,
            18 + self.number / 16,
            self.number % 16 * 16 + third,
            fourth,
        )
    }

    /// This machine, as the nodes and pods reach it.
    pub fn gateway(&self) -> Ipv4Addr {
        self.at(0, 1)
    }

    /// The node with this number.
    pub fn node(&self, number: u8) -> Ipv4Addr {
        self.at(0, number + 1)
    }

    /// The pods of the node with this number.
    pub fn pods(&self, number: u8) -> String {
        format!("{}/24", self.at(number, 0))
    }

    /// The addresses of Services.
    pub fn services(&self) -> String {
        format!("{}/24", self.at(15, 0))
    }

    /// The API server: the first address of the Services.
    pub fn api_server(&self) -> Ipv4Addr {
        self.at(15, 1)
    }

    /// All of it.
    pub fn all(&self) -> String {
        format!("{}/20", self.at(0, 0))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn parts_and_their_addresses_are_apart() {
        let mut seen = BTreeSet::new();
        for number in 0..PARTS {
            let lock = tempfile::tempfile().unwrap();
            let part = Part {
                number,
                _lock: lock,
            };
            let nodes = (1..=MOST_NODES).map(|node| part.node(node));
            for address in nodes.chain([part.gateway(), part.api_server()]) {
                assert!(seen.insert(address), "{address} twice");
                assert!(matches!(address.octets(), [198, 18 | 19, ..]), "{address}");
            }
        }
    }
}
