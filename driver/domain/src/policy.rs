//! The policy of a domain: which one it is, and what it means to the planner.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use tessera_api::{
    CapacityType, CliquePolicy, ComputeDomain, ConfigError, DEFAULT_POLICY, DomainPolicySpec,
    POLICY_ANNOTATION, Replacement,
};
use tessera_gang::{Blocked, NodeCount, Policy};
use thiserror::Error;

use crate::decide::Rules;
use crate::facts::ObjectName;
use crate::place::NotPlaced;
use crate::world::World;

/// The policy of one gang, as the planner takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chosen {
    pub(crate) nodes: NodeCount,
    pub(crate) policy: Policy,
    /// Whether lost nodes are replaced while pods run: somebody has written what may be done.
    pub(crate) replaces: bool,
    /// Whether it may be ended for a gang of higher priority.
    pub(crate) preemptible: bool,
}

/// Why a domain cannot have the policy that it is to have.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PolicyRefusal {
    /// There is none of that name.
    #[error(
        "DomainPolicy {0} does not exist, and {POLICY_ANNOTATION} of this domain names it; make it, or name another \
         one there"
    )]
    Missing(ObjectName),
    /// It says what cannot be meant.
    #[error("DomainPolicy {policy}: {error}")]
    Invalid {
        /// Which.
        policy: ObjectName,
        /// The field, its value and the remedy.
        error: ConfigError,
    },
    /// More nodes are the least than the domain has.
    #[error(
        "DomainPolicy {policy}: spec.minNodes {least} is more than numNodes {nodes} of this domain; write {nodes} at \
         most, or take the field out"
    )]
    LeastAboveSize {
        /// Which.
        policy: ObjectName,
        /// The least number.
        least: u32,
        /// The size.
        nodes: u32,
    },
    /// It allows what the controller does not do.
    #[error(
        "DomainPolicy {policy}: {field}: true is not available{}; write false, or take the field out", field.missing()
    )]
    NotAvailable {
        /// Which.
        policy: ObjectName,
        /// The field.
        field: Unavailable,
    },
    /// More nodes than any cluster has.
    #[error(
        "numNodes {0} is more than any cluster has; delete the domain and write a smaller number"
    )]
    TooManyNodes(u32),
}

/// What a policy may allow and the controller does not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// Ending others, where it is not switched on.
    Preempts,
    /// Moving a domain whose pods run.
    Migrate,
}

impl Unavailable {
    /// What is missing for it.
    fn missing(self) -> &'static str {
        match self {
            Self::Preempts => {
                " where preemption is off (resources.computeDomains.preemption.enabled of the chart)"
            }
            Self::Migrate => "",
        }
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Preempts => "spec.preempts",
            Self::Migrate => "spec.replacement.migrate",
        })
    }
}

impl PolicyRefusal {
    /// The machine-readable reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Missing(_) => "PolicyNotFound",
            Self::Invalid { .. } | Self::LeastAboveSize { .. } | Self::NotAvailable { .. } => {
                "PolicyInvalid"
            }
            Self::TooManyNodes(_) => "NoCliqueLargeEnough",
        }
    }
}

/// The policy of a gang of so many nodes: the one that its annotation or label names, else the namespace's
/// default, else what [`Policy::default`] says. `preemption` is whether this controller ends anybody.
pub(crate) fn chosen(
    world: &World,
    domain: &ComputeDomain,
    nodes: NonZeroU32,
    preemption: bool,
) -> Result<Chosen, PolicyRefusal> {
    let nodes = nodes.get();
    let (policy, named) = reference(domain);
    let spec = match world.policy(&policy) {
        Some(said) => followed(&policy, said, preemption)?.clone(),
        None if named => return Err(PolicyRefusal::Missing(policy)),
        None => DomainPolicySpec::default(),
    };
    let least = spec.min_nodes.unwrap_or(nodes);
    if least > nodes {
        return Err(PolicyRefusal::LeastAboveSize {
            policy,
            least,
            nodes,
        });
    }
    Ok(Chosen {
        nodes: NodeCount::new(least, nodes).map_err(|_| PolicyRefusal::TooManyNodes(nodes))?,
        replaces: spec.replacement.is_some() || spec.min_nodes.is_some(),
        preemptible: spec.preemptible.unwrap_or(true),
        policy: translated(spec),
    })
}

/// What a policy says, if it can be followed.
fn followed<'a>(
    policy: &ObjectName,
    said: &'a Result<DomainPolicySpec, ConfigError>,
    preemption: bool,
) -> Result<&'a DomainPolicySpec, PolicyRefusal> {
    let policy = policy.clone();
    match said {
        Err(error) => Err(PolicyRefusal::Invalid {
            policy,
            error: error.clone(),
        }),
        Ok(spec) => match not_available(spec, preemption) {
            Some(field) => Err(PolicyRefusal::NotAvailable { policy, field }),
            None => Ok(spec),
        },
    }
}

/// What is wrong with a policy, whichever domain has it.
pub(crate) fn objection(
    policy: &ObjectName,
    said: &Result<DomainPolicySpec, ConfigError>,
    rules: &Rules,
) -> Option<NotPlaced> {
    let spec = match followed(policy, said, rules.preemption) {
        Ok(spec) => spec,
        Err(refusal) => return Some(refusal.into()),
    };
    let topology = spec.topology.as_ref()?;
    let known = rules.levels.keys();
    let mut levels = [&topology.required_level, &topology.preferred_level]
        .into_iter()
        .flatten();
    let level = levels.find(|level| !known.contains(level))?;
    let unknown = Blocked::UnknownLevel {
        level: level.clone(),
        known: known.to_vec(),
    };
    Some(unknown.into())
}

/// A field that allows what the controller does not do: whoever writes it waits for something that never comes.
fn not_available(spec: &DomainPolicySpec, preemption: bool) -> Option<Unavailable> {
    let migrates = |replacement: &Replacement| replacement.migrate == Some(true);
    if spec.preempts == Some(true) && !preemption {
        Some(Unavailable::Preempts)
    } else if spec.replacement.as_ref().is_some_and(migrates) {
        Some(Unavailable::Migrate)
    } else {
        None
    }
}

/// The policy that a domain has, if there is one.
pub(crate) fn name(world: &World, domain: &ComputeDomain) -> Option<ObjectName> {
    let (policy, _) = reference(domain);
    world.policy(&policy).map(|_| policy)
}

/// Where the policy of a domain would be, and whether the domain itself says so.
fn reference(domain: &ComputeDomain) -> (ObjectName, bool) {
    let named = named(domain);
    let namespace = domain.metadata.namespace.as_deref().unwrap_or_default();
    let policy = ObjectName::new(namespace, named.unwrap_or(DEFAULT_POLICY));
    (policy, named.is_some())
}

/// The policy that a domain names.
fn named(domain: &ComputeDomain) -> Option<&str> {
    let metadata = &domain.metadata;
    let both = [metadata.annotations.as_ref(), metadata.labels.as_ref()];
    let mut named = both
        .into_iter()
        .flatten()
        .filter_map(|map| map.get(POLICY_ANNOTATION));
    named.next().map(String::as_str)
}

fn translated(spec: DomainPolicySpec) -> Policy {
    let default = Policy::default();
    let seconds = |seconds: u32| Duration::from_secs(seconds.into());
    let topology = spec.topology.unwrap_or_default();
    let Replacement {
        shrink,
        migrate,
        timeout_seconds,
    } = spec.replacement.unwrap_or_default();
    Policy {
        clique: match spec.clique_policy {
            CliquePolicy::Required => tessera_gang::CliquePolicy::Required,
            CliquePolicy::Preferred => tessera_gang::CliquePolicy::Preferred,
            CliquePolicy::Spread => tessera_gang::CliquePolicy::Spread,
        },
        segment: spec.segment_nodes.and_then(NonZeroU32::new),
        required_level: topology.required_level,
        preferred_level: topology.preferred_level,
        capacity: spec.capacity_types.into_iter().map(capacity).collect(),
        spares: spec.spare_nodes.unwrap_or(default.spares),
        bind_timeout: spec
            .bind_timeout_seconds
            .map_or(default.bind_timeout, seconds),
        replacement: tessera_gang::policy::Replacement {
            shrink: shrink.unwrap_or(default.replacement.shrink),
            migrate: migrate.unwrap_or(default.replacement.migrate),
            timeout: timeout_seconds.map_or(default.replacement.timeout, seconds),
        },
        preempts: spec.preempts.unwrap_or(default.preempts),
    }
}

fn capacity(kind: CapacityType) -> tessera_gang::CapacityType {
    match kind {
        CapacityType::Reserved => tessera_gang::CapacityType::Reserved,
        CapacityType::CapacityBlock => tessera_gang::CapacityType::CapacityBlock,
        CapacityType::OnDemand => tessera_gang::CapacityType::OnDemand,
        CapacityType::Spot => tessera_gang::CapacityType::Spot,
        CapacityType::Unknown => tessera_gang::CapacityType::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_that_says_nothing_is_that_of_a_domain_without_one() {
        assert_eq!(translated(DomainPolicySpec::default()), Policy::default());
    }

    #[test]
    fn a_capacity_type_has_one_name_in_policies_and_in_the_planner() {
        for kind in [
            CapacityType::Reserved,
            CapacityType::CapacityBlock,
            CapacityType::OnDemand,
            CapacityType::Spot,
            CapacityType::Unknown,
        ] {
            assert_eq!(capacity(kind).name(), kind.as_str());
        }
    }
}
