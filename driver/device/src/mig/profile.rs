//! Profiles: the sizes that a GPU can be cut into, and their names.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::Bytes;

/// The driver speaks of memory in eighths of the GPU, also where there are four slices.
const EIGHTHS: u128 = 8;

/// A text that is no profile's name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "MIG profile {0:?} is not of the form 1g.10gb, 1c.3g.40gb or 1g.10gb+me (slices, gigabytes of \
     memory, and +me, +me.all, -me or +gfx where the profile has them)"
)]
pub struct ProfileError(String);

/// What a profile has beside others of its size (`NVML_GPU_INSTANCE_PROFILE_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Extras {
    /// Nothing: its own share of everything.
    None,
    /// `+me`: the media engines that only one instance of the GPU can have.
    Media,
    /// `+me.all`: all media engines of the GPU.
    AllMedia,
    /// `-me`: no media engine.
    NoMedia,
    /// `+gfx`: graphics.
    Graphics,
}

impl Extras {
    const ALL: [Self; 5] = [
        Self::AllMedia,
        Self::Media,
        Self::NoMedia,
        Self::Graphics,
        Self::None,
    ];

    /// How a profile's name ends.
    fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Media => "+me",
            Self::AllMedia => "+me.all",
            Self::NoMedia => "-me",
            Self::Graphics => "+gfx",
        }
    }
}

/// A size of MIG device, as `nvidia-smi` names it: `1g.10gb`, `1g.10gb+me`, `1c.3g.40gb`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MigProfile {
    /// Slices of the GPU instance: its `g`.
    pub slices: u8,
    /// Slices of the compute instance: the `c` of its name, which is left out where it has all that the
    /// GPU instance has.
    pub compute: u8,
    /// Memory in gigabytes, rounded as `nvidia-smi` does.
    pub gigabytes: u16,
    /// What it has beside others of its size.
    pub extras: Extras,
}

impl MigProfile {
    /// The profile of a GPU instance with this memory on a GPU with that memory.
    ///
    /// NVML does not say the gigabytes of the name. `nvidia-smi`, and go-nvlib for the reference
    /// driver, round the instance's memory up to eighths of the GPU's and take that share of the
    /// GPU's memory, which they round up to gigabytes first.
    pub fn of(slices: u8, compute: u8, memory: Bytes, whole: Bytes, extras: Extras) -> Self {
        let (part, whole) = (u128::from(memory.0), u128::from(whole.0));
        let eighths = (part * EIGHTHS).div_ceil(whole.max(1));
        let gigabytes = whole.div_ceil(1 << 30);
        let share = (2 * eighths * gigabytes + EIGHTHS) / (2 * EIGHTHS);
        Self {
            slices,
            compute,
            gigabytes: u16::try_from(share).unwrap_or(u16::MAX),
            extras,
        }
    }

    /// Whether the compute instance has all of the GPU instance, so that nothing else is in that.
    pub fn is_all_of_its_gpu_instance(self) -> bool {
        self.compute == self.slices
    }

    /// The name of the extended resource, as the device plugin spells it: `mig-1g.10gb.me`.
    pub fn resource(self) -> String {
        format!("mig-{self}").replace('+', ".")
    }

    /// How device names spell it: `1g10gb-me`.
    pub(crate) fn in_device_names(self) -> String {
        let name = self.to_string();
        let kept = name.chars().filter(|c| *c != '.');
        kept.map(|c| if c == '+' { '-' } else { c }).collect()
    }
}

impl fmt::Display for MigProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            slices,
            compute,
            gigabytes,
            extras,
        } = self;
        if !self.is_all_of_its_gpu_instance() {
            write!(f, "{compute}c.")?;
        }
        write!(f, "{slices}g.{gigabytes}gb{}", extras.suffix())
    }
}

impl FromStr for MigProfile {
    type Err = ProfileError;

    fn from_str(text: &str) -> Result<Self, ProfileError> {
        parse(text).ok_or_else(|| ProfileError(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<MigProfile> {
    let (size, extras) = Extras::ALL
        .into_iter()
        .find_map(|extras| Some((text.strip_suffix(extras.suffix())?, extras)))?;
    let (compute, size) = match size.split_once("c.") {
        Some((compute, size)) => (Some(number(compute)?), size),
        None => (None, size),
    };
    let (slices, gigabytes) = size.strip_suffix("gb")?.split_once("g.")?;
    let slices = number(slices)?;
    // The name of one that has all slices leaves them out.
    let compute = match compute {
        Some(compute) if compute == slices => return None,
        Some(compute) => compute,
        None => slices,
    };
    Some(MigProfile {
        slices,
        compute,
        gigabytes: number(gigabytes)?,
        extras,
    })
}

/// A number as it is displayed: digits, none of them a leading zero.
fn number<T: FromStr + fmt::Display>(text: &str) -> Option<T> {
    let number: T = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn profile(text: &str) -> MigProfile {
        text.parse().unwrap()
    }

    #[test]
    fn a_name_says_slices_memory_and_what_else_there_is() {
        for (text, slices, compute, gigabytes, extras) in [
            ("1g.10gb", 1, 1, 10, Extras::None),
            ("7g.141gb", 7, 7, 141, Extras::None),
            ("1g.5gb+me", 1, 1, 5, Extras::Media),
            ("1g.24gb+me.all", 1, 1, 24, Extras::AllMedia),
            ("2g.48gb-me", 2, 2, 48, Extras::NoMedia),
            ("4g.96gb+gfx", 4, 4, 96, Extras::Graphics),
            ("1c.3g.20gb", 3, 1, 20, Extras::None),
        ] {
            let wanted = MigProfile {
                slices,
                compute,
                gigabytes,
                extras,
            };
            assert_eq!(text.parse(), Ok(wanted));
            assert_eq!(wanted.to_string(), text);
        }
    }

    #[test]
    fn a_text_that_is_no_name_is_refused_with_the_text_in_the_message() {
        for bad in [
            "",
            "g.gb",
            "1g",
            "10gb",
            "1g10gb",
            "1g.10gb+",
            "1g.10gb+xx",
            "1g.10GB",
            "01g.10gb",
            "+1g.10gb",
            "3c.3g.20gb",
            "c.3g.20gb",
            "256g.10gb",
            "1g.65536gb",
            "MIG 1g.10gb",
        ] {
            let error = bad.parse::<MigProfile>().unwrap_err();
            assert!(error.to_string().contains(&format!("{bad:?}")), "{error}");
        }
    }

    #[test]
    fn resources_and_device_names_spell_a_profile_as_those_of_the_reference_do() {
        for (text, resource, device) in [
            ("1g.10gb", "mig-1g.10gb", "1g10gb"),
            ("1g.10gb+me", "mig-1g.10gb.me", "1g10gb-me"),
            ("1g.24gb-me", "mig-1g.24gb-me", "1g24gb-me"),
            ("1c.3g.20gb", "mig-1c.3g.20gb", "1c3g20gb"),
        ] {
            assert_eq!(profile(text).resource(), resource);
            assert_eq!(profile(text).in_device_names(), device);
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_is_read_is_written_the_same(text in "[0-9]{0,4}[cg]?\\.?[0-9]{0,3}g?\\.?[0-9]{0,5}(gb)?([-+]?(me|me\\.all|gfx)?)") {
            if let Ok(profile) = text.parse::<MigProfile>() {
                prop_assert_eq!(profile.to_string(), text);
            }
        }

        #[test]
        fn no_amount_of_memory_panics(memory: u64, whole: u64) {
            MigProfile::of(1, 1, Bytes(memory), Bytes(whole), Extras::None);
        }
    }
}
