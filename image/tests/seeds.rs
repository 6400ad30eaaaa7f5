//! The seeds of the fuzz target hold what the target asserts, on a stable compiler too.
#![allow(clippy::unwrap_used, clippy::panic, unreachable_pub, reason = "tests")]

#[path = "../fuzz/src/lib.rs"]
mod promises;

use std::{fs, path::Path};

#[test]
fn every_seed() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/decoder");
    let mut seeds = 0;
    for entry in fs::read_dir(corpus).unwrap() {
        let seed = fs::read(entry.unwrap().path()).unwrap();
        // In all portions, not only those that the seed's first byte names.
        for portions in 0..=u8::MAX {
            promises::decoder(&[&[portions][..], &seed[1..]].concat());
        }
        seeds += 1;
    }
    assert!(seeds >= 10, "{seeds} seeds");
}
