//! The controller's flags.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Parser;
use monok8s_api::GoDuration;
use monok8s_telemetry::logs;

use crate::decide::election::Timing;

/// Decides which nodes take which OS image, and when.
///
/// The API server is found as kubectl finds it: KUBECONFIG, ~/.kube/config, or the Pod's service
/// account.
#[derive(Clone, Debug, Parser)]
#[command(name = "controller", version)]
pub struct Options {
    /// Namespace of the Lease and of a catalog's ConfigMap
    #[arg(long, env = "POD_NAMESPACE", default_value = monok8s_api::NAMESPACE)]
    pub namespace: String,

    /// Name of this replica, shown as the Lease's holder; a random part is added
    #[arg(long, env = "POD_NAME", default_value = "controller")]
    pub identity: String,

    /// Name of the node that this replica runs on. When it lets that node reboot it hands leadership
    /// over first; without it the other replica waits for --lease-duration
    #[arg(long, env = "NODE_NAME")]
    pub node_name: Option<String>,

    /// Address for /healthz, /readyz and /metrics
    #[arg(long, value_name = "ADDR", default_value = "[::]:8080")]
    pub listen: SocketAddr,

    /// text or json
    #[arg(long, value_name = "FORMAT", default_value_t = logs::Format::Text)]
    pub log_format: logs::Format,

    /// Fetch catalogs over plain http too. Whoever is on the way can then choose what nodes boot
    #[arg(long)]
    pub allow_http_catalogs: bool,

    /// PEM certificates of authorities to trust for catalogs, besides the system's. They may choose
    /// what every node boots
    #[arg(long, value_name = "PATH")]
    pub ca_file: Option<PathBuf>,

    /// How long the other replica waits for a leader that has gone quiet
    #[arg(long, value_name = "DURATION", default_value = "15s")]
    pub lease_duration: GoDuration,

    /// How often the leader renews its Lease, and the others look at it; at most a third of
    /// --lease-duration
    #[arg(long, value_name = "DURATION", default_value = "3s")]
    pub lease_renew: GoDuration,

    /// How often a catalog from a URL or a ConfigMap is read again while an upgrade waits for it to
    /// change
    #[arg(long, value_name = "DURATION", default_value = "1m")]
    pub catalog_reread: GoDuration,

    /// How long a released node may stand still before its upgrade is called Stalled
    #[arg(long, value_name = "DURATION", default_value = "15m")]
    pub stall_after: GoDuration,
}

/// Flags that do not fit together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OptionsError {
    /// A renewal that fails once has to leave time for another before the leader must stop.
    #[error(
        "--lease-renew ({renew}) is more than a third of --lease-duration ({duration}), or zero: one lost request would end the leadership"
    )]
    LeaseRenew {
        /// `--lease-renew`.
        renew: GoDuration,
        /// `--lease-duration`.
        duration: GoDuration,
    },
    /// A Lease counts whole seconds.
    #[error("--lease-duration ({0}) is less than 1s, the least that a Lease can say")]
    LeaseDuration(GoDuration),
}

impl Options {
    /// How the Lease is held.
    pub fn timing(&self) -> Result<Timing, OptionsError> {
        let (duration, renew) = (self.lease_duration.0, self.lease_renew.0);
        if duration < Duration::from_secs(1) {
            return Err(OptionsError::LeaseDuration(self.lease_duration));
        }
        if renew.is_zero() || renew * 3 > duration {
            return Err(OptionsError::LeaseRenew {
                renew: self.lease_renew,
                duration: self.lease_duration,
            });
        }
        Ok(Timing { duration, renew })
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn flags_are_consistent_and_defaults_fit_together() {
        Options::command().debug_assert();
        let options = Options::parse_from(["controller"]);
        assert!(options.timing().is_ok());
        assert!(!options.allow_http_catalogs);
    }

    #[test]
    fn a_lease_that_could_not_be_kept_is_refused() {
        for flags in [
            ["--lease-duration=3s", "--lease-renew=2s"],
            ["--lease-duration=3s", "--lease-renew=0s"],
            ["--lease-duration=500ms", "--lease-renew=100ms"],
        ] {
            let options = Options::parse_from(["controller"].iter().chain(&flags));
            assert!(options.timing().is_err(), "{flags:?}");
        }
    }
}
