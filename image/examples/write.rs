//! Writes the file of an image to a block device or a file and prints what each stage did: `write FILE DEVICE`.
//!
//! For measuring the engine alone: it checks against the file's own SHA-256 and has none of the agent's refusals.

use std::{
    error::Error,
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Read},
    ops::ControlFlow,
    os::unix::fs::OpenOptionsExt,
    time::Instant,
};

use monok8s_image::{Digest, Expectation, HostDevice, Timed, WindowLimit, install};
use sha2::Digest as _;

fn main() -> Result<(), Box<dyn Error>> {
    let [file, device] = std::env::args()
        .skip(1)
        .collect::<Vec<_>>()
        .try_into()
        .map_err(|_| "usage: write FILE DEVICE")?;
    let mut hasher = sha2::Sha256::new();
    let mut reader = BufReader::with_capacity(1 << 20, File::open(&file)?);
    loop {
        let bytes = reader.fill_buf()?;
        if bytes.is_empty() {
            break;
        }
        hasher.update(bytes);
        let count = bytes.len();
        reader.consume(count);
    }
    drop(reader);
    let expectation = Expectation {
        checksum: Digest(hasher.finalize().into()),
        size: None,
        window_limit: WindowLimit::default(),
    };
    let o_excl = i32::try_from(rustix::fs::OFlags::EXCL.bits())?;
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(o_excl)
        .open(&device)?;
    let target = HostDevice::new(opened, &device)?;
    let mut source: Box<dyn Read + Send> = Box::new(File::open(&file)?);

    let start = Instant::now();
    let installed = install(&mut source, &target, &expectation, &mut |_| {
        ControlFlow::Continue(())
    })?;
    let whole = Timed {
        bytes: installed.image_bytes,
        busy: start.elapsed(),
    };
    println!(
        "{}: {} bytes, {}",
        device, installed.image_bytes, installed.access
    );
    let stages = installed.times.named();
    for (stage, timed) in stages.into_iter().chain([("whole", whole)]) {
        #[allow(clippy::cast_precision_loss, reason = "for people to read")]
        let megabytes = timed.bytes as f64 / 1e6;
        let seconds = timed.busy.as_secs_f64();
        println!(
            "{stage:>10} {megabytes:9.1} MB {seconds:7.3} s {:9.1} MB/s",
            megabytes / seconds
        );
    }
    Ok(())
}
