//! A CRD as a page of `docs/reference/`.

use std::fmt::{self, Write};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};

use crate::reason::{
    AcceptedReason, AttemptReason, BootLoaderKind, CatalogChangedReason, CompletedReason,
    DegradedReason, EventReason, FailureReason, ProgressPhase, ProgressingReason, SlotState,
    StalledReason, UpgradableReason, UpgradePhase,
};

const HEADER: &str = "<!-- Generated from api/src by `cargo run -p monok8s-api --example reference -- docs/reference`.\n\
                      Edit the types there, not this file; a test compares. -->\n\n";

/// The page of one CRD, in Markdown: every field with its type, default, meaning and rules, and
/// the sets of words that occur in it.
pub fn reference(crd: &CustomResourceDefinition) -> Result<String, fmt::Error> {
    let names = &crd.spec.names;
    let mut page = String::from(HEADER);
    writeln!(page, "# {}\n", names.kind)?;
    for version in &crd.spec.versions {
        let Some(root) = version
            .schema
            .as_ref()
            .and_then(|s| s.open_api_v3_schema.as_ref())
        else {
            continue;
        };
        writeln!(
            page,
            "{}\n",
            root.description.as_deref().unwrap_or_default()
        )?;
        let short = names.short_names.iter().flatten();
        let short: Vec<_> = short.map(|s| format!("`{s}`")).collect();
        writeln!(
            page,
            "`{}/{}`, scope {}, `kubectl get {}` (short: {}).\n",
            crd.spec.group,
            version.name,
            crd.spec.scope,
            names.plural,
            short.join(", ")
        )?;
        rules(&mut page, root)?;
        for part in ["spec", "status"] {
            if let Some(schema) = root.properties.as_ref().and_then(|p| p.get(part)) {
                section(&mut page, part, schema)?;
            }
        }
        columns(
            &mut page,
            version.additional_printer_columns.iter().flatten(),
        )?;
    }
    words(&mut page, &names.kind)?;
    Ok(page)
}

fn section(page: &mut String, name: &str, schema: &JSONSchemaProps) -> fmt::Result {
    writeln!(page, "## {name}\n")?;
    writeln!(
        page,
        "{}\n",
        schema.description.as_deref().unwrap_or_default()
    )?;
    rules(page, schema)?;
    if schema.properties.iter().flatten().next().is_some() {
        writeln!(
            page,
            "| field | type | default | meaning |\n|---|---|---|---|"
        )?;
        rows(page, name, schema)?;
        writeln!(page)?;
    }
    Ok(())
}

fn rows(page: &mut String, path: &str, schema: &JSONSchemaProps) -> fmt::Result {
    for (name, field) in schema.properties.iter().flatten() {
        let path = format!("{path}.{name}");
        let required = schema.required.iter().flatten().any(|r| r == name);
        let mut meaning = field.description.clone().unwrap_or_default();
        for limit in limits(field) {
            write!(meaning, " {limit}")?;
        }
        for rule in field.x_kubernetes_validations.iter().flatten() {
            write!(
                meaning,
                " Rule: {}.",
                rule.message.as_deref().unwrap_or(&rule.rule)
            )?;
        }
        writeln!(
            page,
            "| `{path}`{} | {} | {} | {} |",
            if required { " *" } else { "" },
            type_of(field),
            default_of(field),
            cell(&meaning)
        )?;
        if let Some(items) = items(field).filter(|i| i.properties.is_some()) {
            rows(page, &format!("{path}[]"), items)?;
        }
        rows(page, &path, field)?;
    }
    Ok(())
}

fn items(field: &JSONSchemaProps) -> Option<&JSONSchemaProps> {
    match field.items.as_ref() {
        Some(JSONSchemaPropsOrArray::Schema(items)) => Some(items),
        _ => None,
    }
}

fn type_of(field: &JSONSchemaProps) -> String {
    if field.x_kubernetes_int_or_string == Some(true) {
        return "integer or string".to_owned();
    }
    let base = match (field.type_.as_deref(), field.format.as_deref()) {
        (Some("string"), Some("date-time")) => "time",
        (Some(type_), _) => type_,
        (None, _) => "any",
    };
    if let Some(items) = items(field) {
        return format!("list of {}", type_of(items));
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = field.additional_properties.as_ref() {
        return format!("map of {}", type_of(values));
    }
    if field.nullable == Some(true) {
        return format!("{base} or null");
    }
    base.to_owned()
}

fn default_of(field: &JSONSchemaProps) -> String {
    field
        .default
        .as_ref()
        .and_then(|d| serde_json::to_string(&d.0).ok())
        .map_or_else(String::new, |d| format!("`{}`", cell(&d)))
}

/// Bounds that the description may leave out, in words.
fn limits(field: &JSONSchemaProps) -> Vec<String> {
    let mut limits = Vec::new();
    let words = field.enum_.iter().flatten();
    let words: Vec<_> = words
        .filter_map(|w| w.0.as_str())
        .map(|w| format!("`{w}`"))
        .collect();
    if !words.is_empty() {
        limits.push(format!("One of {}.", words.join(", ")));
    }
    if let Some(pattern) = &field.pattern {
        limits.push(format!("Pattern: `{pattern}`."));
    }
    match (field.minimum, field.maximum) {
        (Some(low), Some(high)) => limits.push(format!("From {low} to {high}.")),
        (Some(low), None) => limits.push(format!("At least {low}.")),
        (None, Some(high)) => limits.push(format!("At most {high}.")),
        (None, None) => {}
    }
    if let Some(length) = field.max_length {
        limits.push(format!("Length at most {length}."));
    }
    limits
}

fn rules(page: &mut String, schema: &JSONSchemaProps) -> fmt::Result {
    let rules: Vec<_> = schema.x_kubernetes_validations.iter().flatten().collect();
    for rule in &rules {
        let message = rule.message.as_deref().unwrap_or_default();
        writeln!(page, "- Rule: {message} (`{}`)", rule.rule)?;
    }
    if rules.is_empty() {
        return Ok(());
    }
    writeln!(page)
}

fn columns<'a>(
    page: &mut String,
    columns: impl Iterator<
        Item = &'a k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceColumnDefinition,
    >,
) -> fmt::Result {
    writeln!(page, "## Columns of `kubectl get`\n")?;
    writeln!(page, "| column | shown | meaning |\n|---|---|---|")?;
    for column in columns {
        let shown = match column.priority {
            Some(priority) if priority > 0 => "with `-o wide`",
            _ => "always",
        };
        let meaning = column.description.as_deref().unwrap_or_default();
        writeln!(
            page,
            "| {} | {shown} | {} |",
            column.name.to_uppercase(),
            cell(meaning)
        )?;
    }
    writeln!(page)
}

/// The sets of words that a kind's status uses.
fn words(page: &mut String, kind: &str) -> fmt::Result {
    macro_rules! set {
        ($title:literal, $set:ty) => {{
            writeln!(page, "## {}\n", $title)?;
            writeln!(page, "| word | meaning |\n|---|---|")?;
            for word in <$set>::ALL {
                writeln!(page, "| `{word}` | {} |", cell(word.meaning()))?;
            }
            writeln!(page)?;
        }};
    }
    match kind {
        "OSUpgrade" => {
            set!("Phases", UpgradePhase);
            set!("Reasons of the condition Accepted", AcceptedReason);
            set!("Reasons of the condition Progressing", ProgressingReason);
            set!("Reasons of the condition Completed", CompletedReason);
            set!("Reasons of the condition Degraded", DegradedReason);
            set!("Reasons of the condition Stalled", StalledReason);
            set!(
                "Reasons of the condition CatalogChanged",
                CatalogChangedReason
            );
            set!(
                "Reasons of Events that are neither a phase nor any of these",
                EventReason
            );
        }
        "OSUpgradeProgress" => {
            set!("Phases", ProgressPhase);
            set!("failureReason", FailureReason);
            set!("Reasons of the conditions", AttemptReason);
        }
        _ => {
            set!("States of a slot", SlotState);
            set!("Boot loaders", BootLoaderKind);
            set!(
                "Reasons of the condition Upgradable when it is True",
                UpgradableReason
            );
        }
    }
    // Each set ends with an empty line; a file ends with one newline.
    page.truncate(page.trim_end().len());
    page.push('\n');
    Ok(())
}

/// A text for a cell of a table.
fn cell(text: &str) -> String {
    let one_line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    one_line.replace('|', "\\|").replace('<', "&lt;")
}
