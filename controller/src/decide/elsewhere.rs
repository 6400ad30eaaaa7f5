//! Where the pods of a node that is emptied can go.

use std::collections::{BTreeMap, BTreeSet};

use crate::index::{Index, Node, Taint};

/// Nodes that are Ready and not cordoned, counted by the taints that keep pods away from them.
///
/// A taint that the emptied node has too keeps none of its pods away, for they tolerate it: nodes of
/// the control plane take each other's pods, and so do nodes of one dedicated pool. Of any other
/// taint it is taken that they do not.
#[derive(Debug)]
pub(super) struct Open<'a> {
    by_taints: BTreeMap<&'a BTreeSet<Taint>, usize>,
}

impl<'a> Open<'a> {
    pub(super) fn of(index: &'a Index) -> Self {
        let mut by_taints = BTreeMap::new();
        for node in index.nodes().filter(|n| is_open(n)) {
            *by_taints.entry(&node.taints).or_default() += 1;
        }
        Self { by_taints }
    }

    /// Whether another node takes the pods of this one.
    pub(super) fn beside(&self, node: &Node) -> bool {
        self.by_taints.iter().any(|(taints, count)| {
            let itself = is_open(node) && **taints == node.taints;
            taints.is_subset(&node.taints) && *count > usize::from(itself)
        })
    }

    /// This node takes no pods any more.
    pub(super) fn close(&mut self, node: &Node) {
        if let Some(count) = self.by_taints.get_mut(&node.taints)
            && is_open(node)
        {
            *count = count.saturating_sub(1);
        }
    }
}

fn is_open(node: &Node) -> bool {
    node.ready && !node.cordoned
}

/// Whether another node takes the pods of this one, as the index has it.
pub fn is_there(index: &Index, node: &str) -> bool {
    let open = Open::of(index);
    index.node(node).is_some_and(|node| open.beside(node))
}
