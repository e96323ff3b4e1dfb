//! A share of a device, and whether there is room for it beside those that are held.
//!
//! # Guarantees
//! The sums are those of [`Account`]: what is admitted and what is held are together never more than the
//! device has, whatever a scheduler has counted.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tessera_api::Interval;
use tessera_claim::{AllocatedDevice, ClaimRef};
use tessera_device::mig::Part;
use tessera_device::{Bytes, DeviceName, Gpu, GpuUuid};
use tessera_sharing::{
    Account, Capacity, ConsumableShares, Demand, Hold, Holder, Overdrawn, Part as Amounts, Tier,
    grant,
};

use crate::record::{View, part};
use crate::refusal::Refusal;
use crate::resolve::ResolvedDevice;

/// How the name of a share's variable begins, and the last of its fields, which only shares that may grow have.
const VARIABLE: &str = "TESSERA_SHARE_";
const CEILING: &str = ",memoryLimit=";

/// A share of a GPU, or of a MIG device of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// The MIG device that is shared. `None`: the whole GPU.
    pub of: Option<Part>,
    /// What the share takes of it.
    pub amounts: Amounts,
}

/// Somebody who has a GPU, or a share of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sharer<'l> {
    pub(crate) claim: &'l ClaimRef,
    pub(crate) device: &'l DeviceName,
    pub(crate) share_id: Option<&'l String>,
    pub(crate) view: View,
    pub(crate) time_slice: Option<Interval>,
}

/// Who is in the way of a share.
#[derive(Debug)]
pub(crate) struct NoRoom {
    pub(crate) overdrawn: Overdrawn,
    /// Those who have shares of the device, other claims only.
    pub(crate) held_by: Vec<(ClaimRef, DeviceName)>,
}

/// What a device can give away to shares.
fn capacity(device: &ResolvedDevice<'_>, sharing: ConsumableShares) -> Capacity {
    sharing.capacity(device.memory())
}

/// What an allocation takes of this device, if it is a share. What the scheduler does not say is
/// taken whole.
pub(crate) fn amounts(allocated: &AllocatedDevice, memory: Bytes) -> Option<Amounts> {
    allocated.share_id.as_ref()?;
    let all = ConsumableShares::Disabled.capacity(memory);
    Some(Amounts::of(&allocated.consumed, &all))
}

/// Fails if the last of `wanted`, all of one claim, is a share for which there is no room beside the
/// others and beside those that other claims have of its GPU.
pub(crate) fn find_room<'l>(
    claim: &ClaimRef,
    wanted: &[ResolvedDevice<'_>],
    held: impl Iterator<Item = Sharer<'l>>,
    sharing: ConsumableShares,
) -> Result<(), NoRoom> {
    let Some((device, before)) = wanted.split_last() else {
        return Ok(());
    };
    let View::Share(Share { of, amounts }) = device.view() else {
        return Ok(());
    };
    let beside = |view: View| match view {
        View::Share(other) if other.of == of => Some(Hold::Part(other.amounts)),
        View::Share(_) | View::Whole | View::Part(_) | View::Admin => None,
    };
    let others: Vec<(Sharer<'l>, Hold)> = held
        .filter(|sharer| sharer.claim.uid != claim.uid)
        .filter_map(|sharer| Some((sharer, beside(sharer.view)?)))
        .collect();
    let own = before.iter().filter(|other| is_of(other, device.gpu));
    let own = own.filter_map(|other| {
        let share = other.allocated.share_id.as_ref();
        Some((holder(claim, share), beside(other.view())?))
    });
    let theirs = others
        .iter()
        .map(|(sharer, hold)| (holder(sharer.claim, sharer.share_id), *hold));
    let mut account = Account::held(capacity(device, sharing), theirs.chain(own));
    let wanted_by = holder(claim, device.allocated.share_id.as_ref());
    let admitted = account.admit(wanted_by, Hold::Part(amounts));
    admitted.map_err(|overdrawn| {
        let mut held_by: Vec<_> = others
            .iter()
            .map(|(sharer, _)| (sharer.claim.clone(), sharer.device.clone()))
            .collect();
        held_by.dedup();
        NoRoom { overdrawn, held_by }
    })
}

fn is_of(device: &ResolvedDevice<'_>, gpu: &Gpu) -> bool {
    device.gpu.uuid == gpu.uuid
}

fn holder(claim: &ClaimRef, share: Option<&String>) -> Holder {
    Holder {
        claim: claim.clone(),
        share: share.cloned(),
    }
}

/// Fails if a share must be held to something that its device has nothing for.
///
/// Whoever has a device alone has a share of all its memory. Whether claims agree on the settings of the
/// device as a whole is the ledger's question.
pub fn refuse_unheld(
    claim: &ClaimRef,
    devices: &[ResolvedDevice<'_>],
    sharing: ConsumableShares,
) -> Result<(), Refusal> {
    for device in devices {
        let Some(config) = &device.allocated.share_configuration else {
            continue;
        };
        let all = device.memory();
        let demand = Demand {
            config,
            guarantee: match device.view() {
                View::Share(share) => share.amounts.memory,
                View::Whole | View::Part(_) | View::Admin => all,
            },
            device: all,
        };
        grant(&demand, &device.mechanisms(sharing)).map_err(|refusal| Refusal::ShareNotHeld {
            claim: claim.clone(),
            device: device.allocated.device.clone(),
            gpu: device.gpu.uuid.clone(),
            refusal,
        })?;
    }
    Ok(())
}

/// How the containers of a share are held to its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    /// They are not.
    Not,
    /// To what was counted.
    At,
    /// To what was counted, and up to this much where there is room.
    UpTo(Bytes),
}

impl Held {
    pub(crate) fn of(limit: Option<Bytes>, ceiling: Option<Bytes>) -> Self {
        match (limit, ceiling) {
            (None, _) => Self::Not,
            (Some(_), None) => Self::At,
            (Some(_), Some(ceiling)) => Self::UpTo(ceiling),
        }
    }
}

/// What a container is told of its share, in its environment: for whoever holds it to that, and for
/// programs that want to know.
///
/// The name is one of its own for each share, because a container can have several, of one GPU too.
pub(crate) fn variable(
    share_id: &str,
    device: &DeviceName,
    gpu: &GpuUuid,
    share: Share,
    held: Held,
) -> String {
    let tier = match held {
        Held::Not => Tier::None,
        Held::At | Held::UpTo(_) => Tier::Native,
    };
    let name: String = share_id
        .chars()
        .map(|c| match c {
            c if c.is_ascii_alphanumeric() => c.to_ascii_uppercase(),
            _ => '_',
        })
        .collect();
    let Amounts {
        memory: Bytes(memory),
        compute_share,
        shares,
    } = share.amounts;
    let mut variable = format!(
        "{VARIABLE}{name}=device={device},gpu={gpu},memory={memory},computeShare={compute_share},\
         shares={shares},memoryEnforcement={tier}"
    );
    if let Held::UpTo(Bytes(ceiling)) = held {
        variable.push_str(CEILING);
        variable.push_str(&ceiling.to_string());
    }
    variable
}

/// How far a share may grow, as [`variable`] tells it.
pub(crate) fn ceiling_told(variable: &str) -> Option<Bytes> {
    let (_, ceiling) = variable.strip_prefix(VARIABLE)?.rsplit_once(CEILING)?;
    ceiling.parse().ok().map(Bytes)
}

/// As it stands in a record.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    /// Bytes.
    memory: u64,
    /// Percent.
    compute_share: u64,
    shares: u64,
    #[serde(
        default,
        with = "optional_part",
        skip_serializing_if = "Option::is_none"
    )]
    part: Option<Part>,
}

impl Serialize for Share {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let Amounts {
            memory: Bytes(memory),
            compute_share,
            shares,
        } = self.amounts;
        let written = Written {
            memory,
            compute_share,
            shares,
            part: self.of,
        };
        written.serialize(s)
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let Written {
            memory,
            compute_share,
            shares,
            part,
        } = Written::deserialize(d)?;
        Ok(Self {
            of: part,
            amounts: Amounts {
                memory: Bytes(memory),
                compute_share,
                shares,
            },
        })
    }
}

mod optional_part {
    use super::{Deserialize, Deserializer, Part, Serialize, Serializer, part};

    #[derive(Serialize, Deserialize)]
    struct Wrapped(#[serde(with = "part")] Part);

    #[expect(
        clippy::ref_option,
        clippy::trivially_copy_pass_by_ref,
        reason = "serde passes the field"
    )]
    pub(super) fn serialize<S: Serializer>(part: &Option<Part>, s: S) -> Result<S::Ok, S::Error> {
        part.map(Wrapped).serialize(s)
    }

    pub(super) fn deserialize<'de, D>(d: D) -> Result<Option<Part>, D::Error>
    where
        D: Deserializer<'de>,
    {
        let wrapped = Option::<Wrapped>::deserialize(d)?;
        Ok(wrapped.map(|Wrapped(part)| part))
    }
}
