//! Who is ended for whom.

mod cluster;

use self::cluster::{Cluster, Gang, bold, domain_of, meek};
use super::*;
use crate::quarantine::UNTOLD;

/// A gang of all four nodes that runs, and another that is about to get two of them: nobody is evicted yet.
fn about_to_end() -> Cluster {
    let mut cluster = Cluster::racks();
    cluster.comes(&meek("low", 4, 1));
    cluster.settle(NOW);
    cluster.comes(&bold("high", 2, 9));
    cluster.round(NOW);
    cluster.round(NOW);
    cluster
}

#[test]
fn a_gang_of_higher_priority_replaces_a_lower_one_whole() {
    let mut cluster = Cluster::racks();
    cluster.comes(&meek("low", 2, 1));
    cluster.comes(&meek("mid", 2, 2));
    cluster.settle(NOW);
    cluster.comes(&bold("high", 2, 9));
    cluster.settle(NOW);
    assert!(cluster.runs("high") && cluster.runs("mid") && !cluster.runs("low"));
    let evicted: Vec<&str> = cluster
        .evicted
        .iter()
        .map(|(pod, _)| pod.as_str())
        .collect();
    assert_eq!(evicted, ["low-0", "low-1"]);
    assert_eq!(cluster.said["high"], ["Preempting", "NodesReady"]);
    assert_eq!(
        cluster.said["low"],
        ["NodesReady", "Preempted", "InsufficientFree"]
    );
}

#[test]
fn nodes_are_held_before_anybody_is_ended_and_pods_come_when_all_are_gone() {
    let mut cluster = Cluster::racks();
    cluster.comes(&meek("low", 4, 1));
    let known = std::mem::take(&mut cluster.known);
    cluster.known = known.policy("low", &json!({"cliquePolicy": "Preferred"}));
    cluster.settle(NOW);
    assert!(cluster.runs("low"));
    cluster.comes(&bold("high", 2, 9));
    cluster.round(NOW);
    let slots = |cluster: &Cluster, of: &str| {
        let slots = cluster.known.world.slots();
        slots[format!("{of}-uid").as_str()].slots.clone()
    };
    let high = slots(&cluster, "high");
    assert!(
        high.wait() && high.count == 0 && high.hostnames.len() == 2,
        "{high:?}"
    );
    assert!(slots(&cluster, "low").are_offered() && cluster.evicted.is_empty());
    let message = cluster.message("high");
    for words in ["2 nodes are held", "team/low", "lower priority"] {
        assert!(message.contains(words), "{message}: {words}");
    }
    let message = cluster.message("low");
    for words in ["team/high", "higher priority", "its pods are evicted"] {
        assert!(message.contains(words), "{message}: {words}");
    }
    cluster.round(NOW);
    assert!(!slots(&cluster, "low").are_offered() && cluster.evicted.is_empty());
    // Of a gang that is ended no pod is left alone, on whatever node.
    cluster.round(NOW);
    assert_eq!(cluster.evicted.len(), 4);
    assert!(slots(&cluster, "high").wait());
    cluster.round(NOW);
    assert!(slots(&cluster, "high").count >= 2);
}

type Change<'a> = &'a dyn Fn(&mut Cluster);

#[test]
fn nobody_is_ended_for_a_gang_that_may_not_preempt() {
    let never = |cluster: &mut Cluster| {
        let mut pod = bold("high", 2, 9).pod(1);
        pod["spec"]["preemptionPolicy"] = json!("Never");
        cluster.put(pod);
    };
    let below = |cluster: &mut Cluster| cluster.put(meek("high", 2, 1).pod(1));
    let above = |cluster: &mut Cluster| cluster.put(meek("low", 4, 9).pod(7));
    let nothing = |_: &mut Cluster| {};
    let low = meek("low", 4, 1);
    let safe = Gang {
        preemptible: false,
        ..low.clone()
    };
    let high = bold("high", 2, 9);
    for (about, low, high, change) in [
        (
            "its policy does not say so",
            &low,
            &meek("high", 2, 9),
            &nothing as Change<'_>,
        ),
        ("the other's policy forbids it", &safe, &high, &nothing),
        ("the same priority", &low, &bold("high", 2, 1), &nothing),
        ("a pod of it has the other's priority", &low, &high, &below),
        ("a pod of the other has its priority", &low, &high, &above),
        ("its class never preempts", &low, &high, &never),
        (
            "it would not fit all the same",
            &low,
            &bold("high", 5, 9),
            &nothing,
        ),
    ] {
        let mut cluster = Cluster::racks();
        cluster.comes(low);
        cluster.settle(NOW);
        assert!(cluster.runs("low"));
        cluster.comes(high);
        change(&mut cluster);
        cluster.settle(NOW);
        assert_eq!(cluster.evicted, [], "{about}");
        assert_eq!(cluster.known.world.slots().len(), 1, "{about}");
    }
}

#[test]
fn where_preemption_is_off_a_policy_that_wants_it_is_refused_and_what_began_is_given_up() {
    let mut cluster = Cluster::racks();
    cluster.comes(&meek("low", 4, 1));
    cluster.settle(NOW);
    cluster.comes(&bold("high", 2, 9));
    let message = |cluster: &Cluster| said(&cluster.known, "high", "Ready");
    let (reason, told) = message(&cluster);
    assert_eq!(reason, "PolicyInvalid");
    assert!(told.contains("computeDomains.preemption.enabled"), "{told}");
    cluster.round(NOW);
    assert_eq!(message(&cluster).0, "AwaitingPods");
    let told = told_of(&cluster);
    assert!(
        told.contains(&"patch resourceslice domain-high-uid-0".to_owned()),
        "{told:?}"
    );
    assert!(
        !told.iter().any(|write| write.starts_with("evict")),
        "{told:?}"
    );
}

fn told_of(cluster: &Cluster) -> Vec<String> {
    told(&cluster.known.world, NOW)
}

#[test]
fn a_budget_that_keeps_a_pod_is_told_to_the_gang_that_waits() {
    let mut cluster = about_to_end();
    let pod = ObjectName::new("team", "low-1");
    let why = "Cannot evict pod as it would violate the pod's disruption budget.".to_owned();
    cluster.known.world.kept_by_budget(&pod, why);
    let message = cluster.message("high");
    for words in ["pod team/low-1", "disruption budget", "end the pod"] {
        assert!(message.contains(words), "{message}: {words}");
    }
    // It is tried again, and when it is done nothing is said of it any more.
    cluster.settle(NOW);
    assert!(cluster.runs("high") && cluster.evicted.len() == 4);
}

#[test]
fn who_was_about_to_be_ended_goes_on_when_the_other_is_gone() {
    let mut cluster = about_to_end();
    let before = cluster.known.world.slots()["low-uid"].slots.clone();
    assert!(!before.are_offered());
    // Its pods are another's by now, which has the same priority as those that were to be ended.
    for rank in 0..2 {
        cluster.put(meek("high", 2, 1).pod(rank));
    }
    cluster.settle(NOW);
    let after = cluster.known.world.slots()["low-uid"].slots.clone();
    assert!(
        after.are_offered() && after.hostnames == before.hostnames,
        "{after:?}"
    );
    assert_eq!(cluster.evicted, []);
    assert_eq!(cluster.said["low"].last().unwrap(), "NodesReady");
    assert_eq!(cluster.said["high"].last().unwrap(), "InsufficientFree");
}

#[test]
fn what_one_is_ended_for_serves_two_and_nobody_more_is_ended() {
    let mut cluster = Cluster::racks();
    let wide = |cluster: &mut Cluster, gang: &Gang| {
        cluster.comes(gang);
        let known = std::mem::take(&mut cluster.known);
        cluster.known = known.policy(
            gang.name,
            &json!({"segmentNodes": 1, "cliquePolicy": "Preferred"}),
        );
    };
    wide(&mut cluster, &meek("low", 2, 1));
    wide(&mut cluster, &meek("mid", 2, 2));
    cluster.settle(NOW);
    assert!(cluster.runs("low") && cluster.runs("mid"));
    cluster.comes(&bold("one", 1, 9));
    cluster.comes(&bold("two", 1, 9));
    cluster.settle(NOW);
    assert!(cluster.runs("one") && cluster.runs("two") && cluster.runs("mid"));
    assert_eq!(cluster.evicted.len(), 2, "{:?}", cluster.evicted);
}

#[test]
fn a_pod_is_evicted_once_while_it_ends() {
    let mut cluster = about_to_end();
    let evictions = |cluster: &Cluster| -> Vec<String> {
        let decisions = decide(&cluster.known.world, &Cluster::rules(), NOW).each;
        let writes = decisions.into_iter().flat_map(|decision| decision.writes);
        writes
            .filter(|write| matches!(write.verb, Verb::Evict(_)))
            .map(|write| write.name.name)
            .collect()
    };
    assert_eq!(evictions(&cluster).len(), 4);
    let pod = ObjectName::new("team", "low-2");
    cluster.known.world.evicted(&pod);
    assert!(cluster.facts("low-2").ending);
    assert_eq!(evictions(&cluster), ["low-0", "low-1", "low-3"]);
}

fn gangs() -> impl Strategy<Value = Vec<Gang>> {
    const NAMES: [&str; 7] = ["a", "b", "c", "d", "e", "f", "g"];
    let gang = (1_u32..4, 0_i32..4, any::<bool>(), any::<bool>());
    prop::collection::vec(gang, 1..=NAMES.len()).prop_map(|gangs| {
        let gang = |(name, (nodes, priority, preempts, preemptible))| Gang {
            name,
            nodes,
            priority,
            preempts,
            preemptible,
        };
        NAMES.into_iter().zip(gangs).map(gang).collect()
    })
}

proptest! {
    /// Whatever gangs come: it comes to rest; every eviction is of a pod of lower priority, of a gang whose policy lets it be
    /// ended, for a gang that fits whole then (which [`Cluster::assert_whole`] asks at each); and each that was held for runs.
    #[test]
    fn only_who_is_below_and_may_be_ended_is_ended_and_for_a_whole_gang(gangs in gangs()) {
        let mut cluster = Cluster::of(Known::nodes(&[
            ("n0", Some("c.0")), ("n1", Some("c.0")), ("n2", Some("c.0")),
            ("n3", Some("c.1")), ("n4", Some("c.1")), ("n5", Some("c.1")),
        ]));
        for gang in &gangs {
            cluster.comes(gang);
            cluster.settle(NOW);
        }
        // Who was ended keeps its number until no container can have the channel, and somebody may have that number where there is
        // room; so each may have to wait for the end of a quarantine, one after the other.
        let quarantines = std::iter::successors(Some(NOW), |now| Some(*now + UNTOLD));
        for later in quarantines.skip(1).take(gangs.len()) {
            cluster.settle(later);
        }
        let gang = |name: &str| gangs.iter().find(|gang| gang.name == name).unwrap();
        for (pod, by) in &cluster.evicted {
            let (victim, by) = (gang(domain_of(pod)), gang(by));
            prop_assert!(by.preempts && victim.preemptible, "{victim:?} {by:?}");
            prop_assert!(victim.priority < by.priority, "{victim:?} {by:?}");
        }
        for stored in cluster.known.world.slots().values() {
            prop_assert!(!stored.slots.wait(), "{stored:?}");
            let name = &stored.slots.name.name;
            prop_assert!(!stored.slots.are_offered() || cluster.runs(name), "{stored:?}");
        }
        // No gang waits that could have been served by ending one of lower priority.
        for waiting in gangs.iter().filter(|gang| gang.preempts && !cluster.runs(gang.name)) {
            let helps = |other: &&Gang| {
                let below = other.priority < waiting.priority && other.preemptible;
                below && other.nodes >= waiting.nodes && cluster.runs(other.name)
            };
            prop_assert!(!gangs.iter().any(|other| helps(&other)), "{waiting:?}");
        }
    }
}
