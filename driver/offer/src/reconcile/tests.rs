//! [`reconcile`] against a model of the API server and of the scheduler's view of a pool.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::resource::v1::Device;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use proptest::prelude::*;

use super::*;
use crate::offer::Node;

const DRIVER: &str = "gpu.nvidia.com";

fn node() -> Node {
    Node {
        name: "node-a".to_owned(),
        uid: "uid-a".to_owned(),
    }
}

fn device(name: &str) -> Device {
    serde_json::from_value(serde_json::json!({
        "name": name,
        "capacity": {"memory": {"value": "1024Mi"}},
    }))
    .unwrap()
}

fn offer(slices: &[&[&str]]) -> Offer {
    let slices = slices
        .iter()
        .map(|names| names.iter().map(|name| device(name)).collect());
    Offer::new(DRIVER, &node(), slices.collect(), Vec::new())
}

/// What the API server does to slices, as far as a writer can see.
#[derive(Clone, Debug, Default, PartialEq)]
struct Store {
    slices: BTreeMap<String, ResourceSlice>,
    version: u64,
}

impl Store {
    fn with(slices: impl IntoIterator<Item = ResourceSlice>) -> Self {
        let mut store = Self::default();
        for slice in slices {
            store.put(slice);
        }
        store
    }

    fn list(&self) -> Vec<ResourceSlice> {
        self.slices.values().cloned().collect()
    }

    fn put(&mut self, mut slice: ResourceSlice) {
        self.version += 1;
        slice.metadata.resource_version = Some(self.version.to_string());
        slice
            .metadata
            .uid
            .get_or_insert_with(|| format!("uid-{}", self.version));
        for device in slice.spec.devices.iter_mut().flatten() {
            for capacity in device.capacity.iter_mut().flat_map(BTreeMap::values_mut) {
                if capacity.value.0 == "1024Mi" {
                    "1Gi".clone_into(&mut capacity.value.0);
                }
            }
        }
        if slice.spec.devices.as_ref().is_some_and(Vec::is_empty) {
            slice.spec.devices = None;
        }
        self.slices.insert(name(&slice).to_owned(), slice);
    }

    fn apply(&mut self, write: &Write) {
        match write {
            Write::Create(slice) => {
                assert!(!self.slices.contains_key(name(slice)), "409 AlreadyExists");
                assert_eq!(slice.metadata.resource_version, None);
                self.put((**slice).clone());
            }
            Write::Replace(slice) => {
                let stored = &self.slices[name(slice)];
                assert_eq!(
                    slice.metadata.resource_version,
                    stored.metadata.resource_version
                );
                assert_eq!(slice.metadata.uid, stored.metadata.uid);
                assert_eq!(slice.spec.driver, stored.spec.driver);
                assert_eq!(slice.spec.node_name, stored.spec.node_name);
                assert_eq!(slice.spec.pool.name, stored.spec.pool.name);
                self.put((**slice).clone());
            }
            Write::Delete(slice) => {
                let stored = self.slices.remove(&slice.name).unwrap();
                assert_eq!(slice.uid, stored.metadata.uid);
                assert_eq!(slice.resource_version, stored.metadata.resource_version);
            }
        }
    }

    fn reconciled(&self, desired: &Offer) -> Self {
        let mut store = self.clone();
        for write in reconcile(desired, &self.list()) {
            store.apply(&write);
        }
        store
    }

    /// The devices that the scheduler may hand out: none while the pool is incomplete.
    fn offered(&self, desired: &Offer) -> Option<Vec<String>> {
        let pool: Vec<&ResourceSlice> = self
            .slices
            .values()
            .filter(|slice| desired.owns(slice))
            .collect();
        let highest = pool.iter().map(|slice| slice.spec.pool.generation).max()?;
        let current: Vec<_> = pool
            .into_iter()
            .filter(|slice| slice.spec.pool.generation == highest)
            .collect();
        let complete = current.iter().all(|slice| {
            usize::try_from(slice.spec.pool.resource_slice_count) == Ok(current.len())
        });
        let devices = current
            .iter()
            .flat_map(|slice| slice.spec.devices.iter().flatten());
        complete.then(|| devices.map(|device| device.name.clone()).collect())
    }
}

fn generations(store: &Store) -> Vec<i64> {
    store
        .slices
        .values()
        .map(|slice| slice.spec.pool.generation)
        .collect()
}

#[test]
fn an_empty_store_gets_every_slice_of_the_first_generation() {
    let desired = offer(&[&["a"], &["b"]]);
    let store = Store::default().reconciled(&desired);
    assert_eq!(store.offered(&desired).unwrap(), ["a", "b"]);
    assert_eq!(generations(&store), [1, 1]);
}

#[test]
fn one_changed_slice_is_one_write_of_the_same_generation() {
    let store = Store::default().reconciled(&offer(&[&["a"], &["b"]]));
    let desired = offer(&[&["a"], &["c"]]);
    let writes = reconcile(&desired, &store.list());
    assert!(matches!(&writes[..], [Write::Replace(slice)] if slice.spec.pool.generation == 1));
}

#[test]
fn two_changed_slices_get_the_next_generation_together() {
    let store = Store::default().reconciled(&offer(&[&["a"], &["b"], &["c"]]));
    let desired = offer(&[&["x"], &["y"], &["c"]]);
    let store = store.reconciled(&desired);
    assert_eq!(generations(&store), [2, 2, 2]);
    assert_eq!(store.offered(&desired).unwrap(), ["x", "y", "c"]);
}

#[test]
fn what_one_slice_loses_and_another_changes_is_written_in_this_order_without_a_new_generation() {
    let store = Store::default().reconciled(&offer(&[&["a", "b"], &["c"], &["d"]]));
    let desired = offer(&[&["a"], &["c"], &["b", "e"]]);
    let mut seen = Vec::new();
    let mut between = store.clone();
    for write in reconcile(&desired, &store.list()) {
        between.apply(&write);
        seen.push(between.offered(&desired).unwrap().join(" "));
    }
    assert_eq!(seen, ["a c d", "a c b e"]);
    assert_eq!(generations(&between), [1, 1, 1]);
    // And back: what gains is written last.
    seen.clear();
    let desired = offer(&[&["a", "b"], &["c"], &["d"]]);
    for write in reconcile(&desired, &between.list()) {
        between.apply(&write);
        seen.push(between.offered(&desired).unwrap().join(" "));
    }
    assert_eq!(seen, ["a c d", "a b c d"]);
    assert_eq!(generations(&between), [1, 1, 1]);
}

#[test]
fn an_added_or_removed_slice_gives_every_slice_the_next_generation() {
    let store = Store::default().reconciled(&offer(&[&["a"]]));
    let store = store.reconciled(&offer(&[&["a"], &["b"]]));
    assert_eq!(generations(&store), [2, 2]);
    let store = store.reconciled(&offer(&[&["a"]]));
    assert_eq!(generations(&store), [3]);
}

#[test]
fn a_leftover_of_an_older_generation_is_deleted_and_nothing_else_written() {
    let desired = offer(&[&["a"]]);
    let mut leftover = desired.slices(1).remove(0);
    leftover.metadata.name = Some("00000-gpu.nvidia.com-node-a-x7k2p".to_owned());
    let store = Store::with(desired.slices(4).into_iter().chain([leftover]));
    let writes = reconcile(&desired, &store.list());
    assert!(matches!(&writes[..], [Write::Delete(slice)] if slice.name.starts_with("00000-")));
}

#[test]
fn slices_of_another_writer_of_this_pool_are_replaced_by_ours_without_a_gap() {
    let desired = offer(&[&["a"]]);
    let mut theirs = desired.slices(9).remove(0);
    theirs.metadata.name = Some("00000-gpu.nvidia.com-node-a-x7k2p".to_owned());
    let mut store = Store::with([theirs]);
    for write in reconcile(&desired, &store.list()) {
        store.apply(&write);
        assert_eq!(store.offered(&desired).unwrap(), ["a"]);
    }
    assert_eq!(generations(&store), [10]);
}

#[test]
fn a_slice_that_belongs_to_a_former_node_of_this_name_gets_its_new_owner() {
    let desired = offer(&[&["a"]]);
    let mut old = desired.slices(1).remove(0);
    let former = OwnerReference {
        uid: "uid-of-a-deleted-node".to_owned(),
        ..desired.owner()
    };
    let other = OwnerReference {
        uid: "uid-of-a-backup".to_owned(),
        controller: None,
        ..desired.owner()
    };
    old.metadata.owner_references = Some(vec![former, other.clone()]);
    old.metadata.labels = Some(BTreeMap::from([("team".to_owned(), "ml".to_owned())]));
    let store = Store::with([old]).reconciled(&desired);
    let metadata = &store.slices.values().next().unwrap().metadata;
    assert_eq!(
        metadata.owner_references,
        Some(vec![desired.owner(), other])
    );
    assert_eq!(metadata.labels.as_ref().unwrap()["team"], "ml");
}

#[test]
fn the_last_generation_there_is_panics_nobody() {
    let desired = offer(&[&["a"], &["b"]]);
    let store = Store::with(offer(&[&["x"]]).slices(i64::MAX)).reconciled(&desired);
    assert_eq!(reconcile(&desired, &store.list()), []);
}

#[test]
fn an_offer_without_what_the_server_drops_needs_no_write() {
    let mut devices = vec![device("a")];
    devices[0].allow_multiple_allocations = Some(true);
    let desired = Offer::new(DRIVER, &node(), vec![devices], Vec::new());
    let sent = desired.slices(1).remove(0);
    let mut stored = sent.clone();
    stored.spec.devices.as_mut().unwrap()[0].allow_multiple_allocations = None;
    assert_eq!(reconcile(&desired, std::slice::from_ref(&stored)).len(), 1);
    let smaller = desired.without(&crate::dropped_fields(&sent, &stored));
    assert_eq!(reconcile(&smaller, &[stored]), []);
}

fn any_offer() -> impl Strategy<Value = Offer> {
    prop::collection::vec(prop::collection::vec(0..6_u32, 0..3), 0..4).prop_map(|slices| {
        let slices = slices.iter().enumerate().map(|(slice, values)| {
            values
                .iter()
                .map(|value| device(&format!("gpu-{slice}-{value}")))
                .collect()
        });
        Offer::new(DRIVER, &node(), slices.collect(), Vec::new())
    })
}

/// A slice that anybody may have left in any state, in our pool or beside it.
fn any_slice() -> impl Strategy<Value = ResourceSlice> {
    (
        any_offer(),
        any::<prop::sample::Index>(),
        (0..4_i64, 1..4_i64),
        prop_oneof![4 => Just(None), 1 => "left-[a-z]{3}".prop_map(Some)],
        0..8_u8,
    )
        .prop_map(|(offer, index, (generation, count), rename, oddity)| {
            let slices = offer.slices(generation);
            let mut slice = slices[index.index(slices.len())].clone();
            slice.spec.pool.resource_slice_count = count;
            if rename.is_some() {
                slice.metadata.name = rename;
            }
            let foreign = match oddity {
                0 => Some(&mut slice.spec.driver),
                1 => slice.spec.node_name.as_mut(),
                2 => Some(&mut slice.spec.pool.name),
                3 => {
                    slice.metadata.owner_references = None;
                    None
                }
                _ => None,
            };
            if let Some(field) = foreign {
                "elsewhere".clone_into(field);
                // One name is one object, so a foreign one cannot have the name of ours.
                slice.metadata.name = Some(format!("foreign-{oddity}-{}", name(&slice)));
            }
            slice
        })
}

fn any_store() -> impl Strategy<Value = Store> {
    prop_oneof![
        prop::collection::vec(any_slice(), 0..8).prop_map(Store::with),
        (any_offer(), 0..5_i64)
            .prop_map(|(offer, generation)| Store::with(offer.slices(generation))),
    ]
}

/// Some of eight devices, each in one of three slices.
fn any_distribution() -> impl Strategy<Value = Offer> {
    let places = prop::collection::vec(prop::option::of(0..3_usize), 8);
    places.prop_map(|places| {
        let mut slices = vec![Vec::new(); 3];
        for (number, place) in places.into_iter().enumerate() {
            if let Some(place) = place {
                slices[place].push(device(&format!("gpu-{number}")));
            }
        }
        Offer::new(DRIVER, &node(), slices, Vec::new())
    })
}

/// One that is stored, and another that is wanted: few devices have come, gone or moved.
fn two_distributions() -> impl Strategy<Value = (Store, Offer)> {
    (
        any_distribution(),
        any_distribution(),
        prop::collection::vec(any::<bool>(), 3),
    )
        .prop_map(|(before, other, kept)| {
            let (old, new) = (before.slices(1), other.slices(1));
            let slices = old.iter().zip(&new).zip(kept).map(|((old, new), kept)| {
                let devices = if kept { old } else { new }.spec.devices.clone();
                devices.unwrap_or_default()
            });
            let mut seen = BTreeSet::new();
            let slices: Vec<Vec<Device>> = slices
                .map(|mut devices| {
                    devices.retain(|device| seen.insert(device.name.clone()));
                    devices
                })
                .collect();
            let desired = Offer::new(DRIVER, &node(), slices, Vec::new());
            (Store::default().reconciled(&before), desired)
        })
}

fn names(devices: &Offer) -> Vec<String> {
    devices
        .devices()
        .map(|device| device.name.clone())
        .collect()
}

proptest! {
    #[test]
    fn one_pass_reaches_the_offer_and_a_second_writes_nothing(store in any_store(), desired in any_offer()) {
        let after = store.reconciled(&desired);
        prop_assert_eq!(after.offered(&desired), Some(names(&desired)));
        prop_assert_eq!(reconcile(&desired, &after.list()), []);
    }

    #[test]
    fn all_slices_of_the_pool_agree_on_generation_and_count(store in any_store(), desired in any_offer()) {
        let after = store.reconciled(&desired);
        let pool: Vec<_> = after.slices.values().filter(|slice| desired.owns(slice)).collect();
        for slice in &pool {
            prop_assert_eq!(slice.spec.pool.generation, pool[0].spec.pool.generation);
            prop_assert_eq!(usize::try_from(slice.spec.pool.resource_slice_count), Ok(pool.len()));
        }
    }

    #[test]
    fn foreign_slices_are_never_touched(store in any_store(), desired in any_offer()) {
        let foreign = |store: &Store| -> Vec<ResourceSlice> {
            store.list().into_iter().filter(|slice| !desired.owns(slice)).collect()
        };
        prop_assert_eq!(foreign(&store), foreign(&store.reconciled(&desired)));
    }

    #[test]
    fn between_two_writes_a_scheduler_sees_devices_of_the_old_pool_of_the_new_one_or_none(
        (store, desired) in prop_oneof![(any_store(), any_offer()), two_distributions()],
    ) {
        let (old, new) = (store.offered(&desired), names(&desired));
        let is_part = |seen: &[String], all: &[String]| seen.iter().all(|name| all.contains(name));
        let mut store = store;
        for write in reconcile(&desired, &store.list()) {
            store.apply(&write);
            let seen = store.offered(&desired).unwrap_or_default();
            let is_old = old.as_ref().is_some_and(|old| is_part(&seen, old));
            prop_assert!(is_old || is_part(&seen, &new), "{:?}", seen);
        }
    }

    #[test]
    fn no_device_is_seen_twice_whichever_slice_it_moves_to((store, desired) in two_distributions()) {
        let mut store = store;
        for write in reconcile(&desired, &store.list()) {
            store.apply(&write);
            let seen = store.offered(&desired).unwrap_or_default();
            let different: BTreeSet<&String> = seen.iter().collect();
            prop_assert_eq!(different.len(), seen.len(), "{:?}", seen);
        }
    }

    #[test]
    fn a_writer_that_died_between_two_writes_is_taken_over_in_one_pass(
        store in any_store(),
        first in any_offer(),
        desired in any_offer(),
        survived: prop::sample::Index,
    ) {
        let writes = reconcile(&first, &store.list());
        let mut store = store;
        for write in writes.iter().take(survived.index(writes.len() + 1)) {
            store.apply(write);
        }
        let after = store.reconciled(&desired);
        prop_assert_eq!(after.offered(&desired), Some(names(&desired)));
        prop_assert_eq!(reconcile(&desired, &after.list()), []);
    }

    #[test]
    fn a_write_is_made_only_where_something_differs(store in any_store(), desired in any_offer()) {
        let after = store.reconciled(&desired);
        let changed = desired.slices(1).len();
        let writes = reconcile(&desired, &store.list());
        let deletes = writes.iter().filter(|write| matches!(write, Write::Delete(_))).count();
        prop_assert!(writes.len() - deletes <= changed);
        prop_assert_eq!(writes.is_empty(), after == store);
    }
}
