//! What is said of a node, read where each keeps it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

use k8s_openapi::api::resource::v1::ResourceClaim;
use serde::Deserialize;
use tessera_cluster::Node;
use tessera_hw::TimeSlice;

use super::{Claim, Claims, Device, Gpu, Instance, Record, Slices, Use, View, Views};
use crate::failure::Failure;
use crate::gpus::DRIVER;
use crate::kubernetes::{Kubernetes, Scope, name, uid};
use crate::leftovers;

const MIB: u64 = 1 << 20;

/// The views of each of these nodes.
pub(super) fn at(kubernetes: Kubernetes<'_>, nodes: &[Node]) -> Result<Vec<Views>, Failure> {
    let claims: Vec<ResourceClaim> = kubernetes.items(Scope::Cluster)?;
    let each = nodes.iter().map(|node| {
        Ok(Views {
            scheduler: allocated(&claims, node.name()),
            kubelet: checkpointed(node)?,
            plugin: records(node)?,
            specified: specified(node)?,
            hardware: hardware(node)?,
        })
    });
    each.collect()
}

/// The claims that are allocated GPUs of this node.
fn allocated(claims: &[ResourceClaim], node: &str) -> Claims {
    let of = |claim: &ResourceClaim| {
        let status = claim.status.as_ref()?;
        let devices = status.allocation.as_ref()?.devices.as_ref()?;
        let results = devices.results.iter().flatten();
        let ours = results.filter(|result| result.driver == DRIVER && result.pool == node);
        let devices: BTreeSet<_> = ours
            .map(|result| Device {
                name: result.device.clone(),
                share: result.share_id.clone(),
            })
            .collect();
        let namespace = claim.metadata.namespace.clone().unwrap_or_default();
        let name = format!("{namespace}/{}", name(claim));
        (!devices.is_empty()).then(|| (uid(claim), Claim { name, devices }))
    };
    claims.iter().filter_map(of).collect()
}

/// The kubelet's checkpoint, `dra_manager_state`: JSON within JSON, whose fields have the names of Go
/// (`pkg/kubelet/cm/dra/state/checkpoint.go`).
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Checkpoint {
    data: String,
}

#[derive(Deserialize)]
struct CheckpointData {
    /// It must be there: under another name it would be taken for empty.
    #[serde(
        rename = "ClaimInfoStateList",
        deserialize_with = "Option::deserialize"
    )]
    claims: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "ClaimUID")]
    claim_uid: String,
    #[serde(rename = "ClaimName")]
    claim_name: String,
    #[serde(rename = "Namespace")]
    namespace: String,
    #[serde(rename = "DriverState", default)]
    driver_state: Option<BTreeMap<String, DriverState>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DriverState {
    #[serde(default)]
    devices: Option<Vec<Prepared>>,
}

#[derive(Deserialize)]
struct Prepared {
    #[serde(rename = "PoolName")]
    pool: String,
    #[serde(rename = "DeviceName")]
    device: String,
    #[serde(rename = "ShareID", default)]
    share: Option<String>,
}

/// The claims with GPUs that the kubelet knows. One without a checkpoint knows none.
fn checkpointed(node: &Node) -> Result<Claims, Failure> {
    let path = node.kubelet_dir().join("dra_manager_state");
    let Some(text) = read(&path)? else {
        return Ok(Claims::new());
    };
    claims_of(&text, node.name()).map_err(|error| unreadable(&path, &error))
}

fn claims_of(checkpoint: &str, node: &str) -> Result<Claims, serde_json::Error> {
    let Checkpoint { data } = serde_json::from_str(checkpoint)?;
    let CheckpointData { claims } = serde_json::from_str(&data)?;
    let of = |entry: Entry| {
        let state = entry.driver_state.unwrap_or_default().remove(DRIVER)?;
        let devices = state.devices.unwrap_or_default().into_iter();
        let devices = devices.filter(|prepared| prepared.pool == node);
        let devices = devices.map(|prepared| Device {
            name: prepared.device,
            share: prepared.share,
        });
        let claim = Claim {
            name: format!("{}/{}", entry.namespace, entry.claim_name),
            devices: devices.collect(),
        };
        Some((entry.claim_uid, claim))
    };
    Ok(claims.into_iter().flatten().filter_map(of).collect())
}

/// A record's JSON, as far as it is compared.
#[derive(Deserialize)]
struct Written {
    claim: WrittenClaim,
    phase: String,
    devices: Vec<WrittenDevice>,
}

#[derive(Deserialize)]
struct WrittenClaim {
    namespace: String,
    name: String,
    uid: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenDevice {
    device: String,
    #[serde(default)]
    share_id: Option<String>,
    gpu: String,
    view: WrittenView,
    #[serde(default)]
    instance: Option<String>,
    #[serde(default)]
    time_slice: Option<WrittenSlice>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
enum WrittenView {
    Whole,
    Part(WrittenPart),
    Share(WrittenShare),
    Admin,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenPart {
    start: u32,
    size: u32,
    #[serde(default)]
    compute_instance: Option<u32>,
}

#[derive(Deserialize)]
struct WrittenShare {
    memory: u64,
    #[serde(default)]
    part: Option<WrittenPart>,
}

#[derive(Deserialize)]
enum WrittenSlice {
    Default,
    Short,
    Medium,
    Long,
}

impl From<WrittenPart> for Slices {
    fn from(part: WrittenPart) -> Self {
        Self {
            start: part.start,
            size: part.size,
            compute_instance: part.compute_instance,
        }
    }
}

impl From<WrittenDevice> for Use {
    fn from(written: WrittenDevice) -> Self {
        Self {
            device: Device {
                name: written.device,
                share: written.share_id,
            },
            gpu: written.gpu,
            view: match written.view {
                WrittenView::Whole => View::Whole,
                WrittenView::Part(part) => View::Part(part.into()),
                WrittenView::Share(WrittenShare { memory, part }) => {
                    View::Share(part.map(Slices::from), memory)
                }
                WrittenView::Admin => View::Admin,
            },
            instance: written.instance,
            time_slice: written.time_slice.map(|slice| match slice {
                WrittenSlice::Default => TimeSlice::Default,
                WrittenSlice::Short => TimeSlice::Short,
                WrittenSlice::Medium => TimeSlice::Medium,
                WrittenSlice::Long => TimeSlice::Long,
            }),
        }
    }
}

/// The plugin's records on a node. One that goes away meanwhile is not there.
pub(crate) fn records(node: &Node) -> Result<Vec<Record>, Failure> {
    let dir = leftovers::journal(node);
    let mut found = Vec::new();
    for file in leftovers::records(node)? {
        let path = dir.join(file);
        if let Some(text) = read(&path)? {
            // The first line is about the bytes of the rest.
            let body = text.split_once('\n').map_or("", |(_, body)| body);
            found.push(record_of(body).map_err(|error| unreadable(&path, &error))?);
        }
    }
    Ok(found)
}

fn record_of(body: &str) -> Result<Record, serde_json::Error> {
    let Written {
        claim,
        phase,
        devices,
    } = serde_json::from_str(body)?;
    Ok(Record {
        uid: claim.uid,
        name: format!("{}/{}", claim.namespace, claim.name),
        prepared: phase == "prepared",
        uses: devices.into_iter().map(Use::from).collect(),
    })
}

fn specified(node: &Node) -> Result<BTreeSet<String>, Failure> {
    let files = leftovers::specs(node)?;
    let uid = |file: &String| {
        let (_, rest) = file.split_once("-claim_")?;
        let (uid, _) = rest.rsplit_once('.')?;
        Some(uid.to_owned())
    };
    Ok(files.iter().filter_map(uid).collect())
}

/// The GPUs of a node. One without a driver has none that anybody could use.
fn hardware(node: &Node) -> Result<Vec<Gpu>, Failure> {
    if node.profile().is_none() {
        return Ok(Vec::new());
    }
    let looked = tessera_hw::install::change(&node.driver_root(), |node| {
        Ok::<_, tessera_hw::InstallError>(node.gpus.iter().map(gpu).collect())
    });
    looked
        .map_err(|error| Failure::wrong(format!("look at the driver of {}: {error}", node.name())))
}

fn gpu(gpu: &tessera_hw::Gpu) -> Gpu {
    let mig = &gpu.condition.mig;
    let table = gpu.facts.mig_table();
    let instance = |made: &tessera_hw::mig::Instance| {
        let profile = table.and_then(|table| table.profile(made.profile));
        Instance {
            start: made.start,
            memory: profile.map(|profile| profile.memory_mib * MIB),
        }
    };
    let instances = mig.instances.iter();
    Gpu {
        uuid: gpu.facts.uuid.clone(),
        memory: gpu.facts.memory_total_mib * MIB,
        mig: mig.enabled,
        instances: instances
            .map(|made| (made.uuid.clone(), instance(made)))
            .collect(),
        bare: mig.bare.len(),
        time_slice: gpu.condition.time_slice,
    }
}

fn read(path: &Path) -> Result<Option<String>, Failure> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(reason) => Err(Failure::File {
            path: path.to_owned(),
            reason,
        }),
    }
}

fn unreadable(path: &Path, error: &serde_json::Error) -> Failure {
    Failure::wrong(format!("read {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_of_the_kubelet_names_the_claims_and_what_was_prepared_for_them() {
        let data = r#"{"kind":"DRACheckpoint","apiVersion":"checkpoint.dra.kubelet.k8s.io/v1","ClaimInfoStateList":[
            {"ClaimUID":"u1","ClaimName":"a","Namespace":"ns","PodUIDs":{"p":{}},"DriverState":{"gpu.nvidia.com":
              {"Devices":[{"PoolName":"node0","DeviceName":"gpu-1","ShareID":"s","RequestNames":["r"],"CDIDeviceIDs":["x"]}]}}},
            {"ClaimUID":"u2","ClaimName":"b","Namespace":"ns","PodUIDs":null,"DriverState":{"gpu.nvidia.com":{"Devices":null}}},
            {"ClaimUID":"u3","ClaimName":"c","Namespace":"ns","PodUIDs":null,"DriverState":{"other.example.com":{"Devices":[]}}}]}"#;
        let checkpoint = serde_json::json!({"Data": data, "Checksum": 1}).to_string();
        let claims = claims_of(&checkpoint, "node0").unwrap();
        assert_eq!(claims.keys().collect::<Vec<_>>(), ["u1", "u2"]);
        let device = Device {
            name: "gpu-1".to_owned(),
            share: Some("s".to_owned()),
        };
        assert_eq!(claims["u1"].devices, BTreeSet::from([device]));
        assert!(claims["u2"].devices.is_empty());
        let holding = |data: &str| serde_json::json!({"Data": data, "Checksum": 1}).to_string();
        let empty = holding(r#"{"ClaimInfoStateList":null}"#);
        assert!(claims_of(&empty, "node0").unwrap().is_empty());
        let other = holding(r#"{"Entries":null}"#);
        assert!(claims_of(&other, "node0").is_err());
    }

    #[test]
    fn a_record_tells_what_each_device_is() {
        let body = r#"{"boot":"b","claim":{"namespace":"ns","name":"a","uid":"u"},"phase":"prepared","devices":[
            {"request":"r","pool":"p","device":"gpu-0","gpu":"GPU-0","view":"whole","cdiId":"x","timeSlice":"Long"},
            {"request":"r","pool":"p","device":"gpu-1-mig-1g10gb-19-4","gpu":"GPU-1","view":{"part":{"start":4,"size":1}},
             "instance":"MIG-1","cdiId":"x"},
            {"request":"r","pool":"p","device":"gpu-2","shareId":"s","gpu":"GPU-2",
             "view":{"share":{"memory":7,"computeShare":0,"shares":1}},"cdiId":"x"},
            {"request":"r","pool":"p","device":"gpu-3","gpu":"GPU-3","view":"admin","cdiId":"x"}],"effects":[]}"#;
        let record = record_of(body).unwrap();
        assert!(record.prepared);
        let views: Vec<_> = record.uses.iter().map(|used| used.view).collect();
        let part = Slices {
            start: 4,
            size: 1,
            compute_instance: None,
        };
        assert_eq!(
            views,
            [
                View::Whole,
                View::Part(part),
                View::Share(None, 7),
                View::Admin
            ]
        );
        assert_eq!(record.uses[0].time_slice, Some(TimeSlice::Long));
        assert_eq!(record.uses[1].instance.as_deref(), Some("MIG-1"));
    }
}
