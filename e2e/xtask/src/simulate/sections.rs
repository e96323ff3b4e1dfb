//! The parts of the report: tables, and plots beside them.

use std::fs;

use anyhow::anyhow;
use tessera_simulate::control::{self, Faults, Setting};
use tessera_simulate::layout::Layout;
use tessera_simulate::loss::{self, Outcome};
use tessera_simulate::placers::{Affinity, BestFit, Placer, Pooled};
use tessera_simulate::plot::{self, Frame, Series};
use tessera_simulate::queueing::{self, Discipline};
use tessera_simulate::small as small_cases;

use super::Arguments;
use crate::table::markdown;

/// A part of the report.
pub(super) struct Section {
    pub(super) text: String,
    /// File names and SVG.
    pub(super) plots: Vec<(String, String)>,
}

/// The loads that are offered.
const LOADS: [f64; 2] = [0.85, 0.95];
/// The load at which waiting times are compared.
const WAITING_LOAD: f64 = 0.8;
/// The cluster in which gangs wait.
const WAITING_NODES: u32 = 1_008;
/// Gangs that wait in one run.
const WAITING_ARRIVALS: usize = 10_000;
/// Small cases.
const CASES: u64 = 2_000;

const NAMES: [&str; 3] = ["best fit", "affinity recipe", "bound"];

fn placers(layout: Layout, seed: u64) -> [Box<dyn Placer>; 3] {
    [
        Box::new(BestFit::new(layout)),
        Box::new(Affinity::new(layout, seed)),
        Box::new(Pooled::new(layout)),
    ]
}

/// Gangs that are placed at once or leave.
pub(super) fn loss(arguments: &Arguments) -> Section {
    let mut rows = Vec::new();
    let mut last: Vec<Outcome> = Vec::new();
    for nodes in &arguments.nodes {
        let layout = Layout {
            nodes: *nodes,
            clique: arguments.clique,
        };
        for load in LOADS {
            last.clear();
            for (name, mut placer) in NAMES.into_iter().zip(placers(layout, arguments.seed)) {
                let run = loss::Run {
                    layout,
                    load,
                    arrivals: arguments.arrivals,
                    seed: arguments.seed,
                };
                let begun = processor_seconds();
                let outcome = loss::run(run, placer.as_mut());
                let rate = rate(outcome.events, begun);
                rows.push(row(*nodes, load, name, &outcome, rate));
                last.push(outcome);
            }
        }
    }
    let header = [
        "nodes",
        "load",
        "placed by",
        "busy",
        "broken",
        "refused with room",
        "1 to 9 nodes",
        "16 to 18",
        "72 and more",
        "events/s of CPU",
    ];
    let text = format!("Placed at once or refused:\n\n{}", markdown(header, &rows));
    Section {
        text,
        plots: loss_plots(&last),
    }
}

/// How long this thread has been on a processor: what else the machine does must not count.
fn processor_seconds() -> Option<f64> {
    let text = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanoseconds: f64 = text.split_whitespace().next()?.parse().ok()?;
    Some(nanoseconds / 1e9)
}

#[allow(
    clippy::cast_precision_loss,
    reason = "a double counts exactly beyond any number of events"
)]
fn rate(events: u64, begun: Option<f64>) -> String {
    let took = processor_seconds()
        .zip(begun)
        .map(|(now, begun)| now - begun);
    let took = took.filter(|seconds| *seconds > 0.0);
    took.map_or("unknown".to_owned(), |seconds| {
        format!("{:.2} M", events as f64 / seconds / 1e6)
    })
}

fn row(nodes: u32, load: f64, name: &str, outcome: &Outcome, rate: String) -> [String; 10] {
    let refused = |sizes| format!("{:.2} %", 100.0 * outcome.refused_with_room(sizes));
    [
        nodes.to_string(),
        format!("{load}"),
        name.to_owned(),
        format!("{:.1} %", 100.0 * outcome.utilisation),
        format!("{:.1} %", 100.0 * outcome.fragmentation),
        refused(1..=u32::MAX),
        refused(1..=9),
        refused(16..=18),
        refused(72..=u32::MAX),
        rate,
    ]
}

fn loss_plots(outcomes: &[Outcome]) -> Vec<(String, String)> {
    let series = |value: fn(&(f64, f64, f64)) -> f64| -> Vec<Series<(f64, f64)>> {
        let named = NAMES.iter().zip(outcomes);
        named
            .map(|(name, outcome)| Series {
                name: (*name).to_owned(),
                values: outcome
                    .course
                    .iter()
                    .map(|point| (point.0, 100.0 * value(point)))
                    .collect(),
            })
            .collect()
    };
    let frame = |title| Frame {
        title,
        across: "simulated hours",
        up: "%",
    };
    let busy = plot::lines(
        frame("Busy nodes, largest cluster, highest load"),
        &series(|point| point.1),
    );
    let broken = plot::lines(
        frame("Free nodes in broken cliques"),
        &series(|point| point.2),
    );
    vec![
        ("utilisation.svg".to_owned(), busy),
        ("fragmentation.svg".to_owned(), broken),
    ]
}

/// Gangs that wait until they are placed.
pub(super) fn waiting(arguments: &Arguments) -> Section {
    let disciplines = [Discipline::Planner, Discipline::Recipe, Discipline::Pooled];
    let outcomes = disciplines.map(|discipline| {
        queueing::run(queueing::Run {
            layout: Layout {
                nodes: WAITING_NODES,
                clique: arguments.clique,
            },
            load: WAITING_LOAD,
            arrivals: WAITING_ARRIVALS,
            seed: arguments.seed,
            discipline,
        })
    });
    let hours = |hours: f64| format!("{hours:.2} h");
    let rows: Vec<[String; 8]> = (0..outcomes[0].waits.len())
        .map(|at| {
            let [planner, recipe, pooled] = [0, 1, 2].map(|of: usize| outcomes[of].waits[at]);
            [
                planner.nodes.to_string(),
                planner.gangs.to_string(),
                hours(planner.p50),
                hours(recipe.p50),
                hours(pooled.p50),
                hours(planner.p99),
                hours(recipe.p99),
                hours(pooled.p99),
            ]
        })
        .collect();
    let busy: Vec<String> = NAMES
        .iter()
        .zip(&outcomes)
        .map(|(name, outcome)| format!("{name} {:.1} %", 100.0 * outcome.utilisation))
        .collect();
    let header = [
        "gang",
        "gangs",
        "p50: planner",
        "recipe",
        "bound",
        "p99: planner",
        "recipe",
        "bound",
    ];
    let text = format!(
        "Waiting time by size of gang, {WAITING_NODES} nodes, load {WAITING_LOAD}, {WAITING_ARRIVALS} gangs. Busy nodes: {}.\n\n{}",
        busy.join(", "),
        markdown(header, &rows)
    );
    let categories: Vec<String> = rows.iter().map(|row| row[0].clone()).collect();
    let series = NAMES.iter().zip(&outcomes).map(|(name, outcome)| Series {
        name: (*name).to_owned(),
        values: outcome.waits.iter().map(|waits| waits.p99).collect(),
    });
    let frame = Frame {
        title: "99th percentile of the waiting time",
        across: "nodes of the gang",
        up: "hours",
    };
    let plot = plot::bars(frame, &categories, &series.collect::<Vec<_>>());
    Section {
        text,
        plots: vec![("waiting.svg".to_owned(), plot)],
    }
}

/// Small cases, in which everything is tried.
pub(super) fn small(seed: u64) -> String {
    let cases: Vec<_> = (0..CASES)
        .map(|case| small_cases::case(seed.wrapping_add(case)))
        .collect();
    let sum = |of: fn(&small_cases::Case) -> u32| cases.iter().map(of).sum::<u32>();
    let (planned, best) = (sum(|case| case.planned), sum(|case| case.best));
    let equal = cases
        .iter()
        .filter(|case| case.planned == case.best)
        .count();
    format!(
        "Small cases: of {CASES} (2 to 4 cliques of 2 to 6 nodes, 4 to 8 gangs of 1 to 5 nodes that arrive one after the other and stay), \
         the planner puts as many nodes to use as trying everything with all arrivals known in {equal}; over all it uses {:.1} % of what that uses.\n",
        100.0 * f64::from(planned) / f64::from(best)
    )
}

/// The control plane under faults.
pub(super) fn faults(arguments: &Arguments) -> anyhow::Result<String> {
    let mut rows = Vec::new();
    for (nodes, clique) in [(100, 4), (162, 9), (180, 18), (288, 36), (288, 72)] {
        let setting = Setting {
            layout: Layout { nodes, clique },
            seed: arguments.seed,
            events: arguments.events,
            domains: u32::MAX,
            gap: 8_000,
            runs: 60_000,
            faults: Faults::ALL,
        };
        let report = control::run(setting, None).map_err(|violation| anyhow!("{violation}"))?;
        rows.push([
            nodes.to_string(),
            clique.to_string(),
            report.events.to_string(),
            report.arrived.to_string(),
            report.writes.to_string(),
            report.conflicts.to_string(),
            report.leaders_lost.to_string(),
            report.nodes_lost.to_string(),
            report.replanned.to_string(),
            report.unbound.to_string(),
        ]);
    }
    let header = [
        "nodes",
        "clique",
        "events",
        "domains",
        "writes",
        "conflicts",
        "leaders lost",
        "nodes lost",
        "replanned",
        "given up",
    ];
    Ok(format!(
        "Under faults, S1 to S4, S6 and L1 to L3 held throughout:\n\n{}",
        markdown(header, &rows)
    ))
}
