//! Names in the Container Device Interface: kinds, devices and files.

use std::fmt;
use std::str::FromStr;

use serde_json::Value;
use tessera_claim::ClaimUid;
use tessera_device::DeviceName;
use thiserror::Error;

/// The kind of a claim's devices, as the reference driver names it.
pub const CLAIM_KIND: &str = "k8s.gpu.nvidia.com/claim";

/// A text that is not the kind of a CDI device.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "CDI kind {0:?} is not of the form vendor/class: each starts with a letter and ends with a \
     letter or digit; between them '-' and '_', in the vendor '.' too"
)]
pub struct KindError(String);

/// A kind of CDI devices: `vendor/class`.
///
/// The class has no dots, although CDI 0.6.0 allows them: a spec with such a class would not load
/// in older runtimes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CdiKind {
    vendor: String,
    class: String,
}

impl CdiKind {
    /// The kind of this driver's claims, [`CLAIM_KIND`].
    pub fn claim() -> Self {
        CLAIM_KIND
            .parse()
            .expect("the constant is a kind, as its test shows")
    }
}

impl FromStr for CdiKind {
    type Err = KindError;

    fn from_str(text: &str) -> Result<Self, KindError> {
        text.split_once('/')
            .filter(|(vendor, class)| is_name(vendor, b"-_.") && is_name(class, b"-_"))
            .map(|(vendor, class)| Self {
                vendor: vendor.to_owned(),
                class: class.to_owned(),
            })
            .ok_or_else(|| KindError(text.to_owned()))
    }
}

fn is_name(text: &str, punctuation: &[u8]) -> bool {
    let starts_well = text.starts_with(|c: char| c.is_ascii_alphabetic());
    let ends_well = text.ends_with(|c: char| c.is_ascii_alphanumeric());
    let middle = |b: u8| b.is_ascii_alphanumeric() || punctuation.contains(&b);
    starts_well && ends_well && text.bytes().all(middle)
}

impl fmt::Display for CdiKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.vendor, self.class)
    }
}

/// The name of a claim's device within its spec.
///
/// It holds the claim's UID, because CDI device names are global on a node and two claims may hold
/// shares of one GPU; and which share it is, because one claim may. No device's name has a '_'.
pub fn device_name(claim: &ClaimUid, device: &DeviceName, share_id: Option<&str>) -> String {
    match share_id {
        None => format!("{claim}-{device}"),
        Some(share) => format!("{claim}-{device}_{share}"),
    }
}

/// A device of a claim, as its spec names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimedDevice {
    /// The device.
    pub device: DeviceName,
    /// Which share of it.
    pub share_id: Option<String>,
}

impl ClaimedDevice {
    fn read(name: &str, claim: &ClaimUid) -> Option<Self> {
        let name = name.strip_prefix(claim.as_str())?.strip_prefix('-')?;
        let (device, share) = match name.split_once('_') {
            None => (name, None),
            Some((device, share)) => (device, Some(share)),
        };
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if share.is_some_and(|share| share.is_empty() || !share.bytes().all(is_word)) {
            return None;
        }
        Some(Self {
            device: device.parse().ok()?,
            share_id: share.map(str::to_owned),
        })
    }
}

/// The devices of a claim, as the spec that was written for it names them: at least one, or `None`
/// if these bytes are no spec of this claim.
pub fn claimed_devices(spec: &[u8], claim: &ClaimUid) -> Option<Vec<ClaimedDevice>> {
    let device = |name: &str| ClaimedDevice::read(name, claim);
    let names: Vec<ClaimedDevice> = if let Ok(spec) = serde_json::from_slice::<Value>(spec) {
        let devices = spec.get("devices")?.as_array()?.iter();
        let name = |entry: &Value| device(entry.get("name")?.as_str()?);
        devices.map(name).collect::<Option<_>>()?
    } else {
        let named = names_in_yaml(std::str::from_utf8(spec).ok()?);
        let ours = named.filter(|name| name.starts_with(claim.as_str()));
        ours.map(device).collect::<Option<_>>()?
    };
    (!names.is_empty()).then_some(names)
}

/// The values of all fields `name` in a YAML document as Go's library writes it: one field a line, in
/// block style, a text in quotes only where it could be taken for something else. More is not needed
/// of the format, which is why no reader of it is here.
fn names_in_yaml(document: &str) -> impl Iterator<Item = &str> {
    document.lines().filter_map(|line| {
        let field = line.trim_start_matches([' ', '-']);
        let value = field.strip_prefix("name:")?.trim();
        Some(value.trim_matches(['"', '\'']))
    })
}

/// The claim whose spec a file of this name is, if it is one.
pub fn claim_of_file(kind: &CdiKind, file: &str) -> Option<ClaimUid> {
    let stem = |ending: &str| file.strip_suffix(ending);
    let name = stem(".json").or_else(|| stem(".yaml"))?;
    let CdiKind { vendor, class } = kind;
    let claim = name.strip_prefix(&format!("{vendor}-{class}_"))?;
    claim.parse().ok()
}

/// The fully qualified name of a claim's device: what the kubelet hands to the container runtime.
pub fn device_id(
    kind: &CdiKind,
    claim: &ClaimUid,
    device: &DeviceName,
    share_id: Option<&str>,
) -> String {
    format!("{kind}={}", device_name(claim, device, share_id))
}

/// The name of the file that holds a claim's spec, within the CDI directory.
pub fn file_name(kind: &CdiKind, claim: &ClaimUid) -> String {
    let CdiKind { vendor, class } = kind;
    format!("{vendor}-{class}_{claim}.json")
}

/// The name under which the reference driver wrote the spec of a claim that it prepared.
pub fn reference_file_name(kind: &CdiKind, claim: &ClaimUid) -> String {
    let CdiKind { vendor, class } = kind;
    format!("{vendor}-{class}_{claim}.yaml")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claim() -> ClaimUid {
        "0f2d6a3e-9a55-4f0c-8c8e-0a9be8a1c001".parse().unwrap()
    }

    #[test]
    fn names_are_those_of_the_reference_driver() {
        let kind = CdiKind::claim();
        assert_eq!(
            device_id(&kind, &claim(), &DeviceName::whole_gpu(3), None),
            "k8s.gpu.nvidia.com/claim=0f2d6a3e-9a55-4f0c-8c8e-0a9be8a1c001-gpu-3"
        );
        assert_eq!(
            file_name(&kind, &claim()),
            "k8s.gpu.nvidia.com-claim_0f2d6a3e-9a55-4f0c-8c8e-0a9be8a1c001.json"
        );
        assert_eq!(
            reference_file_name(&kind, &claim()),
            "k8s.gpu.nvidia.com-claim_0f2d6a3e-9a55-4f0c-8c8e-0a9be8a1c001.yaml"
        );
    }

    #[test]
    fn a_spec_names_its_devices_in_json_and_as_the_reference_driver_writes_it() {
        let claim = claim();
        let yaml = |names: &[&str]| {
            let device = |name: &&str| {
                format!(
                    "- containerEdits:\n    deviceNodes:\n    - path: /dev/nvidia0\n  name: {name}\n"
                )
            };
            let devices: String = names.iter().map(device).collect();
            format!(
                "cdiVersion: 0.5.0\ncontainerEdits:\n  env:\n  - NVIDIA_VISIBLE_DEVICES=void\n\
                 devices:\n{devices}kind: k8s.gpu.nvidia.com/claim\n"
            )
        };
        let (first, second) = (format!("{claim}-gpu-0"), format!("\"{claim}-gpu-3\""));
        let found = claimed_devices(yaml(&[&first, &second]).as_bytes(), &claim).unwrap();
        let whole = |minor| ClaimedDevice {
            device: DeviceName::whole_gpu(minor),
            share_id: None,
        };
        assert_eq!(found, [whole(0), whole(3)]);
        for none in [
            yaml(&[]),
            yaml(&["other-gpu-0"]),
            yaml(&[&format!("{claim}-Gpu")]),
        ] {
            assert_eq!(claimed_devices(none.as_bytes(), &claim), None, "{none}");
        }
        assert_eq!(claimed_devices(b"\xff", &claim), None);
    }

    #[test]
    fn a_share_is_told_apart_from_others_of_its_device_and_found_again() {
        let (claim, gpu) = (claim(), DeviceName::whole_gpu(1));
        let found = |names: &[String]| {
            let devices: Vec<_> = names.iter().map(|name| json!({"name": name})).collect();
            claimed_devices(json!({"devices": devices}).to_string().as_bytes(), &claim)
        };
        let name = |share| device_name(&claim, &gpu, share);
        let share = |id: Option<&str>| ClaimedDevice {
            device: gpu.clone(),
            share_id: id.map(str::to_owned),
        };
        let names = [name(None), name(Some("s-1")), name(Some("s-2"))];
        let expected = [None, Some("s-1"), Some("s-2")].map(share);
        assert_eq!(found(&names).unwrap(), expected);
        for bad in ["", "a_b", "a/b", "a,b"] {
            assert_eq!(found(&[name(Some(bad))]), None, "{bad:?}");
        }
    }

    #[test]
    fn a_text_that_no_runtime_would_load_is_no_kind() {
        for good in ["a/b", "vendor.com/net", "k8s.gpu.nvidia.com/claim_v1"] {
            assert_eq!(good.parse::<CdiKind>().unwrap().to_string(), good);
        }
        for bad in [
            "", "/", "a", "a/", "/b", "1a/b", "a./b", "a/b-", "a/b.c", "a/b/c", "a b/c", "a/../c",
        ] {
            assert!(bad.parse::<CdiKind>().is_err(), "{bad:?}");
        }
    }
}
