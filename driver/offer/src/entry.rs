//! What stands in a slice: a device, or MIG devices of one size that could be made of a GPU.
//!
//! A node of eight GPUs that can be cut offers some two hundred devices of seven kinds for each GPU. Written out, each takes
//! a hundred small pieces of memory. They are kept by their kind, and written out when a slice is sent or compared.

use std::borrow::Cow;

use k8s_openapi::api::resource::v1::{Counter, Device, DeviceTaint};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use tessera_device::mig::Placement;

/// The key of the taint of a device that cannot be had before a MIG device in its place is let go (KEP 5055).
pub const MIG_DEVICE_BUSY: &str = "tessera-dra.github.io/mig-device-busy";

/// One device or several.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Entry {
    /// One.
    Device(Device),
    /// Those of one size.
    Size(Size),
}

/// MIG devices of one size, at different places of a GPU.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Size {
    /// What they have in common. What it uses of counters is what each of them uses wherever it lies.
    pub(crate) common: Device,
    /// Where they are, in their order.
    pub(crate) places: Vec<Place>,
}

/// A MIG device that could be made.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Place {
    /// The name of the device.
    pub(crate) name: String,
    /// Where it would lie.
    pub(crate) placement: Placement,
    /// Whether something is in its way that somebody holds open.
    pub(crate) is_busy: bool,
}

impl Entry {
    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        match self {
            Self::Device(_) => 1,
            Self::Size(size) => size.places.len(),
        }
    }

    /// What they have in common, names and places aside.
    pub(crate) fn common(&self) -> &Device {
        match self {
            Self::Device(device) => device,
            Self::Size(size) => &size.common,
        }
    }

    /// They, each written out.
    pub(crate) fn devices(&self) -> impl Iterator<Item = Cow<'_, Device>> {
        let (one, size) = match self {
            Self::Device(device) => (Some(Cow::Borrowed(device)), None),
            Self::Size(size) => (None, Some(size)),
        };
        let places = size
            .into_iter()
            .flat_map(|size| size.places.iter().map(|place| size.at(place)));
        one.into_iter().chain(places.map(Cow::Owned))
    }
}

impl Size {
    fn at(&self, place: &Place) -> Device {
        let mut device = Device {
            name: place.name.clone(),
            ..self.common.clone()
        };
        for used in device.consumes_counters.iter_mut().flatten() {
            used.counters.extend(memory_slices(place.placement));
        }
        if place.is_busy {
            device.taints = Some(vec![busy()]);
        }
        device
    }
}

/// The taint of what cannot be had for now, because somebody holds open what is in its way.
pub(crate) fn busy() -> DeviceTaint {
    DeviceTaint {
        key: MIG_DEVICE_BUSY.to_owned(),
        effect: "NoSchedule".to_owned(),
        ..DeviceTaint::default()
    }
}

/// The counters of the memory slices at a place: one of each.
pub(crate) fn memory_slices(place: Placement) -> impl Iterator<Item = (String, Counter)> {
    place.slices().map(memory_slice)
}

/// The counter of a memory slice.
pub(crate) fn memory_slice(number: u16) -> (String, Counter) {
    let one = Counter {
        value: Quantity("1".to_owned()),
    };
    (format!("memory-slice-{number}"), one)
}
