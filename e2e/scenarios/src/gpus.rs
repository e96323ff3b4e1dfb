//! GPUs as the three places name them: slices offer them, claims hold them, `nvidia-smi -L` lists them.

use k8s_openapi::api::resource::v1::{Device, ResourceClaim, ResourceSlice};

use crate::kubernetes::Objects;

/// The driver that offers GPUs.
pub const DRIVER: &str = "gpu.nvidia.com";

/// The driver of the channels of compute domains, which runs in the same pod.
pub const CHANNEL_DRIVER: &str = "compute-domain.nvidia.com";

/// A GPU that a slice offers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Offered {
    /// Pool and device name.
    pub place: Place,
    /// `productName`.
    pub product: String,
    /// `uuid`.
    pub uuid: String,
    /// Capacity `memory`, as the slice writes it.
    pub memory: String,
}

/// Where a device is: the pool, which is the node, and its name there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The pool.
    pub pool: String,
    /// The device.
    pub device: String,
}

/// A GPU that `nvidia-smi -L` lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its product name.
    pub product: String,
    /// Its UUID.
    pub uuid: String,
}

/// Every GPU that the slices offer, in order.
pub fn offered(slices: &Objects<ResourceSlice>) -> Vec<Offered> {
    let ours = slices.values().filter(|slice| slice.spec.driver == DRIVER);
    let mut all: Vec<_> = ours
        .flat_map(|slice| {
            let pool = &slice.spec.pool.name;
            let devices = slice.spec.devices.iter().flatten();
            devices.map(|device| offer(pool, device))
        })
        .collect();
    all.sort();
    all
}

fn offer(pool: &str, device: &Device) -> Offered {
    let text = |name: &str| {
        let attribute = device.attributes.as_ref()?.get(name)?;
        attribute.string.clone()
    };
    let memory = device.capacity.as_ref().and_then(|all| all.get("memory"));
    Offered {
        place: Place {
            pool: pool.to_owned(),
            device: device.name.clone(),
        },
        product: text("productName").unwrap_or_default(),
        uuid: text("uuid").unwrap_or_default(),
        memory: memory.map_or_else(String::new, |memory| memory.value.0.clone()),
    }
}

/// The device at this place, as its slice describes it.
pub fn device<'a>(slices: &'a Objects<ResourceSlice>, place: &Place) -> Option<&'a Device> {
    let mut ours = slices
        .values()
        .filter(|slice| slice.spec.driver == DRIVER && slice.spec.pool.name == place.pool);
    ours.find_map(|slice| {
        let mut devices = slice.spec.devices.iter().flatten();
        devices.find(|device| device.name == place.device)
    })
}

/// The devices that a claim holds, in the order of its allocation.
pub fn held(claim: &ResourceClaim) -> Vec<Place> {
    let status = claim.status.as_ref();
    let allocation = status.and_then(|status| status.allocation.as_ref());
    let devices = allocation.and_then(|allocation| allocation.devices.as_ref());
    let results = devices.and_then(|devices| devices.results.as_ref());
    let ours = results.into_iter().flatten().filter(|r| r.driver == DRIVER);
    ours.map(|result| Place {
        pool: result.pool.clone(),
        device: result.device.clone(),
    })
    .collect()
}

/// The GPUs in an output of `nvidia-smi -L`, or the first line that is none.
pub fn listed<'a>(lines: impl IntoIterator<Item = &'a str>) -> Result<Vec<Listed>, String> {
    let parse = |(index, line): (usize, &str)| {
        let rest = line.strip_prefix(&format!("GPU {index}: "))?;
        let (product, uuid) = rest.strip_suffix(')')?.rsplit_once(" (UUID: ")?;
        Some(Listed {
            product: product.to_owned(),
            uuid: uuid.to_owned(),
        })
    };
    let numbered = lines.into_iter().enumerate();
    numbered
        .map(|(index, line)| parse((index, line)).ok_or_else(|| line.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_list_of_gpus_is_read_line_by_line() {
        let lines = [
            "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-a)",
            "GPU 1: Tesla T4 (UUID: GPU-b)",
        ];
        let gpu = |product: &str, uuid: &str| Listed {
            product: product.to_owned(),
            uuid: uuid.to_owned(),
        };
        assert_eq!(
            listed(lines),
            Ok(vec![
                gpu("NVIDIA H100 80GB HBM3", "GPU-a"),
                gpu("Tesla T4", "GPU-b")
            ])
        );
    }

    #[test]
    fn a_line_that_is_no_gpu_is_not_passed_over() {
        for line in ["No devices were found", "GPU 1: x (UUID: GPU-b)", ""] {
            assert_eq!(listed([line]), Err(line.to_owned()));
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in ".*") {
            let _ = listed(text.lines());
        }
    }

    #[test]
    fn the_devices_of_other_drivers_are_not_gpus() {
        let claim = serde_json::from_str(
            r#"{"apiVersion":"resource.k8s.io/v1","kind":"ResourceClaim","metadata":{},"status":
                {"allocation":{"devices":{"results":[
                {"request":"a","driver":"net.example.com","pool":"p","device":"d"},
                {"request":"b","driver":"gpu.nvidia.com","pool":"node0","device":"gpu-2"}]}}}}"#,
        )
        .unwrap();
        let place = Place {
            pool: "node0".to_owned(),
            device: "gpu-2".to_owned(),
        };
        assert_eq!(held(&claim), [place]);
    }

    #[test]
    fn an_offered_gpu_has_its_product_memory_and_uuid() {
        let slice = serde_json::from_str(
            r#"{"apiVersion":"resource.k8s.io/v1","kind":"ResourceSlice","metadata":{"name":"s"},
                "spec":{"driver":"gpu.nvidia.com","pool":{"name":"node0","generation":1,
                "resourceSliceCount":1},"devices":[{"name":"gpu-0",
                "attributes":{"productName":{"string":"Tesla T4"},"uuid":{"string":"GPU-a"}},
                "capacity":{"memory":{"value":"15360Mi"}}}]}}"#,
        )
        .unwrap();
        let slices = Objects::from([("s".to_owned(), slice)]);
        let wanted = Offered {
            place: Place {
                pool: "node0".to_owned(),
                device: "gpu-0".to_owned(),
            },
            product: "Tesla T4".to_owned(),
            uuid: "GPU-a".to_owned(),
            memory: "15360Mi".to_owned(),
        };
        assert_eq!(offered(&slices), [wanted]);
    }
}
