//! Every reason that an object can show stands on the troubleshooting page, once, with a cure.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use monok8s_api::reason::{
    AcceptedReason, AttemptReason, CatalogChangedReason, CompletedReason, DegradedReason,
    EventReason, FailureReason, ProgressingReason, StalledReason, UpgradableReason,
};
use monok8s_e2e::pages;
use monok8s_sandbox::scratch;

fn words<T: ToString>(all: &[T]) -> Vec<String> {
    all.iter().map(ToString::to_string).collect()
}

#[test]
fn every_reason_has_its_cure_on_the_page() -> Result<()> {
    let path = scratch::repository().join("docs/troubleshoot.md");
    let page = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let mut shown: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (heading, cells) in pages::table_rows(&page) {
        let [word, happened, cure] = cells.as_slice() else {
            panic!("a row under {heading} has not three cells: {cells:?}");
        };
        assert!(
            happened.len() > 10,
            "{heading}: {word} does not say what happened"
        );
        assert!(cure.len() > 10, "{heading}: {word} has no cure");
        shown
            .entry(heading)
            .or_default()
            .push(word.trim_matches('`').to_owned());
    }
    let expected = BTreeMap::from([
        (
            "Failure reasons of an OSUpgradeProgress".to_owned(),
            words(FailureReason::ALL),
        ),
        (
            "Reasons of the condition Accepted".to_owned(),
            words(AcceptedReason::ALL),
        ),
        (
            "Reasons of the condition Progressing".to_owned(),
            words(ProgressingReason::ALL),
        ),
        (
            "Reasons of the condition Completed".to_owned(),
            words(CompletedReason::ALL),
        ),
        (
            "Reasons of the condition Degraded".to_owned(),
            words(DegradedReason::ALL),
        ),
        (
            "Reasons of the condition Stalled".to_owned(),
            words(StalledReason::ALL),
        ),
        (
            "Reasons of the condition CatalogChanged".to_owned(),
            words(CatalogChangedReason::ALL),
        ),
        (
            "Reasons of the conditions of an OSUpgradeProgress".to_owned(),
            words(AttemptReason::ALL),
        ),
        (
            "Reasons of the condition Upgradable of an OSNode".to_owned(),
            words(UpgradableReason::ALL),
        ),
        ("Reasons of Events".to_owned(), words(EventReason::ALL)),
    ]);
    assert_eq!(shown, expected);
    Ok(())
}
