//! Several cases in one cluster, each with a node and an OSUpgrade of its own.

use std::{fmt::Write as _, pin::Pin, time::Instant};

use anyhow::{Result, bail};
use futures::StreamExt as _;
use monok8s_sandbox::node::NodeOptions;

/// How many cases run at a time: enough to keep two cores busy while others wait for a reboot.
const AT_A_TIME: usize = 4;

/// One case: its name and what it does.
pub type Case<'a> = (&'static str, Pin<Box<dyn Future<Output = Result<()>> + 'a>>);

/// A case from a name and a future.
pub fn case<'a>(name: &'static str, does: impl Future<Output = Result<()>> + 'a) -> Case<'a> {
    (name, Box::pin(does))
}

/// Runs all of them and fails with every failure, not only the first.
pub async fn all(cases: Vec<Case<'_>>) -> Result<()> {
    let ended: Vec<_> = futures::stream::iter(cases)
        .map(|(name, does)| async move {
            let begin = Instant::now();
            let outcome = does.await;
            eprintln!("case {name}: {} s", begin.elapsed().as_secs());
            (name, outcome)
        })
        .buffer_unordered(AT_A_TIME)
        .collect()
        .await;
    let mut failures = String::new();
    for (name, outcome) in ended {
        if let Err(error) = outcome {
            let _ = writeln!(failures, "\n=== {name}: {error:?}");
        }
    }
    if failures.is_empty() {
        Ok(())
    } else {
        bail!("{failures}")
    }
}

/// The node of a case: the label `case` carries its name.
pub fn node(case: &str) -> NodeOptions {
    let mut options = NodeOptions::new(case);
    options.labels.insert("case".into(), case.into());
    options
}

/// The nodes of these cases.
pub fn nodes(cases: &[&str]) -> Vec<NodeOptions> {
    cases.iter().map(|case| node(case)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_failure_is_told() {
        let cases = vec![
            case("one", async { bail!("first") }),
            case("two", async { Ok(()) }),
            case("three", async { bail!("second") }),
        ];
        let told = all(cases).await.unwrap_err().to_string();
        assert!(
            told.contains("first") && told.contains("second") && !told.contains("two"),
            "{told}"
        );
    }
}
