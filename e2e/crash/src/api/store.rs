//! Objects by collection and name, and everything that has happened to them.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tokio::sync::watch;

/// Why a request has no success: the HTTP code and the reason that Kubernetes gives with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    NotFound,
    Exists,
    Conflict,
    Malformed,
}

impl Refusal {
    pub(super) fn code(self) -> u16 {
        match self {
            Self::NotFound => 404,
            Self::Exists | Self::Conflict => 409,
            Self::Malformed => 400,
        }
    }

    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::NotFound => "NotFound",
            Self::Exists => "AlreadyExists",
            Self::Conflict => "Conflict",
            Self::Malformed => "BadRequest",
        }
    }
}

/// Something that happened to an object.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) version: u64,
    pub(super) kind: &'static str,
    collection: String,
    pub(super) object: Value,
}

/// The objects.
#[derive(Debug)]
pub(super) struct Store {
    objects: BTreeMap<(String, String), Value>,
    events: Vec<Event>,
    version: watch::Sender<u64>,
    pub(super) requests: Vec<String>,
    pub(super) unserved: Option<String>,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            events: Vec::new(),
            // A client takes version 0 for "any".
            version: watch::Sender::new(1),
            requests: Vec::new(),
            unserved: None,
        }
    }
}

impl Store {
    pub(super) fn version(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    fn happen(&mut self, kind: &'static str, collection: &str, mut object: Value) -> Value {
        self.version.send_modify(|version| *version += 1);
        let version = *self.version.borrow();
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = json!(format!("uid-{version}"));
        }
        let collection = collection.to_owned();
        self.events.push(Event {
            version,
            kind,
            collection,
            object: object.clone(),
        });
        object
    }

    pub(super) fn put(&mut self, collection: &str, object: Value) -> Value {
        let key = (collection.to_owned(), name(&object).to_owned());
        let kind = if self.objects.contains_key(&key) {
            "MODIFIED"
        } else {
            "ADDED"
        };
        let object = self.happen(kind, collection, object);
        self.objects.insert(key, object.clone());
        object
    }

    pub(super) fn remove(&mut self, collection: &str, name: &str) {
        let key = (collection.to_owned(), name.to_owned());
        if let Some(object) = self.objects.remove(&key) {
            self.happen("DELETED", collection, object);
        }
    }

    pub(super) fn get(&self, collection: &str, name: &str) -> Result<Value, Refusal> {
        let key = (collection.to_owned(), name.to_owned());
        self.objects.get(&key).cloned().ok_or(Refusal::NotFound)
    }

    /// The version of the whole, and what a field selector selects.
    pub(super) fn list(&self, collection: &str, selector: &str) -> (u64, Vec<Value>) {
        let found = self
            .objects
            .iter()
            .filter(|((its, _), object)| its == collection && selects(selector, object));
        let objects = found.map(|(_, object)| object.clone()).collect();
        (*self.version.borrow(), objects)
    }

    /// What has happened to a collection since a version.
    pub(super) fn since(&self, collection: &str, selector: &str, version: u64) -> Vec<Event> {
        let news = self.events.iter().filter(|event| {
            event.version > version
                && event.collection == collection
                && selects(selector, &event.object)
        });
        news.cloned().collect()
    }

    pub(super) fn create(
        &mut self,
        collection: &str,
        mut object: Value,
        dry_run: bool,
    ) -> Result<Value, Refusal> {
        if let (Value::Null, Some(prefix)) = (
            &object["metadata"]["name"],
            object["metadata"]["generateName"].as_str(),
        ) {
            let unique = format!("{prefix}{}", *self.version.borrow());
            object["metadata"]["name"] = json!(unique);
        }
        match self.get(collection, name(&object)) {
            Ok(_) => Err(Refusal::Exists),
            Err(_) if name(&object).is_empty() => Err(Refusal::Malformed),
            Err(_) if dry_run => Ok(object),
            Err(_) => Ok(self.put(collection, object)),
        }
    }

    pub(super) fn replace(
        &mut self,
        collection: &str,
        object: Value,
        dry_run: bool,
    ) -> Result<Value, Refusal> {
        let stored = self.get(collection, name(&object))?;
        let wanted = &object["metadata"]["resourceVersion"];
        if !wanted.is_null() && *wanted != stored["metadata"]["resourceVersion"] {
            return Err(Refusal::Conflict);
        }
        if dry_run {
            return Ok(object);
        }
        Ok(self.put(collection, object))
    }

    /// Merges a patch into an object: what is null in it goes, what is no object replaces, the rest is merged.
    pub(super) fn patch(
        &mut self,
        collection: &str,
        name: &str,
        patch: &Value,
        dry_run: bool,
    ) -> Result<Value, Refusal> {
        let mut object = self.get(collection, name)?;
        merge(&mut object, patch);
        self.replace(collection, object, dry_run)
    }

    pub(super) fn delete(
        &mut self,
        collection: &str,
        name: &str,
        preconditions: &Value,
    ) -> Result<(), Refusal> {
        let stored = self.get(collection, name)?;
        for field in ["uid", "resourceVersion"] {
            let wanted = &preconditions[field];
            if !wanted.is_null() && *wanted != stored["metadata"][field] {
                return Err(Refusal::Conflict);
            }
        }
        self.remove(collection, name);
        Ok(())
    }
}

fn merge(value: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        value.clone_from(patch);
        return;
    };
    if !value.is_object() {
        *value = json!({});
    }
    for (field, patch) in fields {
        match value.as_object_mut() {
            Some(object) if patch.is_null() => drop(object.remove(field)),
            _ => merge(&mut value[field], patch),
        }
    }
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// Whether a field selector of `path=value` terms selects an object.
fn selects(selector: &str, object: &Value) -> bool {
    let terms = selector.split(',').filter(|term| !term.is_empty());
    terms.into_iter().all(|term| {
        term.split_once('=').is_some_and(|(path, value)| {
            let found = path.split('.').fold(object, |object, field| &object[field]);
            found.as_str() == Some(value)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLICES: &str = "/apis/resource.k8s.io/v1/resourceslices";

    fn slice(name: &str, node: &str) -> Value {
        json!({"metadata": {"name": name}, "spec": {"nodeName": node, "driver": "d"}})
    }

    #[test]
    fn an_object_is_made_once_and_replaced_only_by_who_knows_its_version() {
        let mut store = Store::default();
        let first = store.create(SLICES, slice("a", "n"), false).unwrap();
        let again = store.create(SLICES, slice("a", "n"), false);
        assert_eq!(again, Err(Refusal::Exists));
        let second = store.replace(SLICES, first.clone(), false).unwrap();
        assert_eq!(store.replace(SLICES, first, false), Err(Refusal::Conflict));
        let stale = json!({"resourceVersion": "1"});
        assert_eq!(store.delete(SLICES, "a", &stale), Err(Refusal::Conflict));
        store.delete(SLICES, "a", &second["metadata"]).unwrap();
        assert_eq!(store.get(SLICES, "a"), Err(Refusal::NotFound));
    }

    #[test]
    fn a_patch_changes_what_it_names_and_nothing_else() {
        let mut store = Store::default();
        store.put(SLICES, slice("a", "n"));
        let patch = json!({"spec": {"driver": null, "pool": {"name": "p"}}});
        let patched = store.patch(SLICES, "a", &patch, false).unwrap();
        assert_eq!(
            patched["spec"],
            json!({"nodeName": "n", "pool": {"name": "p"}})
        );
        let absent = store.patch(SLICES, "b", &patch, false);
        assert_eq!(absent, Err(Refusal::NotFound));
    }

    #[test]
    fn a_dry_run_leaves_everything_as_it_was() {
        let mut store = Store::default();
        store.create(SLICES, slice("a", "n"), true).unwrap();
        assert_eq!(store.list(SLICES, ""), (1, Vec::new()));
    }

    #[test]
    fn lists_and_events_are_those_of_one_collection_and_selector() {
        let mut store = Store::default();
        store.put(SLICES, slice("a", "n"));
        store.put(SLICES, slice("b", "m"));
        store.put("/api/v1/nodes", slice("n", "n"));
        let selector = "spec.nodeName=n,spec.driver=d";
        let (version, found) = store.list(SLICES, selector);
        assert_eq!((version, found.len()), (4, 1));
        store.remove(SLICES, "a");
        store.remove(SLICES, "b");
        let news = store.since(SLICES, selector, version);
        assert_eq!(news.len(), 1);
        assert_eq!((news[0].kind, name(&news[0].object)), ("DELETED", "a"));
    }
}
