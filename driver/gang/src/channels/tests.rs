use proptest::prelude::*;

use super::*;

fn clique(name: &str) -> CliqueId {
    name.into()
}

#[test]
fn domains_of_one_clique_get_different_numbers_from_one_on() {
    let mut channels = Channels::new();
    let here = [clique("a")];
    let first = channels.grant(&"d1".into(), &here).unwrap();
    let second = channels.grant(&"d2".into(), &here).unwrap();
    assert_eq!((first[&here[0]].get(), second[&here[0]].get()), (1, 2));
    assert_eq!(
        channels.grant(&"d1".into(), &here),
        Ok(first),
        "it keeps what it has"
    );
}

#[test]
fn a_domain_has_the_same_number_everywhere_where_that_is_possible() {
    let mut channels = Channels::new();
    let (a, b) = (clique("a"), clique("b"));
    channels
        .grant(&"d1".into(), std::slice::from_ref(&a))
        .unwrap();
    let both = channels
        .grant(&"d2".into(), &[a.clone(), b.clone()])
        .unwrap();
    assert_eq!((both[&a].get(), both[&b].get()), (2, 2));
    channels.set_count(&b, 2);
    channels.release(&"d2".into());
    let both = channels
        .grant(&"d3".into(), &[a.clone(), b.clone()])
        .unwrap();
    assert_eq!((both[&a].get(), both[&b].get()), (2, 1));
}

#[test]
fn a_number_is_not_used_again_before_every_node_has_let_go() {
    let mut channels = Channels::new();
    let here = clique("a");
    channels.set_count(&here, 2);
    let one = std::slice::from_ref(&here);
    channels.grant(&"d1".into(), one).unwrap();
    channels.used_by(&"d1".into(), &here, "n1".into());
    channels.used_by(&"d1".into(), &here, "n2".into());
    channels.release(&"d1".into());
    channels.confirmed(&"d1".into(), &here, &"n1".into());
    let refused = channels.grant(&"d2".into(), one).unwrap_err();
    assert!(matches!(
        refused,
        ChannelRefusal::Exhausted { count: 1, .. }
    ));
    assert_eq!(channels.quarantined().count(), 1);
    assert_eq!(channels.of(&"d1".into(), &here), None);
    channels.confirmed(&"d1".into(), &here, &"n2".into());
    assert_eq!(channels.grant(&"d2".into(), one).unwrap()[&here].get(), 1);
}

#[test]
fn all_channels_are_for_one_domain_alone() {
    let mut channels = Channels::new();
    let here = clique("a");
    let one = std::slice::from_ref(&here);
    channels.grant(&"d1".into(), one).unwrap();
    let refused = channels.grant_all(&"all".into(), &here).unwrap_err();
    assert!(matches!(refused, ChannelRefusal::Shared { ref by, .. } if by.as_str() == "d1"));
    channels.release(&"d1".into());
    assert_eq!(channels.grant_all(&"all".into(), &here), Ok(()));
    let refused = channels.grant(&"d2".into(), one).unwrap_err();
    assert!(matches!(refused, ChannelRefusal::Exclusive { .. }));
}

#[test]
fn what_was_recorded_is_put_back_and_contradictions_are_named() {
    let mut before = Channels::new();
    let here = clique("a");
    let one = std::slice::from_ref(&here);
    let number = before.grant(&"d1".into(), one).unwrap()[&here];
    before.used_by(&"d1".into(), &here, "n1".into());
    before.release(&"d1".into());
    let mut after = Channels::new();
    let grant = Grant::One(number);
    after
        .restore(&"d1".into(), &here, grant, ["n1".into()], true)
        .unwrap();
    assert_eq!(after, before);
    let refused = after
        .restore(&"d2".into(), &here, grant, [], false)
        .unwrap_err();
    assert!(matches!(refused, ChannelRefusal::Twice { .. }));
}

/// What may happen to a domain.
#[derive(Clone, Debug)]
enum Event {
    Grant(u8, Vec<u8>),
    GrantAll(u8, u8),
    Prepare(u8, u8, u8),
    Unprepare(u8, u8, u8),
    Release(u8),
}

fn event() -> impl Strategy<Value = Event> {
    let (domain, place, node) = (0..6u8, 0..3u8, 0..3u8);
    prop_oneof![
        (domain.clone(), prop::collection::vec(place.clone(), 1..3))
            .prop_map(|(domain, places)| Event::Grant(domain, places)),
        (domain.clone(), place.clone()).prop_map(|(domain, place)| Event::GrantAll(domain, place)),
        (domain.clone(), place.clone(), node.clone())
            .prop_map(|(domain, place, node)| Event::Prepare(domain, place, node)),
        (domain.clone(), place, node)
            .prop_map(|(domain, place, node)| Event::Unprepare(domain, place, node)),
        domain.prop_map(Event::Release),
    ]
}

proptest! {
    /// S1, with containers that outlive their domain: whatever two containers of one clique hold at the
    /// same time, they hold different channels unless they are of one domain.
    #[test]
    fn s1_live_domains_of_a_clique_hold_different_channels(events in prop::collection::vec(event(), 1..80)) {
        let mut channels = Channels::new();
        for place in 0..3u8 {
            channels.set_count(&clique(&place.to_string()), 4);
        }
        // What containers hold on nodes: (clique, node, domain), the grant they got.
        let mut containers: BTreeMap<(u8, u8, u8), Grant> = BTreeMap::new();
        for event in events {
            match event {
                Event::Grant(domain, places) => {
                    let mut places: Vec<_> = places.iter().map(|place| clique(&place.to_string())).collect();
                    places.dedup();
                    let before = channels.clone();
                    if channels.grant(&domain.to_string().into(), &places).is_err() {
                        let same = |id| channels.of(&domain.to_string().into(), id) == before.of(&domain.to_string().into(), id);
                        prop_assert!(places.iter().all(same), "a refusal gives nothing");
                    }
                }
                Event::GrantAll(domain, place) => {
                    let _refused = channels.grant_all(&domain.to_string().into(), &clique(&place.to_string()));
                }
                Event::Prepare(domain, place, node) => {
                    let (gang, id) = (GangId::from(domain.to_string()), clique(&place.to_string()));
                    if let Some(grant) = channels.of(&gang, &id) {
                        channels.used_by(&gang, &id, node.to_string().into());
                        containers.insert((place, node, domain), grant);
                    }
                }
                Event::Unprepare(domain, place, node) => {
                    if containers.remove(&(place, node, domain)).is_some() {
                        let (gang, id) = (domain.to_string(), clique(&place.to_string()));
                        channels.confirmed(&gang.into(), &id, &node.to_string().into());
                    }
                }
                Event::Release(domain) => channels.release(&domain.to_string().into()),
            }
            for (&(place, _, domain), grant) in &containers {
                for (&(other_place, _, other), other_grant) in &containers {
                    if place == other_place && domain != other {
                        let apart = matches!((grant, other_grant), (Grant::One(a), Grant::One(b)) if a != b);
                        prop_assert!(apart, "{domain} has {grant:?} and {other} has {other_grant:?}");
                    }
                }
            }
        }
    }
}
