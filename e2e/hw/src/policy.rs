//! How a GPU is shared among the programs that use it: what `nvidia-smi` sets with `-c` and with
//! `compute-policy`.
//!
//! A reset and a boot take both back: of the compute mode `nvml.h` says so
//! (`nvmlDeviceSetComputeMode`), of the time slice it is what users of the program report.

use serde::{Deserialize, Serialize};

use crate::{
    mig::Refusal,
    state::{Condition, Gpu, Node, Presence},
};

/// How long a program keeps the GPU while another waits for it: `nvidia-smi compute-policy -h` has
/// these names and numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeSlice {
    /// As the driver does by itself.
    #[default]
    Default,
    /// Short.
    Short,
    /// Medium.
    Medium,
    /// Long.
    Long,
}

impl TimeSlice {
    /// All of them; each stands at the place of its number.
    pub const ALL: [Self; 4] = [Self::Default, Self::Short, Self::Medium, Self::Long];

    /// The name that `nvidia-smi` prints.
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "DEFAULT",
            Self::Short => "SHORT",
            Self::Medium => "MEDIUM",
            Self::Long => "LONG",
        }
    }

    /// That of this number.
    pub fn of_number(number: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }

    /// Its number.
    pub fn number(self) -> u32 {
        match self {
            Self::Default => 0,
            Self::Short => 1,
            Self::Medium => 2,
            Self::Long => 3,
        }
    }
}

/// How many programs may use the GPU (`nvmlComputeMode_t`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ComputeMode {
    /// Any number.
    #[default]
    Default,
    /// None.
    Prohibited,
    /// One.
    ExclusiveProcess,
}

impl ComputeMode {
    /// The name that `nvidia-smi` prints and takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "DEFAULT",
            Self::Prohibited => "PROHIBITED",
            Self::ExclusiveProcess => "EXCLUSIVE_PROCESS",
        }
    }

    /// That of this number in `nvml.h`, where 1 is a mode that drivers do not have any more.
    pub fn of_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Default),
            2 => Some(Self::Prohibited),
            3 => Some(Self::ExclusiveProcess),
            _ => None,
        }
    }

    /// Its number in `nvml.h`.
    pub fn number(self) -> u32 {
        match self {
            Self::Default => 0,
            Self::Prohibited => 2,
            Self::ExclusiveProcess => 3,
        }
    }
}

/// A setting of one GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// `nvidia-smi compute-policy --set-timeslice`.
    TimeSlice(TimeSlice),
    /// `nvmlDeviceSetComputeMode`, `nvidia-smi -c`.
    ComputeMode(ComputeMode),
}

impl Node {
    /// Sets something of the GPU with this UUID.
    pub fn set_policy(&mut self, gpu: &str, policy: Policy) -> Result<(), Refusal> {
        let mut gpus = self.gpus.iter_mut();
        let found = gpus.find(|other| other.facts.uuid == gpu);
        found.ok_or(Refusal::InvalidArgument)?.set_policy(policy)
    }
}

impl Gpu {
    /// Sets something of the GPU. A GPU in MIG mode is taken to have no time slice of its own: its
    /// instances have their own engines.
    pub fn set_policy(&mut self, policy: Policy) -> Result<(), Refusal> {
        if self.condition.presence != Presence::Present {
            return Err(Refusal::GpuIsLost);
        }
        match policy {
            Policy::TimeSlice(_) if self.condition.mig.enabled => Err(Refusal::NotSupported),
            Policy::TimeSlice(slice) => {
                self.condition.time_slice = slice;
                Ok(())
            }
            Policy::ComputeMode(mode) => {
                self.condition.compute_mode = mode;
                Ok(())
            }
        }
    }
}

impl Condition {
    /// What a reset makes of the settings.
    pub(crate) fn forget_policies(&mut self) {
        self.time_slice = TimeSlice::Default;
        self.compute_mode = ComputeMode::Default;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Profile;

    fn node() -> Node {
        Profile::load("h100").unwrap().instantiate("node-1")
    }

    #[test]
    fn numbers_and_names_are_those_of_the_real_program() {
        for (number, name) in [(0, "DEFAULT"), (1, "SHORT"), (2, "MEDIUM"), (3, "LONG")] {
            let slice = TimeSlice::of_number(number).unwrap();
            assert_eq!((slice.name(), slice.number()), (name, number));
        }
        assert_eq!(TimeSlice::of_number(4), None);
        for number in [0, 2, 3] {
            assert_eq!(ComputeMode::of_number(number).unwrap().number(), number);
        }
        assert_eq!(ComputeMode::of_number(1), None);
    }

    #[test]
    fn settings_last_until_a_reset_and_a_gpu_in_mig_mode_has_no_time_slice() {
        let mut node = node();
        let gpu = &mut node.gpus[0];
        gpu.set_policy(Policy::TimeSlice(TimeSlice::Long)).unwrap();
        gpu.set_policy(Policy::ComputeMode(ComputeMode::ExclusiveProcess))
            .unwrap();
        assert_eq!(gpu.condition.time_slice, TimeSlice::Long);
        assert_eq!(gpu.condition.compute_mode, ComputeMode::ExclusiveProcess);
        gpu.end_reset();
        assert_eq!(gpu.condition.time_slice, TimeSlice::Default);
        assert_eq!(gpu.condition.compute_mode, ComputeMode::Default);
        gpu.condition.mig.enabled = true;
        let refused = gpu.set_policy(Policy::TimeSlice(TimeSlice::Short));
        assert_eq!(refused, Err(Refusal::NotSupported));
        gpu.condition.presence = Presence::Lost;
        let refused = gpu.set_policy(Policy::ComputeMode(ComputeMode::Default));
        assert_eq!(refused, Err(Refusal::GpuIsLost));
    }
}
