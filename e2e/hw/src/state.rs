//! What a simulated node is and what is happening to it.
//!
//! [`Node`] is the whole truth about the GPUs of one node; [`StateFile`] is where the processes of
//! that node share it. The functions here are total: they change a value, never a file.

mod file;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use self::file::{StateError, StateFile, Watch};
use crate::{
    fabric::{Fabric, FabricChange, FabricHealth, FabricState},
    facts::{Driver, Facts},
    injection::{Effect, Injection},
    memory::{Accounting, Cgroup},
    mig::Mig,
    policy::{ComputeMode, TimeSlice},
};

/// Everything about the GPUs of one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// The node's name.
    pub name: String,
    /// The profile that it was made from.
    pub profile: String,
    /// The installed driver.
    pub driver: Driver,
    /// Who keeps count of the memory of cgroups.
    #[serde(default)]
    pub memory_accounting: Accounting,
    /// The GPUs in the order of their PCI addresses, which is NVML's order.
    pub gpus: Vec<Gpu>,
    /// Injections in force.
    pub injections: Vec<Injection>,
    /// How many injections there have ever been, so that each has a number of its own.
    #[serde(default)]
    pub injected: u64,
}

/// One GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gpu {
    /// What does not change.
    pub facts: Facts,
    /// What does.
    pub condition: Condition,
    /// Its part of an NVLink fabric, if it has one.
    #[serde(default)]
    pub fabric: Option<Fabric>,
}

/// Whether the GPU answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    /// It does.
    Present,
    /// It has fallen off the bus: it is still listed, and every question about it fails.
    Lost,
    /// It is being reset: whoever initialises the library now does not see it, and handles that
    /// were taken before are worth nothing.
    Resetting,
}

/// How a GPU is right now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// Whether it answers.
    pub presence: Presence,
    /// Memory that programs use, in MiB, without what the driver reserves and what cgroups are charged for.
    pub memory_used_mib: u64,
    /// The cgroups that have limits or memory.
    #[serde(default)]
    pub cgroups: Vec<Cgroup>,
    /// Temperature in degrees Celsius.
    pub temperature: u32,
    /// Power draw in watts.
    pub power_watts: u32,
    /// How busy its multiprocessors are, in percent.
    pub gpu_utilization: u32,
    /// How busy its memory is, in percent.
    pub memory_utilization: u32,
    /// Volatile uncorrectable ECC errors.
    pub uncorrectable_errors: u64,
    /// Volatile correctable ECC errors.
    pub correctable_errors: u64,
    /// Whether another client holds it open, as monitoring does.
    #[serde(default)]
    pub held: bool,
    /// How long its programs' turns are.
    #[serde(default)]
    pub time_slice: TimeSlice,
    /// How many programs may use it.
    #[serde(default)]
    pub compute_mode: ComputeMode,
    /// How it is cut.
    pub mig: Mig,
}

impl Condition {
    /// The condition of a healthy GPU that nobody uses and that is not cut.
    pub fn idle(facts: &Facts) -> Self {
        Self {
            presence: Presence::Present,
            memory_used_mib: 0,
            cgroups: Vec::new(),
            temperature: facts.idle_temperature,
            power_watts: facts.idle_power_watts,
            gpu_utilization: 0,
            memory_utilization: 0,
            uncorrectable_errors: 0,
            correctable_errors: 0,
            held: false,
            time_slice: TimeSlice::Default,
            compute_mode: ComputeMode::Default,
            mig: Mig::default(),
        }
    }
}

/// What a reset makes of a fabric: its members stay, and whatever was wrong is not.
const HEALED: FabricChange = FabricChange {
    cluster_uuid: None,
    clique_id: None,
    state: Some(FabricState::Completed),
    status: Some(0),
    health: Some(FabricHealth::Healthy),
};

impl Node {
    /// Finds a GPU by its minor number, its UUID or its PCI address.
    pub fn gpu_mut(&mut self, name: &str) -> Option<&mut Gpu> {
        self.gpus.iter_mut().find(|gpu| {
            let Facts {
                minor, uuid, pci, ..
            } = &gpu.facts;
            name.parse() == Ok(*minor) || uuid == name || name.parse().as_ref() == Ok(pci)
        })
    }

    /// Sets an injection and returns the number that it is given.
    pub fn inject(&mut self, injection: Injection) -> u64 {
        self.injected += 1;
        let id = self.injected;
        self.injections.push(Injection { id, ..injection });
        id
    }

    /// True if a call of `function` has to be counted for all processes together.
    pub fn watches(&self, function: &str) -> bool {
        self.injections
            .iter()
            .any(|injection| injection.process.is_none() && injection.concerns(function))
    }

    /// Counts a call of `function` for all processes together and returns what happens to it and by
    /// which injection, in the order in which the injections were set. Injections that have done
    /// their work disappear.
    pub fn observe(&mut self, function: &str) -> Vec<(u64, Effect)> {
        let effects = self
            .injections
            .iter_mut()
            .filter(|injection| injection.process.is_none() && injection.concerns(function))
            .filter_map(|injection| Some((injection.id, injection.observe()?)))
            .collect();
        self.injections.retain(|injection| !injection.is_spent());
        effects
    }

    /// The injections that each process of `program` counts for itself and that a call of
    /// `function` concerns.
    pub fn each_in<'a>(
        &'a self,
        program: &'a str,
        function: &'a str,
    ) -> impl Iterator<Item = &'a Injection> {
        self.injections.iter().filter(move |injection| {
            injection.process.as_deref() == Some(program) && injection.concerns(function)
        })
    }

    /// Makes every GPU healthy, idle and whole, and takes all injections away.
    pub fn reset(&mut self) {
        self.injections.clear();
        for gpu in &mut self.gpus {
            let created = gpu.condition.mig.created;
            gpu.condition = Condition::idle(&gpu.facts);
            gpu.condition.mig.created = created;
            gpu.fabric
                .iter_mut()
                .for_each(|fabric| HEALED.apply(fabric));
        }
    }
}
