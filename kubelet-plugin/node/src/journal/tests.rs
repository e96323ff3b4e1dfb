use tessera_prepare::ledger::Unreadable;
use tessera_prepare::record::{Phase, Record};

use super::*;
use crate::testing::record;

fn open(directory: &Path) -> Journal {
    Journal::open(directory, CdiKind::claim()).unwrap()
}

fn uid(claim: &str) -> ClaimUid {
    format!("{claim}-uid").parse().unwrap()
}

fn unreadable(journal: &Journal, claim: &str) -> Unreadable {
    match journal.read(&uid(claim)).unwrap() {
        Some(Entry::Unreadable(unreadable)) => unreadable,
        other => panic!("{other:?}"),
    }
}

/// The files of a directory, without its directories.
fn files(directory: &Path) -> usize {
    let all = fs::read_dir(directory).into_iter().flatten();
    all.filter(|file| file.as_ref().unwrap().file_type().unwrap().is_file())
        .count()
}

#[test]
fn a_record_is_found_again_and_removing_it_twice_is_no_error() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(&directory.path().join("claims"));
    let record = record("a", &[0]);
    journal.write(&record).unwrap();
    let uid = record.claim.uid.clone();
    for journal in [&journal, &open(&directory.path().join("claims"))] {
        let found = journal.read(&uid).unwrap();
        assert_eq!(found, Some(Entry::Record(record.clone())));
    }
    journal.remove(&uid).unwrap();
    journal.remove(&uid).unwrap();
    assert_eq!(journal.read_all().unwrap(), Contents::default());
}

#[test]
fn a_damaged_record_is_reported_under_its_claim_and_hides_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path());
    journal.write(&record("a", &[0])).unwrap();
    fs::write(directory.path().join("b-uid.record"), b"garbage").unwrap();
    let moved = record("c", &[1]).encode();
    fs::write(directory.path().join("d-uid.record"), moved).unwrap();
    fs::write(directory.path().join("note.txt"), b"not a record").unwrap();
    fs::create_dir(directory.path().join("e-uid.record")).unwrap();
    let mut other = record("f", &[2]);
    other.devices[0].cdi_id = "k8s.compute-domain.nvidia.com/claim=f-uid-gpu-2".to_owned();
    fs::write(directory.path().join("f-uid.record"), other.encode()).unwrap();

    let contents = journal.read_all().unwrap();
    assert_eq!(contents.records, [record("a", &[0])]);
    let unreadable: Vec<&str> = contents
        .unreadable
        .iter()
        .map(|unreadable| unreadable.claim.as_str())
        .collect();
    assert_eq!(unreadable, ["b-uid", "d-uid", "e-uid", "f-uid"]);
}

#[test]
fn a_write_leaves_a_record_its_copy_and_no_other_file() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path());
    journal.write(&record("a", &[0])).unwrap();
    journal.write(&record("a", &[1])).unwrap();
    assert_eq!(files(directory.path()), 1);
    assert_eq!(files(&directory.path().join("copies")), 1);
    journal.remove(&uid("a")).unwrap();
    assert_eq!(files(directory.path()), 0);
    assert_eq!(files(&directory.path().join("copies")), 0);
}

#[test]
fn what_was_in_a_damaged_or_lost_record_is_known_from_its_copy() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path());
    let record = record("a", &[0]);
    journal.write(&record).unwrap();
    fs::write(journal.path(&uid("a")), b"").unwrap();
    assert_eq!(unreadable(&journal, "a").copy, Some(record.clone()));
    fs::remove_file(journal.path(&uid("a"))).unwrap();
    assert_eq!(unreadable(&journal, "a").copy, Some(record));
    assert_eq!(journal.read_all().unwrap().unreadable.len(), 1);
}

#[test]
fn a_damaged_record_is_kept_aside_and_its_replacement_is_in_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path());
    let whole = record("a", &[0]);
    let place = journal.path(&uid("a"));
    let damages: [fn(&Path); 2] = [
        |place| fs::write(place, b"garbage").unwrap(),
        |place| {
            fs::remove_file(place).unwrap();
            fs::create_dir_all(place.join("deep")).unwrap();
        },
    ];
    for damage in damages {
        damage(&place);
        let found = unreadable(&journal, "a");
        journal.set_aside(&found, Some(&whole)).unwrap();
        assert_eq!(
            journal.read(&uid("a")).unwrap(),
            Some(Entry::Record(whole.clone()))
        );
    }
    let kept = directory.path().join("damaged");
    assert_eq!(fs::read(kept.join("a-uid.0")).unwrap(), b"garbage");
    assert_eq!(files(&kept), 2);
    assert_eq!(journal.damaged().get(), 2);
}

#[test]
fn a_damaged_record_that_is_set_aside_for_nothing_is_gone_from_the_journal() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path());
    journal.write(&record("a", &[0])).unwrap();
    fs::write(journal.path(&uid("a")), b"garbage").unwrap();
    journal.set_aside(&unreadable(&journal, "a"), None).unwrap();
    assert_eq!(journal.read_all().unwrap(), Contents::default());

    // Where nothing can be kept, the claim is free all the same.
    fs::remove_dir_all(directory.path().join("damaged")).unwrap();
    fs::write(directory.path().join("damaged"), b"in the way").unwrap();
    fs::write(journal.path(&uid("a")), b"garbage").unwrap();
    journal.set_aside(&unreadable(&journal, "a"), None).unwrap();
    assert_eq!(journal.read_all().unwrap(), Contents::default());
}

#[test]
fn what_was_read_before_counts_only_while_the_file_is_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path());
    journal.write(&record("a", &[0])).unwrap();
    let read = || journal.read(&uid("a")).unwrap();
    for _ in 0..2 {
        assert_eq!(read(), Some(Entry::Record(record("a", &[0]))));
    }
    // Another process of the driver, as during an upgrade.
    open(directory.path()).write(&record("a", &[1])).unwrap();
    assert_eq!(read(), Some(Entry::Record(record("a", &[1]))));
    // A bit flips in the place of a file of the same size, which the file system tells by its time.
    std::thread::sleep(std::time::Duration::from_millis(20));
    let path = journal.path(&uid("a"));
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    let mut file = fs::File::options().write(true).open(&path).unwrap();
    file.write_all(&bytes).unwrap();
    assert_eq!(
        unreadable(&journal, "a").copy,
        Some(record("a", &[1])),
        "the copy is as it was"
    );
    journal.remove(&uid("a")).unwrap();
    assert_eq!(read(), None);
    journal.write(&record("a", &[2])).unwrap();
    assert_eq!(read(), Some(Entry::Record(record("a", &[2]))));
    assert_eq!(journal.read_all().unwrap().records, [record("a", &[2])]);
}

#[test]
fn a_file_that_is_larger_than_any_record_is_damaged() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path());
    let large = fs::File::create(directory.path().join("a-uid.record")).unwrap();
    // Nothing of it is in memory, and nothing of it is read beyond the limit.
    large.set_len(1 << 40).unwrap();
    assert_eq!(unreadable(&journal, "a").copy, None);
}

#[test]
fn a_directory_that_vanished_is_made_again() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(&directory.path().join("driver/claims"));
    journal.write(&record("a", &[0])).unwrap();
    fs::remove_dir_all(directory.path().join("driver")).unwrap();
    assert_eq!(journal.read_all().unwrap(), Contents::default());
    journal.write(&record("b", &[1])).unwrap();
    assert_eq!(journal.read_all().unwrap().records, [record("b", &[1])]);
}

#[test]
fn a_first_record_is_there_before_its_copy() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path());
    let copies = directory.path().join("copies");
    fs::remove_dir_all(&copies).unwrap();
    fs::write(&copies, "in the way").unwrap();
    journal.write(&record("a", &[0])).unwrap_err();
    let stored = journal.read(&uid("a")).unwrap();
    assert_eq!(stored, Some(Entry::Record(record("a", &[0]))));
}

#[test]
fn a_mere_intent_has_no_copy_until_it_is_more() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path());
    let copies = directory.path().join("copies");
    let intent = Record {
        phase: Phase::Preparing,
        ..record("a", &[0])
    };
    assert!(intent.is_mere_intent());
    for _ in 0..2 {
        journal.write(&intent).unwrap();
        assert_eq!((files(directory.path()), files(&copies)), (1, 0));
    }
    let stored = journal.read_all().unwrap().records;
    assert_eq!(stored, std::slice::from_ref(&intent));
    journal.write(&record("a", &[0])).unwrap();
    assert_eq!((files(directory.path()), files(&copies)), (1, 1));
    fs::remove_file(journal.path(&uid("a"))).unwrap();
    assert_eq!(unreadable(&journal, "a").copy, Some(record("a", &[0])));

    // And one that is there says the same from then on.
    journal.write(&intent).unwrap();
    fs::remove_file(journal.path(&uid("a"))).unwrap();
    assert_eq!(unreadable(&journal, "a").copy, Some(intent));
}

#[test]
fn a_record_is_never_ahead_of_its_copy() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path());
    journal.write(&record("a", &[0])).unwrap();
    journal.write(&record("b", &[1])).unwrap();
    let damaged_file = directory.path().join("b-uid.record");
    fs::write(&damaged_file, "damage").unwrap();
    let damaged = unreadable(&journal, "b");
    let copies = directory.path().join("copies");
    fs::remove_dir_all(&copies).unwrap();
    fs::write(&copies, "in the way").unwrap();

    journal.write(&record("a", &[2])).unwrap_err();
    let stored = journal.read(&uid("a")).unwrap();
    assert_eq!(stored, Some(Entry::Record(record("a", &[0]))));
    let replacement = record("b", &[1]);
    journal.set_aside(&damaged, Some(&replacement)).unwrap_err();
    assert_eq!(fs::read_to_string(&damaged_file).unwrap(), "damage");
}
