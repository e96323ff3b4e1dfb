//! Gangs that wait until they are placed: how long, by size.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use tessera_gang::queue::{Rules, plan_all};
use tessera_gang::running::Running;
use tessera_gang::shadow::Shadow;
use tessera_gang::{Cluster, Demand, GangId};

use crate::layout::Layout;
use crate::placers::{Affinity, Placer as _, demand};
use crate::stats::{OverTime, quantile};
use crate::workload::{Arrivals, Job};

/// Who places those that wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discipline {
    /// The product's queue: in order, behind a shadow.
    Planner,
    /// The product's queue on nodes without cliques: what cliques cost shows beside it.
    Pooled,
    /// Every gang tries by itself whenever something changes, as in [`Affinity`]. One that is stuck gives its
    /// nodes back at once, which is kinder than what happens.
    Recipe,
}

/// A run of the model.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// The cluster.
    pub layout: Layout,
    /// What arrives, as a share of what the cluster could do.
    pub load: f64,
    /// How many gangs arrive. The first fifth fills the cluster and is not counted.
    pub arrivals: usize,
    /// Where chance begins.
    pub seed: u64,
    /// Who places.
    pub discipline: Discipline,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The share of nodes that were busy while gangs arrived.
    pub utilisation: f64,
    /// Waiting times by size.
    pub waits: Vec<Waits>,
}

/// How long gangs of one size waited, in hours. One that had not begun when the last one arrived counts
/// as long as it had waited.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Waits {
    /// Nodes of each.
    pub nodes: u32,
    /// How many there were.
    pub gangs: usize,
    /// Half of them waited no longer.
    pub p50: f64,
    /// All but one of a hundred waited no longer.
    pub p99: f64,
}

/// A time in hours that can be ordered.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Hours(f64);

impl Eq for Hours {}

impl PartialOrd for Hours {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Hours {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// Gangs that wait, and what they wait for.
struct Floor {
    placing: Placing,
    waiting: Vec<usize>,
    running: Vec<Running>,
    busy: u32,
}

enum Placing {
    Planner(Box<Cluster>, Option<Shadow>),
    Recipe(Box<Affinity>),
}

impl Floor {
    fn new(run: Run) -> Self {
        let whole = Layout {
            clique: run.layout.nodes,
            ..run.layout
        };
        let placing = match run.discipline {
            Discipline::Planner => Placing::Planner(Box::new(run.layout.cluster()), None),
            Discipline::Pooled => Placing::Planner(Box::new(whole.cluster()), None),
            Discipline::Recipe => Placing::Recipe(Box::new(Affinity::new(run.layout, run.seed))),
        };
        Self {
            placing,
            waiting: Vec::new(),
            running: Vec::new(),
            busy: 0,
        }
    }

    /// Places those that fit, and returns them.
    fn round(&mut self, jobs: &[Job], now: f64) -> Vec<usize> {
        let begun = match &mut self.placing {
            Placing::Planner(cluster, shadow) => {
                let demands = self.waiting.iter().map(|at| Demand {
                    waiting: Duration::from_secs_f64((now - jobs[*at].arrives).max(0.0) * 3600.0),
                    ..demand(gang(*at), jobs[*at].nodes)
                });
                let demands: Vec<Demand> = demands.collect();
                let round = plan_all(
                    cluster,
                    &demands,
                    &self.running,
                    shadow.as_ref(),
                    Rules::default(),
                );
                *shadow = round.shadow;
                let placed = round.placed.iter();
                let placed: Vec<usize> = placed
                    .map(|(gang, _)| gang.as_str().parse().expect("gangs are named by numbers"))
                    .collect();
                for at in &placed {
                    self.running.push(Running {
                        gang: gang(*at),
                        priority: 0,
                        ran_for: Duration::ZERO,
                        ends_in: None,
                        may_be_ended: false,
                    });
                }
                placed
            }
            Placing::Recipe(affinity) => {
                let tried = self.waiting.iter().copied();
                tried
                    .filter(|at| affinity.place(*at as u64, jobs[*at].nodes))
                    .collect()
            }
        };
        self.waiting.retain(|at| !begun.contains(at));
        self.busy += begun.iter().map(|at| jobs[*at].nodes).sum::<u32>();
        begun
    }

    fn end(&mut self, at: usize, nodes: u32) {
        match &mut self.placing {
            Placing::Planner(cluster, _) => {
                cluster.release(&gang(at));
                self.running.retain(|running| running.gang != gang(at));
            }
            Placing::Recipe(affinity) => affinity.release(at as u64),
        }
        self.busy -= nodes;
    }
}

fn gang(at: usize) -> GangId {
    GangId::from(format!("{at:08}"))
}

/// Lets gangs come, wait and go.
pub fn run(run: Run) -> Outcome {
    let arrivals = Arrivals::new(run.seed, run.layout.nodes, run.load, run.layout.nodes / 2);
    let sizes = arrivals.sizes().to_vec();
    let jobs: Vec<Job> = arrivals.take(run.arrivals).collect();
    let warm = run.arrivals / 5;
    let mut floor = Floor::new(run);
    let mut ends: BinaryHeap<Reverse<(Hours, usize)>> = BinaryHeap::new();
    let mut busy = OverTime::default();
    let mut waits: Vec<Vec<f64>> = vec![Vec::new(); sizes.len()];
    let mut now = 0.0;
    for (number, job) in jobs.iter().enumerate() {
        while let Some(Reverse((end, at))) = ends
            .peek()
            .copied()
            .filter(|Reverse((end, _))| end.0 <= job.arrives)
        {
            ends.pop();
            now = end.0;
            floor.end(at, jobs[at].nodes);
            begin(&mut floor, &jobs, now, warm, &mut ends, &mut waits);
            busy.set(now, f64::from(floor.busy));
        }
        if number == warm {
            busy.restart(job.arrives);
        }
        now = job.arrives;
        floor.waiting.push(number);
        begin(&mut floor, &jobs, now, warm, &mut ends, &mut waits);
        busy.set(now, f64::from(floor.busy));
    }
    for at in floor.waiting.iter().filter(|at| **at >= warm) {
        waits[jobs[*at].class].push(now - jobs[*at].arrives);
    }
    let waits = sizes.iter().zip(&mut waits).map(|(nodes, waits)| Waits {
        nodes: *nodes,
        gangs: waits.len(),
        p50: quantile(waits, 0.5),
        p99: quantile(waits, 0.99),
    });
    Outcome {
        utilisation: busy.mean() / f64::from(run.layout.nodes),
        waits: waits.collect(),
    }
}

fn begin(
    floor: &mut Floor,
    jobs: &[Job],
    now: f64,
    warm: usize,
    ends: &mut BinaryHeap<Reverse<(Hours, usize)>>,
    waits: &mut [Vec<f64>],
) {
    if floor.waiting.is_empty() {
        return;
    }
    for at in floor.round(jobs, now) {
        ends.push(Reverse((Hours(now + jobs[at].runs), at)));
        if at >= warm {
            waits[jobs[at].class].push(now - jobs[at].arrives);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(discipline: Discipline) -> Outcome {
        run(Run {
            layout: Layout {
                nodes: 216,
                clique: 18,
            },
            load: 0.7,
            arrivals: 2_000,
            seed: 7,
            discipline,
        })
    }

    #[test]
    fn gangs_that_fill_a_clique_wait_less_for_the_planner_than_by_the_recipe() {
        let (planner, recipe) = (waits(Discipline::Planner), waits(Discipline::Recipe));
        let of = |outcome: &Outcome, nodes: u32| {
            let found = outcome.waits.iter().find(|waits| waits.nodes == nodes);
            *found.unwrap()
        };
        assert!(of(&planner, 18).gangs > 50);
        assert!(
            of(&planner, 18).p99 < of(&recipe, 18).p99,
            "{planner:?} {recipe:?}"
        );
        assert!(planner.waits.iter().all(|waits| waits.p50 <= waits.p99));
    }

    #[test]
    fn every_gang_that_arrived_is_counted_once() {
        for discipline in [Discipline::Planner, Discipline::Pooled, Discipline::Recipe] {
            let outcome = waits(discipline);
            let counted: usize = outcome.waits.iter().map(|waits| waits.gangs).sum();
            assert_eq!(counted, 1_600, "{discipline:?}");
        }
    }
}
