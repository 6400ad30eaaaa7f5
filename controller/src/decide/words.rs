//! How messages count, name and end.

/// How many nodes a message names before it only counts.
const NAMED: usize = 3;
/// Longest message put into a status, in characters. A condition's may have 32768 bytes.
const MAX_MESSAGE: usize = 1_024;

/// A number of nodes.
pub(super) fn nodes(count: i32) -> String {
    match count {
        1 => "1 node".to_owned(),
        n => format!("{n} nodes"),
    }
}

/// Names, at most a few of them.
pub(super) fn listed(names: &[String]) -> String {
    match names.get(..NAMED) {
        Some(first) if names.len() > NAMED => {
            format!("{} and {} more", first.join(", "), names.len() - NAMED)
        }
        _ => names.join(", "),
    }
}

/// A message at the length that a status may have.
pub(super) fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_MESSAGE) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}
