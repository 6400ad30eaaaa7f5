//! The seeds of the fuzz targets hold what the targets assert, on a stable compiler too.
#![allow(clippy::unwrap_used, clippy::panic, unreachable_pub, reason = "tests")]

#[path = "../fuzz/src/lib.rs"]
mod promises;

use std::{fs, path::Path};

/// The seeds of a target.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    fs::read_dir(corpus)
        .unwrap()
        .map(|entry| fs::read(entry.unwrap().path()).unwrap())
        .collect()
}

#[test]
fn of_the_decoder_and_of_the_engine() {
    let seeds = seeds("decoder");
    assert!(seeds.len() >= 10, "{} seeds", seeds.len());
    for seed in seeds {
        // In all portions, not only those that the seed's first byte names.
        for portions in 0..=u8::MAX {
            promises::decoder(&[&[portions][..], &seed[1..]].concat());
        }
        promises::frames(&seed[1..]);
    }
    for seed in self::seeds("frames") {
        promises::frames(&seed);
        promises::decoder(&[&[0x11][..], &seed].concat());
    }
}

#[test]
fn of_the_seek_table() {
    for seed in seeds("seek_table") {
        promises::seek_table(&seed);
        // And damaged anywhere.
        for at in 0..seed.len() {
            let mut damaged = seed.clone();
            damaged[at] ^= 0x81;
            promises::seek_table(&damaged);
            promises::seek_table(&seed[at..]);
        }
    }
}

#[test]
fn of_the_checkpoint() {
    for seed in seeds("checkpoint") {
        promises::checkpoint(&seed);
    }
}
