//! Which policies can be followed, and how many domains have each: their status.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::json;
use tessera_api::{DomainPolicyStatus, DomainSize};

use crate::decide::{Decision, Rules};
use crate::facts::{ObjectName, PolicyFacts};
use crate::policy;
use crate::situation::Said;
use crate::status;
use crate::world::{Kind, World};
use crate::write::{Verb, Write};

/// The condition that says whether a policy can be followed.
const ACCEPTED: &str = "Accepted";

/// What is to be written about policies now.
pub fn policies(world: &World, rules: &Rules, now: Timestamp) -> Vec<Decision> {
    let domains = domains(world);
    let each = world.policies().filter_map(|(name, facts)| {
        let domains = domains.get(name).copied().unwrap_or(0);
        let status = changed(name, facts, domains, rules, now)?;
        let write = Write {
            kind: Kind::Policy,
            name: name.clone(),
            verb: Verb::Status(json!({"status": status})),
        };
        Some(Decision {
            writes: vec![write],
            ..Decision::default()
        })
    });
    each.collect()
}

/// How many domains have each policy. One that follows its pods has none.
fn domains(world: &World) -> BTreeMap<ObjectName, u32> {
    let gangs = world
        .domains()
        .filter(|domain| domain.spec.size() != DomainSize::FollowsPods);
    let mut counts: BTreeMap<ObjectName, u32> = BTreeMap::new();
    for name in gangs.filter_map(|domain| policy::name(world, domain)) {
        let count = counts.entry(name).or_default();
        *count = count.saturating_add(1);
    }
    counts
}

/// The status, if it is not the one that is stored.
fn changed(
    name: &ObjectName,
    facts: &PolicyFacts,
    domains: u32,
    rules: &Rules,
    now: Timestamp,
) -> Option<DomainPolicyStatus> {
    let said = match policy::objection(name, &facts.spec, rules) {
        None => Said {
            holds: true,
            reason: "Accepted",
            message: "domains can be placed by it".to_owned(),
        },
        Some(objection) => Said {
            holds: false,
            reason: objection.reason(),
            message: objection.to_string(),
        },
    };
    let stored = facts.status.as_ref();
    let conditions = stored.map_or(&[][..], |status| &status.conditions);
    let before = conditions.iter().find(|it| it.type_ == ACCEPTED);
    let accepted = status::renewed(ACCEPTED, said, before, facts.generation, now);
    let mut wanted = DomainPolicyStatus {
        conditions: vec![accepted],
        domains: Some(domains),
        observed_generation: facts.generation,
    };
    if let Some(stored) = stored.filter(|_| before.is_some()) {
        // A definition of an earlier version drops the number, and would do so each time.
        wanted.domains = wanted.domains.filter(|_| stored.domains.is_some());
    }
    if stored == Some(&wanted) {
        return None;
    }
    wanted.domains = Some(domains);
    Some(wanted)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::testing::domain_json;
    use crate::world::Object;
    use tessera_gang::Levels;

    const NOW: Timestamp = Timestamp::constant(1_767_225_600, 0);

    fn rules() -> Rules {
        Rules {
            levels: Levels::new(["zone".to_owned()]).unwrap(),
            ..Rules::default()
        }
    }

    fn put(world: &mut World, kind: Kind, object: Value) {
        world.apply(Object::read(kind, object).unwrap());
    }

    fn policy(spec: &Value, status: &Value) -> Value {
        json!({
            "metadata": {"name": "default", "namespace": "team", "generation": 2},
            "spec": spec, "status": status,
        })
    }

    /// The status that is written, if one is.
    fn written(world: &World) -> Option<Value> {
        let mut decisions = policies(world, &rules(), NOW);
        assert!(decisions.len() <= 1);
        let write = decisions.pop()?.writes.remove(0);
        match write.verb {
            Verb::Status(body) => Some(body["status"].clone()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_policy_says_whether_it_can_be_followed_with_field_value_and_remedy() {
        for (spec, status, reason, words) in [
            (
                json!({}),
                "True",
                "Accepted",
                ["domains", "placed", "by it"],
            ),
            (
                json!({"cliquePolicy": "Sometimes"}),
                "False",
                "PolicyInvalid",
                ["spec.cliquePolicy", "Sometimes", "Required"],
            ),
            (
                json!({"spares": 1}),
                "False",
                "PolicyInvalid",
                ["spec.spares", "unknown field", "spareNodes"],
            ),
            (
                json!({"preempts": true}),
                "False",
                "PolicyInvalid",
                ["spec.preempts", "true", "write false"],
            ),
            (
                json!({"topology": {"preferredLevel": "rack"}}),
                "False",
                "UnknownTopologyLevel",
                ["\"rack\"", "[zone]", "name one of these"],
            ),
        ] {
            let mut world = World::default();
            put(&mut world, Kind::Policy, policy(&spec, &Value::Null));
            let written = written(&world).unwrap();
            let accepted = &written["conditions"][0];
            assert_eq!(accepted["type"], "Accepted");
            assert_eq!(
                (&accepted["status"], &accepted["reason"]),
                (&json!(status), &json!(reason))
            );
            assert_eq!(written["observedGeneration"], 2);
            let message = accepted["message"].as_str().unwrap();
            for word in words {
                assert!(message.contains(word), "{message}: {word}");
            }
        }
    }

    #[test]
    fn it_is_written_on_a_change_and_counts_the_domains_that_are_placed_by_it() {
        let mut world = World::default();
        put(&mut world, Kind::Policy, policy(&json!({}), &Value::Null));
        put(&mut world, Kind::Domain, domain_json("gang", 2));
        put(&mut world, Kind::Domain, domain_json("follows", 0));
        let mut other = domain_json("other", 2);
        other["metadata"]["annotations"] = json!({tessera_api::POLICY_ANNOTATION: "own"});
        put(&mut world, Kind::Domain, other);
        let status = written(&world).unwrap();
        assert_eq!(status["domains"], 1);
        put(&mut world, Kind::Policy, policy(&json!({}), &status));
        assert_eq!(written(&world), None);
        put(&mut world, Kind::Domain, domain_json("another", 3));
        assert_eq!(written(&world).unwrap()["domains"], 2);
        // What it says does not depend on whether it is said.
        put(
            &mut world,
            Kind::Policy,
            policy(&json!({"preempts": true}), &status),
        );
        assert_eq!(written(&world).unwrap()["conditions"][0]["status"], "False");
    }

    #[test]
    fn where_the_definition_drops_the_number_it_is_not_written_again_and_again() {
        let mut world = World::default();
        put(&mut world, Kind::Policy, policy(&json!({}), &Value::Null));
        let mut status = written(&world).unwrap();
        status.as_object_mut().unwrap().remove("domains");
        put(&mut world, Kind::Policy, policy(&json!({}), &status));
        assert_eq!(written(&world), None);
        put(&mut world, Kind::Domain, domain_json("gang", 2));
        assert_eq!(written(&world), None);
    }

    #[test]
    fn a_status_that_cannot_be_read_is_written_anew() {
        let mut world = World::default();
        put(
            &mut world,
            Kind::Policy,
            policy(&json!({}), &json!({"conditions": 3})),
        );
        assert_eq!(
            written(&world).unwrap()["conditions"][0]["reason"],
            "Accepted"
        );
    }
}
