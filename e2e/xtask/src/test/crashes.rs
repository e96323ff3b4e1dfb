//! The stage that kills the shipped plugin at every point of its work.

use std::panic::resume_unwind;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tessera_cluster::progress::{Progress as _, Screen, step};
use tessera_cluster::{ClusterError, Profile, interrupt, simulated_driver, with_causes};
use tessera_crash::{Failure, Operation, Place, Points, Programs, enumerate};

use super::tally::Tally;
use crate::image;
use crate::shipped::{self, HOOK, PLUGIN};
use crate::table::table;

/// What came of an operation.
struct Outcome {
    operation: Operation,
    took: Duration,
    points: Result<Points, Failure>,
}

/// The operations whose names contain one of these, or all if there is none.
fn named(parts: &[String]) -> anyhow::Result<Vec<Operation>> {
    let is_wanted = |operation: &Operation| {
        parts.is_empty() || parts.iter().any(|part| operation.name().contains(part))
    };
    let wanted: Vec<_> = Operation::ALL.into_iter().filter(is_wanted).collect();
    let names = Operation::ALL.map(Operation::name).join(", ");
    anyhow::ensure!(
        !wanted.is_empty(),
        "no operation is named {parts:?}; there are {names}"
    );
    Ok(wanted)
}

/// Takes the programs out of the image and goes through all points of operations, the operations side by side.
pub(crate) fn run(operations: &[String], profile: Profile) -> anyhow::Result<Tally> {
    let operations = named(operations)?;
    let image = image::build(profile, None, &Screen)?;
    let artifacts = step(&Screen, "build the simulated driver", simulated_driver)?;
    let unpacked = tempfile::tempdir().context("make a directory for the programs")?;
    shipped::unpack(&image.archive, unpacked.path())?;
    let programs = Programs {
        plugin: unpacked.path().join(PLUGIN),
        hook: unpacked.path().join(HOOK),
    };
    let what = "kill the plugin at every point of its work";
    let begun = Instant::now();
    Screen.started(what);
    let outcomes: Vec<Outcome> = thread::scope(|scope| {
        let runs: Vec<_> = operations
            .into_iter()
            .map(|operation| {
                let (programs, artifacts) = (&programs, &artifacts);
                scope.spawn(move || {
                    let begun = Instant::now();
                    let place = || Place::new(programs, artifacts);
                    let points = enumerate(&place, operation, &interrupt::requested);
                    let took = begun.elapsed();
                    Outcome {
                        operation,
                        took,
                        points,
                    }
                })
            })
            .collect();
        let ends = runs.into_iter();
        ends.map(|run| run.join().unwrap_or_else(|panic| resume_unwind(panic)))
            .collect()
    });
    if interrupt::requested() {
        return Err(ClusterError::Interrupted.into());
    }
    Screen.finished(what, begun.elapsed());
    for outcome in &outcomes {
        if let Err(failure) = &outcome.points {
            eprintln!("  ✗ {}", with_causes(failure));
        }
    }
    println!("\n{}", shown(&outcomes));
    Ok(counted(&outcomes))
}

fn counted(outcomes: &[Outcome]) -> Tally {
    let failed = outcomes.iter().filter(|o| o.points.is_err()).count();
    Tally {
        passed: outcomes.len() - failed,
        failed,
        skipped: 0,
    }
}

/// One line for each operation and one for all: how often the plugin died, and at what.
fn shown(outcomes: &[Outcome]) -> String {
    let row = |name: &str, points: Points, seconds: String, result: &str, guarantee: &str| {
        [
            name.to_owned(),
            points.changes.to_string(),
            points.requests.to_string(),
            points.nvml.to_string(),
            points.sum().to_string(),
            seconds,
            result.to_owned(),
            guarantee.to_owned(),
        ]
    };
    let mut all = Points::default();
    let mut rows = Vec::new();
    for outcome in outcomes {
        let seconds = format!("{:.1}", outcome.took.as_secs_f64());
        let (points, result) = match outcome.points {
            Ok(points) => (points, "passed"),
            Err(_) => (Points::default(), "FAILED"),
        };
        all += points;
        let operation = outcome.operation;
        rows.push(row(
            operation.name(),
            points,
            seconds,
            result,
            operation.guarantee(),
        ));
    }
    rows.push(row("all", all, String::new(), "", ""));
    let header = [
        "CRASHES IN",
        "FILES",
        "API",
        "NVML",
        "POINTS",
        "SECONDS",
        "RESULT",
        "GUARANTEE",
    ];
    table(header, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_chosen_by_a_part_of_their_name_and_an_unknown_one_is_refused() {
        assert_eq!(named(&[]).unwrap(), Operation::ALL);
        let turns = named(&["turns".to_owned()]).unwrap();
        assert_eq!(turns, [Operation::TakeTurns]);
        named(&["nothing".to_owned()]).unwrap_err();
    }

    #[test]
    fn points_are_summed_and_a_failed_operation_stands_out() {
        let points = Points {
            changes: 40,
            requests: 2,
            nvml: 1,
        };
        let outcome = |operation, points| Outcome {
            operation,
            took: Duration::from_millis(1500),
            points,
        };
        let outcomes = [
            outcome(Operation::Publish, Ok(points)),
            outcome(Operation::Prepare, Err(Failure::Unstarted)),
        ];
        let text = shown(&outcomes);
        let lines: Vec<_> = text.lines().collect();
        assert!(
            lines[1].contains("43") && lines[1].contains("passed"),
            "{text}"
        );
        assert!(lines[2].contains("FAILED"), "{text}");
        assert!(
            lines[3].starts_with("all") && lines[3].contains("43"),
            "{text}"
        );
        let tally = counted(&outcomes);
        assert_eq!((tally.passed, tally.failed), (1, 1));
    }
}
