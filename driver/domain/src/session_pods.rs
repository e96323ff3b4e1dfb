//! The pods of session hosts, labelled with the domain whose session they run, as the reference's daemons are.
//!
//! So `kubectl get pods -l resource.nvidia.com/computeDomain` finds them.

use std::collections::BTreeMap;

use serde_json::json;
use tessera_api::SessionsOf;

use crate::cliques::SessionsBy;
use crate::decide::Decision;
use crate::facts::PodFacts;
use crate::keys;
use crate::world::{Kind, World};
use crate::write::{Verb, Write};

/// The labels of session hosts in `namespace` that are not as they should be, each as a decision of its own: a pod that
/// goes meanwhile keeps no other from being labelled.
pub fn session_pods(world: &World, by: SessionsBy, namespace: &str) -> Vec<Decision> {
    let SessionsBy::SessionHosts(sessions_of) = by else {
        return Vec::new();
    };
    let members = world.cliques().flat_map(|clique| &clique.spec.members);
    let domains: BTreeMap<&str, &str> = members
        .map(|member| (member.node_name.as_str(), member.domain.as_str()))
        .filter(|(_, domain)| !domain.is_empty())
        .collect();
    let label = |pod: &PodFacts| {
        let domain = pod.node.as_deref().and_then(|node| domains.get(node));
        domain.copied().or(match sessions_of {
            SessionsOf::Clique => Some(keys::CLIQUE_SESSION),
            SessionsOf::Domain => None,
        })
    };
    let hosts = world.pods().filter(|pod| pod.name.namespace == namespace);
    let wrong = hosts.filter_map(|pod| {
        let present = &pod.session_host.as_ref()?.domain;
        let wanted = label(pod);
        (!pod.ending && present.as_deref() != wanted).then(|| labelled(pod, wanted))
    });
    let each = wrong.map(|write| Decision {
        writes: vec![write],
        ..Decision::default()
    });
    each.collect()
}

fn labelled(pod: &PodFacts, label: Option<&str>) -> Write {
    let metadata = json!({"uid": pod.uid, "labels": {keys::DOMAIN_LABEL: label}});
    Write {
        kind: Kind::Pod,
        name: pod.name.clone(),
        verb: Verb::Merge(json!({"metadata": metadata})),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::world::Object;

    /// The session host of a node.
    fn host(namespace: &str, node: &str, label: Option<&str>) -> Value {
        let mut labels = json!({"app.kubernetes.io/component": "session-host"});
        if let Some(label) = label {
            labels[keys::DOMAIN_LABEL] = json!(label);
        }
        json!({
            "metadata": {
                "name": format!("host-{node}"), "namespace": namespace, "uid": format!("{node}-host"), "labels": labels,
                "ownerReferences": [{
                    "apiVersion": "apps/v1", "kind": "DaemonSet", "name": "session-host", "uid": "set", "controller": true,
                }],
            },
            "spec": {"nodeName": node},
        })
    }

    fn told(sessions_of: SessionsOf, pods: &[Value]) -> Vec<(String, Value)> {
        let mut world = World::default();
        let clique = json!({
            "metadata": {"name": "c.0"},
            "spec": {"cliqueID": "c.0", "epoch": 1, "sessionsOf": sessions_of, "members": [
                {"nodeName": "n0", "index": 0, "domain": "train-uid"}, {"nodeName": "n1", "index": 1},
            ]},
        });
        world.apply(Object::read(Kind::Clique, clique).unwrap());
        for pod in pods {
            world.apply(Object::read(Kind::Pod, pod.clone()).unwrap());
        }
        let decisions = session_pods(&world, SessionsBy::SessionHosts(sessions_of), "tessera");
        let writes = decisions.into_iter().flat_map(|it| it.writes);
        let put = writes.map(|write| {
            let Verb::Merge(mut patch) = write.verb else {
                panic!("{:?}", write.verb);
            };
            let label = patch["metadata"]["labels"][keys::DOMAIN_LABEL].take();
            (write.name.to_string(), label)
        });
        put.collect()
    }

    #[test]
    fn the_host_of_a_node_that_a_domain_has_is_found_by_the_domain_and_an_idle_one_is_not() {
        let domain = SessionsOf::Domain;
        let pods = [
            host("tessera", "n0", None),
            host("tessera", "n1", Some("former-uid")),
        ];
        assert_eq!(
            told(domain, &pods),
            [
                ("tessera/host-n0".to_owned(), json!("train-uid")),
                ("tessera/host-n1".to_owned(), Value::Null),
            ]
        );
        let right = [
            host("tessera", "n0", Some("train-uid")),
            host("tessera", "n1", None),
        ];
        assert_eq!(told(domain, &right), []);
        let idle = [host("tessera", "n1", Some("train-uid"))];
        let back = ("tessera/host-n1".to_owned(), json!(keys::CLIQUE_SESSION));
        assert_eq!(told(SessionsOf::Clique, &idle), [back]);
    }

    #[test]
    fn pods_that_are_no_session_hosts_of_ours_are_left_alone() {
        let mut forged = host("tessera", "n0", None);
        forged["metadata"]["ownerReferences"] = json!([]);
        assert_eq!(
            told(SessionsOf::Domain, &[host("team", "n0", None), forged]),
            []
        );
    }
}
