//! What a node offers: the contents of its slices, and what had to be left out.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use k8s_openapi::api::resource::v1::{
    CounterSet, Device, ResourcePool, ResourceSlice, ResourceSliceSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use tessera_device::DeviceName;
use tessera_device::mig::Bound;

use crate::entry::Entry;
use crate::fields::{self, FieldPath};
use crate::limits::{
    ATTRIBUTE_VALUE_BYTES, ATTRIBUTES_AND_CAPACITIES_PER_DEVICE, COUNTER_SETS_PER_SLICE,
};
use crate::names::slice_name;

/// The node whose devices are offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name; the pool has the same.
    pub name: String,
    /// The UID of its API object, for the owner reference by which slices go with their node.
    pub uid: String,
}

/// Something that is true of a device but is not offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// The device.
    pub device: DeviceName,
    /// The attribute or capacity that it goes without.
    pub attribute: &'static str,
    /// Why.
    pub reason: DropReason,
}

/// Why an attribute is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DropReason {
    /// The API refuses longer values, and with them the whole slice.
    TooLong {
        /// Length of the value in bytes.
        bytes: usize,
    },
    /// The API takes only so many attributes and capacities of a device, and refuses the whole slice
    /// for one more.
    TooMany {
        /// How many there would be.
        count: usize,
    },
    /// Version attributes follow semver 2.0, and the value has no such form.
    NotSemver {
        /// The value as the driver says it.
        text: String,
    },
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            device,
            attribute,
            reason,
        } = self;
        write!(f, "{device} is offered without attribute {attribute}: ")?;
        match reason {
            DropReason::TooLong { bytes } => write!(
                f,
                "its value has {bytes} bytes, the API takes {ATTRIBUTE_VALUE_BYTES}"
            ),
            DropReason::TooMany { count } => write!(
                f,
                "with it there would be {count} attributes and capacities, the API takes \
                 {ATTRIBUTES_AND_CAPACITIES_PER_DEVICE}"
            ),
            DropReason::NotSemver { text } => {
                write!(f, "{text:?} is not a version of one to three numbers")
            }
        }
    }
}

/// In which respects an offer is less than it could be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Form {
    /// Each GPU is offered in one view, for the server keeps no counters.
    pub uncounted: bool,
    /// Devices are not shared, for the server does not keep all of what sharing is made of.
    pub exclusive: bool,
}

/// The slices of one driver on one node, without the generation that only the store knows.
#[derive(Clone, Debug, PartialEq)]
pub struct Offer {
    driver: String,
    node: Node,
    counters: Vec<CounterSet>,
    slices: Vec<Vec<Entry>>,
    dropped: Vec<Dropped>,
    bound: Vec<(DeviceName, Bound)>,
    /// What is offered in its place where the server keeps no counters.
    without_counters: Option<Box<Self>>,
    /// What is offered in its place where devices cannot be shared.
    exclusive: Option<Box<Self>>,
}

impl Offer {
    /// An offer of these devices, one list per slice. No list at all becomes one empty slice: it
    /// says that the driver is here and has nothing, which no slice would not.
    pub(crate) fn new(
        driver: &str,
        node: &Node,
        slices: Vec<Vec<Device>>,
        dropped: Vec<Dropped>,
    ) -> Self {
        let each = |devices: Vec<Device>| devices.into_iter().map(Entry::Device).collect();
        Self::of_entries(
            driver,
            node,
            slices.into_iter().map(each).collect(),
            dropped,
        )
    }

    /// The same of entries.
    pub(crate) fn of_entries(
        driver: &str,
        node: &Node,
        slices: Vec<Vec<Entry>>,
        dropped: Vec<Dropped>,
    ) -> Self {
        Self {
            driver: driver.to_owned(),
            node: node.clone(),
            counters: Vec::new(),
            slices: if slices.is_empty() {
                vec![Vec::new()]
            } else {
                slices
            },
            dropped,
            bound: Vec::new(),
            without_counters: None,
            exclusive: None,
        }
    }

    /// The same with counters that its devices use, and what to offer where the server keeps none.
    #[must_use]
    pub(crate) fn counted(self, counters: Vec<CounterSet>, without: Self) -> Self {
        Self {
            counters,
            without_counters: Some(Box::new(without)),
            ..self
        }
    }

    /// The same, saying of GPUs why they are offered in one mode only.
    #[must_use]
    pub(crate) fn bound_by(self, bound: Vec<(DeviceName, Bound)>) -> Self {
        Self { bound, ..self }
    }

    /// The same, and another in its place for a server on which devices cannot be shared. So is the one for a
    /// server that keeps no counters, for one that does neither.
    pub(crate) fn or_exclusive(mut self, exclusive: Self) -> Self {
        let smaller = self.without_counters.take();
        self.without_counters = match (smaller, &exclusive.without_counters) {
            (Some(smaller), Some(instead)) => {
                Some(Box::new(smaller.or_exclusive(Self::clone(instead))))
            }
            (smaller, _) => smaller,
        };
        self.exclusive = Some(Box::new(exclusive));
        self
    }

    /// The driver that offers.
    pub fn driver(&self) -> &str {
        &self.driver
    }

    /// The node whose devices these are.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// The pool: one per node and driver, named after the node.
    pub fn pool(&self) -> &str {
        &self.node.name
    }

    /// The devices in the order in which the scheduler tries them.
    pub fn devices(&self) -> impl Iterator<Item = Cow<'_, Device>> {
        self.slices.iter().flatten().flat_map(Entry::devices)
    }

    /// How many devices there are.
    pub fn count(&self) -> usize {
        self.slices.iter().flatten().map(Entry::count).sum()
    }

    /// What is known of the devices but not offered, and why.
    pub fn dropped(&self) -> &[Dropped] {
        &self.dropped
    }

    /// The GPUs that are offered in the MIG mode that they are in, each with the reason.
    pub fn bound(&self) -> &[(DeviceName, Bound)] {
        &self.bound
    }

    /// How many of the devices can be shared by several claims.
    pub fn shareable(&self) -> usize {
        let entries = self.slices.iter().flatten();
        let shared =
            entries.filter(|entry| entry.common().allow_multiple_allocations == Some(true));
        shared.map(Entry::count).sum()
    }

    /// Whether a stored slice belongs to this offer's pool. Every other slice is foreign.
    pub fn owns(&self, slice: &ResourceSlice) -> bool {
        slice.spec.driver == self.driver
            && slice.spec.node_name.as_deref() == Some(&self.node.name)
            && slice.spec.pool.name == self.pool()
    }

    /// The offer as objects of this pool generation, in the order of their names.
    ///
    /// Counters come first: a server that does not keep them shows it before a device is published that
    /// must not be without them.
    pub fn slices(&self, generation: i64) -> Vec<ResourceSlice> {
        let counters = self.counters.chunks(COUNTER_SETS_PER_SLICE);
        let counters = counters.map(|sets| ResourceSliceSpec {
            shared_counters: Some(sets.to_vec()),
            ..ResourceSliceSpec::default()
        });
        let devices = self.slices.iter().map(|entries| {
            let devices = entries.iter().flat_map(Entry::devices);
            ResourceSliceSpec {
                devices: Some(devices.map(Cow::into_owned).collect()),
                ..ResourceSliceSpec::default()
            }
        });
        let specs: Vec<ResourceSliceSpec> = counters.chain(devices).collect();
        let count = i64::try_from(specs.len()).unwrap_or(i64::MAX);
        let slice = |(index, content): (usize, ResourceSliceSpec)| ResourceSlice {
            metadata: ObjectMeta {
                name: Some(slice_name(&self.node.name, &self.driver, index)),
                owner_references: Some(vec![self.owner()]),
                ..ObjectMeta::default()
            },
            spec: ResourceSliceSpec {
                driver: self.driver.clone(),
                node_name: Some(self.node.name.clone()),
                pool: ResourcePool {
                    name: self.pool().to_owned(),
                    generation,
                    resource_slice_count: count,
                },
                ..content
            },
        };
        specs.into_iter().enumerate().map(slice).collect()
    }

    /// The offer for a server that does not keep these fields.
    ///
    /// Publishing a field that the server drops would differ from what is stored for ever, and so
    /// be written for ever. Without counters the scheduler would give away devices that overlap, so
    /// less is offered then.
    #[must_use]
    pub fn without(&self, fields: &BTreeSet<FieldPath>) -> Self {
        if let Some(smaller) = &self.without_counters
            && fields.iter().any(FieldPath::is_of_counters)
        {
            return smaller.without(fields);
        }
        if let Some(exclusive) = &self.exclusive
            && fields.iter().any(FieldPath::is_of_sharing)
        {
            return exclusive.without(fields);
        }
        let mut offer = self.clone();
        if fields.is_empty() {
            return offer;
        }
        for entries in &mut offer.slices {
            let devices = entries.iter().flat_map(Entry::devices);
            let spec = ResourceSliceSpec {
                devices: Some(devices.map(Cow::into_owned).collect()),
                ..ResourceSliceSpec::default()
            };
            let kept = fields::without(spec, fields).devices.unwrap_or_default();
            *entries = kept.into_iter().map(Entry::Device).collect();
        }
        offer
    }

    /// What of the offer is another on a server that does not keep these fields.
    pub fn form_without(&self, fields: &BTreeSet<FieldPath>) -> Form {
        let is_lost = |instead: &Option<Box<Self>>, is_of: fn(&FieldPath) -> bool| {
            instead.is_some() && fields.iter().any(is_of)
        };
        Form {
            uncounted: is_lost(&self.without_counters, FieldPath::is_of_counters),
            exclusive: is_lost(&self.exclusive, FieldPath::is_of_sharing),
        }
    }

    pub(crate) fn owner(&self) -> OwnerReference {
        OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: self.node.name.clone(),
            uid: self.node.uid.clone(),
            controller: Some(true),
            block_owner_deletion: None,
        }
    }
}
