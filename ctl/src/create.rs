//! The manifests, as they lie in `manifests/`, with the image put in.

use serde_json::{Value, json};

use crate::{
    answer::{Answer, Format},
    cli::CreateCommand,
};

/// Image in the manifests, which every OS image carries.
const LOCAL_IMAGE: &str = "image: localhost/monok8s/ota:local";
/// How it is pulled: not at all, it is in no registry.
const LOCAL_POLICY: &str = "imagePullPolicy: Never";

macro_rules! manifests {
    ($($path:literal),+ $(,)?) => {
        &[$(include_str!(concat!("../../manifests/", $path))),+]
    };
}

const CRDS: &[&str] = manifests![
    "crds/osupgrades.yaml",
    "crds/osupgradeprogresses.yaml",
    "crds/osnodes.yaml",
];
const NAMESPACE: &[&str] = manifests!["namespace.yaml"];
const CONTROLLER: &[&str] = manifests![
    "access.yaml",
    "controller/rbac.yaml",
    "controller/lease.yaml",
    "controller/deployment.yaml",
];
const AGENT: &[&str] = manifests![
    "agent/rbac.yaml",
    "agent/fence.yaml",
    "agent/daemonset.yaml"
];

/// Why nothing is printed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CreateError {
    #[error(
        "{image:?} is not the name of a container image; expected something like registry.example/monok8s/ota:0.1.0"
    )]
    NotAnImage { image: String },
    #[error("the manifests in this program are damaged: {0}")]
    Damaged(String),
}

pub(crate) fn answer(what: &CreateCommand) -> Result<Answer, CreateError> {
    let (files, image, output) = match what {
        CreateCommand::Controller(args) => (
            [NAMESPACE, CRDS, CONTROLLER].concat(),
            args.image.as_deref(),
            args.output,
        ),
        CreateCommand::Agent(args) => (
            [NAMESPACE, AGENT].concat(),
            args.image.as_deref(),
            args.output,
        ),
        CreateCommand::Crds { output } => (CRDS.to_vec(), None, *output),
    };
    let text = manifest(&files, image)?;
    if output == Format::Text {
        return Ok(Answer::yes(text));
    }
    let documents: Vec<Value> = serde_yaml::from_multiple(&text)
        .map_err(|e| CreateError::Damaged(e.without_snippet().to_string()))?;
    let list = json!({"apiVersion": "v1", "kind": "List", "items": documents});
    Ok(Answer::new(output, true, &list, Value::to_string))
}

/// The files one after the other, as one stream of documents.
fn manifest(files: &[&str], image: Option<&str>) -> Result<String, CreateError> {
    let mut text = String::new();
    for file in files {
        text.push_str("---\n");
        text.push_str(file.strip_prefix("---\n").unwrap_or(file));
        if !text.ends_with('\n') {
            text.push('\n');
        }
    }
    let Some(image) = image else {
        return Ok(text);
    };
    if !is_image_name(image) {
        return Err(CreateError::NotAnImage {
            image: image.chars().take(100).collect(),
        });
    }
    Ok(text
        .replace(LOCAL_IMAGE, &format!("image: {image}"))
        .replace(LOCAL_POLICY, "imagePullPolicy: IfNotPresent"))
}

/// Whether a text has the form of an image's name (the grammar of
/// <https://pkg.go.dev/github.com/distribution/reference>, roughly), which also means that it needs
/// no quotes in YAML.
fn is_image_name(text: &str) -> bool {
    let (name, digest) = match text.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (text, None),
    };
    let digest_fits = digest.is_none_or(|digest| {
        digest.split_once(':').is_some_and(|(algorithm, hex)| {
            !algorithm.is_empty()
                && algorithm.bytes().all(|b| b.is_ascii_alphanumeric())
                && hex.len() >= 32
                && hex.bytes().all(|b| b.is_ascii_hexdigit())
        })
    });
    let mut parts = name.split('/').peekable();
    let mut fits = digest_fits && text.len() <= 512;
    while let Some(part) = parts.next() {
        let is_last = parts.peek().is_none();
        fits &= part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part
                .ends_with(|c: char| c.is_ascii_alphanumeric() || (is_last && "._-".contains(c)))
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._-:".contains(&b))
            && part.bytes().filter(|b| *b == b':').count() <= 1;
    }
    fits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_name_is_put_in_everywhere() {
        for files in [CONTROLLER, AGENT] {
            let plain = manifest(files, None).unwrap();
            assert_eq!(plain.matches(LOCAL_IMAGE).count(), 1);
            assert_eq!(plain.matches(LOCAL_POLICY).count(), 1);
            let named = manifest(files, Some("registry.example:5000/ota:1")).unwrap();
            assert_eq!(
                named
                    .matches("image: registry.example:5000/ota:1\n")
                    .count(),
                1
            );
            assert_eq!(named.matches("imagePullPolicy: IfNotPresent\n").count(), 1);
            assert!(!named.contains("ota:local"));
        }
    }

    #[test]
    fn what_is_no_image_name_is_refused() {
        let digest = format!("registry.example/ota@sha256:{}", "0".repeat(64));
        for text in [
            "ota",
            "ota:1",
            "localhost/monok8s/ota:local",
            "r:5000/a/b_c:1.0-rc.1",
            &digest,
        ] {
            assert!(is_image_name(text), "{text}");
        }
        for text in [
            "",
            ":1",
            "/ota",
            "ota/",
            "a//b",
            "ota:1\nprivileged: true",
            "ota: x",
            "a b",
            "{a}",
            "a:1:2",
            "ota@sha256:abc",
            "ota@",
            "https://registry.example/ota",
            "ota:1 # x",
        ] {
            assert!(manifest(AGENT, Some(text)).is_err(), "{text}");
        }
    }
}
