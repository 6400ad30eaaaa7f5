//! The record that an agent keeps on its machine's data partition, as a test looks at it.

use std::path::PathBuf;

use anyhow::{Context, Result};
use monok8s_sandbox::node::Node;
use serde_json::Value;

/// Its file.
pub fn path(node: &Node) -> PathBuf {
    node.machine().data().join("monok8s/record.json")
}

/// What it says.
pub fn read(node: &Node) -> Result<Value> {
    let path = path(node);
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("no record at {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no JSON", path.display()))
}

/// Whether an attempt has its image and its slot chosen.
pub fn is_planned(node: &Node) -> bool {
    any_attempt(node, |attempt| !attempt["plan"].is_null())
}

/// Whether an attempt has given its slot up for writing.
pub fn is_writing(node: &Node) -> bool {
    any_attempt(node, |attempt| attempt["writing"] == true)
}

/// Whether an attempt has proven that its slot holds the whole image.
pub fn is_proven(node: &Node) -> bool {
    any_attempt(node, |attempt| !attempt["proven"].is_null())
}

fn any_attempt(node: &Node, holds: impl Fn(&Value) -> bool) -> bool {
    let record = read(node).unwrap_or_default();
    record["attempts"]
        .as_array()
        .is_some_and(|attempts| attempts.iter().any(holds))
}
