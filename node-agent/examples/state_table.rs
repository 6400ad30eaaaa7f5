//! Writes docs/state-table.md.

fn main() -> std::io::Result<()> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/state-table.md");
    std::fs::write(path, monok8s_node_agent::decide::state_table::markdown())
}
