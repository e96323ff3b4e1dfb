//! Slices and claims as a person wants to read them.

use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceSlice};
use tessera_scenarios::gpus::{Place, held, offered};
use tessera_scenarios::kubernetes::Objects;

use crate::table::table;

/// Every GPU that is offered, and the claim that holds it.
pub(crate) fn devices(slices: &Objects<ResourceSlice>, claims: &Objects<ResourceClaim>) -> String {
    let holder = |place: &Place| {
        let mut claims = claims.iter();
        let found = claims.find(|(_, claim)| held(claim).contains(place));
        found.map_or_else(String::new, |(name, _)| name.clone())
    };
    let rows: Vec<_> = offered(slices)
        .into_iter()
        .map(|gpu| {
            let claim = holder(&gpu.place);
            let Place { pool, device } = gpu.place;
            [pool, device, gpu.product, gpu.memory, gpu.uuid, claim]
        })
        .collect();
    let header = [
        "NODE",
        "DEVICE",
        "PRODUCT",
        "MEMORY",
        "UUID",
        "HELD BY CLAIM",
    ];
    table(header, &rows)
}

/// Every claim, what it holds and who uses it.
pub(crate) fn claims(claims: &Objects<ResourceClaim>) -> String {
    let rows: Vec<_> = claims
        .iter()
        .map(|(name, claim)| row(name, claim))
        .collect();
    table(["NAME", "STATE", "DEVICE", "POD"], &rows)
}

fn row(name: &str, claim: &ResourceClaim) -> [String; 4] {
    let devices: Vec<_> = held(claim)
        .into_iter()
        .map(|place| format!("{}/{}", place.pool, place.device))
        .collect();
    let status = claim.status.as_ref();
    let users = status.and_then(|status| status.reserved_for.as_ref());
    let pods: Vec<_> = users
        .into_iter()
        .flatten()
        .map(|u| u.name.clone())
        .collect();
    let state = match (devices.is_empty(), pods.is_empty()) {
        (true, _) => "pending",
        (false, true) => "allocated",
        (false, false) => "allocated, reserved",
    };
    let state = state.to_owned();
    [name.to_owned(), state, devices.join(" "), pods.join(" ")]
}

/// The text, set off from what surrounds it.
pub(crate) fn indented(text: &str) -> String {
    let lines = text.lines();
    lines.flat_map(|line| ["  ", line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn slices() -> Objects<ResourceSlice> {
        let device = |name: &str, uuid: &str| {
            json!({"name": name, "capacity": {"memory": {"value": "81559Mi"}},
                   "attributes": {"productName": {"string": "H100"}, "uuid": {"string": uuid}}})
        };
        let slice = json!({
            "apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice",
            "metadata": {"name": "s"},
            "spec": {"driver": "gpu.nvidia.com",
                     "pool": {"name": "node0", "generation": 1, "resourceSliceCount": 1},
                     "devices": [device("gpu-0", "GPU-a"), device("gpu-1", "GPU-b")]},
        });
        Objects::from([("s".to_owned(), serde_json::from_value(slice).unwrap())])
    }

    fn one_claim() -> Objects<ResourceClaim> {
        let result = json!({"request": "gpu", "driver": "gpu.nvidia.com", "pool": "node0",
                            "device": "gpu-1"});
        let claim = json!({
            "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
            "metadata": {"name": "c"},
            "status": {"allocation": {"devices": {"results": [result]}},
                       "reservedFor": [{"resource": "pods", "name": "p", "uid": "u"}]},
        });
        Objects::from([("c".to_owned(), serde_json::from_value(claim).unwrap())])
    }

    #[test]
    fn a_device_is_shown_with_the_claim_that_holds_it() {
        assert_eq!(
            devices(&slices(), &one_claim()),
            "NODE   DEVICE  PRODUCT  MEMORY   UUID   HELD BY CLAIM\n\
             node0  gpu-0   H100     81559Mi  GPU-a\n\
             node0  gpu-1   H100     81559Mi  GPU-b  c\n"
        );
    }

    #[test]
    fn a_claim_is_shown_with_its_device_and_pod() {
        assert_eq!(
            claims(&one_claim()),
            "NAME  STATE                DEVICE       POD\n\
             c     allocated, reserved  node0/gpu-1  p\n"
        );
    }
}
