use proptest::prelude::*;
use serde_json::json;
use tessera_device::mig::Placement;

use super::*;
use crate::testing::{mig_record, record, share_record, slicing};

#[test]
fn a_record_reads_back_as_it_was_written() {
    let record = record("a", &[0, 3]);
    assert_eq!(Record::decode(&record.encode()).unwrap(), record);
}

#[test]
fn only_what_would_write_a_cdi_spec_and_nothing_else_is_a_mere_intent() {
    let preparing = |record: Record| Record {
        phase: Phase::Preparing,
        ..record
    };
    let mut making = preparing(record("a", &[0]));
    making.effects.push(Effect::Foreign {
        what: "a MIG device".to_owned(),
    });
    let cases = [
        (preparing(record("a", &[0, 3])), true),
        (preparing(mig_record("a", 0, &["1g.10gb"])), true),
        (record("a", &[0]), false),
        (
            Record {
                phase: Phase::Released,
                ..record("a", &[0])
            },
            false,
        ),
        (preparing(slicing(record("a", &[0]), Interval::Long)), false),
        (making, false),
    ];
    for (record, is_mere) in cases {
        assert_eq!(record.is_mere_intent(), is_mere, "{record:?}");
    }
}

#[test]
fn only_a_record_with_mig_devices_is_of_a_format_that_older_versions_refuse() {
    let header = |record: &Record| {
        let bytes = record.encode();
        let end = bytes.iter().position(|byte| *byte == b'\n').unwrap();
        String::from_utf8(bytes[..end].to_vec()).unwrap()
    };
    let whole = record("a", &[0]);
    assert!(header(&whole).starts_with("tessera-record 1 "));
    let parts = mig_record("a", 0, &["1g.10gb", "3g.40gb"]);
    assert!(header(&parts).starts_with("tessera-record 2 "));
    assert_eq!(Record::decode(&parts.encode()).unwrap(), parts);
    let mut watched = mig_record("a", 0, &["1g.10gb"]);
    watched.devices[0].view = View::Admin;
    assert!(header(&watched).starts_with("tessera-record 2 "));
    assert_eq!(Record::decode(&watched.encode()).unwrap(), watched);
}

#[test]
fn a_share_is_of_a_format_that_older_versions_refuse_and_reads_back_as_it_was() {
    let of_gpu = share_record("a", 1, &[("s1", 20), ("s2", 5)]);
    assert!(of_gpu.encode().starts_with(b"tessera-record 3 "));
    assert_eq!(Record::decode(&of_gpu.encode()).unwrap(), of_gpu);
    let value = serde_json::to_value(&of_gpu.devices[0]).unwrap();
    let share = json!({"memory": 20_u64 << 30, "computeShare": 0, "shares": 1});
    assert_eq!(value["view"], json!({"share": share}));

    let mut held = of_gpu.clone();
    held.devices[1].memory_limit = Some(Bytes::from_mib(5 << 10));
    assert!(held.encode().starts_with(b"tessera-record 4 "));
    assert_eq!(Record::decode(&held.encode()).unwrap(), held);

    held.devices[1].memory_ceiling = Some(Bytes::from_mib(50 << 10));
    assert!(held.encode().starts_with(b"tessera-record 5 "));
    assert_eq!(Record::decode(&held.encode()).unwrap(), held);

    let mut of_part = mig_record("a", 1, &["3g.40gb"]);
    let View::Part(part) = of_part.devices[0].view else {
        panic!("{of_part:?}")
    };
    let View::Share(share) = of_gpu.devices[0].view else {
        panic!("{of_gpu:?}")
    };
    let share = Share {
        of: Some(part),
        ..share
    };
    of_part.devices[0].view = View::Share(share);
    let read = Record::decode(&of_part.encode()).unwrap();
    assert_eq!(read, of_part);
    let value = serde_json::to_value(&read.devices[0]).unwrap();
    assert_eq!(
        value["view"]["share"]["part"],
        json!({"start": 0, "size": 4})
    );
}

#[test]
fn shares_of_one_device_go_together_and_exclude_all_other_uses_of_its_place() {
    let amounts = tessera_sharing::Part::default();
    let part = |start| Part {
        placement: Placement { start, size: 4 },
        compute_instance: None,
    };
    let share = |of| View::Share(Share { of, amounts });
    let (gpu, low, high) = (share(None), share(Some(part(0))), share(Some(part(4))));
    for (one, other, expected) in [
        (gpu, gpu, false),
        (low, low, false),
        (low, high, false),
        (gpu, View::Whole, true),
        (gpu, View::Part(part(0)), true),
        (gpu, low, true),
        (low, View::Whole, true),
        (low, View::Part(part(0)), true),
        (low, View::Part(part(4)), false),
        (gpu, View::Admin, false),
        (low, View::Admin, false),
    ] {
        assert_eq!(one.excludes(other), expected, "{one:?} {other:?}");
        assert_eq!(other.excludes(one), expected, "{other:?} {one:?}");
    }
}

#[test]
fn a_part_of_a_gpu_is_written_by_its_slices() {
    let parts = mig_record("a", 1, &["3g.40gb"]);
    let value = serde_json::to_value(&parts.devices[0]).unwrap();
    assert_eq!(value["view"], json!({"part": {"start": 0, "size": 4}}));
    assert_eq!(
        value["instance"],
        json!("MIG-00000001-0000-0000-0000-000000000000")
    );
    let whole = serde_json::to_value(&record("a", &[1]).devices[0]).unwrap();
    assert_eq!(whole["view"], json!("whole"));
    assert_eq!(whole.get("instance"), None);
}

#[test]
fn fields_of_a_newer_version_survive_a_rewrite() {
    let mut value = serde_json::to_value(record("a", &[0])).unwrap();
    value["swap"] = json!({"policy": "host"});
    value["devices"][0]["tier"] = json!("native");
    let read: Record = serde_json::from_value(value.clone()).unwrap();
    let rewritten = Record::decode(&read.encode()).unwrap();
    assert_eq!(serde_json::to_value(rewritten).unwrap(), value);
}

#[test]
fn a_record_of_a_newer_format_is_refused_as_such_and_not_as_damage() {
    let text = String::from_utf8(record("a", &[0]).encode()).unwrap();
    let newer = text.replacen("tessera-record 1 ", "tessera-record 9 ", 1);
    let error = Record::decode(newer.as_bytes()).unwrap_err();
    assert!(
        matches!(error, RecordError::NewerFormat { found: 9 }),
        "{error}"
    );
}

#[test]
fn what_cannot_be_taken_back_is_all_that_remains_of_a_record() {
    let mut taken = record("a", &[0]);
    assert_eq!(taken.remains(), None);
    let what = "a MIG device".to_owned();
    taken.effects.push(Effect::Foreign { what });
    let remains = taken.remains().unwrap();
    assert_eq!(remains.phase, Phase::Released);
    assert_eq!(remains.effects, taken.effects[1..]);
    assert_eq!(remains.remains(), Some(remains.clone()));
    assert_eq!(Record::decode(&remains.encode()).unwrap(), remains);
}

proptest! {
    #[test]
    fn no_changed_or_cut_record_reads_as_another(at: prop::sample::Index, flip in 1u8.., cut: prop::sample::Index) {
        let whole = record("a", &[0, 1]);
        let bytes = whole.encode();
        let mut changed = bytes.clone();
        changed[at.index(bytes.len())] ^= flip;
        if let Ok(read) = Record::decode(&changed) {
            // Only the spelling of the checksum's hexadecimal digits is free.
            prop_assert_eq!(read, whole);
        }
        prop_assert!(Record::decode(&bytes[..cut.index(bytes.len())]).is_err());
    }

    #[test]
    fn no_bytes_panic_the_reader(bytes: Vec<u8>) {
        let _ = Record::decode(&bytes);
    }
}

#[test]
fn the_time_slice_that_a_claim_wants_is_kept_in_a_field_that_older_versions_may_ignore() {
    let plain = record("a", &[0]);
    let slicing = slicing(plain.clone(), Interval::Short);
    let bytes = slicing.encode();
    assert!(bytes.starts_with(b"tessera-record 1 "));
    assert_eq!(Record::decode(&bytes).unwrap(), slicing);
    let value = serde_json::to_value(&slicing.devices[0]).unwrap();
    assert_eq!(value["timeSlice"], json!("Short"));
    // A record that says nothing of it is byte for byte what it was before there was the field.
    assert!(
        !String::from_utf8(plain.encode())
            .unwrap()
            .contains("timeSlice")
    );
}
