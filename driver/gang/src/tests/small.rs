//! Plans that a person can follow.

use std::num::NonZeroU32;

use crate::node::{CapacityType, Health};
use crate::policy::CliquePolicy;
use crate::testing::{cliques, demand, node};
use crate::{Blocked, Cluster, Demand, GangId, Levels, NodeCount, Placement, place, plan};

fn shares(placement: &Placement) -> Vec<(String, usize)> {
    let named = placement.cliques.iter().map(|share| {
        let clique = share.clique.as_ref().map_or("-", crate::CliqueId::as_str);
        (clique.to_owned(), share.nodes.len())
    });
    named.collect()
}

fn with(demand: Demand, change: impl FnOnce(&mut Demand)) -> Demand {
    let mut demand = demand;
    change(&mut demand);
    demand
}

#[test]
fn the_fullest_clique_that_has_room_is_taken() {
    let mut cluster = cliques(&[18, 18, 6]);
    cluster
        .hold(&"x".into(), &place(&cluster, &demand("x", 10)).unwrap())
        .unwrap();
    // 8 are left in one clique, 18 and 6 in the others.
    for (wanted, left) in [(6, 6), (7, 8), (5, 6), (9, 18)] {
        let placement = place(&cluster, &demand("y", wanted)).unwrap();
        let clique = placement.cliques[0].clique.clone().unwrap();
        let free = |node: u32| cluster.free(&format!("{clique}-{node}").into());
        let room = (0..18).filter(|node| free(*node) == Some(4)).count();
        assert_eq!(room, left, "{wanted} nodes");
    }
}

#[test]
fn a_gang_larger_than_any_clique_takes_whole_cliques_and_its_ranks_stay_together() {
    let cluster = cliques(&[18, 18, 18]);
    let placement = place(&cluster, &demand("d", 36)).unwrap();
    assert_eq!(placement.segment, 18);
    assert_eq!(placement.cliques.len(), 2);
    assert!(
        placement
            .cliques
            .iter()
            .all(|share| share.nodes.len() == 18)
    );
    let ranks: Vec<_> = placement
        .nodes()
        .map(|name| name.as_str().split('-').next().unwrap())
        .collect();
    assert!(ranks.is_sorted(), "{ranks:?}");
    let more = place(&cluster, &demand("d", 40)).unwrap();
    assert_eq!(more.size(), 40);
    assert_eq!(
        more.cliques.iter().map(|share| share.nodes.len()).max(),
        Some(18)
    );
}

#[test]
fn two_gangs_that_do_not_both_fit_leave_one_whole_and_the_other_told() {
    let mut cluster = cliques(&[18]);
    let first = place(&cluster, &demand("a", 10)).unwrap();
    cluster.hold(&"a".into(), &first).unwrap();
    let blocked = plan(&cluster, &demand("b", 10)).unwrap_err();
    assert_eq!(blocked.reason(), "InsufficientFree");
    let text = blocked.to_string();
    for part in [
        "10 nodes",
        "8 fit now",
        "clique with most room, c0, has 8",
        "at most 8",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
    assert!(cluster.held(&"b".into()).is_none());
    cluster.release(&"a".into());
    assert!(plan(&cluster, &demand("b", 10)).is_ok());
}

#[test]
fn nodes_without_fabric_are_domains_of_one() {
    let mut cluster = Cluster::new(Levels::default());
    for at in 0..4 {
        cluster.upsert(node(&format!("hgx-{at}"), None));
    }
    assert_eq!(
        shares(&place(&cluster, &demand("d", 1)).unwrap()),
        [("-".to_owned(), 1)]
    );
    let blocked = plan(&cluster, &demand("d", 2)).unwrap_err();
    assert!(
        matches!(blocked, Blocked::TooLarge { possible: 1, .. }),
        "{blocked}"
    );
    let preferred = with(demand("d", 3), |d| {
        d.policy.clique = CliquePolicy::Preferred;
    });
    let placement = place(&cluster, &preferred).unwrap();
    assert_eq!(placement.size(), 3);
    assert_eq!(placement.relaxed_from, NonZeroU32::new(3));
}

#[test]
fn preferred_gives_way_in_halves() {
    let mut cluster = cliques(&[8, 8]);
    for gang in ["a", "b"] {
        let odd = with(demand(gang, 3), |d| d.policy.clique = CliquePolicy::Spread);
        let placement = place(&cluster, &odd).unwrap();
        cluster.hold(&gang.into(), &placement).unwrap();
    }
    // Five nodes are left in each.
    let eight = with(demand("d", 8), |d| {
        d.policy.clique = CliquePolicy::Preferred;
    });
    let placement = place(&cluster, &eight).unwrap();
    assert_eq!(placement.segment, 4);
    assert_eq!(placement.relaxed_from, NonZeroU32::new(8));
    assert!(placement.cliques.iter().all(|share| share.nodes.len() == 4));
}

#[test]
fn spread_uses_as_many_cliques_as_there_are() {
    let cluster = cliques(&[4, 4, 4]);
    let five = with(demand("d", 5), |d| d.policy.clique = CliquePolicy::Spread);
    let mut sizes: Vec<_> = shares(&place(&cluster, &five).unwrap())
        .into_iter()
        .map(|(_, nodes)| nodes)
        .collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [1, 2, 2]);
}

#[test]
fn fewest_cliques_first_then_the_narrowest_level() {
    let mut cluster = Cluster::new(Levels::new(["spine".to_owned(), "leaf".to_owned()]).unwrap());
    // Two spines of two leaves of two cliques of four nodes.
    for clique in 0..8 {
        for at in 0..4 {
            let mut facts = node(&format!("c{clique}-{at}"), Some(&format!("c{clique}")));
            facts
                .labels
                .insert("spine".to_owned(), format!("s{}", clique / 4));
            facts
                .labels
                .insert("leaf".to_owned(), format!("l{}", clique / 2));
            cluster.upsert(facts);
        }
    }
    let levels = |nodes: u32| place(&cluster, &demand("d", nodes)).unwrap();
    let eight = levels(8);
    assert_eq!(
        (eight.cliques.len(), eight.level.as_deref()),
        (2, Some("leaf"))
    );
    let twelve = levels(12);
    assert_eq!(
        (twelve.cliques.len(), twelve.level.as_deref()),
        (3, Some("spine"))
    );
    assert_eq!(levels(20).level, None);
    let within = with(demand("d", 12), |d| {
        d.policy.required_level = Some("leaf".to_owned());
    });
    let blocked = plan(&cluster, &within).unwrap_err();
    assert!(
        matches!(blocked, Blocked::TooLarge { possible: 8, .. }),
        "{blocked}"
    );
    let unknown = with(demand("d", 1), |d| {
        d.policy.required_level = Some("rack".to_owned());
    });
    assert!(
        plan(&cluster, &unknown)
            .unwrap_err()
            .to_string()
            .contains("[spine, leaf]")
    );
    let preferred = with(demand("d", 12), |d| {
        d.policy.preferred_level = Some("leaf".to_owned());
    });
    assert_eq!(
        place(&cluster, &preferred).unwrap().size(),
        12,
        "preferred is not required"
    );
}

#[test]
fn spares_are_of_the_same_clique_and_no_gang_waits_for_them() {
    let mut cluster = cliques(&[6, 9]);
    let six = with(demand("d", 6), |d| d.policy.spares = 2);
    let placement = place(&cluster, &six).unwrap();
    assert_eq!(
        shares(&placement),
        [("c1".to_owned(), 6)],
        "the clique with room for spares"
    );
    assert_eq!(placement.spares().count(), 2);
    cluster.hold(&"d".into(), &placement).unwrap();
    let without = place(&cluster, &six).unwrap();
    assert_eq!((without.size(), without.spares().count()), (6, 0));
}

#[test]
fn an_elastic_gang_takes_what_there_is() {
    let cluster = cliques(&[18, 14]);
    let elastic = |min, max| {
        with(demand("d", 1), |d| {
            d.nodes = NodeCount::new(min, max).unwrap();
        })
    };
    assert_eq!(place(&cluster, &elastic(12, 16)).unwrap().size(), 16);
    assert_eq!(place(&cluster, &elastic(12, 24)).unwrap().size(), 18);
    assert!(place(&cluster, &elastic(33, 40)).is_none());
}

#[test]
fn capacity_types_are_used_in_the_order_of_preference() {
    let mut cluster = Cluster::new(Levels::default());
    for (clique, size, capacity) in [
        ("spot", 8, CapacityType::Spot),
        ("res", 4, CapacityType::Reserved),
    ] {
        for at in 0..size {
            let mut facts = node(&format!("{clique}-{at}"), Some(clique));
            facts.capacity = capacity;
            cluster.upsert(facts);
        }
    }
    let wants = |nodes, capacity: &[CapacityType]| {
        with(demand("d", nodes), |d| {
            d.policy.capacity = capacity.to_vec();
        })
    };
    let both = [CapacityType::Reserved, CapacityType::Spot];
    assert_eq!(
        shares(&place(&cluster, &wants(3, &both)).unwrap())[0].0,
        "res"
    );
    assert_eq!(
        shares(&place(&cluster, &wants(5, &both)).unwrap())[0].0,
        "spot"
    );
    let blocked = plan(&cluster, &wants(5, &both[..1])).unwrap_err();
    assert!(
        blocked
            .to_string()
            .contains("8 are of another capacity type"),
        "{blocked}"
    );
}

#[test]
fn clean_nodes_come_before_suspect_ones_and_part_nodes_before_whole_ones() {
    let mut cluster = Cluster::new(Levels::default());
    for (name, used, health) in [
        ("n0", 0, Health::Suspect),
        ("n1", 0, Health::Healthy),
        ("n2", 2, Health::Healthy),
        ("n3", 0, Health::Draining),
    ] {
        let mut facts = node(name, Some("c"));
        (facts.used, facts.health) = (used, health);
        cluster.upsert(facts);
    }
    let names = |nodes| {
        let half = with(demand("d", nodes), |d| {
            d.shape = crate::Shape::new(2, crate::Eligibility::default());
        });
        let placement = place(&cluster, &half)?;
        Some(
            placement
                .nodes()
                .map(ToString::to_string)
                .collect::<Vec<_>>(),
        )
    };
    assert_eq!(names(1), Some(vec!["n2".to_owned()]));
    assert_eq!(names(2), Some(vec!["n1".to_owned(), "n2".to_owned()]));
    assert_eq!(names(3).map(|names| names.len()), Some(3));
    assert_eq!(names(4), None);
}

#[test]
fn what_is_held_on_a_node_outlives_the_nodes_absence() {
    let mut cluster = cliques(&[2]);
    let gang = GangId::from("a");
    cluster
        .hold(&gang, &place(&cluster, &demand("a", 2)).unwrap())
        .unwrap();
    cluster.remove(&"c0-0".into());
    cluster.upsert(node("c0-0", Some("c0")));
    assert_eq!(cluster.free(&"c0-0".into()), Some(0));
    cluster.remove(&"c0-0".into());
    cluster.release(&gang);
    cluster.upsert(node("c0-0", Some("c0")));
    assert_eq!(cluster.free(&"c0-0".into()), Some(4));
    // A controller that starts hears of holds before nodes, or after.
    let mut early = Cluster::new(Levels::default());
    early.restore(&gang, ["c0-0".into()], 4);
    early.upsert(node("c0-0", Some("c0")));
    assert_eq!(early.free(&"c0-0".into()), Some(0));
}

#[test]
fn a_gang_of_a_cliques_size_is_not_cut_because_a_node_is_ill() {
    let mut cluster = cliques(&[4, 4]);
    for name in ["c0-0", "c1-0"] {
        let mut facts = node(name, Some(&name[..2]));
        facts.health = Health::Unfit;
        cluster.upsert(facts);
    }
    let blocked = plan(&cluster, &demand("d", 4)).unwrap_err();
    assert!(
        matches!(blocked, Blocked::TooLarge { possible: 3, .. }),
        "{blocked}"
    );
    assert!(
        blocked.to_string().contains("2 are not healthy"),
        "{blocked}"
    );
}
