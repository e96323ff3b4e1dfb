use super::*;
use crate::facts::HeldChannels;

fn some(count: u32) -> Slots {
    Slots {
        domain: "7b1c".to_owned(),
        name: ObjectName::new("team", "train"),
        hostnames: vec!["b".to_owned(), "a".to_owned()],
        clique_nodes: vec![2],
        spares: Vec::new(),
        former: Vec::new(),
        channel: 3,
        count,
        awaits: Vec::new(),
        closed: None,
        gpus_per_node: 4,
        holds: Holds::WholeNodes,
        offered: Timestamp::UNIX_EPOCH,
        released: None,
    }
}

fn read(slice: &ResourceSlice) -> Slots {
    match SliceFacts::of(slice) {
        Some(SliceFacts::Slots { slots, .. }) => slots,
        other => panic!("{other:?}"),
    }
}

#[test]
fn slots_survive_being_written_and_read() {
    for slots in [
        some(8),
        some(128),
        some(8).withdrawn(Timestamp::UNIX_EPOCH),
        Slots {
            holds: Holds::Slots,
            former: vec!["c".to_owned(), "d".to_owned()],
            ..some(1)
        },
        Slots {
            awaits: vec!["9a0d".to_owned(), "5e21".to_owned()],
            ..some(0)
        },
        Slots {
            clique_nodes: vec![1, 1],
            spares: vec!["c".to_owned()],
            ..some(1)
        },
        some(8).closed(&BTreeSet::new()),
        some(8).closed(&BTreeSet::from([2, 5])),
    ] {
        assert_eq!(read(&slots.render(0, 1)), slots);
    }
}

#[test]
fn shares_are_the_nodes_of_each_clique_and_all_are_one_where_that_is_unknown() {
    let shares = |clique_nodes: &[usize]| -> Vec<usize> {
        let slots = Slots {
            clique_nodes: clique_nodes.to_vec(),
            ..some(1)
        };
        slots.shares().map(<[String]>::len).collect()
    };
    assert_eq!(shares(&[1, 1]), [1, 1]);
    for unknown in [&[][..], &[2], &[3], &[1], &[usize::MAX, 3]] {
        assert_eq!(shares(unknown), [2], "{unknown:?}");
    }
}

#[test]
fn nodes_of_an_earlier_plan_are_remembered_until_they_let_go() {
    let earlier = Slots {
        former: vec!["z".to_owned()],
        ..some(8)
    };
    let later = Slots {
        hostnames: vec!["a".to_owned(), "c".to_owned()],
        ..some(8)
    };
    let later = later.after(&earlier);
    assert_eq!(later.former, ["b", "z"]);
    assert_eq!(later.may_have_channel().count(), 4);
}

#[test]
fn more_slots_than_a_slice_may_have_are_several_slices_of_one_pool() {
    let slots = some(300);
    let rendered: Vec<_> = (0..slots.slices()).map(|at| slots.render(at, 4)).collect();
    let counts: Vec<_> = rendered.iter().map(|slice| read(slice).count).collect();
    assert_eq!(counts, [128, 128, 44]);
    let mut names: Vec<_> = rendered
        .iter()
        .flat_map(|slice| slice.spec.devices.iter().flatten())
        .map(|device| device.name.clone())
        .collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 300);
    for slice in rendered {
        assert_eq!(slice.spec.pool.resource_slice_count, 3);
        assert_eq!(slice.spec.pool.generation, 4);
    }
}

#[test]
fn of_closed_slots_those_are_left_that_claims_hold_each_in_its_slice() {
    let closed = some(300).closed(&BTreeSet::from([1, 130, u32::MAX]));
    let names = |at| -> Vec<String> {
        let devices = closed.render(at, 2).spec.devices.unwrap();
        devices.into_iter().map(|device| device.name).collect()
    };
    assert_eq!(closed.slices(), 2);
    assert_eq!(names(0), ["slot-1"]);
    assert_eq!(names(1), ["slot-130"]);
    let mut read = read(&closed.render(0, 2));
    read.join(&self::read(&closed.render(1, 2)));
    assert_eq!(read, closed);
    // One that a claim got in the same moment is left too, and all can be had again later.
    let later = closed.closed(&BTreeSet::from([7]));
    assert_eq!(later.closed, Some(BTreeSet::from([1, 7, 130])));
    assert_eq!(later.opened(16).count, 131);
    assert_eq!(later.opened(16).closed, None);
}

#[test]
fn a_slot_is_what_the_class_of_the_reference_selects_and_names_its_domain() {
    let slice = some(1).render(0, 1);
    let device = &slice.spec.devices.as_ref().unwrap()[0];
    let attribute = |name: &str| device.attributes.as_ref().unwrap()[name].clone();
    assert_eq!(attribute("type").string.as_deref(), Some("channel"));
    assert_eq!(attribute("id").int, Some(0));
    assert_eq!(attribute("domain").string.as_deref(), Some("7b1c"));
    assert_eq!(attribute("namespace").string.as_deref(), Some("team"));
    assert_eq!(attribute("channel").int, Some(3));
}

#[test]
fn slices_of_others_are_passed_over() {
    let mut foreign = some(1).render(0, 1);
    foreign.spec.driver = keys::GPU_DRIVER.to_owned();
    assert_eq!(SliceFacts::of(&foreign), None);
    let mut bare = some(1).render(0, 1);
    bare.metadata.annotations = None;
    assert_eq!(SliceFacts::of(&bare), None);
}

#[test]
fn a_nodes_slice_tells_of_its_fabric() {
    let slice: ResourceSlice = serde_json::from_value(serde_json::json!({
        "metadata": {"name": "n"},
        "spec": {
            "driver": keys::DRIVER, "nodeName": "n",
            "pool": {"name": "n", "generation": 1, "resourceSliceCount": 1},
            "devices": [
                {"name": "channel-0", "attributes": {"type": {"string": "channel"}}},
                {"name": "fabric", "attributes": {
                    "type": {"string": "fabric"}, "cliqueId": {"string": "c.0"},
                    "fabricState": {"string": "Completed"}, "gpus": {"int": 4},
                    "heldChannels": {"string": "3,17"},
                }},
            ],
        },
    }))
    .unwrap();
    let Some(SliceFacts::Node { node, fabric }) = SliceFacts::of(&slice) else {
        panic!("{slice:?}");
    };
    let fabric = fabric.unwrap();
    assert_eq!((node.as_str(), fabric.gpus), ("n", Some(4)));
    assert!(fabric.is_ready());
    let held = fabric.held.unwrap();
    assert!(held.may_have(17) && !held.may_have(4));
    assert!(HeldChannels::parse("3,…").may_have(4));
    assert!(!HeldChannels::parse("").may_have(0));
}
