//! Which slice a device stands in, where GPUs are offered as a whole and as their parts.
//!
//! Whole GPUs come before all that can be made of them. The allocator of Kubernetes passes over a device that is given away
//! before it looks at a request's selectors, but it evaluates them on every other device that comes first
//! (`structured/internal/*/allocator_*.go`). Between whole GPUs, the MIG devices of those in use would cost a claim of a whole
//! GPU 25 evaluations each.
//!
//! Behind the whole GPUs, in their slice, stand the parts of as many of these GPUs as have room there; the parts of each
//! other GPU have a slice of their own.
//!
//! # Guarantees
//! Where a device stands depends on what the GPUs can ever be, not on what they are at the moment. So what becomes of one
//! GPU changes its own slices alone: one if all its devices stand in it, and two if the whole stands in one and the parts in
//! another.
//!
//! # Why not one in every case
//! Devices that consume counters stand in slices of 64, so whole GPUs that come first and the parts of all GPUs do not fit
//! into one slice. Nor can a GPU be taken out of the pool by its counters, which stand in one slice. A write of that slice
//! would have to leave less than the least device of the GPU uses, but no less than claims are allocated of it: if
//! there is less, the remainder is negative, and the allocator then gives away no device of the *pool* that consumes counters
//! (`checkAvailableCounters` compares all counters of all sets, in 1.36.3 and 1.37.2). Only the scheduler knows what is
//! allocated at that moment.

use k8s_openapi::api::resource::v1::Device;

use crate::entry::Entry;
use crate::limits::ELABORATE_DEVICES_PER_SLICE;
use crate::plan::{devices_per_slice, in_slices};

/// Devices on their way into slices.
#[derive(Default)]
pub(crate) struct Layout {
    found: Vec<Device>,
    most_found: usize,
    parts: Vec<Parts>,
}

/// What can be made of one GPU.
struct Parts {
    entries: Vec<Entry>,
    most: usize,
    /// Whether the GPU is ever given as a whole too.
    have_whole: bool,
}

/// A GPU that has several views, as it is and as it can be.
pub(crate) struct Divided {
    /// The whole, if it can be given at present.
    pub(crate) whole: Option<Device>,
    /// Whether it ever can.
    pub(crate) is_ever_whole: bool,
    /// What can be made of it at present.
    pub(crate) parts: Vec<Entry>,
    /// How many devices that ever is.
    pub(crate) most_parts: usize,
}

impl Layout {
    /// Adds what is offered of a GPU as it is found: these devices at present, and so many at most.
    pub(crate) fn found(&mut self, devices: impl IntoIterator<Item = Device>, most: usize) {
        let before = self.found.len();
        self.found.extend(devices);
        self.most_found += most.max(self.found.len() - before);
    }

    /// Adds a GPU as a whole and as its parts.
    pub(crate) fn divided(&mut self, gpu: Divided) {
        self.found(gpu.whole, usize::from(gpu.is_ever_whole));
        let present = gpu.parts.iter().map(Entry::count).sum();
        self.parts.push(Parts {
            entries: gpu.parts,
            most: gpu.most_parts.max(present),
            have_whole: gpu.is_ever_whole,
        });
    }

    /// The slices in their order.
    pub(crate) fn slices(self) -> Vec<Vec<Entry>> {
        let limit = devices_per_slice(&self.found);
        let found = in_slices(self.found, limit);
        let mut slices: Vec<Vec<Entry>> = found
            .map(|devices| devices.into_iter().map(Entry::Device).collect())
            .collect();
        let mut parts = self.parts.into_iter().peekable();
        if self.most_found > 0 {
            if slices.is_empty() {
                slices.push(Vec::new());
            }
            // Several slices of whole GPUs leave no room: the first is full then.
            let mut room = ELABORATE_DEVICES_PER_SLICE.saturating_sub(self.most_found);
            while let Some(gpu) = parts.next_if(|gpu| gpu.have_whole && gpu.most <= room) {
                room -= gpu.most;
                slices[0].extend(gpu.entries);
            }
        }
        slices.extend(parts.flat_map(|gpu| within_a_slice(gpu.entries)));
        slices
    }
}

/// What can be made of one GPU, in one slice or as many as the API takes.
fn within_a_slice(parts: Vec<Entry>) -> Vec<Vec<Entry>> {
    if parts.iter().map(Entry::count).sum::<usize>() <= ELABORATE_DEVICES_PER_SLICE {
        return vec![parts];
    }
    let devices = parts.iter().flat_map(Entry::devices);
    let apart = devices.map(|device| Entry::Device(device.into_owned()));
    in_slices(apart.collect(), ELABORATE_DEVICES_PER_SLICE).collect()
}
