//! Every kind of damage to the record of a claim that is in use.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::*;
use crate::testing::record;

/// What has become of the record of claim `a`.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Empty,
    Truncated,
    FlippedBit,
    Garbage,
    OfAnotherClaim,
    OfAnotherDriver,
    NewerFormat,
    OlderBoot,
    Unreadable,
    Directory,
    Gone,
}

const DAMAGES: [Damage; 11] = [
    Damage::Empty,
    Damage::Truncated,
    Damage::FlippedBit,
    Damage::Garbage,
    Damage::OfAnotherClaim,
    Damage::OfAnotherDriver,
    Damage::NewerFormat,
    Damage::OlderBoot,
    Damage::Unreadable,
    Damage::Directory,
    Damage::Gone,
];

impl Damage {
    fn strike(self, path: &Path) {
        let whole = fs::read(path).unwrap();
        let mut read = Record::decode(&whole).unwrap();
        let bytes = match self {
            Self::Empty => Vec::new(),
            Self::Truncated => whole[..whole.len() / 2].to_vec(),
            Self::FlippedBit => {
                let mut bytes = whole.clone();
                bytes[whole.len() / 2] ^= 1;
                bytes
            }
            Self::Garbage => b"\0\xffgarbage".to_vec(),
            Self::OfAnotherClaim => record("b", &[5]).encode(),
            Self::OfAnotherDriver => {
                read.devices[0].cdi_id =
                    "k8s.compute-domain.nvidia.com/claim=a-uid-channel-0".into();
                read.encode()
            }
            Self::NewerFormat => {
                let text = String::from_utf8(whole).unwrap();
                text.replacen("tessera-record 1 ", "tessera-record 9 ", 1)
                    .into_bytes()
            }
            Self::OlderBoot => {
                read.boot = BootId("former".to_owned());
                read.encode()
            }
            Self::Unreadable | Self::Directory | Self::Gone => {
                fs::remove_file(path).unwrap();
                match self {
                    // Reading a link to itself fails whoever reads, as a bad block does.
                    Self::Unreadable => symlink(path, path).unwrap(),
                    Self::Directory => fs::create_dir(path).unwrap(),
                    _ => {}
                }
                return;
            }
        };
        fs::write(path, bytes).unwrap();
    }

    /// What a version does to a record that it replaces, it does to the copy too.
    fn strikes_the_copy_too(self) -> bool {
        matches!(self, Self::NewerFormat | Self::OlderBoot)
    }
}

/// What else has happened on the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spec {
    Present,
    Missing,
    Altered,
}

/// What the API server says about the claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InApi {
    Same,
    OtherUid,
    Gone,
    Away,
}

/// Which traces of the claim the damage has hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hits {
    Record,
    RecordAndCopy,
}

/// A claim on GPU 3 that is in use, and what has been done to it.
struct Case {
    damage: Damage,
    hits: Hits,
    spec: Spec,
    api: InApi,
}

impl Case {
    fn strike(&self, machine: &Machine) {
        self.damage.strike(&machine.record_of("a"));
        if self.hits == Hits::RecordAndCopy || self.damage.strikes_the_copy_too() {
            self.damage
                .strike(&machine.path("claims/copies/a-uid.record"));
        }
        let spec = machine.spec_of("a");
        match self.spec {
            Spec::Present => {}
            Spec::Missing => fs::remove_file(spec).unwrap(),
            Spec::Altered => fs::write(spec, "{}").unwrap(),
        }
        match self.api {
            InApi::Same => {}
            InApi::OtherUid => {
                let mut claims = machine.api.claims.lock().unwrap();
                let claim = claims.get_mut("a").unwrap();
                claim.metadata.uid = Some("another".to_owned());
            }
            InApi::Gone => machine.api.forget("a"),
            InApi::Away => machine.api.away.store(true, Ordering::Relaxed),
        }
    }

    /// Whether anything still says that the claim holds GPU 3.
    fn is_accounted_for(&self) -> bool {
        let copy = self.hits == Hits::Record && !matches!(self.damage, Damage::NewerFormat);
        let record = matches!(self.damage, Damage::OlderBoot);
        record || copy || self.spec == Spec::Present
    }

    /// Whether no trace of the claim is left: nobody could know of it.
    fn is_forgotten(&self) -> bool {
        let gone = matches!(self.damage, Damage::Gone) && self.hits == Hits::RecordAndCopy;
        gone && self.spec == Spec::Missing
    }
}

/// Long enough for a Prepare, and too short for a test to wait for what does not come.
fn at_once() -> Deadline {
    Deadline::after(Duration::from_millis(20))
}

async fn holds(case: &Case) {
    let machine = Machine::new();
    machine.api.allocate("a", &[3]);
    machine.start().prepare(&claim("a"), soon()).await.unwrap();
    case.strike(&machine);
    let claims = machine.start();
    let mut let_go = LetGo::default();
    // Before anybody has looked after it, and after.
    for look in [false, true] {
        if look {
            claims
                .look_after(&mut let_go, LATER, Some(&hardware()))
                .await;
        }
        machine.api.away.store(false, Ordering::Relaxed);
        machine.api.allocate("same", &[3]);
        machine.api.allocate("other", &[4]);
        let error = claims.prepare(&claim("same"), at_once()).await.unwrap_err();
        let other = claims.prepare(&claim("other"), at_once()).await;
        if case.is_accounted_for() {
            assert!(
                ["GpuHeld", "GpuBeingReleased"].contains(&error.label()),
                "{error}"
            );
            other.unwrap();
        } else {
            assert_eq!(error.label(), "GpuUnaccounted", "{error}");
            assert_eq!(other.unwrap_err().label(), "GpuUnaccounted");
        }
        claims.unprepare(&claim("other"), soon()).await.unwrap();
        claims.unprepare(&claim("same"), soon()).await.unwrap();
        if case.api == InApi::Away {
            machine.api.away.store(true, Ordering::Relaxed);
        }
    }
    claims.unprepare(&claim("a"), soon()).await.unwrap();
    assert!(machine.files("cdi").is_empty() && machine.files("claims").is_empty());
    assert!(machine.files("claims/copies").is_empty());
    machine.api.away.store(false, Ordering::Relaxed);
    claims.prepare(&claim("same"), soon()).await.unwrap();
    machine.assert_specs_match_the_journal();
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for damage in DAMAGES {
        for hits in [Hits::Record, Hits::RecordAndCopy] {
            for spec in [Spec::Present, Spec::Missing, Spec::Altered] {
                for api in [InApi::Same, InApi::OtherUid, InApi::Gone, InApi::Away] {
                    cases.push(Case {
                        damage,
                        hits,
                        spec,
                        api,
                    });
                }
            }
        }
    }
    cases.retain(|case| !case.is_forgotten());
    cases
}

#[tokio::test]
async fn whatever_is_damaged_the_gpu_is_held_until_its_pod_has_ended_and_then_it_is_free() {
    let cases = cases();
    for case in &cases {
        let Case {
            damage,
            hits,
            spec,
            api,
        } = case;
        println!("{damage:?} of {hits:?}, spec {spec:?}, claim {api:?} in the API");
        holds(case).await;
    }
    println!("{} cases of damage", cases.len());
}

#[tokio::test]
async fn whatever_is_damaged_the_claim_in_use_gets_the_same_devices_again() {
    let damages = DAMAGES
        .into_iter()
        .filter(|damage| !damage.strikes_the_copy_too());
    for damage in damages {
        let machine = Machine::new();
        machine.api.allocate("a", &[3]);
        let claims = machine.start();
        let first = claims.prepare(&claim("a"), soon()).await.unwrap();
        damage.strike(&machine.record_of("a"));
        let again = claims.prepare(&claim("a"), soon()).await.unwrap();
        assert_eq!(again, first, "{damage:?}");
        machine.assert_specs_match_the_journal();
        let kept = machine.files("claims/damaged").len();
        let keeps = !matches!(
            damage,
            Damage::Gone | Damage::Directory | Damage::Unreadable
        );
        assert_eq!(kept, if keeps { 2 } else { 0 }, "{damage:?}");
    }
}

#[tokio::test]
async fn a_damaged_record_of_a_claim_that_is_gone_is_taken_back_after_the_grace() {
    for damage in [Damage::Garbage, Damage::Gone, Damage::Directory] {
        let machine = Machine::new();
        machine.api.allocate("a", &[3]);
        let claims = machine.start();
        claims.prepare(&claim("a"), soon()).await.unwrap();
        damage.strike(&machine.record_of("a"));
        machine.api.forget("a");
        let mut let_go = LetGo::default();
        assert_eq!(
            claims.look_after(&mut let_go, NOW, Some(&hardware())).await,
            [Outcome::Rebuilt, Outcome::TakenBack],
            "{damage:?}"
        );
        assert!(machine.files("cdi").is_empty() && machine.files("claims").is_empty());
    }
}

#[tokio::test]
async fn a_record_of_a_newer_version_is_left_as_it_is_while_its_claim_is_in_use() {
    let machine = Machine::new();
    machine.api.allocate("a", &[3]);
    let claims = machine.start();
    claims.prepare(&claim("a"), soon()).await.unwrap();
    let path = machine.record_of("a");
    Damage::NewerFormat.strike(&path);
    let newer = fs::read(&path).unwrap();
    let error = claims.prepare(&claim("a"), soon()).await.unwrap_err();
    assert!(error.to_string().contains("run the version"), "{error}");
    claims
        .look_after(&mut LetGo::default(), LATER, Some(&hardware()))
        .await;
    assert_eq!(fs::read(&path).unwrap(), newer);
}

#[tokio::test]
async fn what_nothing_accounts_for_is_reported_at_every_look() {
    let machine = Machine::new();
    let claims = machine.start();
    fs::write(machine.record_of("lost"), b"damage").unwrap();
    for _ in 0..2 {
        let mut let_go = LetGo::default();
        assert_eq!(
            claims.look_after(&mut let_go, NOW, Some(&hardware())).await,
            [Outcome::Unaccounted]
        );
    }
}
