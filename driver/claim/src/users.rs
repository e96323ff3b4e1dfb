//! Who uses a claim.

use k8s_openapi::api::resource::v1::ResourceClaim;

use crate::ClaimRef;

/// A pod that reserves a claim.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodRef {
    /// Namespace of the pod, which is that of the claim.
    pub namespace: String,
    /// Name within the namespace.
    pub name: String,
    /// UID of this very pod.
    pub uid: String,
}

/// The pods that reserve `wanted`, where `claim` is what the API has under its name.
///
/// A claim made anew under the name has users of its own, which are none of `wanted`.
pub fn users(claim: &ResourceClaim, wanted: &ClaimRef) -> Vec<PodRef> {
    if !wanted.is(claim) {
        return Vec::new();
    }
    let reserved = claim
        .status
        .iter()
        .flat_map(|status| status.reserved_for.iter().flatten());
    reserved
        .filter(|user| {
            user.resource == "pods" && user.api_group.as_deref().unwrap_or_default().is_empty()
        })
        .map(|user| PodRef {
            namespace: wanted.namespace.clone(),
            name: user.name.clone(),
            uid: user.uid.clone(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claim() -> ResourceClaim {
        serde_json::from_value(json!({
            "metadata": {"namespace": "default", "name": "a", "uid": "a-uid"},
            "spec": {},
            "status": {"reservedFor": [
                {"resource": "pods", "name": "first", "uid": "1"},
                {"apiGroup": "jobs.example.com", "resource": "pods", "name": "alike", "uid": "2"},
                {"resource": "podgroups", "name": "group", "uid": "3"},
                {"resource": "pods", "name": "second", "uid": "4"},
            ]},
        }))
        .unwrap()
    }

    fn wanted(uid: &str) -> ClaimRef {
        ClaimRef {
            namespace: "default".to_owned(),
            name: "a".to_owned(),
            uid: uid.parse().unwrap(),
        }
    }

    #[test]
    fn the_pods_are_named_and_other_users_are_not() {
        let found = users(&claim(), &wanted("a-uid"));
        let found: Vec<_> = found
            .iter()
            .map(|pod| (&*pod.namespace, &*pod.name, &*pod.uid))
            .collect();
        assert_eq!(
            found,
            [("default", "first", "1"), ("default", "second", "4")]
        );
    }

    #[test]
    fn the_users_of_a_claim_made_anew_are_not_those_of_the_former() {
        assert_eq!(users(&claim(), &wanted("former-uid")), []);
    }
}
