//! A node's first process: firmware, root file system, and then what an init does: starts containerd
//! and the kubelet, keeps them running, and buries orphans.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fs::{self, File, OpenOptions},
    io::Write as _,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use monok8s_sandbox::firmware::{self as boot_loader, Running};
use rustix::{
    mount::{
        MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive,
        mount_change, unmount,
    },
    process::{WaitOptions, wait},
};

use crate::{
    control_groups, firmware,
    machine::{Booted, Machine},
};

/// Where the container runtime's programs are in the node.
const RUNTIME: &str = "/run/runtime";
/// Where the kubelet is in the node.
pub const KUBELET_PROGRAM: &str = "/run/kubelet-program";
/// While this file is there, the kubelet is down. A reboot leaves none, unless the machine says so.
pub const KUBELET_HELD: &str = "/run/kubelet-held";

/// How long containerd may take to answer, and the cable to be plugged in.
const READY: Duration = Duration::from_secs(120);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// What the kubelet demands of the kernel. These values are the whole machine's: the node shows files
/// that say so already, and the machine keeps its own.
pub const KERNEL: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// Is the first process of the node in `folder`; returns only when it cannot be.
pub fn run(folder: &Path) -> Result<Infallible> {
    ensure!(
        std::process::id() == 1,
        "a node's first process is started by `cluster up`, in namespaces of its own"
    );
    let machine = Machine::read(folder)?;
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .context("cannot keep the node's mounts to itself")?;
    let mut console = OpenOptions::new()
        .create(true)
        .append(true)
        .open(machine.console())
        .context("cannot open the console")?;
    let mut say = |line: &str| {
        // Nobody reads it when the disk is full.
        let _ = writeln!(console, "{line}");
    };
    let running = firmware::power_on(&machine, &mut say)?;
    let booted = Booted {
        slot: running.start.slot,
        trial: running.start.trial,
        boot_id: uuid::Uuid::new_v4().to_string(),
        version: running.version().to_owned(),
    };
    mount_root(&machine, &running, &booted.boot_id)?;
    machine.write_booted(&booted)?;
    change_root(&machine.root())?;
    network(&machine)?;
    let mut services = Services::start(&machine)?;
    say(&format!("{} is up", machine.name));
    loop {
        services.keep()?;
    }
}

/// Mounts the slot and everything that is mounted into it.
fn mount_root(machine: &Machine, running: &Running, boot_id: &str) -> Result<()> {
    let root = machine.root();
    let at = |path: &str| root.join(path.trim_start_matches('/'));
    let slot = boot_loader::device(&machine.firmware(), running.start.slot)?;
    fs::create_dir_all(&root).context("no folder for the root file system")?;
    mount_device(&slot, &root, MountFlags::RDONLY)?;
    // The programs are this machine's; what the slot has in /usr, its os-release above all, lies over
    // them.
    overlay(&[&at("usr"), Path::new("/usr")], &at("usr"))?;
    overlay(&[&machine.etc(), &at("etc")], &at("etc"))?;
    mount_device(&machine.boot, &at("boot"), MountFlags::empty())?;
    mount_device(&machine.data, &at("var"), MountFlags::empty())?;
    for folder in ["lib", "log", "tmp"] {
        fs::create_dir_all(at("var").join(folder)).context("cannot use the data partition")?;
    }
    mount_bind_recursive("/dev", at("dev")).context("cannot show /dev")?;
    for (kind, place, options) in [
        ("proc", "proc", None),
        ("sysfs", "sys", None),
        ("tmpfs", "run", Some(c"mode=755")),
        ("tmpfs", "tmp", Some(c"mode=1777")),
        ("tmpfs", "sys/fs/cgroup", Some(c"mode=755")),
    ] {
        mount(kind, at(place), kind, MountFlags::empty(), options)
            .with_context(|| format!("cannot mount {kind} on /{place}"))?;
    }
    mount_control_groups(&at("sys/fs/cgroup"))?;
    hide_other_disks(&at("sys"), &machine.disk)?;
    let root_argument = Path::new(machine.slot(running.start.slot));
    let command_line = boot_loader::command_line(running.start, root_argument);
    let mut shown: BTreeMap<&str, String> = BTreeMap::from([
        ("cmdline", command_line),
        ("sys/kernel/random/boot_id", format!("{boot_id}\n")),
    ]);
    shown.extend(KERNEL.map(|(name, value)| (name, format!("{value}\n"))));
    show(&at("proc"), &at("run/kernel"), shown)?;
    fs::create_dir(at(RUNTIME)).context("no folder for the runtime")?;
    mount_bind(&machine.runtime, at(RUNTIME)).context("cannot show the runtime")?;
    File::create(at(KUBELET_PROGRAM)).context("no place for the kubelet")?;
    mount_bind(&machine.kubelet, at(KUBELET_PROGRAM)).context("cannot show the kubelet")?;
    if machine.takes_kubelet_held() {
        File::create(at(KUBELET_HELD)).context("cannot hold the kubelet")?;
    }
    let images = at("run/images");
    fs::create_dir(&images).context("no folder for container images")?;
    for image in &machine.images {
        let place = images.join(image.file_name().context("an archive without a name")?);
        File::create(&place).context("no place for a container image")?;
        mount_bind(image, &place).context("cannot show a container image")?;
    }
    Ok(())
}

fn mount_device(device: &Path, place: &Path, flags: MountFlags) -> Result<()> {
    mount(device, place, "ext4", flags, None)
        .with_context(|| format!("cannot mount {} on {}", device.display(), place.display()))
}

/// Mounts `layers`, the topmost first, on `place`, read-only.
fn overlay(layers: &[&Path], place: &Path) -> Result<()> {
    let layers: Vec<_> = layers.iter().map(|layer| layer.to_string_lossy()).collect();
    let options = std::ffi::CString::new(format!("lowerdir={}", layers.join(":")))
        .context("a folder's name with a zero byte")?;
    let flags = MountFlags::RDONLY;
    mount("overlay", place, "overlay", flags, options.as_c_str())
        .with_context(|| format!("cannot mount an overlay on {}", place.display()))
}

fn mount_control_groups(place: &Path) -> Result<()> {
    if control_groups::unified() {
        mount("cgroup2", place, "cgroup2", MountFlags::empty(), None)
            .context("cannot mount the control groups")?;
        // A group that has controllers for others has no process of its own, but for the real root.
        let own = place.join("first-process");
        fs::create_dir_all(&own).context("no group for the first process")?;
        control_groups::join(&[own])?;
        return control_groups::delegate(place);
    }
    for name in control_groups::CONTROLLERS.into_iter().chain(["systemd"]) {
        let folder = place.join(name);
        fs::create_dir(&folder).context("no folder for control groups")?;
        let options = match name {
            "systemd" => String::from("none,name=systemd"),
            controller => controller.to_owned(),
        };
        let options = std::ffi::CString::new(options).context("an option with a zero byte")?;
        let flags = MountFlags::empty();
        mount("cgroup", &folder, "cgroup", flags, options.as_c_str())
            .with_context(|| format!("cannot mount the control groups of {name}"))?;
    }
    Ok(())
}

/// A machine has its own disks alone: the lists of devices in sysfs show no other's.
fn hide_other_disks(sys: &Path, disk: &str) -> Result<()> {
    for list in ["class/block", "block", "dev/block"] {
        let place = sys.join(list);
        let mut own = Vec::new();
        for entry in fs::read_dir(&place).with_context(|| format!("cannot read {list}"))? {
            let path = entry.with_context(|| format!("cannot read {list}"))?.path();
            // Another machine's may go at any moment.
            let Ok(device) = path.canonicalize() else {
                continue;
            };
            if device.iter().any(|part| part == disk)
                && let (Some(name), Ok(target)) = (path.file_name(), fs::read_link(&path))
            {
                own.push((name.to_owned(), target));
            }
        }
        mount("tmpfs", &place, "tmpfs", MountFlags::empty(), c"mode=755")
            .with_context(|| format!("cannot hide other disks in {list}"))?;
        for (name, target) in own {
            symlink(target, place.join(name)).with_context(|| format!("cannot fill {list}"))?;
        }
    }
    Ok(())
}

/// Mounts files with this content, which are kept in `store`, over those below `proc`.
fn show(proc: &Path, store: &Path, contents: BTreeMap<&str, String>) -> Result<()> {
    fs::create_dir_all(store).context("no folder for what the kernel says")?;
    for (name, content) in contents {
        let file = store.join(name.replace('/', "-"));
        fs::write(&file, content).context("cannot write what the kernel says")?;
        let place = match name.split_once('/') {
            Some(("sys", _)) | None => proc.join(name),
            Some(_) => proc.join("sys").join(name),
        };
        mount_bind(&file, &place).with_context(|| format!("cannot cover {}", place.display()))?;
    }
    Ok(())
}

/// Makes `root` the root of this process and of everything it starts.
fn change_root(root: &Path) -> Result<()> {
    std::env::set_current_dir(root).context("cannot go to the new root")?;
    // Both the same: the old root is mounted over the new one, and taken away (pivot_root(2)).
    rustix::process::pivot_root(".", ".").context("cannot change the root")?;
    unmount(".", UnmountFlags::DETACH).context("cannot leave the old root")?;
    std::env::set_current_dir("/").context("cannot go to /")?;
    // As systemd leaves it: pods that want to see later mounts ask for it.
    mount_change(
        "/",
        MountPropagationFlags::SHARED | MountPropagationFlags::REC,
    )
    .context("cannot share the mounts")
}

fn network(machine: &Machine) -> Result<()> {
    rustix::system::sethostname(machine.name.as_bytes()).context("cannot set the host name")?;
    ip(&["link", "set", "lo", "up"])?;
    let end = Instant::now() + READY;
    while !Path::new("/sys/class/net/eth0").exists() {
        ensure!(Instant::now() < end, "no cable was plugged in");
        thread::sleep(LOOK);
    }
    ip(&[
        "address",
        "add",
        &format!("{}/24", machine.address),
        "dev",
        "eth0",
    ])?;
    ip(&["link", "set", "eth0", "up"])?;
    ip(&[
        "route",
        "add",
        "default",
        "via",
        &machine.gateway.to_string(),
    ])?;
    for (pods, node) in &machine.routes {
        ip(&["route", "add", pods, "via", &node.to_string()])?;
    }
    // Of this namespace alone.
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("cannot forward packets to pods")
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = program("ip")
        .args(arguments)
        .output()
        .context("cannot run ip")?;
    if !output.status.success() {
        bail!(
            "ip {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

/// A program of the node.
fn program(name: &str) -> Command {
    let mut command = Command::new(name);
    let path = format!("{RUNTIME}:/usr/sbin:/usr/bin");
    command
        .env_clear()
        .env("PATH", path)
        .env("HOME", "/root")
        .stdin(Stdio::null());
    command
}

/// What a node keeps running.
struct Services {
    containerd: Child,
    kubelet: Option<Child>,
    name: String,
    address: String,
}

impl Services {
    fn start(machine: &Machine) -> Result<Self> {
        let containerd = containerd()?;
        let end = Instant::now() + READY;
        while !program("ctr")
            .arg("version")
            .output()
            .is_ok_and(|done| done.status.success())
        {
            ensure!(
                Instant::now() < end,
                "containerd does not answer; see /var/log/containerd.log"
            );
            thread::sleep(LOOK);
        }
        import(machine)?;
        let mut services = Self {
            containerd,
            kubelet: None,
            name: machine.name.clone(),
            address: machine.address.to_string(),
        };
        if !Path::new(KUBELET_HELD).exists() {
            services.start_kubelet()?;
        }
        Ok(services)
    }

    fn start_kubelet(&mut self) -> Result<()> {
        let mut command = program(KUBELET_PROGRAM);
        command
            .arg("--config=/etc/kubernetes/kubelet.yaml")
            .arg("--kubeconfig=/etc/kubernetes/kubelet.kubeconfig")
            .arg(format!("--hostname-override={}", self.name))
            .arg(format!("--node-ip={}", self.address))
            .arg("--v=2");
        self.kubelet = Some(logged(command, "kubelet")?);
        Ok(())
    }

    /// Waits for the end of any process, and starts again what must run.
    fn keep(&mut self) -> Result<()> {
        let ended = match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, _))) => Some(pid.as_raw_nonzero().get().unsigned_abs()),
            // Nobody has ended, or somebody else's signal came.
            Ok(None) | Err(_) => None,
        };
        match ended {
            None => thread::sleep(LOOK),
            Some(pid) if pid == self.containerd.id() => self.containerd = containerd()?,
            Some(pid)
                if self
                    .kubelet
                    .as_ref()
                    .is_some_and(|kubelet| kubelet.id() == pid) =>
            {
                self.kubelet = None;
            }
            // An orphan.
            Some(_) => {}
        }
        match (&mut self.kubelet, Path::new(KUBELET_HELD).exists()) {
            (None, false) => self.start_kubelet(),
            // It is buried in the next round.
            (Some(kubelet), true) => kubelet.kill().context("cannot end the kubelet"),
            _ => Ok(()),
        }
    }
}

fn containerd() -> Result<Child> {
    logged(program("containerd"), "containerd")
}

fn logged(mut command: Command, name: &str) -> Result<Child> {
    let path = PathBuf::from(format!("/var/log/{name}.log"));
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    let errors = log.try_clone().context("cannot share a log")?;
    command
        .stdout(log)
        .stderr(errors)
        .spawn()
        .with_context(|| format!("cannot run {name}"))
}

/// Brings the system's container images into containerd's store, those that are not there yet.
fn import(machine: &Machine) -> Result<()> {
    for image in &machine.images {
        let name = image.file_name().context("an archive without a name")?;
        let length = fs::metadata(Path::new("/run/images").join(name))
            .context("an archive is gone")?
            .len();
        let mark = Path::new("/var/lib").join(format!(".{}.{length}", name.to_string_lossy()));
        if mark.exists() {
            continue;
        }
        let output = program("ctr")
            .args(["--namespace=k8s.io", "images", "import", "--local"])
            .arg(Path::new("/run/images").join(name))
            .output()
            .context("cannot run ctr")?;
        if !output.status.success() {
            bail!(
                "{} cannot be imported: {}",
                name.to_string_lossy(),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        // What a power cut left of an import is an image of empty files.
        let data = File::open("/var").context("the data partition is gone")?;
        rustix::fs::syncfs(&data).context("cannot write a container image to the disk")?;
        File::create(&mark).context("cannot note that an image is there")?;
    }
    Ok(())
}
