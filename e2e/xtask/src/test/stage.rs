//! What is tested, which of it is chosen, and what goes on beside what.

use clap::ValueEnum;

/// What is tested, in the order in which it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Stage {
    /// Every file is formatted.
    Format,
    /// The product's image is built, and the cluster's programs in the meantime.
    Image,
    /// No lint complains.
    Lints,
    /// Tests are built.
    Build,
    /// The product on a real cluster.
    Scenarios,
    /// Unit and property tests of all crates, and the chart, rendered by Helm.
    Unit,
    /// Of these only what Helm renders. Only when it is named.
    Manifests,
    /// The plugin as it is shipped, killed at every point of its work.
    Crashes,
    /// The product for aarch64, and the tests of its decisions, in an emulator. Only in long runs, or when it is named.
    Emulated,
}

impl Stage {
    /// Holds if it runs programs that the cluster has.
    pub(super) fn needs_programs(self) -> bool {
        match self {
            Self::Scenarios | Self::Unit | Self::Manifests => true,
            Self::Format
            | Self::Image
            | Self::Lints
            | Self::Build
            | Self::Crashes
            | Self::Emulated => false,
        }
    }

    /// Holds if the build of programs beside it does not matter to it, or it waits for their end itself.
    pub(super) fn bears_company(self) -> bool {
        match self {
            Self::Format | Self::Image | Self::Lints | Self::Build | Self::Scenarios => true,
            Self::Unit | Self::Manifests | Self::Crashes | Self::Emulated => false,
        }
    }

    /// Holds if it can do with what others leave of the processor: how soon it is done matters to none of its tests.
    fn bears_waiting(self) -> bool {
        matches!(self, Self::Lints | Self::Build | Self::Unit | Self::Crashes)
    }
}

/// Stages in the order in which they run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Order {
    /// One after the other.
    pub(super) alone: Vec<Stage>,
    /// One after the other beside the scenarios, which wait more than they work.
    pub(super) beside: Vec<Stage>,
}

impl Order {
    /// The order of the stages that were named, or of those that run if none was: in a `long` run some more.
    pub(super) fn of(named: &[Stage], long: bool) -> Self {
        let all = Stage::value_variants().iter().copied();
        let chosen = |stage: &Stage| {
            if !named.is_empty() {
                return named.contains(stage);
            }
            match stage {
                Stage::Manifests => false,
                Stage::Emulated => long,
                _ => true,
            }
        };
        let chosen: Vec<_> = all.filter(chosen).collect();
        let on_cluster = chosen.contains(&Stage::Scenarios);
        let goes_beside = |stage: &Stage| on_cluster && stage.bears_waiting();
        let (beside, alone) = chosen.into_iter().partition(goes_beside);
        Self { alone, beside }
    }

    /// Holds if a stage of it runs programs that the cluster has.
    pub(super) fn needs_programs(&self) -> bool {
        self.alone.iter().any(|stage| stage.needs_programs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_runs_unless_something_is_named_and_what_bears_waiting_goes_on_beside_the_scenarios()
     {
        use Stage::{Build, Crashes, Emulated, Format, Image, Lints, Manifests, Scenarios, Unit};
        let order = |alone: &[Stage], beside: &[Stage]| Order {
            alone: alone.to_vec(),
            beside: beside.to_vec(),
        };
        let beside = [Lints, Build, Unit, Crashes];
        let usual = [Format, Image, Scenarios];
        assert_eq!(Order::of(&[], false), order(&usual, &beside));
        let long = [Format, Image, Scenarios, Emulated];
        assert_eq!(Order::of(&[], true), order(&long, &beside));
        for named in Stage::value_variants() {
            assert_eq!(Order::of(&[*named], false), order(&[*named], &[]));
        }
        let without = [Unit, Build, Format, Lints, Manifests];
        let sorted = [Format, Lints, Build, Unit, Manifests];
        assert_eq!(Order::of(&without, false), order(&sorted, &[]));
    }

    #[test]
    fn programs_are_needed_by_what_runs_them() {
        assert!(Order::of(&[], false).needs_programs());
        assert!(Order::of(&[Stage::Manifests], false).needs_programs());
        let compiled = [Stage::Format, Stage::Lints, Stage::Crashes];
        assert!(!Order::of(&compiled, false).needs_programs());
    }
}
