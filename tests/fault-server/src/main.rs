//! `fault-server`: serves files and fails as told, for trying things by hand.
#![forbid(unsafe_code)]

use std::{net::SocketAddr, path::PathBuf};

use clap::Parser;
use monok8s_fault_server::{Content, Fault, FaultServer, Resource, Tls};

/// Serves files over HTTP/1.1 and fails as told.
#[derive(Parser)]
struct Args {
    /// Files to serve, each under its file name.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8000")]
    listen: SocketAddr,
    /// A fault for the next request to each file; may be given again for the one after.
    #[arg(long = "fault")]
    faults: Vec<Fault>,
    /// A fault for every request after those.
    #[arg(long)]
    forever: Option<Fault>,
    /// Serve https with a certificate of its own; the authority is written to this file.
    #[arg(long, value_name = "CA_FILE")]
    tls: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let args = Args::parse();
    let mut builder = FaultServer::builder().listen(args.listen);
    let mut paths = Vec::new();
    for file in &args.files {
        let mut resource = Resource::new(Content::file(file)?).faults(args.faults.clone());
        if let Some(fault) = args.forever.clone() {
            resource = resource.forever(fault);
        }
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let path = format!("/{name}");
        builder = builder.at(&path, resource);
        paths.push(path);
    }
    if args.tls.is_some() {
        builder = builder.tls(Tls::default());
    }
    let server = builder.start().await?;
    if let (Some(path), Some(pem)) = (&args.tls, server.ca_pem()) {
        std::fs::write(path, pem)?;
    }
    for path in &paths {
        println!("{}", server.url(path));
    }
    tokio::select! {
        ended = server.serve() => ended,
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}
