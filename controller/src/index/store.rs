//! Objects of one kind, as a watch and our own writes show them.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

/// How many removed objects are remembered.
const REMEMBERED: usize = 20_000;

/// How far an object has come, in the API server's own count.
///
/// Comparing resource versions of one resource is part of the API since Kubernetes 1.35; before
/// that it held in practice for everything stored in etcd.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(u64);

impl Version {
    /// From `metadata.resourceVersion`; what cannot be read counts as newest, so that it is taken.
    pub(super) fn parse(text: Option<&str>) -> Self {
        Self(text.and_then(|t| t.parse().ok()).unwrap_or(u64::MAX))
    }

    /// From a listing's `metadata.resourceVersion`; one that cannot be read is newer than nothing.
    pub(super) fn of_listing(text: &str) -> Self {
        Self(text.parse().unwrap_or(0))
    }
}

#[derive(Clone, Debug)]
struct Entry<T> {
    uid: String,
    version: Version,
    /// The listing during or after which this object was last seen.
    listing: u64,
    item: T,
}

/// Objects by name. Never goes back: an older state of an object is ignored, so that the answer to
/// our own write and the watch event that follows it may arrive in any order.
#[derive(Clone, Debug)]
pub(super) struct Store<T> {
    entries: BTreeMap<String, Entry<T>>,
    listing: u64,
    /// UIDs of objects that were removed, oldest first, and the same for looking them up: a page
    /// of a listing that began earlier, or a late answer, must not bring them back. A UID is never
    /// given twice.
    removed: VecDeque<String>,
    removed_set: HashSet<String>,
}

impl<T> Default for Store<T> {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            listing: 0,
            removed: VecDeque::new(),
            removed_set: HashSet::new(),
        }
    }
}

impl<T> Store<T> {
    /// Whether a state of this object would be taken: nothing newer is known.
    pub(super) fn takes(&self, name: &str, uid: &str, version: Version) -> bool {
        !self.removed_set.contains(uid)
            && self
                .entries
                .get(name)
                .is_none_or(|e| e.version < version || (e.uid == uid && e.version == version))
    }

    /// Keeps a state that [`Self::takes`]; gives the one before.
    pub(super) fn put(&mut self, name: &str, uid: &str, version: Version, item: T) -> Option<T> {
        let entry = Entry {
            uid: uid.to_owned(),
            version,
            listing: self.listing,
            item,
        };
        self.entries
            .insert(name.to_owned(), entry)
            .map(|before| before.item)
    }

    /// Marks an object as seen in the listing that is going on, although its state was no news.
    pub(super) fn seen(&mut self, name: &str) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.listing = self.listing;
        }
    }

    /// Forgets an object, unless another one has taken its name by now.
    pub(super) fn remove(&mut self, name: &str, uid: &str) -> Option<T> {
        self.bury(uid);
        if self.entries.get(name)?.uid != uid {
            return None;
        }
        self.entries.remove(name).map(|e| e.item)
    }

    /// Forgets an object that may come back as the same.
    pub(super) fn hide(&mut self, name: &str) -> Option<T> {
        self.entries.remove(name).map(|e| e.item)
    }

    fn bury(&mut self, uid: &str) {
        if !self.removed_set.insert(uid.to_owned()) {
            return;
        }
        self.removed.push_back(uid.to_owned());
        if self.removed.len() > REMEMBERED
            && let Some(oldest) = self.removed.pop_front()
        {
            self.removed_set.remove(&oldest);
        }
    }

    /// A watch begins anew with a listing.
    pub(super) fn begin_listing(&mut self) {
        self.listing += 1;
    }

    /// The listing is complete: what was neither in it nor written by us since it began is gone.
    /// (If it is gone although we wrote it, the watch that follows says so.)
    pub(super) fn finish_listing(&mut self) -> Vec<(String, T)> {
        let current = self.listing;
        let gone: Vec<String> = self
            .entries
            .iter()
            .filter(|(_, e)| e.listing != current)
            .map(|(name, _)| name.clone())
            .collect();
        // Not remembered as removed: a listing may be of an earlier moment than what was written.
        gone.into_iter()
            .filter_map(|name| Some((name.clone(), self.entries.remove(&name)?.item)))
            .collect()
    }

    /// Forgets what a complete listing of the moment `at` lacks (it holds the UIDs `listed`) and
    /// what has not been heard of since. Gives what is forgotten.
    pub(super) fn remove_unlisted(
        &mut self,
        listed: &BTreeSet<String>,
        at: Version,
    ) -> Vec<(String, T)> {
        let gone: Vec<(String, String)> = self
            .entries
            .iter()
            .filter(|(_, e)| e.version <= at && !listed.contains(&e.uid))
            .map(|(name, e)| (name.clone(), e.uid.clone()))
            .collect();
        gone.into_iter()
            .filter_map(|(name, uid)| Some((name.clone(), self.remove(&name, &uid)?)))
            .collect()
    }

    /// The object of that name.
    pub(super) fn get(&self, name: &str) -> Option<&T> {
        self.entries.get(name).map(|e| &e.item)
    }

    /// The object of that name, to be amended in place.
    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut T> {
        self.entries.get_mut(name).map(|e| &mut e.item)
    }

    /// All objects, by name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.entries.iter().map(|(n, e)| (n.as_str(), &e.item))
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v(n: u64) -> Version {
        Version(n)
    }

    fn put(store: &mut Store<u64>, name: &str, uid: &str, version: u64) -> bool {
        let takes = store.takes(name, uid, v(version));
        if takes {
            store.put(name, uid, v(version), version);
        } else {
            store.seen(name);
        }
        takes
    }

    #[test]
    fn an_older_state_never_replaces_a_newer() {
        let mut store = Store::default();
        assert!(put(&mut store, "a", "1", 5));
        assert!(!put(&mut store, "a", "1", 4));
        assert_eq!(store.get("a"), Some(&5));
        assert!(put(&mut store, "a", "2", 9), "made again under the name");
        assert!(store.remove("a", "1").is_none(), "a late deletion");
        assert!(store.remove("a", "2").is_some());
        assert!(!put(&mut store, "a", "2", 8), "a page of an older listing");
        assert!(!put(&mut store, "a", "2", 10), "a late answer");
        assert!(put(&mut store, "a", "3", 11));
    }

    #[test]
    fn a_listing_of_ones_own_removes_what_was_known_at_its_moment() {
        let mut store = Store::default();
        for (name, version) in [("gone", 3), ("stays", 4), ("later", 9)] {
            put(&mut store, name, name, version);
        }
        // The watch begins anew while the listing is read.
        store.begin_listing();
        let listed = ["stays".to_owned()].into();
        let removed: Vec<_> = store.remove_unlisted(&listed, v(7));
        assert_eq!(removed, [("gone".to_owned(), 3)]);
        assert!(!put(&mut store, "gone", "gone", 5), "a late watch event");
        assert_eq!(store.len(), 2);
    }

    #[test]
    fn a_listing_removes_what_it_lacks_but_not_what_was_written_meanwhile() {
        let mut store = Store::default();
        for (name, version) in [("gone", 1), ("stays", 2), ("stale", 9)] {
            put(&mut store, name, "u", version);
        }
        store.begin_listing();
        put(&mut store, "stays", "u", 2);
        put(&mut store, "ours", "u", 7);
        put(&mut store, "stale", "u", 3);
        let removed: Vec<_> = store.finish_listing().into_iter().map(|(n, _)| n).collect();
        assert_eq!(removed, ["gone"]);
        assert_eq!(store.get("stale"), Some(&9));
        assert_eq!(store.len(), 3);
    }
}
