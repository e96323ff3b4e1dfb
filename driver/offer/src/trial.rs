//! Which writes are tried before they are made: those that show whether a server keeps what an offer rests on.
//!
//! A server that does not keep a field says so only by what it stores. By then the write is made: a slice of counters
//! that was stored without them has taken the place of devices, and the pool offers nothing until a smaller offer is
//! written over it. A dry run of the write (`dryRun=All`) is answered with what would be stored, and stores nothing.

use k8s_openapi::api::resource::v1::{Device, DeviceCapacity, ResourceSlice};

use crate::reconcile::Write;

/// Of what a server was seen to keep it or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tried {
    counters: bool,
    sharing: bool,
}

impl Tried {
    /// Whether the server's answer to this write decides what is offered, and is not known yet.
    pub fn learns_from(self, write: &Write) -> bool {
        self.after(write) != self
    }

    /// The same when the server has answered to this write.
    #[must_use]
    pub fn after(self, write: &Write) -> Self {
        match write {
            Write::Create(slice) | Write::Replace(slice) => Self {
                counters: self.counters || counts(slice),
                sharing: self.sharing || shares(slice),
            },
            Write::Delete(_) => self,
        }
    }
}

fn devices(slice: &ResourceSlice) -> impl Iterator<Item = &Device> {
    slice.spec.devices.iter().flatten()
}

fn counts(slice: &ResourceSlice) -> bool {
    let consumes = |device: &Device| device.consumes_counters.is_some();
    slice.spec.shared_counters.is_some() || devices(slice).any(consumes)
}

fn shares(slice: &ResourceSlice) -> bool {
    let has_policy = |capacity: &DeviceCapacity| capacity.request_policy.is_some();
    devices(slice).any(|device| {
        let mut capacities = device.capacity.iter().flat_map(|all| all.values());
        device.allow_multiple_allocations.is_some() || capacities.any(has_policy)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::reconcile::SliceRef;

    fn writing(spec: &serde_json::Value) -> Write {
        let slice = json!({"metadata": {}, "spec": spec});
        Write::Replace(Box::new(serde_json::from_value(slice).unwrap()))
    }

    fn spec(content: &serde_json::Value) -> serde_json::Value {
        let mut spec = json!({
            "driver": "gpu.nvidia.com",
            "pool": {"name": "node-a", "generation": 1, "resourceSliceCount": 1},
        });
        spec.as_object_mut()
            .unwrap()
            .extend(content.as_object().unwrap().clone());
        spec
    }

    #[test]
    fn what_decides_the_offer_is_tried_once_and_nothing_else_is() {
        let nothing = Tried::default();
        let counters = Tried {
            counters: true,
            ..nothing
        };
        let sharing = Tried {
            sharing: true,
            ..nothing
        };
        let all = Tried {
            counters: true,
            sharing: true,
        };
        for (content, after) in [
            (json!({}), nothing),
            (json!({"devices": [{"name": "gpu-0"}]}), nothing),
            (
                json!({"devices": [{"name": "gpu-0", "capacity": {"memory": {"value": "1Gi"}}}]}),
                nothing,
            ),
            (
                json!({"sharedCounters": [{"name": "s", "counters": {}}]}),
                counters,
            ),
            (
                json!({"devices": [{"name": "a"}, {"name": "b", "consumesCounters": []}]}),
                counters,
            ),
            (
                json!({"devices": [{"name": "a", "allowMultipleAllocations": true}]}),
                sharing,
            ),
            (
                json!({"devices": [{"name": "a", "capacity": {"memory": {
                    "value": "1Gi", "requestPolicy": {"default": "1Gi"}}}}]}),
                sharing,
            ),
            (
                json!({"devices": [
                    {"name": "a", "allowMultipleAllocations": true, "consumesCounters": []}]}),
                all,
            ),
        ] {
            let write = writing(&spec(&content));
            assert_eq!(nothing.after(&write), after, "{content}");
            assert_eq!(nothing.learns_from(&write), after != nothing, "{content}");
            assert!(!after.learns_from(&write), "{content}");
            assert!(!all.learns_from(&write), "{content}");
        }
    }

    #[test]
    fn a_deletion_shows_nothing() {
        let write = Write::Delete(SliceRef {
            name: "a".to_owned(),
            uid: None,
            resource_version: None,
        });
        assert!(!Tried::default().learns_from(&write));
    }
}
