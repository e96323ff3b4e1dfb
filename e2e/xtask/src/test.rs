//! `cargo xtask test`: everything that must hold before a change lands, and one line on how much of it does.
//!
//! Stages do not depend on each other: one that fails leaves the next ones to run, and the whole has failed. Scenarios wait
//! more than they work, so everything to which time does not matter goes on beside them with what they leave of the processor.

mod ahead;
mod crashes;
mod emulated;
mod helm;
mod logged;
mod scenarios;
mod stage;
mod tally;

use std::panic::resume_unwind;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Instant;

use anyhow::Context as _;
use rustix::process::setpriority_process;
use tessera_cluster::progress::{Progress as _, Screen};
use tessera_cluster::{Cluster, ClusterError, Platform, Release, interrupt};
use tessera_scenarios::{Form, Scenario};

use crate::image;
use crate::profile::ImageProfile;
use ahead::Ahead;
use scenarios::Grounds;
use stage::{Order, Stage};
use tally::Tally;

/// How many events the simulator's test of faults has, if many: a property of the environment, because a
/// `cargo test` takes no flags for one test.
const LONG_SIMULATION: (&str, &str) = ("TESSERA_SIMULATED_EVENTS", "1000000");

/// Names the Helm that renders the chart to the tests that want it.
const HELM: &str = "TESSERA_HELM";

/// The lowest priority there is, see `nice(1)`.
const NICEST: i32 = 19;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Run only scenarios, and of these only those whose name contains NAME. May be repeated.
    #[arg(long, value_name = "NAME")]
    scenario: Vec<String>,
    /// Run only crashes, and of these only in operations whose name contains NAME. May be repeated.
    #[arg(long, value_name = "NAME", conflicts_with = "scenario")]
    crash: Vec<String>,
    /// Run only this stage. May be repeated.
    #[arg(long, value_enum, conflicts_with_all = ["scenario", "crash"])]
    only: Vec<Stage>,
    /// Which Kubernetes the scenarios run on: 1.33, 1.34 or 1.36. Another than the last is built when it is first wanted.
    #[arg(long, default_value_t = Release::default())]
    kubernetes: Release,
    /// Leave the cluster of the scenarios running, to look at it.
    #[arg(long)]
    keep: bool,
    /// Run the long forms of scenarios that have one, see docs/scenarios.md, and simulate ten times as many events.
    #[arg(long)]
    long: bool,
    /// How the product in crashes and scenarios is compiled: quick to build, or as shipped.
    #[arg(long, value_enum, default_value_t = ImageProfile::Release)]
    image_profile: ImageProfile,
}

impl Arguments {
    fn form(&self) -> Form {
        if self.long { Form::Long } else { Form::Short }
    }

    fn order(&self) -> Order {
        if !self.scenario.is_empty() {
            return Order::of(&[Stage::Scenarios], self.long);
        }
        if !self.crash.is_empty() {
            return Order::of(&[Stage::Crashes], self.long);
        }
        Order::of(&self.only, self.long)
    }
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let scenarios = scenarios::named(&arguments.scenario)?;
    let order = arguments.order();
    if order.alone.contains(&Stage::Scenarios) {
        Cluster::refuse_kept()?;
    }
    let run = Run {
        arguments,
        scenarios,
        order,
    };
    let tally = run.everything()?;
    println!("{tally}");
    let passed = tally.failed == 0;
    Ok(if passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What runs, and in which order.
struct Run<'a> {
    arguments: &'a Arguments,
    scenarios: Vec<&'static Scenario>,
    order: Order,
}

impl Run<'_> {
    fn everything(&self) -> anyhow::Result<Tally> {
        thread::scope(|scope| {
            let needed = self.order.needs_programs();
            let mut programs = Ahead::begin(scope, needed, self.arguments.kubernetes);
            let mut tally = Tally::default();
            for stage in &self.order.alone {
                if !stage.bears_company() {
                    programs.end();
                }
                tally += self.stage(*stage)?;
            }
            Ok(tally)
        })
    }

    /// Runs the scenarios, and beside them, once everything is built that the clusters are made of, what goes beside them.
    fn on_clusters(&self) -> anyhow::Result<Tally> {
        let arguments = self.arguments;
        let grounds = Grounds::obtain(arguments.image_profile.into(), arguments.kubernetes);
        thread::scope(|scope| {
            let others = scope.spawn(|| {
                // On Linux a thread has a priority of its own, and what it starts inherits it (setpriority(2), "Bugs").
                setpriority_process(None, NICEST)
                    .context("leave the processor to the scenarios")?;
                let mut tally = Tally::default();
                for stage in &self.order.beside {
                    tally += self.stage(*stage)?;
                }
                anyhow::Ok(tally)
            });
            let ran =
                grounds.and_then(|all| all.run(&self.scenarios, arguments.form(), arguments.keep));
            let own = counted(ran, self.scenarios.len());
            let others = others.join().unwrap_or_else(|panic| resume_unwind(panic));
            Ok(own? + others?)
        })
    }

    /// Runs one stage. What breaks it is shown and counted; only an interrupt ends the whole.
    fn stage(&self, stage: Stage) -> anyhow::Result<Tally> {
        if interrupt::requested() {
            return Err(ClusterError::Interrupted.into());
        }
        let arguments = self.arguments;
        let long: &[_] = if arguments.long {
            &[LONG_SIMULATION]
        } else {
            &[]
        };
        let profile = arguments.image_profile.into();
        let result = match stage {
            // rustfmt colours its differences in a file too.
            Stage::Format => cargo(
                "format",
                &["fmt", "--all", "--check", "--", "--color=never"],
                &[],
            ),
            Stage::Image => image::build(profile, None, &Screen).map(|_| Tally::default()),
            Stage::Lints => cargo(
                "lints",
                &[
                    "clippy",
                    "--workspace",
                    "--all-targets",
                    "--",
                    "-D",
                    "warnings",
                ],
                &[],
            ),
            Stage::Build => {
                let arguments = ["test", "--workspace", "--no-run"];
                cargo("build", &arguments, &[]).map(|tally| Tally { passed: 0, ..tally })
            }
            // The very packages of the build: cargo compiles dependencies anew for another choice of packages, because
            // that leads to other features.
            // Nothing in the documentation is a test: to look for some would compile each crate once more.
            Stage::Unit => rendering(
                "unit",
                &[
                    "test",
                    "--workspace",
                    "--lib",
                    "--bins",
                    "--tests",
                    "--no-fail-fast",
                ],
                long,
            ),
            Stage::Manifests => rendering(
                "manifests",
                &["test", "--package", "tessera-manifests", "--no-fail-fast"],
                &[],
            ),
            Stage::Crashes => crashes::run(&arguments.crash, profile),
            Stage::Emulated => emulated::run(profile),
            Stage::Scenarios => return self.on_clusters(),
        };
        counted(result, 0)
    }
}

/// What broke a stage is shown and counted, with what it kept from running; only an interrupt ends the whole.
fn counted(result: anyhow::Result<Tally>, kept_from_running: usize) -> anyhow::Result<Tally> {
    result.or_else(|error| {
        if matches!(error.downcast_ref(), Some(ClusterError::Interrupted)) {
            return Err(error);
        }
        eprintln!("  ✗ {error:#}");
        Ok(Tally {
            skipped: kept_from_running,
            ..Tally::ONE_FAILED
        })
    })
}

/// Runs cargo with one line on the screen, and the end of its output if it failed.
fn cargo(name: &str, arguments: &[&str], environment: &[(&str, &str)]) -> anyhow::Result<Tally> {
    let mut command = tessera_cluster::cargo::command();
    command.args(arguments).envs(environment.iter().copied());
    let what = format!("cargo {}", arguments.join(" "));
    tested(name, &what, command)
}

/// The same for tests of which some render the chart. Without Helm those fail alone, and say what they lack.
fn rendering(
    name: &str,
    arguments: &[&str],
    environment: &[(&str, &str)],
) -> anyhow::Result<Tally> {
    let helm = helm::program();
    match &helm {
        Err(error) => {
            eprintln!("  ✗ {error:#}");
            cargo(name, arguments, environment)
        }
        Ok(helm) => {
            let helm = helm.to_str().context("the path of Helm is no text")?;
            let environment = [environment, &[(HELM, helm)]].concat();
            cargo(name, arguments, &environment)
        }
    }
}

/// The same for another machine.
fn cargo_for(platform: Platform, name: &str, arguments: &[&str]) -> anyhow::Result<Tally> {
    let mut command = tessera_cluster::cargo::command();
    command.args(arguments);
    platform.aim(&mut command);
    platform.link_statically(&mut command);
    let what = format!("cargo {} on {platform}", arguments.join(" "));
    tested(name, &what, command)
}

fn tested(name: &str, what: &str, mut command: Command) -> anyhow::Result<Tally> {
    let began = Instant::now();
    Screen.started(what);
    let logged = logged::run(name, &mut command)?;
    let mut tally = Tally::of_cargo(&logged.output);
    if logged.succeeded {
        Screen.finished(what, began.elapsed());
    } else {
        eprintln!("{}", logged.why());
        eprintln!("  ✗ {what} ({:.1} s)", began.elapsed().as_secs_f64());
        // A failure that no test accounts for: it does not compile, or is no test.
        tally.failed = tally.failed.max(1);
    }
    Ok(tally)
}
