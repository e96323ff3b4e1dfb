//! What scenarios need of Kubernetes that not every release serves by default, and which of them do.
//!
//! A scenario whose need is not served is no failure of the product and proves nothing: it does not run there, and
//! whoever reads the results is told why.

use std::fmt;

use tessera_cluster::Release;

/// Something that not every release serves as it is installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// `resource.k8s.io/v1`, the only version in which the controller speaks of claims.
    ResourceV1,
    /// `firstAvailable` of a request (KEP 4816).
    PrioritizedList,
    /// `adminAccess` of a request, for namespaces with the label (KEP 5018).
    AdminAccess,
    /// `distinctAttribute` of a claim, which came with consumable capacity (KEP 5075).
    DistinctAttribute,
    /// Limits that a device class serves by its `extendedResourceName` (KEP 5004).
    ExtendedResource,
    /// Counter sets that devices of other slices draw on (KEP 4815, in the form that it has since 1.35).
    SharedCounters,
    /// Devices that several claims have parts of (KEP 5075).
    ConsumableCapacity,
}

/// Since when something is there, by the minor number of the release.
#[derive(Debug, Clone, Copy)]
struct Since {
    /// The first release that has it, be it behind a feature gate that is off.
    there: u32,
    /// The first release that serves it as it is installed.
    on: u32,
}

impl Need {
    /// All of them.
    #[cfg(test)]
    const ALL: [Self; 7] = [
        Self::ResourceV1,
        Self::PrioritizedList,
        Self::AdminAccess,
        Self::DistinctAttribute,
        Self::ExtendedResource,
        Self::SharedCounters,
        Self::ConsumableCapacity,
    ];

    /// What is needed, with its feature gate where it has one.
    fn what(self) -> &'static str {
        match self {
            Self::ResourceV1 => "resource.k8s.io/v1 for compute domains",
            Self::PrioritizedList => "prioritized lists (DRAPrioritizedList)",
            Self::AdminAccess => "admin access (DRAAdminAccess)",
            Self::DistinctAttribute => "distinctAttribute (DRAConsumableCapacity)",
            Self::ExtendedResource => "extended resources by device classes (DRAExtendedResource)",
            Self::SharedCounters => "counters in slices of their own (DRAPartitionableDevices)",
            Self::ConsumableCapacity => "consumable capacity (DRAConsumableCapacity)",
        }
    }

    /// By `pkg/features/kube_features.go` of each release, and for the counters by the types of the API.
    fn since(self) -> Since {
        let (there, on) = match self {
            Self::ResourceV1 => (34, 34),
            Self::PrioritizedList => (33, 34),
            Self::AdminAccess => (32, 34),
            Self::DistinctAttribute | Self::ExtendedResource | Self::ConsumableCapacity => (34, 36),
            Self::SharedCounters => (35, 36),
        };
        Since { there, on }
    }

    /// Whether this release serves it as it is installed.
    fn is_served_by(self, release: Release) -> bool {
        release.minor() >= self.since().on
    }
}

/// Writes what is needed and since when it is there: `admin access (DRAAdminAccess), on by default since 1.34`.
impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Since { there, on } = self.since();
        write!(f, "{}, on by default since 1.{on}", self.what())?;
        if there == on {
            return Ok(());
        }
        write!(f, " and there since 1.{there}")
    }
}

/// Why a scenario cannot run on a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotServed {
    release: Release,
    needs: Vec<Need>,
}

impl NotServed {
    /// What of these needs the release does not serve, if there is something.
    pub(crate) fn of(needs: &[Need], release: Release) -> Option<Self> {
        let lacking = needs.iter().filter(|need| !need.is_served_by(release));
        let needs: Vec<_> = lacking.copied().collect();
        (!needs.is_empty()).then_some(Self { release, needs })
    }
}

/// Writes each need with how the release stands to it: `needs admin access (DRAAdminAccess), on by default since 1.34 and
/// off in 1.33`.
impl fmt::Display for NotServed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { release, needs } = self;
        for (index, need) in needs.iter().enumerate() {
            let Since { there, on } = need.since();
            let begin = if index == 0 { "needs" } else { "; and" };
            let here = if release.minor() < there {
                "absent"
            } else {
                "off"
            };
            let what = need.what();
            write!(
                f,
                "{begin} {what}, on by default since 1.{on} and {here} in {release}"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::list::SCENARIOS;

    #[test]
    fn each_release_serves_what_it_has_switched_on() {
        use Need::{
            AdminAccess, ConsumableCapacity, DistinctAttribute, ExtendedResource, PrioritizedList,
            ResourceV1, SharedCounters,
        };
        let later = [
            DistinctAttribute,
            ExtendedResource,
            SharedCounters,
            ConsumableCapacity,
        ];
        let all = [&[ResourceV1, PrioritizedList, AdminAccess], &later[..]].concat();
        for (release, lacking) in [
            (Release::V1_33, &all[..]),
            (Release::V1_34, &later),
            (Release::V1_36, &[]),
        ] {
            for need in Need::ALL {
                let served = NotServed::of(&[need], release).is_none();
                assert_eq!(served, !lacking.contains(&need), "{need:?} on {release}");
            }
        }
    }

    #[test]
    fn nothing_is_left_out_on_the_release_that_everything_is_tested_with() {
        for scenario in SCENARIOS {
            assert_eq!(scenario.not_served_by(Release::V1_36), None);
        }
    }

    #[test]
    fn a_scenario_without_needs_runs_on_every_release() {
        for release in Release::ALL {
            assert_eq!(NotServed::of(&[], release), None);
        }
    }

    #[test]
    fn the_reason_names_all_that_is_lacking_and_whether_a_gate_could_help() {
        let needs = [Need::AdminAccess, Need::ConsumableCapacity];
        for (release, reason) in [
            (
                Release::V1_34,
                Some(
                    "needs consumable capacity (DRAConsumableCapacity), on by default since 1.36 and off in 1.34",
                ),
            ),
            (
                Release::V1_33,
                Some(
                    "needs admin access (DRAAdminAccess), on by default since 1.34 and off in 1.33; \
                     and consumable capacity (DRAConsumableCapacity), on by default since 1.36 and absent in 1.33",
                ),
            ),
            (Release::V1_36, None),
        ] {
            let told = NotServed::of(&needs, release).map(|reason| reason.to_string());
            assert_eq!(told.as_deref(), reason);
        }
    }
}
