//! The examples in the pages for users, so that tests can run them.

use std::path::PathBuf;

use anyhow::{Context, Result};
use monok8s_sandbox::scratch;

/// A fenced block of a page.
#[derive(Clone, Debug)]
pub struct Block {
    /// Page and line, for a test's message.
    pub place: String,
    /// The word after the fence, such as `yaml`; empty when there is none.
    pub language: String,
    /// What stands between the fences.
    pub text: String,
}

/// The pages that people write; `docs/reference` is generated.
pub fn paths() -> Result<Vec<PathBuf>> {
    let root = scratch::repository();
    let mut pages = vec![root.join("README.md"), root.join("CONTRIBUTING.md")];
    for entry in std::fs::read_dir(root.join("docs")).context("cannot list docs")? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "md") {
            pages.push(path);
        }
    }
    pages.sort();
    Ok(pages)
}

/// Every fenced block of every page.
pub fn blocks() -> Result<Vec<Block>> {
    let mut blocks = Vec::new();
    for path in paths()? {
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let page = path
            .strip_prefix(scratch::repository())
            .unwrap_or(&path)
            .display()
            .to_string();
        blocks.extend(blocks_of(&page, &text));
    }
    Ok(blocks)
}

fn blocks_of(page: &str, text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (number, line) in text.lines().enumerate() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(language), None) => {
                open = Some(Block {
                    place: format!("{page}:{}", number + 1),
                    language: language.trim().to_owned(),
                    text: String::new(),
                });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some(block)) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    blocks
}

/// The rows of the Markdown tables under each `## ` heading: (heading, cells), title rows and rules
/// left out.
pub fn table_rows(text: &str) -> Vec<(String, Vec<String>)> {
    let mut heading = String::new();
    let mut rows = Vec::new();
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            title.clone_into(&mut heading);
        } else if line.starts_with("| `") {
            let cells = line
                .trim_matches('|')
                .split(" | ")
                .map(|cell| cell.trim().to_owned())
                .collect();
            rows.push((heading.clone(), cells));
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_and_rows_are_found() {
        let text =
            "a\n```yaml\nx: 1\n```\nb\n```\ny\n```\n## T\n| t | u |\n|---|---|\n| `W` | w |\n";
        let blocks = blocks_of("p.md", text);
        assert_eq!(blocks.len(), 2);
        assert_eq!(
            (blocks[0].language.as_str(), blocks[0].text.as_str()),
            ("yaml", "x: 1\n")
        );
        assert_eq!(blocks[1].place, "p.md:6");
        assert_eq!(
            table_rows(text),
            [("T".to_owned(), vec!["`W`".to_owned(), "w".to_owned()])]
        );
    }
}
