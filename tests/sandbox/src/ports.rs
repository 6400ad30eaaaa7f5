//! TCP ports that nobody else can take between the choice and the use.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::OwnedFd,
};

use anyhow::{Context, Result};
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, getsockname, ipproto, socket_with, sockopt,
};

/// A port of 127.0.0.1, held by a socket that is bound but does not listen.
///
/// The process it is meant for binds it too, with `SO_REUSEPORT` (etcd: `--socket-reuse-port`,
/// Kubernetes: `--permit-port-sharing`). Connections reach only a listening socket, so that the
/// port is refused while that process is away and still its own when it comes back.
#[derive(Debug)]
pub struct Port {
    _held: OwnedFd,
    number: u16,
}

impl Port {
    /// Takes a free port and keeps it until the value is dropped.
    pub fn reserve() -> Result<Self> {
        let held = socket_with(
            AddressFamily::INET,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            Some(ipproto::TCP),
        )
        .context("cannot open a TCP socket")?;
        sockopt::set_socket_reuseport(&held, true).context("cannot set SO_REUSEPORT")?;
        bind(&held, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))
            .context("no free TCP port on 127.0.0.1")?;
        let address =
            SocketAddrV4::try_from(getsockname(&held).context("a bound socket has no address")?)
                .context("127.0.0.1 is not IPv4")?;
        Ok(Self {
            _held: held,
            number: address.port(),
        })
    }

    /// The port's number.
    pub fn number(&self) -> u16 {
        self.number
    }
}

/// A port that was free a moment ago, for a process that cannot share one; the caller starts again
/// with another when that process finds it taken.
pub fn unheld() -> Result<u16> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .context("no free TCP port on 127.0.0.1")?;
    Ok(listener
        .local_addr()
        .context("a listening socket has no address")?
        .port())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_held_port_is_refused_to_others_and_to_callers() {
        let port = Port::reserve().unwrap();
        assert!(TcpListener::bind((Ipv4Addr::LOCALHOST, port.number())).is_err());
        assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port.number())).is_err());
    }
}
