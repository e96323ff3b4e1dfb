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

use anyhow::Context as _;
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

/// Names the Helm that renders the chart to the tests that want it.
const HELM: &str = "TESSERA_HELM";

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
    /// Unit and property tests of all crates, and the chart, rendered by Helm.
    Unit,
    /// Of these only what Helm renders. Only when it is named.
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
            Self::Unit | Self::Manifests | Self::Scenarios => true,
            Self::Format | Self::Lints | Self::Build | Self::Crashes | Self::Emulated => false,
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
            if !self.only.is_empty() {
                return self.only.contains(stage);
            }
            match stage {
                Stage::Manifests => false,
                Stage::Emulated => self.long,
                _ => true,
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
    tested(name, &format!("cargo {}", arguments.join(" ")), command)
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
            cargo(name, arguments, &[environment, &[(HELM, helm)]].concat())
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
        let all = Stage::value_variants();
        let but = |left_out: &[Stage]| -> Vec<Stage> {
            let all = all.iter().copied();
            all.filter(|stage| !left_out.contains(stage)).collect()
        };
        let default = but(&[Stage::Manifests, Stage::Emulated]);
        assert_eq!(arguments(&[], &[]).stages(), default);
        for named in all {
            assert_eq!(arguments(&[], &[*named]).stages(), [*named]);
        }
        let long = Arguments {
            long: true,
            ..arguments(&[], &[])
        };
        assert_eq!(long.stages(), but(&[Stage::Manifests]));
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
