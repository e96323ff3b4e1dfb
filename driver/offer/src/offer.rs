//! What a node offers: the contents of its slices, and what had to be left out.

use std::collections::BTreeSet;
use std::fmt;

use k8s_openapi::api::resource::v1::{Device, ResourcePool, ResourceSlice, ResourceSliceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use tessera_device::DeviceName;

use crate::fields::{self, FieldPath};
use crate::limits::{ATTRIBUTE_VALUE_BYTES, ATTRIBUTES_AND_CAPACITIES_PER_DEVICE};
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

/// The slices of one driver on one node, without the generation that only the store knows.
#[derive(Clone, Debug, PartialEq)]
pub struct Offer {
    driver: String,
    node: Node,
    slices: Vec<Vec<Device>>,
    dropped: Vec<Dropped>,
    /// What is offered in its place where devices cannot be shared.
    exclusive: Option<Box<Offer>>,
}

impl Offer {
    /// An offer of these devices, one list per slice. No list at all becomes one empty slice: it
    /// says that the driver is here and has nothing, which no slice would not.
    pub(crate) fn new(
        driver: &str,
        node: &Node,
        mut slices: Vec<Vec<Device>>,
        dropped: Vec<Dropped>,
    ) -> Self {
        if slices.is_empty() {
            slices.push(Vec::new());
        }
        Self {
            driver: driver.to_owned(),
            node: node.clone(),
            slices,
            dropped,
            exclusive: None,
        }
    }

    /// The same, and another in its place for a server on which devices cannot be shared.
    pub(crate) fn or_exclusive(mut self, exclusive: Self) -> Self {
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
    pub fn devices(&self) -> impl Iterator<Item = &Device> {
        self.slices.iter().flatten()
    }

    /// What is known of the devices but not offered, and why.
    pub fn dropped(&self) -> &[Dropped] {
        &self.dropped
    }

    /// How many of the devices can be shared by several claims.
    pub fn shareable(&self) -> usize {
        let shared = |device: &&Device| device.allow_multiple_allocations == Some(true);
        self.devices().filter(shared).count()
    }

    /// Whether a stored slice belongs to this offer's pool. Every other slice is foreign.
    pub fn owns(&self, slice: &ResourceSlice) -> bool {
        slice.spec.driver == self.driver
            && slice.spec.node_name.as_deref() == Some(&self.node.name)
            && slice.spec.pool.name == self.pool()
    }

    /// The offer as objects of this pool generation, in the order of their names.
    pub fn slices(&self, generation: i64) -> Vec<ResourceSlice> {
        let count = i64::try_from(self.slices.len()).unwrap_or(i64::MAX);
        let slice = |(index, devices): (usize, &Vec<Device>)| ResourceSlice {
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
                devices: Some(devices.clone()),
                ..ResourceSliceSpec::default()
            },
        };
        self.slices.iter().enumerate().map(slice).collect()
    }

    /// The offer without these fields, for a server that does not keep them.
    ///
    /// Publishing a field that the server drops would differ from what is stored for ever, and so
    /// be written for ever. A server that does not keep all that sharing is made of gets devices that are
    /// not shared: with only a part of it, a device would be given away as nobody wants it.
    #[must_use]
    pub fn without(&self, fields: &BTreeSet<FieldPath>) -> Self {
        if let Some(exclusive) = &self.exclusive
            && fields.iter().any(FieldPath::is_of_sharing)
        {
            return exclusive.without(fields);
        }
        let mut offer = self.clone();
        for devices in &mut offer.slices {
            let spec = ResourceSliceSpec {
                devices: Some(std::mem::take(devices)),
                ..ResourceSliceSpec::default()
            };
            *devices = fields::without(spec, fields).devices.unwrap_or_default();
        }
        offer
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
