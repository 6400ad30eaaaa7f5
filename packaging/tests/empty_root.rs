//! The programs with nothing around them but the image's own tree. Needs root, for chroot(2); says so where it has none.
use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    path::Path,
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use monok8s_packaging::{programs::PROGRAMS, rootfs::USER};
use monok8s_sandbox::skip;
use tempfile::TempDir;

use crate::unpacked;

/// The image's tree, where this process may change its root.
fn root() -> Option<TempDir> {
    if rustix::process::geteuid().is_root() {
        return Some(unpacked::root());
    }
    skip::say("only root may run a program in another root");
    None
}

/// A program of the image, in its tree, without rights.
fn inside(root: &Path, program: &str) -> Command {
    let mut command = Command::new("chroot");
    command
        .arg(format!("--userspec={USER}:{USER}"))
        .arg(root)
        .arg(Path::new("/usr/bin").join(program))
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command
}

fn told(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn each_program_runs() {
    let Some(root) = root() else { return };
    for (program, _) in PROGRAMS {
        let output = inside(root.path(), program)
            .arg("--version")
            .output()
            .unwrap();
        assert!(output.status.success(), "{program}: {}", told(&output));
        assert!(
            told(&output).contains(env!("CARGO_PKG_VERSION")),
            "{program}: {}",
            told(&output)
        );
    }
}

#[test]
fn the_manifests_can_be_printed() {
    let Some(root) = root() else { return };
    let output = inside(root.path(), "ctl")
        .args(["create", "controller"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", told(&output));
    assert!(told(&output).contains("kind: Deployment"));
}

#[test]
fn there_is_no_shell() {
    let Some(root) = root() else { return };
    for shell in ["sh", "bash", "busybox"] {
        let output = inside(root.path(), shell).output().unwrap();
        assert!(!output.status.success(), "{shell}");
    }
    let programs: Vec<_> = fs::read_dir(root.path().join("usr/bin")).unwrap().collect();
    assert_eq!(programs.len(), PROGRAMS.len());
}

/// A server of one catalog, which knows whether it was asked.
struct CatalogServer {
    listener: TcpListener,
}

impl CatalogServer {
    fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        Self { listener }
    }

    fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    /// Answers one request.
    fn serve(&self) {
        const CATALOG: &str = "images: []\n";
        let (mut stream, _) = self.listener.accept().unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let mut request: Vec<u8> = Vec::new();
        let mut part = [0; 1024];
        while !request.windows(4).any(|w| w == b"\r\n\r\n") {
            let got = stream.read(&mut part).unwrap();
            assert!(got > 0, "the request ends early");
            request.extend(&part[..got]);
        }
        let size = CATALOG.len();
        write!(
            stream,
            "HTTP/1.1 200 OK\r\ncontent-length: {size}\r\nconnection: close\r\n\r\n{CATALOG}"
        )
        .unwrap();
    }
}

/// What `ctl plan` says of an upgrade whose catalog is on `host`.
fn plan(root: &Path, host: &str, server: &CatalogServer) -> String {
    let node = "apiVersion: v1\nkind: Node\nmetadata: {name: node-1, labels: {monok8s.io/managed: 'true'}}\n";
    fs::write(root.join("objects.yaml"), node).unwrap();
    let upgrade = format!(
        "apiVersion: monok8s.io/v1alpha1\nkind: OSUpgrade\nmetadata: {{name: u}}\n\
         spec: {{version: v1.35.1, catalog: {{url: \"http://{host}:{}/catalog.yaml\"}}}}\n",
        server.port()
    );
    let answered = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            server.serve();
            answered.store(true, Ordering::SeqCst);
        });
        let mut ctl = inside(root, "ctl")
            .args(["plan", "--allow-http-catalogs"])
            .args(["--objects", "/objects.yaml", "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = ctl.stdin.take().unwrap();
        input.write_all(upgrade.as_bytes()).unwrap();
        drop(input);
        let output = ctl.wait_with_output().unwrap();
        if !answered.load(Ordering::SeqCst) {
            // Ends the server's wait, so that the test fails with what ctl said.
            let mut end =
                std::net::TcpStream::connect(server.listener.local_addr().unwrap()).unwrap();
            end.write_all(b"\r\n\r\n").unwrap();
            panic!("the catalog was not fetched: {}", told(&output));
        }
        told(&output)
    })
}

#[test]
fn names_in_the_hosts_file_are_found() {
    let Some(root) = root() else { return };
    fs::write(
        root.path().join("etc/hosts"),
        "127.0.0.1 catalogs.monok8s.test\n",
    )
    .unwrap();
    let server = CatalogServer::start();
    let said = plan(root.path(), "catalogs.monok8s.test", &server);
    assert!(said.contains("v1.35.1"), "{said}");
}

#[test]
fn names_are_asked_of_the_name_server() {
    let Some(root) = root() else { return };
    // Name servers are asked on port 53 only; an address that nobody else on this machine answers on.
    let address = Ipv4Addr::new(127, 91, 0, 53);
    let dns = match UdpSocket::bind((address, 53)) {
        Ok(dns) => dns,
        Err(e) => {
            skip::say(&format!(
                "no name server can listen on {address}:53 here: {e}"
            ));
            return;
        }
    };
    fs::write(
        root.path().join("etc/resolv.conf"),
        format!("nameserver {address}\n"),
    )
    .unwrap();
    let server = CatalogServer::start();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| answer_names(&dns, &done));
        let said = std::panic::catch_unwind(|| plan(root.path(), "named.monok8s.test", &server));
        done.store(true, Ordering::SeqCst);
        match said {
            Ok(said) => assert!(said.contains("v1.35.1"), "{said}"),
            Err(failed) => std::panic::resume_unwind(failed),
        }
    });
}

/// A name server (RFC 1035) for which every name has the address 127.0.0.1, and none of the sixth version.
fn answer_names(dns: &UdpSocket, done: &AtomicBool) {
    dns.set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    let mut question = [0; 512];
    while !done.load(Ordering::SeqCst) {
        let Ok((size, asker)) = dns.recv_from(&mut question) else {
            continue;
        };
        dns.send_to(&answer(&question[..size]), asker as SocketAddr)
            .unwrap();
    }
}

fn answer(question: &[u8]) -> Vec<u8> {
    // The name, its closing zero, then the kind and the class.
    let name_end = 12 + question[12..].iter().position(|b| *b == 0).unwrap() + 1;
    let wants_v4 = question[name_end..name_end + 2] == [0, 1];
    let mut answer = question[..2].to_vec();
    // An answer, with recursion; one question, and one record when it asks for an address.
    answer.extend([0x81, 0x80, 0, 1, 0, u8::from(wants_v4), 0, 0, 0, 0]);
    answer.extend(&question[12..name_end + 4]);
    if wants_v4 {
        // The name is the one at offset 12; A, IN, for 60 s, four bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
    }
    answer
}
