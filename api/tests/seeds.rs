//! The seeds of the fuzz targets hold what the targets assert, on a stable compiler too, and each
//! is what its corpus needs it for: enough of them are read to the end.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub,
    reason = "tests"
)]

#[path = "../fuzz/src/lib.rs"]
mod promises;

use std::{fs, path::Path};

/// Walks a corpus; gives how many seeds there are and how many are accepted.
fn walk(corpus: &str, holds: impl Fn(&str) -> bool) -> (usize, usize) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let (mut seeds, mut accepted) = (0, 0);
    for entry in fs::read_dir(folder.join(corpus)).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        // As the targets are given them: up to what is no UTF-8.
        let text = bytes.utf8_chunks().next().map_or("", |chunk| chunk.valid());
        accepted += usize::from(holds(text));
        // Cut off anywhere it must hold as well.
        let ends = text.char_indices().map(|(at, _)| at);
        for end in ends.step_by((text.len() / 200).max(1)) {
            holds(&text[..end]);
        }
        seeds += 1;
    }
    (seeds, accepted)
}

#[test]
fn every_catalog() {
    let (seeds, accepted) = walk("catalog", promises::catalog);
    assert!(seeds >= 12 && accepted >= 6, "{accepted} of {seeds}");
}

#[test]
fn every_requirement() {
    let (seeds, accepted) = walk("requirement", promises::requirement);
    assert!(seeds >= 12 && accepted >= 8, "{accepted} of {seeds}");
}
