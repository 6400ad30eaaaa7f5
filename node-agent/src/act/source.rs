//! What a progress is to install: its own image, or for one made by hand the choice from its source's catalog.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use monok8s_api::{
    OSUpgrade, OSUpgradeProgress, Version,
    catalog::{self, Catalog, MAX_CATALOG_BYTES},
    osupgrade::{CatalogSource, Operation},
    reason::FailureReason,
    resolve::{self, NodeFacts},
};
use monok8s_boot::clock;
use monok8s_fetch::{Fetched, SourceUrl};

use crate::{
    act::{
        calls,
        effects::{Away, Choice, NoChoice},
    },
    decide::{next::System, reasons},
    record::Trouble,
};

/// Operating system and architecture as Kubernetes writes them.
pub fn platform() -> String {
    let arch = architecture(std::env::consts::ARCH);
    format!("{}/{arch}", std::env::consts::OS)
}

/// Go's word for what Rust calls `arch`.
fn architecture(arch: &str) -> &str {
    match arch {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Chooses images.
#[derive(Clone)]
pub struct Source {
    client: Client,
    fetch: monok8s_fetch::Client,
    /// The controller's namespace.
    namespace: String,
    /// Since when, on the boot-time clock, a progress's catalog could not be had.
    waiting: BTreeMap<String, Duration>,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source")
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

impl Source {
    /// A `ConfigMap` is looked for in `namespace`.
    pub fn new(client: Client, fetch: monok8s_fetch::Client, namespace: String) -> Self {
        Self {
            client,
            fetch,
            namespace,
            waiting: BTreeMap::new(),
        }
    }

    /// What `object` is to install on a node that runs `system`.
    pub async fn choose(
        &mut self,
        object: &OSUpgradeProgress,
        system: &System,
    ) -> Result<Choice, NoChoice> {
        if object.spec.image.is_some() {
            return handed_out(object, system);
        }
        let uid = object.metadata.uid.clone().unwrap_or_default();
        let choice = self.made_by_hand(object, system).await;
        let Err(NoChoice::Away(Away(why))) = &choice else {
            self.waiting.remove(&uid);
            return choice;
        };
        let now = clock::since_boot();
        let since = *self.waiting.entry(uid.clone()).or_insert(now);
        let patience = Duration::from(object.spec.download.retry_for);
        if now.saturating_sub(since) < patience {
            return choice;
        }
        let trouble = Trouble::new(
            FailureReason::DownloadFailed,
            format!(
                "{why}; asked again for {} (download.retryFor), nothing was written. Check the server, then change \
                 spec.retryNonce",
                object.spec.download.retry_for
            ),
        );
        self.waiting.remove(&uid);
        Err(NoChoice::Refused(trouble))
    }

    async fn made_by_hand(
        &self,
        object: &OSUpgradeProgress,
        system: &System,
    ) -> Result<Choice, NoChoice> {
        let name = &object.spec.source_ref.name;
        let sources: Api<OSUpgrade> = Api::all(self.client.clone());
        let source = match calls::limited(sources.get(name)).await {
            Ok(source) => source,
            Err(e) if e.is_gone(name) => {
                return Err(refused(
                    FailureReason::SourceNotFound,
                    format!(
                        "there is no OSUpgrade {name} (spec.sourceRef.name); nothing was written. Make it, then change \
                         spec.retryNonce"
                    ),
                ));
            }
            Err(e) => return Err(NoChoice::Away(e.into())),
        };
        if source.spec.operation == Operation::Rollback {
            return Err(refused(
                FailureReason::RollbackUnavailable,
                format!(
                    "OSUpgrade {name} is a Rollback, which this release of the node agent cannot do; nothing was written"
                ),
            ));
        }
        if !source.spec.health.checks.is_empty() {
            return Err(refused(
                FailureReason::PolicyRefused,
                format!(
                    "OSUpgrade {name} asks for health checks, which this release of the node agent does not run and \
                     will not pass over; nothing was written"
                ),
            ));
        }
        let Some(from) = &source.spec.catalog else {
            return Err(refused(
                FailureReason::PolicyRefused,
                format!("OSUpgrade {name} has no catalog; nothing was written"),
            ));
        };
        let text = self.catalog(from).await?;
        choose(object, &source, from, &text, system)
    }

    /// The catalog's text.
    async fn catalog(&self, from: &CatalogSource) -> Result<String, NoChoice> {
        if let Some(text) = &from.inline {
            return Ok(text.clone());
        }
        if let Some(name) = &from.config_map {
            return self.config_map(name).await;
        }
        let url: SourceUrl = from
            .url
            .as_deref()
            .unwrap_or_default()
            .parse()
            .map_err(|e| {
                refused(
                    FailureReason::PolicyRefused,
                    format!("the catalog's URL is not used: {e}"),
                )
            })?;
        match self
            .fetch
            .document(&url, MAX_CATALOG_BYTES as u64, None)
            .await
        {
            Ok(Fetched::Document(document)) => {
                String::from_utf8(document.bytes.to_vec()).map_err(|_| {
                    refused(
                        FailureReason::PolicyRefused,
                        format!("the catalog at {url} is no UTF-8 text"),
                    )
                })
            }
            Ok(Fetched::NotModified) => Err(NoChoice::Away(Away(format!(
                "{url} answered 304 to an unconditional request"
            )))),
            Err(e) if e.is_retryable() => {
                Err(NoChoice::Away(Away(format!("reading the catalog: {e}"))))
            }
            Err(e) => Err(refused(
                reasons::of_fetch(e.kind()),
                format!(
                    "reading the catalog: {e}; nothing was written. Mend it, then change spec.retryNonce"
                ),
            )),
        }
    }

    async fn config_map(&self, name: &str) -> Result<String, NoChoice> {
        let namespace = &self.namespace;
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        match calls::limited(maps.get(name)).await {
            Ok(map) => catalog::text_in(&map).map(str::to_owned).map_err(|e| {
                refused(
                    FailureReason::DownloadNotFound,
                    format!("ConfigMap {namespace}/{name}: {e}; nothing was written"),
                )
            }),
            Err(e) if e.is_gone(name) => Err(refused(
                FailureReason::DownloadNotFound,
                format!(
                    "there is no ConfigMap {name} in namespace {namespace}; nothing was written. Make it, then change \
                     spec.retryNonce"
                ),
            )),
            Err(e) if e.is_forbidden() => Err(refused(
                FailureReason::DownloadForbidden,
                format!(
                    "the node agents may not read ConfigMap {namespace}/{name}; nothing was written. Bind the \
                     ServiceAccount {namespace}/node-agent to a Role in {namespace} with the rule \
                     {{apiGroups: [\"\"], resources: [configmaps], verbs: [get]}}, or put the catalog inline, then \
                     change spec.retryNonce"
                ),
            )),
            Err(e) => Err(NoChoice::Away(e.into())),
        }
    }
}

fn refused(reason: FailureReason, message: String) -> NoChoice {
    NoChoice::Refused(Trouble::new(reason, message))
}

fn running(system: &System) -> Result<Version, NoChoice> {
    system.version.parse().map_err(|e| {
        refused(
            FailureReason::PolicyRefused,
            format!(
                "the running system's version cannot be compared: {e}; its /etc/os-release must carry one \
                 (IMAGE_VERSION or VERSION_ID, see --version-key)"
            ),
        )
    })
}

/// The image that the controller (or whoever wrote it) put into the object.
fn handed_out(object: &OSUpgradeProgress, system: &System) -> Result<Choice, NoChoice> {
    let Some(image) = &object.spec.image else {
        return Err(refused(FailureReason::PolicyRefused, String::new()));
    };
    let checked = image.checked().map_err(|e| {
        refused(
            FailureReason::PolicyRefused,
            format!("spec.image cannot be installed: {e}; nothing was written"),
        )
    })?;
    let current = running(system)?;
    if current == checked.version {
        return Ok(Choice::AlreadyThere(image.clone()));
    }
    if checked.version < current && !object.spec.allow_downgrade {
        return Err(refused(
            FailureReason::PolicyRefused,
            format!(
                "{} is lower than the running {current} and allowDowngrade is not set; nothing was written",
                checked.version
            ),
        ));
    }
    Ok(Choice::Install(image.clone()))
}

/// The one hop that a progress made by hand takes.
fn choose(
    object: &OSUpgradeProgress,
    source: &OSUpgrade,
    from: &CatalogSource,
    text: &str,
    system: &System,
) -> Result<Choice, NoChoice> {
    let catalog = Catalog::parse(text).map_err(|e| {
        // Only what stands in the object itself may be quoted.
        let why = if from.inline.is_some() {
            e.in_text(text)
        } else {
            e.to_string()
        };
        refused(
            FailureReason::PolicyRefused,
            format!("the catalog is none: {why}; nothing was written"),
        )
    })?;
    let current = running(system)?;
    let node = NodeFacts {
        version: current.clone(),
        platform: platform(),
    };
    let allow_downgrade = object.spec.allow_downgrade || source.spec.allow_downgrade;
    match resolve::single_hop(&catalog, &source.spec.version, &node, allow_downgrade) {
        Ok(Some(hop)) => Ok(Choice::Install(hop.image)),
        Ok(None) => Ok(Choice::AlreadyThere(
            monok8s_api::osupgradeprogress::ImageRef {
                version: current.to_string(),
                ..Default::default()
            },
        )),
        Err(e) => Err(refused(
            e.failure_reason(),
            format!("{e}; nothing was written"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use monok8s_boot::SlotName;

    use super::*;

    fn system(version: &str) -> System {
        System {
            active: SlotName::A,
            version: version.to_owned(),
            default: Some(SlotName::A),
            settled: true,
            no_trial: true,
            trial: None,
        }
    }

    fn upgrade(version: &str) -> OSUpgrade {
        let checksum = format!("sha256:{:064}", 1);
        let catalog = format!(
            "stable: v1.35.1\nimages:\n\
             - {{version: v1.34.6, url: 'http://x/a', checksum: '{checksum}'}}\n\
             - {{version: v1.35.1, url: 'http://x/b', checksum: '{checksum}'}}\n\
             blocked: [v1.34.0]\n"
        );
        serde_json::from_value(serde_json::json!({
            "apiVersion": "monok8s.io/v1alpha1", "kind": "OSUpgrade", "metadata": {"name": "u"},
            "spec": {"version": version, "catalog": {"inline": catalog}},
        }))
        .unwrap()
    }

    fn progress(spec: &serde_json::Value) -> OSUpgradeProgress {
        let mut object = serde_json::json!({
            "apiVersion": "monok8s.io/v1alpha1", "kind": "OSUpgradeProgress", "metadata": {"name": "p"},
            "spec": {"sourceRef": {"name": "u"}, "nodeName": "n"},
        });
        for (key, value) in spec.as_object().unwrap() {
            object["spec"][key] = value.clone();
        }
        serde_json::from_value(object).unwrap()
    }

    fn reason(choice: Result<Choice, NoChoice>) -> String {
        match choice {
            Err(NoChoice::Refused(trouble)) => trouble.reason.to_string(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn a_platform_is_in_the_catalogs_notation() {
        for (rust, kubernetes) in [
            ("x86_64", "amd64"),
            ("x86", "386"),
            ("aarch64", "arm64"),
            ("arm", "arm"),
            ("riscv64", "riscv64"),
            ("s390x", "s390x"),
        ] {
            assert_eq!(architecture(rust), kubernetes);
        }
        #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
        assert_eq!(platform(), "linux/amd64");
        let entry = format!(
            "images: [{{version: v1.35.1, url: 'http://x/a', checksum: 'sha256:{:064}', platform: {}}}]",
            1,
            platform()
        );
        Catalog::parse(&entry).unwrap();
    }

    #[test]
    fn a_progress_made_by_hand_takes_one_hop_under_all_policy() {
        let by_hand = progress(&serde_json::json!({}));
        let choose = |version: &str, current: &str| {
            let source = upgrade(version);
            let from = source.spec.catalog.clone().unwrap();
            let text = from.inline.clone().unwrap();
            choose(&by_hand, &source, &from, &text, &system(current))
        };
        let Ok(Choice::Install(image)) = choose("stable", "1.34.6") else {
            panic!("no image");
        };
        assert_eq!(
            (image.version.as_str(), image.url.as_deref()),
            ("v1.35.1", Some("http://x/b"))
        );
        assert!(matches!(
            choose("stable", "v1.35.1"),
            Ok(Choice::AlreadyThere(_))
        ));
        let further = choose("stable", "v1.33.2");
        assert!(format!("{further:?}").contains("v1.34.6"), "{further:?}");
        assert_eq!(reason(further), "IntermediateVersionNeeded");
        assert_eq!(
            reason(choose("v1.34.6", "v1.35.1")),
            "PolicyRefused",
            "downgrade"
        );
        assert_eq!(
            reason(choose("v1.35.9", "v1.34.6")),
            "PolicyRefused",
            "not in the catalog"
        );
        assert_eq!(
            reason(choose("stable", "")),
            "PolicyRefused",
            "no version runs"
        );
    }

    #[test]
    fn an_image_in_the_object_is_checked_too() {
        let with = |image: serde_json::Value, allow: bool| {
            handed_out(
                &progress(&serde_json::json!({"image": image, "allowDowngrade": allow})),
                &system("v1.35.1"),
            )
        };
        let image = |version: &str| serde_json::json!({"version": version, "url": "http://x/a", "checksum": format!("sha256:{:064}", 1)});
        assert!(matches!(
            with(image("v1.35.2"), false),
            Ok(Choice::Install(_))
        ));
        assert!(matches!(
            with(image("v1.35.1+b"), false),
            Ok(Choice::AlreadyThere(_))
        ));
        assert_eq!(reason(with(image("v1.35.0"), false)), "PolicyRefused");
        assert!(matches!(
            with(image("v1.35.0"), true),
            Ok(Choice::Install(_))
        ));
        assert_eq!(
            reason(with(serde_json::json!({"version": "v1.35.2"}), false)),
            "PolicyRefused"
        );
        let odd = serde_json::json!({"version": "v1.35.2", "url": "ftp://x/a", "checksum": format!("sha256:{:064}", 1)});
        assert_eq!(reason(with(odd, false)), "PolicyRefused");
    }
}
