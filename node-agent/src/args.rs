//! The command line.

use std::{net::SocketAddr, path::PathBuf, str::FromStr};

use clap::{
    Parser,
    builder::{OsStringValueParser, TypedValueParser as _},
};
use monok8s_api::GoDuration;
use monok8s_boot::{SlotAddress, reboot::RebootMethod};
use monok8s_image::WindowLimit;
use monok8s_telemetry::logs;

/// Installs OS images on this node as its OSUpgradeProgress objects say.
#[derive(Clone, Debug, Parser)]
#[command(version, about)]
pub struct Args {
    /// Name of this machine's Node.
    #[arg(long, env = "NODE_NAME")]
    pub node_name: String,

    /// Folder for the agent's record, on storage that both slots mount. In a sandbox: data/monok8s.
    #[arg(
        long,
        default_value_if("sandbox", clap::builder::ArgPredicate::IsPresent, None),
        required_unless_present = "sandbox"
    )]
    pub state_dir: Option<PathBuf>,

    /// Slot A: PARTLABEL=…, PARTUUID=… or a device's path.
    #[arg(long, default_value = "PARTLABEL=monok8s-a")]
    pub slot_a: SlotAddress,

    /// Slot B.
    #[arg(long, default_value = "PARTLABEL=monok8s-b")]
    pub slot_b: SlotAddress,

    /// The boot loader: auto, grub, or `hook:/ABSOLUTE/PATH` of the integrator's own program.
    #[arg(long, default_value = "auto")]
    pub boot_loader: BootLoader,

    /// GRUB's environment block, as this process reaches it.
    #[arg(long, default_value = "/boot/grub/grubenv")]
    pub grubenv: PathBuf,

    /// Keys of os-release that carry the version; the first that is there counts.
    #[arg(long, value_delimiter = ',', default_values = ["IMAGE_VERSION", "VERSION_ID"])]
    pub version_key: Vec<String>,

    /// Files that a slot must hold to boot. Give an empty text for none.
    #[arg(long, value_delimiter = ',', default_values = ["/boot/vmlinuz"],
          value_parser = OsStringValueParser::new().map(PathBuf::from))]
    pub boot_file: Vec<PathBuf>,

    /// How to reboot: auto, dbus, syscall or `command:/ABSOLUTE/PATH`.
    #[arg(long, default_value = "auto")]
    pub reboot: RebootMethod,

    /// How long a reboot may take before it counts as failed.
    #[arg(long, default_value = "5m")]
    pub reboot_timeout: GoDuration,

    /// Address for /healthz, /readyz and /metrics.
    #[arg(long, default_value = "[::]:8080")]
    pub listen: SocketAddr,

    /// How log lines are written: text or json.
    #[arg(long, default_value = "text")]
    pub log_format: logs::Format,

    /// Where this machine's / is mounted.
    #[arg(long, default_value = "/host")]
    pub host_root: PathBuf,

    /// Be the agent of the virtual node in this folder.
    #[arg(long)]
    pub sandbox: Option<PathBuf>,

    /// Shortest time between two statuses that only tell of bytes.
    #[arg(long, default_value = "10s")]
    pub report_interval: GoDuration,

    /// Percentage points between two statuses that only tell of bytes.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(i32).range(1..=100))]
    pub report_points: i32,

    /// About how often the Node and the OSNode are asked for although nothing is heard of them: nothing tells an agent
    /// that its Node was deleted and made again.
    #[arg(long, default_value = "10m")]
    pub recheck_interval: GoDuration,

    /// The controller's namespace, where the catalogs' `ConfigMap` objects are.
    #[arg(long, env = "POD_NAMESPACE", default_value = monok8s_api::NAMESPACE)]
    pub namespace: String,

    /// PEM certificates to trust besides the system's when images and catalogs are fetched.
    #[arg(long)]
    pub ca_file: Option<PathBuf>,

    /// A client certificate (PEM) for image servers that ask for one. Read at the start. Where a progress names
    /// credentials (download.credentials), those take its place.
    #[arg(long, requires = "client_key", requires = "client_cert_host")]
    pub client_cert: Option<PathBuf>,

    /// The client certificate's key (PEM).
    #[arg(long, requires = "client_cert")]
    pub client_key: Option<PathBuf>,

    /// A server that the client certificate is shown to, as HOST or HOST:PORT. May be given more than once.
    #[arg(long, requires = "client_cert")]
    pub client_cert_host: Vec<String>,

    /// A folder of this machine's that images with a `file` URL may lie in, as the machine calls it. May be given more
    /// than once; without it no such URL is used.
    #[arg(long)]
    pub file_root: Vec<PathBuf>,

    /// The largest memory that an image's decoder may take for its window, in bytes or with Ki, Mi or Gi. An image that
    /// asks for more is refused (`WindowTooLarge`).
    #[arg(long, env = "WINDOW_LIMIT", default_value_t)]
    pub window_limit: WindowLimit,

    /// Read the slot before it is written, and write only the pages that differ: for flash, which wears. Takes longer.
    #[arg(long, env = "COMPARE_BEFORE_WRITE", value_parser = clap::builder::BoolishValueParser::new(),
          num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub compare_before_write: bool,

    /// A kubeconfig. Default: $KUBECONFIG, else the pod's service account.
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
}

/// Which boot loader there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BootLoader {
    /// The one that is recognised.
    Auto,
    /// GRUB with the shipped grub.cfg.
    Grub,
    /// The integrator's own program.
    Hook(PathBuf),
}

impl FromStr for BootLoader {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "grub" => Ok(Self::Grub),
            _ => match text.strip_prefix("hook:").map(PathBuf::from) {
                Some(path) if path.is_absolute() => Ok(Self::Hook(path)),
                _ => Err(format!(
                    "{text:?} is no boot loader: write auto, grub or hook:/ABSOLUTE/PATH"
                )),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Args::command().debug_assert();
    }

    #[test]
    fn a_client_certificate_needs_its_key_and_a_host() {
        let told = |more: &[&str]| {
            let all = ["node-agent", "--node-name=n", "--sandbox=/s"];
            Args::try_parse_from(all.iter().chain(more)).is_ok()
        };
        let (cert, key, host) = ("--client-cert=c", "--client-key=k", "--client-cert-host=h");
        assert!(told(&[cert, key, host, "--client-cert-host=h:8443"]));
        for missing in [
            &[cert, key][..],
            &[cert, host],
            &[key, host],
            &[cert],
            &[key],
            &[host],
        ] {
            assert!(!told(missing), "{missing:?}");
        }
    }

    #[test]
    fn comparing_is_a_flag_that_can_be_told_no() {
        let told = |more: &[&str]| {
            let all = ["node-agent", "--node-name=n", "--sandbox=/s"];
            Args::parse_from(all.iter().chain(more)).compare_before_write
        };
        assert!(!told(&[]));
        assert!(told(&["--compare-before-write"]));
        assert!(told(&["--compare-before-write=true"]));
        assert!(!told(&["--compare-before-write=false"]));
    }

    #[test]
    fn files_to_boot_from_can_be_named_and_be_none() {
        let told = |flag: &str| {
            let args = ["node-agent", "--node-name=n", "--sandbox=/s", flag];
            Args::parse_from(args).boot_file
        };
        assert_eq!(told("--boot-file="), [PathBuf::new()]);
        assert_eq!(told("--boot-file=/a,/b").len(), 2);
    }

    #[test]
    fn what_the_manifests_and_the_sandbox_say_is_understood() {
        let args = Args::parse_from([
            "node-agent",
            "--node-name=n",
            "--host-root=/host",
            "--state-dir=/var/lib/monok8s",
            "--grubenv=/boot/grub/grubenv",
            "--listen=[::]:8080",
            "--log-format=json",
        ]);
        assert_eq!(args.version_key, ["IMAGE_VERSION", "VERSION_ID"]);
        let args = Args::parse_from([
            "node-agent",
            "--node-name=n",
            "--sandbox=/s/machine",
            "--listen=127.0.0.1:0",
            "--report-interval=1s",
        ]);
        assert_eq!(args.boot_loader, BootLoader::Auto);
        assert!("hook:relative".parse::<BootLoader>().is_err());
        assert_eq!(args.state_dir, None);
        assert_eq!(args.report_interval, GoDuration::from_secs(1));
    }
}
