//! What would become of one domain, and what else could, without a write: what a person is shown who asks.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use tessera_api::{ComputeDomain, DomainSize};
use tessera_gang::eligibility::Toleration;
use tessera_gang::survey::survey;
use tessera_gang::{Blocked, CliquePolicy, Demand, Eligibility, NodeCount, Placement};
use thiserror::Error;

use super::{Round, Rules, in_order, uid};
use crate::demand::{self, Wanted};
use crate::facts::ObjectName;
use crate::keys;
use crate::place::NotPlaced;
use crate::policy;
use crate::promised;
use crate::situation::{Names, Said, Situation};
use crate::slots::{Holds, Slots};
use crate::world::World;

/// What would become of a domain now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outlook {
    /// The domain, as `namespace/name`.
    pub domain: String,
    /// The reason of its condition `Ready`.
    pub reason: &'static str,
    /// The sentence of it.
    pub message: String,
    /// What it asks for; nothing where it is not a gang, or nobody can tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asks: Option<Asks>,
    /// The nodes that it has, or would get.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<Plan>,
    /// What else could be asked for, and what would come of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub alternatives: Vec<Other>,
    /// Every clique.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cliques: Vec<Clique>,
}

/// What a gang asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Asks {
    /// Nodes, at least.
    pub min_nodes: u32,
    /// Nodes, if there are so many.
    pub nodes: u32,
    /// GPUs of each.
    pub gpus_per_node: u32,
    /// Whether no pod names the domain's template, so that the GPUs are what was assumed.
    pub assumed: bool,
    /// Its policy, by name; none where the namespace has none for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
}

/// Nodes of a gang.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// Whether the domain has them already.
    pub holds: bool,
    /// The channel.
    pub channel: u32,
    /// Whether all GPUs of the nodes are kept for its pods.
    pub whole_nodes: bool,
    /// The nodes, clique by clique, in the order of ranks.
    pub cliques: Vec<Share>,
    /// The nodes that are held beside them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub spares: Vec<String>,
}

/// Nodes of one clique.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Share {
    /// The clique; none for a node without fabric.
    pub clique: Option<String>,
    /// The nodes.
    pub nodes: Vec<String>,
}

/// Something else that could be asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Other {
    /// What would be written in the domain or its policy.
    pub change: String,
    /// Whether it would fit now.
    pub fits: bool,
    /// Where, or why not.
    pub outcome: String,
}

/// A clique as the domain sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Clique {
    /// Its name; none for nodes without fabric.
    pub clique: Option<String>,
    /// Its nodes.
    pub nodes: u32,
    /// Those on which the domain's pods may be put, free or not.
    pub eligible: u32,
    /// Those that have room for them now.
    pub free: u32,
    /// Who holds nodes of it, and how many.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub held_by: BTreeMap<String, u32>,
}

/// There is no such domain.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("ComputeDomain {0} does not exist; see kubectl get computedomains --all-namespaces")]
pub struct NoDomain(pub ObjectName);

/// What would become of the domain `name` now, with those that are served before it. Where no pod names its template, its
/// pods are taken to use `gpus` GPUs of each node; without that, all.
pub fn outlook(
    world: &World,
    rules: &Rules,
    name: &ObjectName,
    gpus: Option<u32>,
    now: Timestamp,
) -> Result<Outlook, NoDomain> {
    let mut round = Round::new(world, rules, now);
    for domain in in_order(world, now) {
        if ObjectName::of(&domain.metadata) == *name {
            return Ok(round.outlook(domain, gpus));
        }
        round.domain(domain);
    }
    Err(NoDomain(name.clone()))
}

impl Round<'_> {
    fn outlook(&mut self, domain: &ComputeDomain, gpus: Option<u32>) -> Outlook {
        let stored = self.stored.get(uid(domain)).cloned();
        let stored = stored.as_ref();
        if domain.metadata.deletion_timestamp.is_some() {
            return Outlook::of(domain, self.deleted(domain, stored).0.ready());
        }
        if let Some(refusal) = self.refusal(domain) {
            return Outlook::of(domain, refusal.ready());
        }
        let DomainSize::Gang(nodes) = domain.spec.size() else {
            return Outlook::of(domain, self.living(domain, stored).0.ready());
        };
        let chosen = match policy::chosen(self.world, domain, nodes, self.rules.preemption) {
            Ok(chosen) => chosen,
            Err(why) => return Outlook::of(domain, not_placed(why)),
        };
        let largest = self.site().largest();
        let wanted = match demand::wanted(self.world, domain, nodes, largest) {
            Ok(wanted) => wanted,
            Err(unknown) => {
                let situation = Situation::AwaitingClaims { pod: unknown.pod };
                return Outlook::of(domain, situation.ready());
            }
        };
        let assumed = wanted.is_none();
        let wanted = wanted.unwrap_or_else(|| assumption(gpus.unwrap_or(largest)));
        let demand = self.site().demand(domain, &chosen, &wanted);
        let policy = policy::name(self.world, domain);
        let asks = Asks {
            min_nodes: chosen.nodes.min(),
            nodes: chosen.nodes.max(),
            gpus_per_node: wanted.gpus_per_node,
            assumed,
            policy: policy.map(|policy| policy.name),
        };
        let outlook = self.of_gang(domain, &demand, assumed);
        Outlook {
            asks: Some(asks),
            ..outlook
        }
    }

    fn of_gang(&mut self, domain: &ComputeDomain, demand: &Demand, assumed: bool) -> Outlook {
        let stored = self.stored.get(uid(domain)).cloned();
        let cliques = self.cliques_for(domain, demand);
        if let Some(stored) = stored.as_ref().filter(|it| it.slots.are_offered()) {
            let plan = self.plan(&stored.slots, true);
            let said = self.living(domain, Some(stored)).0.ready();
            return Outlook {
                plan: Some(plan),
                cliques,
                ..Outlook::of(domain, said)
            };
        }
        let earlier = stored.as_ref().map(|stored| &stored.slots);
        let (said, plan) = match self.site().gang(domain, demand, earlier) {
            Ok(slots) => {
                let plan = self.plan(&slots, false);
                let nodes = slots.hostnames.len();
                (fits(nodes, plan.cliques.len(), assumed), Some(plan))
            }
            Err(why) => match self.preemption(domain, demand, earlier) {
                Some(slots) => {
                    let plan = self.plan(&slots, false);
                    (preempts(&self.progress(&slots).victims, &why), Some(plan))
                }
                None => (not_placed(why), None),
            },
        };
        Outlook {
            plan,
            alternatives: self.others(domain, demand),
            cliques,
            ..Outlook::of(domain, said)
        }
    }

    fn plan(&self, slots: &Slots, holds: bool) -> Plan {
        let clique = |hostname: &String| {
            let node = self.world.node_by_hostname(hostname)?;
            self.fabric.get(node.name.as_str())?.clique.clone()
        };
        Plan {
            holds,
            channel: slots.channel,
            whole_nodes: slots.holds == Holds::WholeNodes,
            cliques: slots
                .shares()
                .map(|share| Share {
                    clique: share.first().and_then(clique),
                    nodes: share.to_vec(),
                })
                .collect(),
            spares: slots.spares.clone(),
        }
    }

    /// What else could be asked for.
    fn others(&self, domain: &ComputeDomain, demand: &Demand) -> Vec<Other> {
        let mut changed: Vec<(String, Demand)> = Vec::new();
        let mut change = |what: String, change: &dyn Fn(&mut Demand)| {
            let mut other = demand.clone();
            change(&mut other);
            if other != *demand {
                changed.push((what, other));
            }
        };
        for (name, clique) in [
            ("Required", CliquePolicy::Required),
            ("Preferred", CliquePolicy::Preferred),
            ("Spread", CliquePolicy::Spread),
        ] {
            change(format!("cliquePolicy {name}"), &|other| {
                other.policy.clique = clique;
            });
        }
        change("no segmentNodes".to_owned(), &|other| {
            other.policy.segment = None;
        });
        change("no topology.requiredLevel".to_owned(), &|other| {
            other.policy.required_level = None;
        });
        change("no capacityTypes".to_owned(), &|other| {
            other.policy.capacity.clear();
        });
        let site = self.site();
        site.with_cluster(domain, |cluster| {
            let blocked = site.plan(cluster, domain, demand).err();
            let fits = match blocked.as_ref().and_then(NotPlaced::blocked) {
                Some(Blocked::InsufficientFree { fits, .. }) => *fits,
                Some(Blocked::TooLarge { possible, .. }) => *possible,
                _ => 0,
            };
            if let Ok(nodes) = NodeCount::exactly(fits) {
                let mut smaller = demand.clone();
                smaller.nodes = nodes;
                changed.push((format!("numNodes {fits}"), smaller));
            }
            let tried = changed.into_iter().map(|(change, demand)| {
                match site.plan(cluster, domain, &demand) {
                    Ok(placement) => Other {
                        change,
                        fits: true,
                        outcome: put(&placement),
                    },
                    Err(why) => Other {
                        change,
                        fits: false,
                        outcome: why.to_string(),
                    },
                }
            });
            tried.collect()
        })
    }

    fn cliques_for(&self, domain: &ComputeDomain, demand: &Demand) -> Vec<Clique> {
        let mut holders: BTreeMap<Option<String>, BTreeMap<String, u32>> = BTreeMap::new();
        for (slots, _) in self.promised.offered() {
            if slots.gpus_per_node == 0 {
                continue;
            }
            for node in promised::held(self.world, slots) {
                let fabric = self.fabric.get(node.name.as_str());
                let clique = fabric.and_then(|fabric| fabric.clique.clone());
                let of = holders.entry(clique).or_default();
                *of.entry(slots.name.to_string()).or_default() += 1;
            }
        }
        let site = self.site();
        let asked = site.asked(demand);
        let rooms = site.with_cluster(domain, |cluster| survey(cluster, &asked));
        let cliques = rooms.into_iter().map(|(id, room)| {
            let clique = id.map(|id| id.as_str().to_owned());
            let held_by = holders.remove(&clique);
            Clique {
                clique,
                nodes: room.nodes,
                eligible: room.eligible,
                free: room.free,
                held_by: held_by.unwrap_or_default(),
            }
        });
        cliques.collect()
    }
}

impl Outlook {
    /// Of a domain of which no more can be told.
    fn of(domain: &ComputeDomain, said: Said) -> Self {
        Self {
            domain: ObjectName::of(&domain.metadata).to_string(),
            reason: said.reason,
            message: said.message,
            asks: None,
            plan: None,
            alternatives: Vec::new(),
            cliques: Vec::new(),
        }
    }
}

fn not_placed(why: impl Into<NotPlaced>) -> Said {
    Situation::NotPlaced(why.into()).ready()
}

/// What pods are taken to ask for where there are none: GPUs of any node, and the taint that GPU nodes commonly have
/// is tolerated.
fn assumption(gpus_per_node: u32) -> Wanted {
    Wanted {
        gpus_per_node,
        eligibility: Eligibility {
            tolerations: vec![Toleration {
                key: Some(keys::GPU_RESOURCE.to_owned()),
                value: None,
                effect: None,
            }],
            ..Eligibility::default()
        },
        priority: 0,
    }
}

fn fits(nodes: usize, cliques: usize, assumed: bool) -> Said {
    let when = if assumed {
        "nothing is held before a pod names its template"
    } else {
        "the controller holds them at its next look"
    };
    Said {
        holds: true,
        reason: "Fits",
        message: format!(
            "it fits now, {} in {}; {when}",
            counted(nodes, "node"),
            counted(cliques, "clique")
        ),
    }
}

fn preempts(victims: &[String], why: &NotPlaced) -> Said {
    let victims = Names("ComputeDomain", victims);
    Said {
        holds: false,
        reason: "Preempts",
        message: format!(
            "it gets its nodes when {victims} of lower priority end, which the controller begins at its next look; without that: {why}"
        ),
    }
}

fn counted(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

fn put(placement: &Placement) -> String {
    let shares = placement.cliques.iter();
    let shares: Vec<String> = shares
        .map(|share| {
            let clique = share.clique.as_ref().map_or("no clique", |id| id.as_str());
            format!("{} of {clique}", share.nodes.len())
        })
        .collect();
    let first = shares[..shares.len().min(4)].join(", ");
    match shares.len().saturating_sub(4) {
        0 => first,
        more => format!("{first} and {more} cliques more"),
    }
}
