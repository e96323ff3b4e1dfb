//! The commands about MIG: what they take, what they do, and how it is shown how a GPU is cut.

use std::{fmt::Write as _, iter, num::ParseIntError, str::FromStr};

use anyhow::{Result, bail};
use clap::Args;
use tessera_hw::{Facts, Gpu, LayoutError, Node, mig::Mig};

use super::gpu;

/// What another client holds.
#[derive(Debug, Args)]
pub(super) struct Held {
    /// Which GPU.
    gpu: String,
    /// The number of a GPU instance of it. The GPU itself if none is named.
    #[arg(long, value_name = "NUMBER")]
    gpu_instance: Option<u32>,
}

/// So many instances of a profile.
#[derive(Clone, Debug)]
pub(super) struct Share {
    profile: String,
    count: usize,
}

impl FromStr for Share {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        let (profile, count) = match text.split_once(':') {
            Some((profile, count)) => (profile, count.parse()?),
            None => (text, 1),
        };
        Ok(Self {
            profile: profile.to_owned(),
            count,
        })
    }
}

/// Cuts a GPU into so many instances of each profile.
pub(super) fn cut(gpu: &mut Gpu, shares: &[Share]) -> Result<(), LayoutError> {
    let each = |share: &'_ Share| iter::repeat_n(share.profile.clone(), share.count);
    let profiles: Vec<_> = shares.iter().flat_map(each).collect();
    let profiles: Vec<_> = profiles.iter().map(String::as_str).collect();
    gpu.cut(&profiles)
}

pub(super) fn hold(node: &mut Node, held: &Held, is_held: bool) -> Result<()> {
    let condition = &mut gpu(node, &held.gpu)?.condition;
    let Some(number) = held.gpu_instance else {
        condition.held = is_held;
        return Ok(());
    };
    if !is_held {
        condition.mig.held.remove(&number);
        return Ok(());
    }
    let parts = condition.mig.parts();
    if parts.iter().all(|part| part.number != number) {
        let there = parts.iter().map(|part| part.number.to_string());
        let there = there.collect::<Vec<_>>().join(", ");
        bail!(
            "GPU {} has no GPU instance {number}: it has {there:?}",
            held.gpu
        );
    }
    condition.mig.held.insert(number);
    Ok(())
}

pub(super) fn describe(text: &mut String, facts: &Facts, mig: &Mig) {
    let Some(table) = facts.mig_table() else {
        return;
    };
    if mig.pending != mig.enabled {
        let mode = if mig.pending { "on" } else { "off" };
        let _ = writeln!(text, "      MIG mode is to be {mode} after a reset");
    }
    if mig.enabled && mig.parts().is_empty() {
        let _ = writeln!(text, "      MIG mode is on, without an instance");
    }
    for instance in &mig.instances {
        let profile = table.profile(instance.profile);
        let name = profile.map_or_else(String::new, |profile| instance.name(profile));
        let size = profile.map_or(0, |profile| profile.size);
        let _ = writeln!(
            text,
            "      {name:<11} {} at {}:{size}, GPU instance {}, compute instance {}",
            instance.uuid, instance.start, instance.gpu_instance, instance.compute_instance,
        );
    }
    for part in &mig.bare {
        let profile = table.profile(part.profile);
        let (name, size) = profile.map_or(("", 0), |profile| (profile.name.as_str(), profile.size));
        let _ = writeln!(
            text,
            "      {name:<11} at {}:{size}, GPU instance {}, without a compute instance",
            part.start, part.number,
        );
    }
    for number in &mig.held {
        let _ = writeln!(text, "      GPU instance {number} is held");
    }
}
