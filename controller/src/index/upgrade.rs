//! An upgrade, with its catalog.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use kube::{ResourceExt, core::Selector};
use monok8s_api::{
    OSUpgrade, OSUpgradeStatus,
    catalog::Catalog,
    govern::{self, Seniority},
    osupgrade::CatalogSource,
    reason::AcceptedReason,
};

use super::revision;

/// An upgrade as the planner sees it.
#[derive(Clone, Debug)]
pub struct Upgrade {
    /// The object, without managed fields.
    pub object: OSUpgrade,
    /// Its node selector; none when it cannot be read, which the CRD's rules prevent.
    pub selector: Option<Selector>,
    /// Digest of the fields that make a revision.
    pub digest: String,
    /// Its age, by which upgrades are ranked.
    pub seniority: Seniority,
    /// What is known of its catalog.
    pub catalog: CatalogState,
    name: String,
    uid: String,
}

/// What is known of an upgrade's catalog.
#[derive(Clone, Debug, Default)]
pub struct CatalogState {
    /// The last catalog that could be read.
    pub good: Option<GoodCatalog>,
    /// Why the last attempt to read it failed, if it did.
    pub error: Option<ReadError>,
}

/// A catalog that could be read.
#[derive(Clone, Debug)]
pub struct GoodCatalog {
    /// The catalog.
    pub catalog: Arc<Catalog>,
    /// Digest of its text.
    pub digest: String,
    /// When it was first read with this text, by the wall clock; for people. None for one that
    /// stands in the object.
    pub first_read: Option<Timestamp>,
    /// When it was last found to be current, by this process's clock; none when it always is,
    /// because it stands in the object.
    pub read_at: Option<Duration>,
}

/// Why a catalog could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ReadError {
    /// The reason that the Accepted condition gives.
    pub reason: AcceptedReason,
    /// What happened and what to do; quotes nothing that was fetched.
    pub message: String,
}

/// What came of one attempt to read a catalog from a URL or a ConfigMap.
#[derive(Clone, Debug)]
pub struct Reading {
    /// Where it was read from.
    pub source: CatalogSource,
    /// When, by this process's clock.
    pub clock: Duration,
    /// When, by the wall clock.
    pub wall: Timestamp,
    /// The catalog and the digest of its text; or that it is what it was; or why not.
    pub outcome: Result<Option<(Arc<Catalog>, String)>, ReadError>,
}

impl CatalogState {
    fn inline(text: &str) -> Self {
        match Catalog::parse(text) {
            Ok(catalog) => Self {
                good: Some(GoodCatalog {
                    catalog: Arc::new(catalog),
                    digest: Catalog::digest(text).to_string(),
                    first_read: None,
                    read_at: None,
                }),
                error: None,
            },
            Err(error) => Self {
                good: None,
                error: Some(ReadError {
                    reason: error.reason(),
                    message: format!("spec.catalog.inline: {error}"),
                }),
            },
        }
    }

    /// Whether no attempt to read it has been made yet.
    pub fn is_unread(&self) -> bool {
        self.good.is_none() && self.error.is_none()
    }

    /// The catalog, if it was found to be current within `age` before `clock`.
    pub fn fresh(&self, clock: Duration, age: Duration) -> Option<&GoodCatalog> {
        self.good.as_ref().filter(|good| {
            self.error.is_none()
                && good
                    .read_at
                    .is_none_or(|at| clock.saturating_sub(at) <= age)
        })
    }
}

impl Upgrade {
    pub(super) fn new(mut object: OSUpgrade, before: Option<&Self>) -> Self {
        object.metadata.managed_fields = None;
        let (name, uid) = (object.name_any(), object.uid().unwrap_or_default());
        let same_source = before
            .filter(|b| b.uid == uid && b.object.spec.catalog == object.spec.catalog)
            .map(|b| b.catalog.clone());
        let inline = object
            .spec
            .catalog
            .as_ref()
            .and_then(|c| c.inline.as_deref());
        let catalog = match (same_source, inline) {
            (Some(known), _) => known,
            (None, Some(text)) => CatalogState::inline(text),
            (None, None) => CatalogState::default(),
        };
        Self {
            selector: govern::selector(&object).ok(),
            digest: revision::digest(&object.spec),
            seniority: Seniority::of(&object),
            catalog,
            name,
            uid,
            object,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its UID.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// Its status, once a controller has written one.
    pub fn status(&self) -> Option<&OSUpgradeStatus> {
        self.object.status.as_ref()
    }

    /// Whether somebody is deleting it.
    pub fn is_being_deleted(&self) -> bool {
        self.object.metadata.deletion_timestamp.is_some()
    }

    /// The URL or ConfigMap that its catalog has to be read from, if it stands in one.
    pub fn remote_source(&self) -> Option<&CatalogSource> {
        self.object
            .spec
            .catalog
            .as_ref()
            .filter(|source| source.inline.is_none())
    }

    pub(super) fn take_reading(&mut self, reading: Reading) -> bool {
        if self.remote_source() != Some(&reading.source) {
            return false;
        }
        match reading.outcome {
            Ok(read) => {
                self.catalog.error = None;
                if let Some((catalog, digest)) = read {
                    let first_read = self
                        .catalog
                        .good
                        .as_ref()
                        .filter(|good| good.digest == digest)
                        .and_then(|good| good.first_read)
                        .or(Some(reading.wall));
                    self.catalog.good = Some(GoodCatalog {
                        catalog,
                        digest,
                        first_read,
                        read_at: Some(reading.clock),
                    });
                } else if let Some(good) = &mut self.catalog.good {
                    good.read_at = Some(reading.clock);
                }
            }
            Err(error) => self.catalog.error = Some(error),
        }
        true
    }

    pub(super) fn same_for_a_plan(&self, other: &Self) -> bool {
        self.uid == other.uid
            && self.object.spec == other.object.spec
            && self.object.status == other.object.status
            && self.is_being_deleted() == other.is_being_deleted()
    }
}
