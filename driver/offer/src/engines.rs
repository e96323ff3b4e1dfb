//! How many engines of each kind a device has, under the names by which capacities and counters tell of them.

use tessera_device::mig::{MigEngines, MigOption};

/// How many there are of each kind, multiprocessors among them.
#[derive(Clone, Copy, Default)]
pub(crate) struct Engines {
    pub(crate) multiprocessors: u32,
    pub(crate) others: MigEngines,
}

/// Those of one kind. Capacity and counter have the reference driver's names.
struct Kind {
    capacity: &'static str,
    counter: &'static str,
    amount: u32,
}

impl Engines {
    pub(crate) fn of(option: &MigOption) -> Self {
        Self {
            multiprocessors: option.multiprocessors,
            others: option.engines,
        }
    }

    /// Of each kind as many as the one has that has most of it.
    pub(crate) fn or_more(self, other: Self) -> Self {
        let (one, two) = (self.others, other.others);
        Self {
            multiprocessors: self.multiprocessors.max(other.multiprocessors),
            others: MigEngines {
                copy: one.copy.max(two.copy),
                decoders: one.decoders.max(two.decoders),
                encoders: one.encoders.max(two.encoders),
                jpeg: one.jpeg.max(two.jpeg),
                ofa: one.ofa.max(two.ofa),
            },
        }
    }

    /// The amounts by the names of capacities.
    pub(crate) fn capacities(self) -> impl Iterator<Item = (&'static str, u32)> {
        let kinds = self.kinds().into_iter();
        kinds.map(|kind| (kind.capacity, kind.amount))
    }

    /// The amounts by the names of counters.
    pub(crate) fn counters(self) -> impl Iterator<Item = (&'static str, u32)> {
        let kinds = self.kinds().into_iter();
        kinds.map(|kind| (kind.counter, kind.amount))
    }

    fn kinds(self) -> [Kind; 6] {
        let MigEngines {
            copy,
            decoders,
            encoders,
            jpeg,
            ofa,
        } = self.others;
        let kind = |capacity, counter, amount| Kind {
            capacity,
            counter,
            amount,
        };
        [
            kind("multiprocessors", "multiprocessors", self.multiprocessors),
            kind("copyEngines", "copy-engines", copy),
            kind("decoders", "decoders", decoders),
            kind("encoders", "encoders", encoders),
            kind("jpegEngines", "jpeg-engines", jpeg),
            kind("ofaEngines", "ofa-engines", ofa),
        ]
    }
}
