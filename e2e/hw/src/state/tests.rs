use std::os::unix::fs::MetadataExt;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::{injection::Repeat, profile::Profile};

fn node() -> Node {
    Profile::load("h100").unwrap().instantiate("node-1")
}

fn file(node: &Node) -> (TempDir, StateFile) {
    let directory = TempDir::new().unwrap();
    let state = StateFile::create(directory.path().join("state"), node).unwrap();
    (directory, state)
}

/// What a person or a test does to a node.
#[derive(Clone, Debug)]
enum Change {
    Lose(usize),
    Restore(usize),
    Heat(usize, u32),
    Inject(u8, u64, u64),
    Observe(u8),
    Reset,
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (0..8_usize).prop_map(Change::Lose),
        (0..8_usize).prop_map(Change::Restore),
        (0..8_usize, any::<u32>()).prop_map(|(gpu, celsius)| Change::Heat(gpu, celsius)),
        (0..3_u8, 0..4_u64, 0..4_u64).prop_map(|(name, at, times)| Change::Inject(name, at, times)),
        (0..3_u8).prop_map(Change::Observe),
        Just(Change::Reset),
    ]
}

fn apply(node: &mut Node, change: &Change) -> Vec<(u64, Effect)> {
    match *change {
        Change::Lose(gpu) => node.gpus[gpu].condition.presence = Presence::Lost,
        Change::Restore(gpu) => node.gpus[gpu].condition.presence = Presence::Present,
        Change::Heat(gpu, celsius) => node.gpus[gpu].condition.temperature = celsius,
        Change::Inject(name, at, times) => {
            let (function, repeat) = (format!("f{name}"), Repeat::Times(times));
            node.inject(Injection::new(&function, at, repeat, Effect::Fail(15)));
        }
        Change::Observe(name) => return node.observe(&format!("f{name}")),
        Change::Reset => node.reset(),
    }
    Vec::new()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_file_holds_what_a_value_in_memory_would(
        changes in prop::collection::vec(change(), 1..12),
    ) {
        let mut model = node();
        let (_directory, state) = file(&model);
        for (count, change) in (1..).zip(&changes) {
            let effects = state.update(|node| apply(node, change)).unwrap();
            prop_assert_eq!(effects, apply(&mut model, change));
            let (generation, stored) = state.read().unwrap();
            prop_assert_eq!(generation, 1 + count);
            prop_assert_eq!(&stored, &model);
        }
    }
}

#[test]
fn a_change_keeps_the_inode_and_the_size() {
    let (_directory, state) = file(&node());
    let before = state.path().metadata().unwrap();
    state.update(Node::reset).unwrap();
    let after = state.path().metadata().unwrap();
    assert_eq!((before.ino(), before.len()), (after.ino(), after.len()));
}

#[test]
fn a_watcher_sees_the_generation_grow_with_each_change() {
    let (_directory, state) = file(&node());
    let watch = state.watch().unwrap();
    assert_eq!(watch.generation().unwrap(), 1);
    state.update(Node::reset).unwrap();
    assert_eq!(watch.generation().unwrap(), 2);
}

#[test]
fn a_state_that_does_not_fit_is_refused_and_the_old_one_stays() {
    let (_directory, state) = file(&node());
    let outcome = state.update(|node| node.name = "x".repeat(1 << 20));
    assert!(
        matches!(outcome, Err(StateError::Full { .. })),
        "{outcome:?}"
    );
    assert_eq!(state.read().unwrap(), (1, node()));
}

#[track_caller]
fn check_refused(contents: &[u8], reason: &str) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("state");
    std::fs::write(&path, contents).unwrap();
    let error = StateFile::new(&path).read().unwrap_err();
    let text = format!("{error}: {error:?}");
    assert!(text.contains(reason), "{text}");
}

#[test]
fn a_file_that_is_no_state_is_refused_with_the_reason() {
    check_refused(b"", "UnexpectedEof");
    check_refused(&vec![0; 1 << 18], "does not start like one");
    let mut newer = b"tessera-hw-state 004 00000000000000000001\n{}".to_vec();
    newer.resize(1 << 18, b' ');
    check_refused(&newer, "its format is 004, this program's is 3");
    let mut unknown = b"tessera-hw-state 003 00000000000000000001\n{\"surprise\":1}".to_vec();
    unknown.resize(1 << 18, b' ');
    check_refused(&unknown, "surprise");
}

#[test]
fn a_second_file_is_not_made_over_the_first() {
    let (_directory, state) = file(&node());
    assert!(StateFile::create(state.path(), &node()).is_err());
}

#[test]
fn a_gpu_is_found_by_each_of_its_names() {
    let mut node = node();
    let facts = node.gpus[3].facts.clone();
    for name in ["3", &facts.uuid, "0000:5d:00.0", "00000000:5D:00.0"] {
        assert_eq!(node.gpu_mut(name).unwrap().facts, facts, "{name}");
    }
    for name in ["8", "", "GPU-", "0000:5d:00.1"] {
        assert!(node.gpu_mut(name).is_none(), "{name}");
    }
}

#[test]
fn a_function_without_a_version_stands_for_all_of_its_versions() {
    let mut node = node();
    apply(&mut node, &Change::Inject(0, 1, 1));
    for (symbol, watched) in [
        ("f0", true),
        ("f0_v2", true),
        ("f0_vx", false),
        ("f01", false),
    ] {
        assert_eq!(node.watches(symbol), watched, "{symbol}");
    }
}

#[test]
fn a_reset_heals_every_gpu_and_forgets_every_injection() {
    let mut changed = node();
    for change in [
        Change::Lose(2),
        Change::Heat(4, 90),
        Change::Inject(1, 1, 1),
    ] {
        apply(&mut changed, &change);
    }
    changed.reset();
    assert_eq!((changed.gpus, changed.injections), (node().gpus, vec![]));
}

#[test]
fn what_each_process_counts_for_itself_is_not_counted_for_all() {
    let mut node = node();
    let each = Injection::new("any", 1, Repeat::Always, Effect::Die).in_each("program");
    node.inject(each);
    assert!(!node.watches("f"));
    assert_eq!(node.observe("f"), []);
    assert_eq!(node.each_in("program", "f").count(), 1);
    assert_eq!(node.each_in("other", "f").count(), 0);
}
