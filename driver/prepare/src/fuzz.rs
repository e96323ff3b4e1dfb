//! Fuzz targets: records, CDI names, specs and checkpoints of the reference driver that are read back.

use std::collections::BTreeMap;

use bolero::TypeGenerator;
use serde_json::{Map, Value, json};
use tessera_claim::{ClaimRef, ClaimUid};
use tessera_device::mig::{Part, Placement};
use tessera_device::testing::{cut, driver, gpu};
use tessera_device::{Gpu, Inventory};
use tessera_fuzz::fuzz;

use crate::cdi::{CdiKind, ClaimedDevice, claim_of_file, claimed_devices, device_name, file_name};
use crate::checkpoint::Checkpoint;
use crate::record::{BootId, FORMAT, Phase, PreparedDevice, Record, View};
use crate::share::Share;
use crate::step::Effect;
use crate::takeover::{Fate, Successor, Taken, Takeover};
use crate::testing::{boot, checkpoint};
use crate::upkeep::{FoundSpec, Site, rebuild};

/// How a claim uses a GPU, as generated.
#[derive(Clone, Debug, TypeGenerator)]
enum Use {
    Whole,
    Part(u8, u8, Option<u8>),
    Share(u64, u64, u64, Option<(u8, u8)>),
    Admin,
    AdminOfPart,
}

/// A record as generated texts make it.
#[derive(Clone, Debug, TypeGenerator)]
struct Texts {
    boot: String,
    namespace: String,
    name: String,
    prepared: bool,
    devices: Vec<(String, String, Option<String>, Use)>,
    effects: Vec<(String, u32)>,
    newer: Option<String>,
}

impl Texts {
    fn record(&self) -> Record {
        let device = |(request, pool, share, used): &(String, String, Option<String>, Use)| {
            let part = matches!(used, Use::Part(..) | Use::AdminOfPart);
            PreparedDevice {
                request: request.clone(),
                pool: pool.clone(),
                device: "gpu-0".parse().unwrap(),
                share_id: share.clone(),
                gpu: "GPU-11111111-2222-3333-4444-555555555555".parse().unwrap(),
                view: match *used {
                    Use::Whole => View::Whole,
                    Use::Part(start, size, compute_instance) => View::Part(Part {
                        placement: Placement { start, size },
                        compute_instance,
                    }),
                    Use::Share(memory, compute_share, shares, of) => View::Share(Share {
                        of: of.map(|(start, size)| Part {
                            placement: Placement { start, size },
                            compute_instance: None,
                        }),
                        amounts: tessera_sharing::Part {
                            memory: tessera_device::Bytes(memory),
                            compute_share,
                            shares,
                        },
                    }),
                    Use::Admin | Use::AdminOfPart => View::Admin,
                },
                instance: part.then(|| "MIG-11111111-2222-3333-4444-555555555555".parse().unwrap()),
                time_slice: share.as_deref().and_then(tessera_api::Interval::named),
                memory_limit: match *used {
                    Use::Share(memory, _, 1, None) => Some(tessera_device::Bytes(memory)),
                    _ => None,
                },
                memory_ceiling: match *used {
                    Use::Share(memory, 7, 1, None) => Some(tessera_device::Bytes(memory)),
                    _ => None,
                },
                cdi_id: format!("k8s.gpu.nvidia.com/claim={request}"),
                unknown: Map::new(),
            }
        };
        let effect = |(file, crc32): &(String, u32)| Effect::CdiFile {
            file: file.clone(),
            crc32: *crc32,
        };
        let unknown = self
            .newer
            .iter()
            .map(|text| ("newerField".to_owned(), json!(text)))
            .collect();
        Record {
            boot: BootId(self.boot.clone()),
            claim: ClaimRef {
                namespace: self.namespace.clone(),
                name: self.name.clone(),
                uid: "0f2d6a3e-9a55-4f0c-8c8e-0a9be8a1c001".parse().unwrap(),
            },
            phase: if self.prepared {
                Phase::Prepared
            } else {
                Phase::Preparing
            },
            devices: self.devices.iter().map(device).collect(),
            effects: self.effects.iter().map(effect).collect(),
            unknown,
        }
    }
}

#[derive(Clone, Debug, TypeGenerator)]
enum Damage {
    Flip { at: u16, bits: u8 },
    Cut { to: u16 },
    Insert { at: u16, byte: u8 },
}

impl Damage {
    fn of(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        match *self {
            Self::Flip { at, bits } => {
                let at = usize::from(at) % bytes.len();
                bytes[at] ^= bits;
            }
            Self::Cut { to } => bytes.truncate(usize::from(to) % bytes.len()),
            Self::Insert { at, byte } => bytes.insert(usize::from(at) % bytes.len(), byte),
        }
        bytes
    }
}

#[test]
fn a_record_is_read_back_as_it_was_or_refused() {
    fuzz!(2_000, (Texts, Damage), |(texts, damage)| {
        let record = texts.record();
        let bytes = record.encode();
        assert_eq!(Record::decode(&bytes).unwrap(), record);
        if let Ok(read) = Record::decode(&damage.of(bytes)) {
            assert_eq!(read, record);
        }
    });
}

#[test]
fn no_bytes_behind_a_right_header_break_the_reader() {
    fuzz!(5_000, (bool, Vec<u8>), |(sealed, bytes)| {
        let mut record = Vec::new();
        if *sealed {
            let (sum, length) = (crc32fast::hash(bytes), bytes.len());
            record.extend(format!("tessera-record {FORMAT} {sum:08x} {length}\n").into_bytes());
        }
        record.extend(bytes);
        if let Ok(read) = Record::decode(&record) {
            assert_eq!(Record::decode(&read.encode()).unwrap(), read);
        }
    });
}

#[test]
fn a_kind_is_read_back_as_it_is_written_and_its_files_name_their_claim() {
    let claim: ClaimUid = "0f2d6a3e-9a55-4f0c-8c8e-0a9be8a1c001".parse().unwrap();
    fuzz!(10_000, (String, String, String), |(vendor, class, file)| {
        for text in [format!("{vendor}/{class}"), format!("v{vendor}v/c{class}c")] {
            let Ok(kind) = text.parse::<CdiKind>() else {
                continue;
            };
            assert_eq!(kind.to_string(), text);
            let name = file_name(&kind, &claim);
            assert!(!name.contains('/'), "{name}");
            assert_eq!(claim_of_file(&kind, &name), Some(claim.clone()));
        }
        let kind = CdiKind::claim();
        if let Some(found) = claim_of_file(&kind, file) {
            assert_eq!(file_name(&kind, &found), *file);
        }
    });
}

/// A spec that may be damaged, or something else altogether.
#[derive(Clone, Debug, TypeGenerator)]
enum SpecBytes {
    Any(Vec<u8>),
    Named(Vec<String>),
    Damaged(Vec<u8>, Damage),
}

#[test]
fn a_record_rebuilt_from_a_spec_holds_what_the_spec_names_and_only_gpus_that_are_there() {
    let claim: ClaimUid = "0f2d6a3e-9a55-4f0c-8c8e-0a9be8a1c001".parse().unwrap();
    let (kind, boot) = (CdiKind::claim(), boot());
    let whole = (0..7).map(gpu);
    let cut = cut(gpu(7), &["3g.40gb", "1g.10gb"]);
    let inventory = Inventory::new(driver("580"), whole.chain([cut]).collect()).unwrap();
    let gpus: Vec<_> = inventory.gpus().iter().map(|gpu: &Gpu| &gpu.uuid).collect();
    let spec = |names: Vec<String>| {
        let devices: Vec<_> = names
            .into_iter()
            .map(|name| json!({ "name": name }))
            .collect();
        serde_json::to_vec(&json!({ "devices": devices })).unwrap()
    };
    let names: Vec<_> = inventory.offered().map(|part| part.name()).collect();
    let of_this_claim = |at: &u8| {
        let share = (at % 2 == 1).then_some("s-1");
        device_name(&claim, &names[usize::from(*at) % names.len()], share)
    };
    fuzz!(5_000, SpecBytes, |bytes| {
        let bytes = match bytes {
            SpecBytes::Any(bytes) => bytes.clone(),
            SpecBytes::Named(names) => {
                spec(names.iter().map(|name| format!("{claim}-{name}")).collect())
            }
            SpecBytes::Damaged(devices, damage) => {
                damage.of(spec(devices.iter().map(of_this_claim).collect()))
            }
        };
        let spec = FoundSpec {
            file: file_name(&kind, &claim),
            contents: bytes,
        };
        let site = Site {
            kind: &kind,
            pool: "node-a",
            inventory: &inventory,
            boot: &boot,
            owns_mig: true,
        };
        let Some(record) = rebuild(&claim, &spec, site) else {
            return;
        };
        let claimed = claimed_devices(&spec.contents, &claim).unwrap();
        let held: Vec<_> = record
            .devices
            .iter()
            .map(|held| ClaimedDevice {
                device: held.device.clone(),
                share_id: held.share_id.clone(),
            })
            .collect();
        assert_eq!(held, claimed);
        assert!(record.devices.iter().all(|held| gpus.contains(&&held.gpu)));
        assert_eq!(Record::decode(&record.encode()).unwrap(), record);
    });
}

/// A checkpoint of the reference driver that may be damaged, or something else altogether.
#[derive(Clone, Debug, TypeGenerator)]
enum CheckpointBytes {
    Any(Vec<u8>),
    Damaged(Vec<Checkpointed>, bool, Damage),
}

/// A claim in a checkpoint, by the minor number of its GPU.
#[derive(Clone, Debug, TypeGenerator)]
enum Checkpointed {
    Gpu(u8),
    Mig(u8, bool),
    Vfio(String),
    Begun(String),
    Odd { uid: String, state: String },
}

impl Checkpointed {
    fn entry(&self, name: &str) -> (String, Value) {
        let uid = format!("{name}-uid");
        match self {
            Self::Gpu(minor) => {
                let gpu = checkpoint::gpu(name, (*minor).into());
                (uid, checkpoint::completed(name, &[gpu]))
            }
            Self::Mig(minor, large) => {
                let profile = if *large { "3g.40gb" } else { "1g.10gb" };
                let mig = checkpoint::mig(name, (*minor).into(), profile);
                (uid, checkpoint::completed(name, &[mig]))
            }
            Self::Vfio(gpu) => (
                uid,
                checkpoint::completed(name, &[checkpoint::vfio(name, gpu)]),
            ),
            Self::Begun(device) => (uid, checkpoint::begun(name, &[device])),
            Self::Odd { uid, state } => (uid.clone(), json!({ "checkpointState": state })),
        }
    }
}

#[test]
fn a_checkpoint_of_the_reference_driver_is_refused_or_every_claim_in_it_is_accounted_for() {
    let (kind, boot) = (CdiKind::claim(), boot());
    let gpus = (0..8).map(|minor| cut(gpu(minor), &["1g.10gb"; 7]));
    let inventory = Inventory::new(driver("580"), gpus.collect()).unwrap();
    let successor = Successor {
        driver: "gpu.nvidia.com",
        kind: &kind,
        boot: &boot,
        inventory: Some(&inventory),
    };
    fuzz!(500, CheckpointBytes, |bytes| {
        let bytes = match bytes {
            CheckpointBytes::Any(bytes) => bytes.clone(),
            CheckpointBytes::Damaged(claims, old, damage) => {
                let claims = claims.iter().zip(0..);
                let claims: Map<String, Value> = claims
                    .map(|(claim, n): (_, u32)| claim.entry(&format!("claim{n}")))
                    .collect();
                let claims = Value::Object(claims);
                let file = if *old {
                    checkpoint::v1(&claims)
                } else {
                    checkpoint::v2("boot", &claims)
                };
                damage.of(file.to_string().into_bytes())
            }
        };
        let Ok(file) = Checkpoint::decode(&bytes) else {
            return;
        };
        let Takeover {
            claims,
            former_boot,
            ..
        } = successor.take_over(&file, &BTreeMap::new(), |_| false);
        assert_eq!(
            claims.len(),
            if former_boot { 0 } else { file.claims.len() }
        );
        for Taken { uid, fate } in claims {
            assert!(Fate::LABELS.contains(&fate.label()));
            if let Some(record) = fate.record() {
                assert_eq!(record.claim.uid.as_str(), uid);
                assert!(record.is_of(&kind));
                assert_eq!(Record::decode(&record.encode()).unwrap(), *record);
            }
        }
    });
}
