//! `ctl catalog`: judging a catalog, and the way of one node through it.

use std::fmt::Write;

use monok8s_api::{
    catalog::{Catalog, CatalogError, MAX_CATALOG_BYTES},
    location::image_url,
    osupgradeprogress::ImageRef,
    resolve::{self, Hop, NodeFacts},
};
use serde::Serialize;

use crate::{
    answer::Answer,
    cli::{CheckArgs, ResolveArgs},
    input::{self, InputError},
};

/// What `ctl catalog check` says.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Findings {
    /// Whether the file is a catalog.
    valid: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Finding>,
    images: usize,
    blocked: usize,
    aliases: usize,
    /// What will be refused when somebody's path leads there.
    warnings: Vec<String>,
}

/// A fault of the file and where it is.
#[derive(Debug, Serialize)]
struct Finding {
    reason: String,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<usize>,
}

pub(crate) fn check(args: &CheckArgs) -> Result<Answer, InputError> {
    // One byte more than a catalog may have, so that it is the format that says how much it may.
    let text = input::read(&args.file, MAX_CATALOG_BYTES * 4)?;
    let file = args.file.to_string();
    let findings = match Catalog::parse(&text) {
        Ok(catalog) => Findings {
            valid: true,
            error: None,
            images: catalog.images().len(),
            blocked: catalog.blocked_versions().len(),
            aliases: catalog.aliases().count(),
            warnings: warnings(&catalog),
        },
        Err(error) => Findings {
            valid: false,
            error: Some(finding(&error, &text)),
            images: 0,
            blocked: 0,
            aliases: 0,
            warnings: Vec::new(),
        },
    };
    let is_yes = findings.valid && (!args.strict || findings.warnings.is_empty());
    Ok(Answer::new(args.output, is_yes, &findings, |findings| {
        say(findings, &file)
    }))
}

fn finding(error: &CatalogError, text: &str) -> Finding {
    let at = error.position();
    Finding {
        reason: error.reason().to_string(),
        message: error.in_text(text),
        line: at.map(|at| at.line),
        column: at.map(|at| at.column),
    }
}

/// What does not keep the file from being a catalog, but somebody from using it.
fn warnings(catalog: &Catalog) -> Vec<String> {
    let mut warnings = Vec::new();
    for (alias, _) in catalog.aliases() {
        if let Err(refusal) = resolve::target(catalog, alias) {
            warnings.push(format!("alias {alias}: {refusal}"));
        }
    }
    for image in catalog.images() {
        let mut name = image.version.to_string();
        if let Some(platform) = &image.platform {
            name = format!("{name} ({platform})");
        }
        if image.checksum.is_empty() {
            warnings.push(format!(
                "{name}: it has no checksum, so nobody can be taken there"
            ));
        } else if let Err(error) = image.digest() {
            warnings.push(format!("{name}: {error}"));
        }
        let places = std::iter::once(("url", &image.url))
            .chain(image.mirrors.iter().map(|mirror| ("mirror", mirror)));
        for (place, url) in places {
            if let Err(error) = image_url(url) {
                warnings.push(format!(
                    "{name}: the {place} {url:?} cannot be used: {error}"
                ));
            }
        }
    }
    warnings
}

fn say(findings: &Findings, file: &str) -> String {
    if let Some(error) = &findings.error {
        return format!("{file}: {}\n", error.message);
    }
    let mut text = String::new();
    for warning in &findings.warnings {
        let _ = writeln!(text, "warning: {warning}");
    }
    let _ = writeln!(
        text,
        "{file}: a catalog with {}, {} and {}",
        count(findings.images, "image"),
        count(findings.blocked, "blocked version"),
        count(findings.aliases, "alias"),
    );
    text
}

fn count(number: usize, what: &str) -> String {
    let plural = match (number, what.ends_with('s')) {
        (1, _) => "",
        (_, true) => "es",
        (_, false) => "s",
    };
    format!("{number} {what}{plural}")
}

/// What `ctl catalog resolve` says.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Way {
    current: String,
    platform: String,
    /// What was asked for.
    requested: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    resolved_version: Option<String>,
    /// The images to be installed, in order; empty when the node is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    hops: Option<Vec<ImageRef>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<Refused>,
}

#[derive(Debug, Serialize)]
struct Refused {
    reason: String,
    message: String,
}

pub(crate) fn resolve(args: &ResolveArgs) -> Result<Answer, InputError> {
    let text = input::read(&args.file, MAX_CATALOG_BYTES * 4)?;
    let node = NodeFacts {
        version: args.current.clone(),
        platform: args.platform.clone(),
    };
    let (resolved_version, found) = search(&text, &args.version, &node, args.allow_downgrade);
    let (hops, refusal) = match found {
        Ok(hops) => (Some(hops.into_iter().map(|hop| hop.image).collect()), None),
        Err(refused) => (None, Some(refused)),
    };
    let way = Way {
        current: args.current.to_string(),
        platform: args.platform.clone(),
        requested: args.version.clone(),
        resolved_version,
        hops,
        refusal,
    };
    Ok(Answer::new(args.output, way.hops.is_some(), &way, describe))
}

/// The version that was named, if any, and the way there.
fn search(
    text: &str,
    requested: &str,
    node: &NodeFacts,
    allow_downgrade: bool,
) -> (Option<String>, Result<Vec<Hop>, Refused>) {
    let catalog = match Catalog::parse(text) {
        Ok(catalog) => catalog,
        Err(error) => {
            let Finding {
                reason, message, ..
            } = finding(&error, text);
            return (None, Err(Refused { reason, message }));
        }
    };
    match resolve::target(&catalog, requested) {
        Err(refusal) => {
            let named = refusal.resolved_version().map(ToString::to_string);
            let refused = Refused {
                reason: refusal.reason().to_string(),
                message: refusal.to_string(),
            };
            (named, Err(refused))
        }
        Ok(target) => {
            let way = resolve::path(&catalog, &target, node, allow_downgrade);
            let way = way.map_err(|refusal| Refused {
                reason: refusal.reason().to_string(),
                message: refusal.to_string(),
            });
            (Some(target.to_string()), way)
        }
    }
}

fn describe(way: &Way) -> String {
    if let Some(Refused { reason, message }) = &way.refusal {
        return format!("refused ({reason}): {message}\n");
    }
    let hops = way.hops.as_deref().unwrap_or_default();
    let target = way.resolved_version.as_deref().unwrap_or_default();
    if hops.is_empty() {
        return format!("{} is {target} already\n", way.current);
    }
    let mut text = format!(
        "{} -> {target} on {}: {}\n",
        way.current,
        way.platform,
        count(hops.len(), "hop")
    );
    for (number, image) in hops.iter().enumerate() {
        let url = image.url.as_deref().unwrap_or_default();
        let _ = writeln!(text, "  {}. {}  {url}", number + 1, image.version);
    }
    text
}
