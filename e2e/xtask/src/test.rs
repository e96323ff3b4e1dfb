//! `cargo xtask test`: everything that must hold before a change lands, and one line on how much of it does.
//!
//! Stages do not depend on each other: one that fails leaves the next ones to run, and the whole has failed.

mod ahead;
mod crashes;
mod emulated;
mod helm;
mod logged;
mod scenarios;
mod tally;

use std::process::{Command, ExitCode};
use std::thread;
use std::time::Instant;

use clap::ValueEnum;
use tessera_cluster::progress::{Progress as _, Screen};
use tessera_cluster::{Cluster, ClusterError, Platform, Profile, Release, interrupt};
use tessera_scenarios::{Form, Scenario};

use crate::image;
use crate::profile::ImageProfile;
use ahead::Ahead;
use tally::Tally;

/// How many events the simulator's test of faults has, if many: a property of the environment, because a
/// `cargo test` takes no flags for one test.
const LONG_SIMULATION: (&str, &str) = ("TESSERA_SIMULATED_EVENTS", "1000000");

/// The crate whose tests need Helm.
const MANIFESTS: &str = "tessera-manifests";

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

/// What is tested, in the order in which it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Stage {
    /// Every file is formatted.
    Format,
    /// No lint complains.
    Lints,
    /// Tests, the image and the cluster's programs are built.
    Build,
    /// Unit and property tests of all crates.
    Unit,
    /// The chart, rendered by Helm.
    Manifests,
    /// The plugin as it is shipped, killed at every point of its work.
    Crashes,
    /// The product on a real cluster.
    Scenarios,
    /// The product for aarch64, and the tests of its decisions, in an emulator. Only in long runs, or when it is named.
    Emulated,
}

impl Stage {
    fn needs_programs(self) -> bool {
        match self {
            Self::Manifests | Self::Scenarios => true,
            Self::Format
            | Self::Lints
            | Self::Build
            | Self::Unit
            | Self::Crashes
            | Self::Emulated => false,
        }
    }
}

impl Arguments {
    fn form(&self) -> Form {
        if self.long { Form::Long } else { Form::Short }
    }

    fn stages(&self) -> Vec<Stage> {
        if !self.scenario.is_empty() {
            return vec![Stage::Scenarios];
        }
        if !self.crash.is_empty() {
            return vec![Stage::Crashes];
        }
        let all = Stage::value_variants().iter().copied();
        let chosen = |stage: &Stage| {
            if self.only.is_empty() {
                self.long || *stage != Stage::Emulated
            } else {
                self.only.contains(stage)
            }
        };
        all.filter(chosen).collect()
    }
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let scenarios = scenarios::named(&arguments.scenario)?;
    let stages = arguments.stages();
    if stages.contains(&Stage::Scenarios) {
        Cluster::refuse_kept()?;
    }
    let tally = thread::scope(|scope| {
        let needed = stages.iter().any(|stage| stage.needs_programs());
        let mut programs = Ahead::begin(scope, needed, arguments.kubernetes);
        let mut tally = Tally::default();
        for stage in stages {
            if stage > Stage::Build {
                programs.end();
            }
            tally += staged(stage, arguments, &scenarios)?;
        }
        anyhow::Ok(tally)
    })?;
    println!("{tally}");
    let passed = tally.failed == 0;
    Ok(if passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs one stage. What breaks it is shown and counted; only an interrupt ends the whole.
fn staged(stage: Stage, arguments: &Arguments, scenarios: &[&Scenario]) -> anyhow::Result<Tally> {
    if interrupt::requested() {
        return Err(ClusterError::Interrupted.into());
    }
    let long: &[_] = if arguments.long {
        &[LONG_SIMULATION]
    } else {
        &[]
    };
    let result = match stage {
        // rustfmt colours its differences in a file too.
        Stage::Format => cargo(
            "format",
            &["fmt", "--all", "--check", "--", "--color=never"],
            &[],
        ),
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
        Stage::Build => build(arguments.image_profile.into()),
        Stage::Unit => cargo(
            "unit",
            &[
                "test",
                "--workspace",
                "--exclude",
                MANIFESTS,
                "--no-fail-fast",
            ],
            long,
        ),
        Stage::Manifests => cargo(
            "manifests",
            &["test", "--package", MANIFESTS, "--no-fail-fast"],
            &[],
        ),
        Stage::Crashes => crashes::run(&arguments.crash, arguments.image_profile.into()),
        Stage::Emulated => emulated::run(arguments.image_profile.into()),
        Stage::Scenarios => {
            let profile = arguments.image_profile.into();
            let Arguments {
                kubernetes, keep, ..
            } = *arguments;
            scenarios::run(scenarios, arguments.form(), profile, kubernetes, keep)
        }
    };
    result.or_else(|error| {
        if matches!(error.downcast_ref(), Some(ClusterError::Interrupted)) {
            return Err(error);
        }
        eprintln!("  ✗ {error:#}");
        let skipped = if stage == Stage::Scenarios {
            scenarios.len()
        } else {
            0
        };
        Ok(Tally {
            skipped,
            ..Tally::ONE_FAILED
        })
    })
}

/// Compiles what the stages after this one run.
fn build(profile: Profile) -> anyhow::Result<Tally> {
    let tests = cargo("build", &["test", "--workspace", "--no-run"], &[])?;
    image::build(profile, None, &Screen)?;
    Ok(Tally { passed: 0, ..tests })
}

/// Runs cargo with one line on the screen, and the end of its output if it failed.
fn cargo(name: &str, arguments: &[&str], environment: &[(&str, &str)]) -> anyhow::Result<Tally> {
    let mut command = tessera_cluster::cargo::command();
    command.args(arguments).envs(environment.iter().copied());
    if arguments.contains(&MANIFESTS) {
        command.env("TESSERA_HELM", helm::program()?);
    }
    tested(name, &format!("cargo {}", arguments.join(" ")), command)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(scenario: &[&str], only: &[Stage]) -> Arguments {
        Arguments {
            scenario: scenario.iter().map(ToString::to_string).collect(),
            crash: vec![],
            only: only.to_vec(),
            kubernetes: Release::default(),
            keep: false,
            long: false,
            image_profile: ImageProfile::Dev,
        }
    }

    #[test]
    fn everything_runs_unless_something_is_chosen() {
        let (last, default) = Stage::value_variants().split_last().unwrap();
        assert_eq!(arguments(&[], &[]).stages(), default);
        assert_eq!(arguments(&[], &[*last]).stages(), [Stage::Emulated]);
        let long = Arguments {
            long: true,
            ..arguments(&[], &[])
        };
        assert_eq!(long.stages(), Stage::value_variants());
        assert_eq!(arguments(&["x"], &[]).stages(), [Stage::Scenarios]);
        let crash = Arguments {
            crash: vec!["x".to_owned()],
            ..arguments(&[], &[])
        };
        assert_eq!(crash.stages(), [Stage::Crashes]);
        let chosen = arguments(&[], &[Stage::Unit, Stage::Format]).stages();
        assert_eq!(chosen, [Stage::Format, Stage::Unit]);
    }
}
