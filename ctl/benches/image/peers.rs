//! RAUC and `SWUpdate`, where they are installed: the same image, each in a format of its own, from a file of this machine.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{IMAGE, Runs, is_there, said, shell};

/// How to install once, and what has to run meanwhile.
pub(crate) struct Peer {
    pub(crate) what: &'static str,
    script: String,
    _services: Vec<Service>,
}

/// Ends with the benchmark.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Those that can be run; a line says why one cannot.
pub(crate) fn peers(folder: &Path, image: &Path, single: &Path, device: &str) -> Vec<Peer> {
    let rauc = with(
        "RAUC",
        &["rauc", "mksquashfs", "dbus-daemon", "dbus-send", "openssl"],
        || rauc(&folder.join("rauc"), image, device),
    );
    let swupdate = with("SWUpdate", &["swupdate", "cpio", "openssl"], || {
        swupdate(&folder.join("swupdate"), single, device)
    });
    rauc.into_iter().chain(swupdate).collect()
}

fn with(name: &str, tools: &[&str], make: impl FnOnce() -> Result<Peer, String>) -> Option<Peer> {
    let missing: Vec<_> = tools.iter().filter(|tool| !is_there(tool)).collect();
    if !missing.is_empty() {
        eprintln!("{name} is left out: these programs are not there: {missing:?}");
        return None;
    }
    make()
        .map_err(|why| eprintln!("{name} is left out: {why}"))
        .ok()
}

fn run(script: &str) -> Result<(), String> {
    let output = Command::new("bash")
        .args(["-c", script])
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{script}: {}", said.trim()))
}

/// A key and a certificate as both want them, in the current folder.
const KEY: &str = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=bench \
    -addext keyUsage=digitalSignature -addext extendedKeyUsage=emailProtection 2>/dev/null";

/// A bundle is a squashfs with the image in it and a signature of the whole. It is installed by a service that is asked
/// by D-Bus: both are started here, on a bus of their own. (Its streaming needs nbd, and a verity bundle device-mapper.)
fn rauc(folder: &Path, image: &Path, device: &str) -> Result<Peer, String> {
    let bundle = folder.join("bundle");
    fs::create_dir_all(&bundle).map_err(|error| error.to_string())?;
    let path = folder.display();
    let file = |name: &str, text: String| {
        fs::write(folder.join(name), text).map_err(|error| error.to_string())
    };
    file(
        "bundle/manifest.raucm",
        "[update]\ncompatible=bench\nversion=1\n[bundle]\nformat=plain\n[image.rootfs]\nfilename=rootfs.img\n".into(),
    )?;
    file(
        "system.conf",
        format!(
            "[system]\ncompatible=bench\nbootloader=noop\nmountprefix={path}/mnt\nstatusfile={path}/status\n\
             bundle-formats=+plain\n[keyring]\npath={path}/cert.pem\n\
             [slot.rootfs.0]\ndevice={path}/other.img\ntype=raw\nbootname=A\n\
             [slot.rootfs.1]\ndevice={device}\ntype=raw\nbootname=B\n"
        ),
    )?;
    eprintln!("making a bundle of it for RAUC");
    run(&format!(
        "cd {path} && {KEY} && truncate -s 1M other.img && cp --reflink=auto {} bundle/rootfs.img && \
         rauc bundle --cert=cert.pem --key=key.pem --mksquashfs-args='-comp zstd -Xcompression-level 6' \
         bundle a.raucb && rm -r bundle",
        image.display()
    ))?;
    // A socket's path must be short.
    let bus = format!("unix:abstract=monok8s-bench-{}", std::process::id());
    let start = |program: &str, args: &[&str]| {
        Command::new(program)
            .args(args)
            .env("DBUS_SYSTEM_BUS_ADDRESS", &bus)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map(Service)
            .map_err(|error| format!("{program}: {error}"))
    };
    let daemon = start(
        "dbus-daemon",
        &["--session", "--nofork", &format!("--address={bus}")],
    )?;
    let names = format!(
        "DBUS_SYSTEM_BUS_ADDRESS={bus} timeout 5 dbus-send --system --print-reply --dest=org.freedesktop.DBus / \
         org.freedesktop.DBus.ListNames"
    );
    wait_for(&names, "org.freedesktop.DBus")?;
    let conf = format!("--conf={path}/system.conf");
    let service = start("rauc", &[&conf, "--override-boot-slot=A", "service"])?;
    wait_for(&names, "de.pengutronix.rauc")?;
    Ok(Peer {
        what: "RAUC, a bundle of zstd, nothing read back",
        script: format!(
            "DBUS_SYSTEM_BUS_ADDRESS={bus} timeout 100 rauc install {path}/a.raucb >/dev/null 2>&1"
        ),
        _services: vec![service, daemon],
    })
}

/// Until what the script says has this in it.
fn wait_for(script: &str, word: &str) -> Result<(), String> {
    let begun = Instant::now();
    let names = || Command::new("bash").args(["-c", script]).output();
    while begun.elapsed() < Duration::from_secs(30) {
        let said = names().map_err(|error| error.to_string())?.stdout;
        if String::from_utf8_lossy(&said).contains(word) {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(50));
    }
    Err(format!("{word} did not come to the bus"))
}

/// A cpio archive with a signed description in front; the image in it goes to the device as it is expanded.
fn swupdate(folder: &Path, single: &Path, device: &str) -> Result<Peer, String> {
    fs::create_dir_all(folder).map_err(|error| error.to_string())?;
    let path = folder.display();
    let digest = said(&format!("sha256sum {}", single.display()));
    let description = format!(
        "software = {{\n  version = \"1\";\n  hardware-compatibility: [ \"1.0\" ];\n  images: ({{ filename = \"single.zst\"; \
         device = \"{device}\"; type = \"raw\"; compressed = \"zstd\"; installed-directly = true; sha256 = \"{}\"; }});\n}}\n",
        &digest[..64]
    );
    fs::write(folder.join("sw-description"), description).map_err(|error| error.to_string())?;
    run(&format!(
        "cd {path} && {KEY} && cp --reflink=auto {} single.zst && \
         openssl cms -sign -in sw-description -out sw-description.sig -signer cert.pem -inkey key.pem -outform DER \
         -nosmimecap -binary && \
         printf 'sw-description\\nsw-description.sig\\nsingle.zst\\n' | cpio -o -H crc --quiet >a.swu && rm single.zst",
        single.display()
    ))?;
    Ok(Peer {
        what: "SWUpdate, its archive of one zstd frame, nothing read back",
        // It keeps folders beside itself.
        script: format!(
            "cd {path} && TMPDIR={path} timeout 100 swupdate -H bench:1.0 -k cert.pem -i a.swu >/dev/null 2>&1"
        ),
        _services: Vec::new(),
    })
}

impl Peer {
    /// Installs once; no when it failed or the device does not hold the image, and then it is left out.
    pub(crate) fn install(&self, run: &mut Runs, device: &str, image_digest: &str) -> bool {
        // Nobody finds what another one has written.
        shell(&format!("blkdiscard -fz -l 64M {device} 2>/dev/null"));
        let installed = run.time(|| self::run(&self.script));
        // What was written is on the device, and what is left in memory is not what is measured next.
        shell(&format!("sync {device}; blockdev --flushbufs {device}"));
        let judged = installed.and_then(|()| {
            if holds(device) == image_digest {
                Ok(())
            } else {
                Err("the device does not hold the image".to_owned())
            }
        });
        if let Err(why) = &judged {
            eprintln!("left out: {}: {why}", self.what);
        }
        judged.is_ok()
    }
}

/// The SHA-256 of the image's length of the device.
fn holds(device: &str) -> String {
    let read = format!(
        "dd if={device} bs=4M iflag=direct,count_bytes count={IMAGE} status=none | sha256sum"
    );
    format!("sha256:{}", &said(&read)[..64])
}
