use super::*;

const GIB: u64 = 1 << 30;

fn device(name: &str) -> Device {
    Device {
        name: name.to_owned(),
        share: None,
    }
}

fn part(start: u32, size: u32) -> Slices {
    Slices {
        start,
        size,
        compute_instance: None,
    }
}

fn used(name: &str, gpu: u32, view: View) -> Use {
    Use {
        device: device(name),
        gpu: format!("GPU-{gpu}"),
        view,
        instance: None,
        time_slice: None,
    }
}

fn mig(name: &str, gpu: u32, start: u32, size: u32) -> Use {
    Use {
        instance: Some(format!("MIG-{gpu}-{start}")),
        ..used(name, gpu, View::Part(part(start, size)))
    }
}

/// A MIG device of an eighth of a GPU.
fn eighth(start: u32) -> Instance {
    Instance {
        start,
        memory: Some(10 * GIB),
    }
}

fn gpu(number: u32, starts: &[u32]) -> Gpu {
    let instances = starts
        .iter()
        .map(|start| (format!("MIG-{number}-{start}"), eighth(*start)));
    Gpu {
        uuid: format!("GPU-{number}"),
        memory: 80 * GIB,
        mig: !starts.is_empty(),
        instances: instances.collect(),
        bare: 0,
        time_slice: TimeSlice::Default,
    }
}

/// A node whose keepers agree that these claims have these devices.
fn node(claims: &[(&str, &[Use])], hardware: &[Gpu]) -> Views {
    let mut views = Views {
        hardware: hardware.to_vec(),
        ..Views::default()
    };
    for (name, uses) in claims {
        let claim = Claim {
            name: format!("ns/{name}"),
            devices: uses.iter().map(|used| used.device.clone()).collect(),
        };
        let uid = format!("uid-{name}");
        views.scheduler.insert(uid.clone(), claim.clone());
        views.kubelet.insert(uid.clone(), claim);
        views.specified.insert(uid.clone());
        views.plugin.push(Record {
            uid,
            name: format!("ns/{name}"),
            prepared: true,
            uses: uses.to_vec(),
        });
    }
    views
}

/// Whole, in parts and shared; with a time slice; and watched.
fn busy() -> Views {
    let share = |id: &str, name: &str| Use {
        device: Device {
            name: name.to_owned(),
            share: Some(id.to_owned()),
        },
        ..used(name, 2, View::Share(None, 40 * GIB))
    };
    let slow = Use {
        time_slice: Some(TimeSlice::Long),
        ..used("gpu-0", 0, View::Whole)
    };
    let mut first = gpu(0, &[]);
    first.time_slice = TimeSlice::Long;
    node(
        &[
            ("whole", &[slow]),
            (
                "parts",
                &[
                    mig("gpu-1-mig-3g40gb-9-4", 1, 4, 4),
                    mig("gpu-1-mig-1g10gb-19-3", 1, 3, 1),
                ],
            ),
            ("shares", &[share("s1", "gpu-2"), share("s2", "gpu-2")]),
            ("monitor", &[used("gpu-0", 0, View::Admin)]),
        ],
        &[first, gpu(1, &[3, 4]), gpu(2, &[]), gpu(3, &[])],
    )
}

/// What is found once `change` has come over a busy node.
fn found(change: impl FnOnce(&mut Views)) -> Vec<String> {
    let mut views = busy();
    change(&mut views);
    views.disagreements()
}

fn one(change: impl FnOnce(&mut Views)) -> String {
    let mut found = found(change);
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

#[test]
fn a_busy_node_and_an_empty_one_are_agreed_about() {
    assert_eq!(busy().disagreements(), [""; 0]);
    assert_eq!(node(&[], &[gpu(0, &[])]).disagreements(), [""; 0]);
}

#[test]
fn a_claim_that_waits_or_was_refused_is_only_allocated() {
    let nothing = found(|views| {
        let mut claim = views.scheduler["uid-parts"].clone();
        views.scheduler.insert("uid-late".to_owned(), claim.clone());
        claim.devices.clear();
        views.kubelet.insert("uid-late".to_owned(), claim);
    });
    assert_eq!(nothing, [""; 0]);
}

#[test]
fn what_the_kubelet_has_is_what_was_allocated() {
    let gone = one(|views| {
        views.scheduler.remove("uid-whole");
    });
    assert!(gone.contains("knows claim ns/whole"), "{gone}");
    let other = one(|views| {
        let allocated = views.scheduler.get_mut("uid-whole").unwrap();
        allocated.devices = BTreeSet::from([device("gpu-3")]);
    });
    assert_eq!(
        other,
        "claim ns/whole is allocated gpu-3, and the kubelet has prepared gpu-0"
    );
}

#[test]
fn a_claim_of_which_nobody_but_the_kubelet_knows_is_history_and_one_of_which_somebody_has_something_is_not()
 {
    let gone = |views: &mut Views| {
        views.scheduler.remove("uid-monitor");
        views.plugin.retain(|record| record.uid != "uid-monitor");
        views.specified.remove("uid-monitor");
    };
    assert_eq!(found(gone), [""; 0]);
    let specified = found(|views| {
        gone(views);
        views.specified.insert("uid-monitor".to_owned());
    });
    assert!(
        specified
            .iter()
            .any(|said| said.contains("allocated nothing here")),
        "{specified:?}"
    );
}

#[test]
fn what_the_plugin_has_is_what_the_kubelet_was_told() {
    let forgotten = one(|views| {
        views.kubelet.remove("uid-monitor");
    });
    assert!(
        forgotten.contains("the kubelet does not know it"),
        "{forgotten}"
    );
    let unrecorded = found(|views| views.plugin.retain(|record| record.uid != "uid-monitor"));
    assert!(
        unrecorded[0].contains("the plugin has no record of it"),
        "{unrecorded:?}"
    );
    let another = one(|views| {
        let told = views.kubelet.get_mut("uid-monitor").unwrap();
        told.devices.clear();
    });
    assert!(another.contains("was told of nothing"), "{another}");
    let share = found(|views| views.plugin[2].uses[0].device.share = Some("s3".to_owned()));
    assert!(share[0].contains("share s3"), "{share:?}");
}

#[test]
fn a_specification_is_there_exactly_for_prepared_claims() {
    let missing = one(|views| {
        views.specified.remove("uid-whole");
    });
    assert!(missing.contains("uid-whole has no CDI"), "{missing}");
    let left = one(|views| {
        views.specified.insert("uid-gone".to_owned());
    });
    assert!(left.contains("uid-gone, which is not prepared"), "{left}");
    let begun = found(|views| views.plugin[0].prepared = false);
    assert_eq!(begun.len(), 2, "{begun:?}");
}

#[test]
fn what_is_recorded_is_there_and_nothing_else_is() {
    let gone = one(|views| {
        views.hardware[1].instances.remove("MIG-1-3");
    });
    assert!(gone.contains("begins at None"), "{gone}");
    let elsewhere = one(|views| {
        views.hardware[1]
            .instances
            .insert("MIG-1-3".to_owned(), eighth(2));
    });
    assert!(elsewhere.contains("begins at Some(2)"), "{elsewhere}");
    let nobodys = one(|views| {
        views.hardware[3]
            .instances
            .insert("MIG-3-0".to_owned(), eighth(0));
    });
    assert_eq!(nobodys, "no claim has MIG device MIG-3-0 of GPU GPU-3");
    let half = one(|views| views.hardware[3].bare = 1);
    assert!(half.contains("half made"), "{half}");
    let cut = one(|views| views.hardware[0].mig = true);
    assert!(cut.contains("which is in MIG mode"), "{cut}");
    let lost = found(|views| {
        views.hardware.remove(2);
    });
    assert_eq!(lost.len(), 2, "{lost:?}");
    let unknown = found(|views| views.plugin[1].uses[0].instance = None);
    assert!(unknown[0].contains("does not know which"), "{unknown:?}");
}

#[test]
fn no_two_claims_have_the_same_of_a_gpu() {
    for (view, beside) in [
        (View::Whole, 0),
        (View::Share(None, 1), 0),
        (View::Part(part(0, 1)), 0),
        (View::Whole, 1),
        (View::Part(part(3, 1)), 1),
        (View::Part(part(2, 2)), 1),
        (View::Whole, 2),
        (View::Part(part(0, 8)), 2),
    ] {
        let found = found(|views| {
            let uses = &mut views.plugin[3].uses;
            uses[0].gpu = format!("GPU-{beside}");
            uses[0].view = view;
        });
        let overlaps = found.iter().any(|said| said.contains("which overlap on"));
        assert!(
            overlaps,
            "{view:?} beside what is on GPU {beside}: {found:?}"
        );
    }
    let beside = one(|views| views.plugin[1].uses[1].view = View::Part(part(3, 2)));
    assert!(beside.contains("which overlap on GPU GPU-1"), "{beside}");
}

#[test]
fn compute_instances_of_one_gpu_instance_do_not_overlap() {
    let slices = |compute_instance| {
        View::Part(Slices {
            compute_instance: Some(compute_instance),
            ..part(0, 4)
        })
    };
    assert!(!slices(0).overlaps(slices(1)));
    assert!(slices(0).overlaps(slices(0)));
    assert!(slices(0).overlaps(View::Part(part(0, 4))));
    assert!(slices(0).overlaps(View::Part(part(3, 1))));
}

#[test]
fn shares_are_together_no_more_than_there_is() {
    let overdrawn = one(|views| views.plugin[2].uses[0].view = View::Share(None, 41 * GIB));
    assert!(
        overdrawn.contains("are given away of GPU GPU-2"),
        "{overdrawn}"
    );
}

#[test]
fn shares_of_a_mig_device_are_together_no_more_than_it_has() {
    let two = |bytes: u64| {
        found(|views| {
            let share = |id: &str, bytes| Use {
                device: Device {
                    name: "gpu-1-mig-1g10gb-19-3".to_owned(),
                    share: Some(id.to_owned()),
                },
                view: View::Share(Some(part(3, 1)), bytes),
                ..mig("", 1, 3, 1)
            };
            let uses = vec![
                mig("gpu-1-mig-3g40gb-9-4", 1, 4, 4),
                share("s3", 4 * GIB),
                share("s4", bytes),
            ];
            let devices: BTreeSet<Device> = uses.iter().map(|used| used.device.clone()).collect();
            for claims in [&mut views.scheduler, &mut views.kubelet] {
                claims.get_mut("uid-parts").unwrap().devices = devices.clone();
            }
            views.plugin[1].uses = uses;
        })
    };
    assert_eq!(two(6 * GIB), [""; 0]);
    let overdrawn = two(6 * GIB + 1);
    assert_eq!(overdrawn.len(), 1, "{overdrawn:?}");
    let said = "are given away of MIG device MIG-1-3 of GPU GPU-1";
    assert!(overdrawn[0].contains(said), "{overdrawn:?}");
}

#[test]
fn a_time_slice_is_set_exactly_where_claims_want_it() {
    let unset = one(|views| views.hardware[0].time_slice = TimeSlice::Default);
    assert!(unset.contains("of GPU GPU-0 is Default"), "{unset}");
    let left = one(|views| views.hardware[3].time_slice = TimeSlice::Short);
    assert!(left.contains("of GPU GPU-3 is Short"), "{left}");
    let quarrel = one(|views| views.plugin[3].uses[0].time_slice = Some(TimeSlice::Short));
    assert!(quarrel.contains("[Long, Short]"), "{quarrel}");
}
