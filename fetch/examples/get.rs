//! Fetches a URL as the node agent would and counts the bytes: for trying servers by hand.
//!
//! `cargo run -p monok8s-fetch --example get -- URL [MIRROR…]`

use std::{sync::Arc, time::Instant};

use monok8s_fetch::{Client, FetchError, ImageRequest, Kind, Policy, SourceUrl};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let urls = std::env::args()
        .skip(1)
        .map(|text| text.parse())
        .collect::<Result<Vec<SourceUrl>, _>>()?;
    let Some((first, mirrors)) = urls.split_first() else {
        return Err("a URL is needed".into());
    };
    let client = Client::builder().policy(Policy::HTTP_ALLOWED).build()?;
    let request = ImageRequest {
        mirrors: mirrors.to_vec(),
        observer: Some(Arc::new(|event| eprintln!("{event:?}"))),
        ..ImageRequest::new(first.clone())
    };
    let started = Instant::now();
    let chunks = count(&client, request).await?;
    println!("{chunks} chunks in {:?}", started.elapsed());
    Ok(())
}

/// Reads to the end; the number of chunks, the bytes being told on the way.
async fn count(client: &Client, request: ImageRequest) -> Result<u64, FetchError> {
    let mut body = client.open(request).await?;
    let mut chunks = 0;
    loop {
        match body.next_chunk().await {
            Ok(Some(_)) => chunks += 1,
            Ok(None) => break,
            Err(error) if error.kind() == Kind::SourceChanged => {
                eprintln!("{error}");
                body.start_over();
            }
            Err(error) => return Err(error),
        }
    }
    println!("{} bytes from {}", body.progress().done, body.url());
    Ok(chunks)
}
