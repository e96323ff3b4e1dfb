//! What the slice of a compute domain says of one of its slots.
//!
//! The controller writes the slots of a domain as devices of a pool of the domain's own. Tenants cannot
//! write slices, so what a slice says of a slot counts more than what a claim says of itself.

use std::collections::BTreeMap;

use k8s_openapi::api::resource::v1::{Device, DeviceAttribute, ResourceSlice};
use tessera_device::DeviceName;

/// A slot, as its slice has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// UID of the domain.
    pub domain: String,
    /// Namespace of the domain.
    pub namespace: String,
    /// Number of the domain's IMEX channel.
    pub channel: u32,
}

/// Why a slot cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoSlot {
    /// No slice of the pool has it.
    Absent,
    /// It lacks an attribute, or the attribute's value is no such thing.
    Malformed {
        /// The attribute.
        attribute: &'static str,
    },
}

/// The slot of this name in the pool, from the slices of its driver.
///
/// Of a pool only the slices of its highest generation count, as for the scheduler.
pub fn slot(
    slices: &[ResourceSlice],
    driver: &str,
    pool: &str,
    name: &DeviceName,
) -> Result<Slot, NoSlot> {
    let of_pool = || {
        let specs = slices.iter().map(|slice| &slice.spec);
        specs.filter(|spec| spec.driver == driver && spec.pool.name == pool)
    };
    let newest = of_pool().map(|spec| spec.pool.generation).max();
    let mut devices = of_pool()
        .filter(|spec| Some(spec.pool.generation) == newest)
        .flat_map(|spec| spec.devices.iter().flatten());
    let device = devices
        .find(|device| device.name == name.as_str())
        .ok_or(NoSlot::Absent)?;
    let attributes = Attributes(device);
    Ok(Slot {
        domain: attributes.text("domain")?,
        namespace: attributes.text("namespace")?,
        channel: attributes.number("channel")?,
    })
}

struct Attributes<'a>(&'a Device);

impl Attributes<'_> {
    fn get(&self, name: &str) -> Option<&DeviceAttribute> {
        let attributes: &BTreeMap<_, _> = self.0.attributes.as_ref()?;
        attributes.get(name)
    }

    fn text(&self, attribute: &'static str) -> Result<String, NoSlot> {
        let found = self.get(attribute).and_then(|value| value.string.clone());
        found.ok_or(NoSlot::Malformed { attribute })
    }

    fn number(&self, attribute: &'static str) -> Result<u32, NoSlot> {
        let found = self.get(attribute).and_then(|value| value.int);
        found
            .and_then(|number| u32::try_from(number).ok())
            .ok_or(NoSlot::Malformed { attribute })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const DRIVER: &str = "compute-domain.nvidia.com";
    const POOL: &str = "domain-d1";

    fn slice(driver: &str, pool: &str, generation: i64, attributes: &Value) -> ResourceSlice {
        serde_json::from_value(json!({
            "metadata": {"name": "x"},
            "spec": {
                "driver": driver,
                "pool": {"name": pool, "generation": generation, "resourceSliceCount": 1},
                "devices": [{"name": "slot-0", "attributes": attributes}],
            },
        }))
        .unwrap()
    }

    fn attributes(channel: i64) -> Value {
        json!({
            "type": {"string": "channel"},
            "domain": {"string": "d1"},
            "namespace": {"string": "team"},
            "channel": {"int": channel},
        })
    }

    fn read(slices: &[ResourceSlice], name: &str) -> Result<Slot, NoSlot> {
        slot(slices, DRIVER, POOL, &name.parse().unwrap())
    }

    #[test]
    fn a_slot_is_read_from_the_newest_generation_of_its_own_pool() {
        let slices = [
            slice("gpu.nvidia.com", POOL, 9, &attributes(1)),
            slice(DRIVER, "domain-d2", 9, &attributes(2)),
            slice(DRIVER, POOL, 1, &attributes(3)),
            slice(DRIVER, POOL, 2, &attributes(4)),
        ];
        let expected = Slot {
            domain: "d1".to_owned(),
            namespace: "team".to_owned(),
            channel: 4,
        };
        assert_eq!(read(&slices, "slot-0"), Ok(expected));
        assert_eq!(read(&slices, "slot-1"), Err(NoSlot::Absent));
        assert_eq!(read(&slices[..2], "slot-0"), Err(NoSlot::Absent));
    }

    #[test]
    fn a_slot_without_what_it_must_say_is_refused_by_the_name_of_the_attribute() {
        for attribute in ["domain", "namespace", "channel"] {
            let mut lacking = attributes(1);
            lacking.as_object_mut().unwrap().remove(attribute);
            let slices = [slice(DRIVER, POOL, 1, &lacking)];
            assert_eq!(
                read(&slices, "slot-0"),
                Err(NoSlot::Malformed { attribute })
            );
        }
        for impossible in [-1, i64::from(u32::MAX) + 1] {
            let slices = [slice(DRIVER, POOL, 1, &attributes(impossible))];
            let attribute = "channel";
            assert_eq!(
                read(&slices, "slot-0"),
                Err(NoSlot::Malformed { attribute })
            );
        }
    }
}
