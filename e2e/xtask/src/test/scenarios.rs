//! The stage that needs clusters: one after the other with the product installed on it, and on each its scenarios.

use std::path::PathBuf;

use tessera_cluster::images::{self, TesseraImage};
use tessera_cluster::progress::{Progress as _, Screen, step};
use tessera_cluster::{Cluster, ClusterError, Materials, Profile, Release, interrupt};
use tessera_scenarios::kubernetes::Kubernetes;
use tessera_scenarios::{
    Failure, Form, Ground, Installed, LeftOut, Outcome, SCENARIOS, Scenario, release,
};

use super::tally::Tally;
use crate::failure::told;
use crate::image;
use crate::table::table;

/// The scenarios whose names contain one of these, or all if there is none.
pub(crate) fn named(parts: &[String]) -> anyhow::Result<Vec<&'static Scenario>> {
    for part in parts {
        let known = SCENARIOS
            .iter()
            .any(|scenario| scenario.name.contains(part));
        let names: Vec<_> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
        anyhow::ensure!(
            known,
            "no scenario is named {part:?}; there are:\n  {}",
            names.join("\n  ")
        );
    }
    let wanted = |scenario: &&Scenario| {
        let mut parts = parts.iter();
        parts.len() == 0 || parts.any(|part| scenario.name.contains(part))
    };
    Ok(SCENARIOS.iter().filter(wanted).collect())
}

/// What clusters are made of, and what is installed on them.
pub(crate) struct Grounds {
    image: TesseraImage,
    /// The image of MPI jobs, for grounds that have it.
    mpi: PathBuf,
    materials: Materials,
}

impl Grounds {
    /// Builds what is missing.
    pub(crate) fn obtain(profile: Profile, kubernetes: Release) -> anyhow::Result<Self> {
        Ok(Self {
            image: image::build(profile, None, &Screen)?,
            mpi: images::mpi(&Screen)?,
            materials: Materials::obtain(kubernetes, &Screen)?,
        })
    }

    /// Runs the scenarios, each on a cluster of its kind, and takes the clusters down again, unless the last shall be kept.
    /// Nothing is compiled, so that it can go on beside what is.
    pub(crate) fn run(
        &self,
        scenarios: &[&Scenario],
        form: Form,
        keep: bool,
    ) -> anyhow::Result<Tally> {
        let on = |ground: &Ground| scenarios.iter().any(|scenario| scenario.ground == *ground);
        let wanted: Vec<_> = Ground::ALL.into_iter().filter(on).collect();
        let mut results = Vec::new();
        for ground in &wanted {
            let chosen = scenarios.iter().copied().filter(|s| s.ground == *ground);
            let stay = keep && Some(ground) == wanted.last();
            let on_ground = OnGround {
                ground: *ground,
                form,
                of: self,
            };
            results.extend(on_ground.run(&chosen.collect::<Vec<_>>(), stay)?);
        }
        println!("\n{}", shown(scenarios, &results, form));
        Ok(counted(&results))
    }
}

/// One cluster and what runs on it.
struct OnGround<'a> {
    ground: Ground,
    form: Form,
    of: &'a Grounds,
}

impl OnGround<'_> {
    /// Runs these scenarios. There is no cluster if all of them are left out.
    fn run(&self, scenarios: &[&Scenario], keep: bool) -> anyhow::Result<Vec<Ran>> {
        let Grounds {
            image,
            mpi,
            materials,
        } = self.of;
        let kubernetes = materials.kubernetes();
        let left_out = |scenario: &&Scenario| scenario.left_out(kubernetes, self.form);
        if let Some(reasons) = scenarios.iter().map(left_out).collect::<Option<Vec<_>>>() {
            return Ok(reasons.into_iter().map(Ran::Not).collect());
        }
        eprintln!("on {}", self.ground.in_words());
        let options = self.ground.options(kubernetes);
        let cluster = Cluster::up_of(materials, &options, &Screen)?;
        step(&Screen, "give the nodes the product's image", || {
            cluster.import_image(&image.archive)
        })?;
        if self.ground.has_mpi() {
            step(&Screen, "give the nodes the image of MPI jobs", || {
                cluster.import_image(mpi)
            })?;
        }
        let install = || release::install_on(self.ground, Kubernetes::of(&cluster), image);
        step(&Screen, "install the chart with Helm", install).map_err(told)?;
        let mut installed = Installed::first();
        let mut results = Vec::new();
        for scenario in scenarios {
            results.push(match left_out(scenario) {
                None => Ran::Ended(announced(scenario, &cluster, self.form, &mut installed)?),
                Some(reason) => {
                    eprintln!("  – {}: {}: {reason}", scenario.name, called(&reason));
                    Ran::Not(reason)
                }
            });
        }
        if keep {
            // The last scenario uninstalls it, and whoever keeps a cluster wants to use it.
            step(&Screen, "install the chart again", install).map_err(told)?;
            cluster.keep()?;
            println!(
                "the cluster is left running; eval \"$(cargo xtask cluster env)\" and go on\n"
            );
        } else {
            step(&Screen, "take the cluster down", || cluster.down())?;
        }
        Ok(results)
    }
}

/// What became of a scenario.
enum Ran {
    /// It ran to its end.
    Ended(Outcome),
    /// It is left out.
    Not(LeftOut),
}

/// Runs one scenario with its line on the screen, and the whole story if it failed.
fn announced(
    scenario: &Scenario,
    cluster: &Cluster,
    form: Form,
    installed: &mut Installed,
) -> anyhow::Result<Outcome> {
    if interrupt::requested() {
        return Err(ClusterError::Interrupted.into());
    }
    Screen.started(scenario.name);
    let outcome = scenario.run(cluster, form, installed);
    match &outcome.trouble {
        None => Screen.finished(scenario.name, outcome.took),
        Some(trouble) if matches!(trouble.failure, Failure::Interrupted) => {
            return Err(ClusterError::Interrupted.into());
        }
        Some(trouble) => {
            let seconds = outcome.took.as_secs_f64();
            eprintln!("  ✗ {} ({seconds:.1} s)", scenario.name);
            eprintln!("{}\n{}", trouble.failure, trouble.around);
        }
    }
    Ok(outcome)
}

fn counted(results: &[Ran]) -> Tally {
    let mut tally = Tally::default();
    for result in results {
        match result {
            Ran::Ended(Outcome { trouble: None, .. }) => tally.passed += 1,
            Ran::Ended(_) => tally.failed += 1,
            Ran::Not(_) => tally.skipped += 1,
        }
    }
    tally
}

fn shown(scenarios: &[&Scenario], results: &[Ran], form: Form) -> String {
    let row = |(scenario, result): (&&Scenario, &Ran)| {
        let (took, result, form, guarantee) = match result {
            Ran::Ended(outcome) => (
                format!("{:.1}", outcome.took.as_secs_f64()),
                if outcome.trouble.is_none() {
                    "passed"
                } else {
                    "FAILED"
                },
                ran(scenario, form),
                scenario.guarantee.to_owned(),
            ),
            // A guarantee that is not looked at is not shown.
            Ran::Not(reason) => (String::new(), called(reason), "", reason.to_string()),
        };
        [
            scenario.name.to_owned(),
            took,
            result.to_owned(),
            form.to_owned(),
            guarantee,
        ]
    };
    let rows: Vec<_> = scenarios.iter().zip(results).map(row).collect();
    table(
        ["SCENARIO", "SECONDS", "RESULT", "FORM", "GUARANTEE"],
        &rows,
    )
}

/// What a scenario that is left out has for a result.
fn called(left_out: &LeftOut) -> &'static str {
    match left_out {
        LeftOut::NotServed(_) => "not applicable",
        LeftOut::OnlyLong(_) => "not run",
    }
}

/// Which form of the scenario ran; most have but one.
fn ran(scenario: &Scenario, wanted: Form) -> &'static str {
    match scenario.form(wanted) {
        None => "",
        Some(Form::Short) => "short",
        Some(Form::Long) => "long",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tessera_scenarios::Trouble;

    use super::*;

    fn ended(failed: bool) -> Ran {
        let trouble = failed.then(|| Trouble {
            failure: Failure::wrong("x"),
            around: String::new(),
        });
        Ran::Ended(Outcome {
            took: Duration::from_millis(1500),
            trouble,
        })
    }

    #[test]
    fn scenarios_are_chosen_by_a_part_of_their_name_and_an_unknown_one_is_refused() {
        assert_eq!(named(&[]).unwrap().len(), SCENARIOS.len());
        let chosen = named(&["helm_uninstall".to_owned()]).unwrap();
        assert_eq!(chosen.len(), 1);
        assert!(named(&["helm".to_owned(), "no such".to_owned()]).is_err());
    }

    #[test]
    fn the_table_says_which_form_of_a_scenario_ran_if_it_has_several() {
        let (long, only): (Vec<_>, Vec<_>) = SCENARIOS.iter().partition(|s| s.long.is_some());
        for form in [Form::Short, Form::Long] {
            assert_eq!(ran(only[0], form), "");
        }
        assert_eq!(ran(long[0], Form::Short), "short");
        assert_eq!(ran(long[0], Form::Long), "long");
    }

    #[test]
    fn a_failed_scenario_stands_out_in_the_table_and_is_counted() {
        let scenarios = [&SCENARIOS[0], &SCENARIOS[1]];
        let results = [ended(false), ended(true)];
        let text = shown(&scenarios, &results, Form::Short);
        let lines: Vec<_> = text.lines().collect();
        assert!(
            lines[1].contains("1.5") && lines[1].contains("passed"),
            "{text}"
        );
        assert!(lines[2].contains("FAILED"), "{text}");
        let tally = counted(&results);
        assert_eq!((tally.passed, tally.failed, tally.skipped), (1, 1, 0));
    }

    #[test]
    fn a_scenario_that_takes_too_long_is_counted_apart_and_runs_where_there_is_time() {
        let (slow, reason) = SCENARIOS
            .iter()
            .find_map(|scenario| {
                let reason = scenario.left_out(Release::V1_36, Form::Short)?;
                Some((scenario, reason))
            })
            .unwrap();
        assert_eq!(slow.left_out(Release::V1_36, Form::Long), None);
        let results = [Ran::Not(reason.clone())];
        let text = shown(&[slow], &results, Form::Short);
        assert!(
            text.contains("not run") && text.contains(&reason.to_string()),
            "{text}"
        );
        assert_eq!(counted(&results).skipped, 1);
    }

    #[test]
    fn a_scenario_that_a_release_cannot_serve_is_counted_apart_and_says_why() {
        let needy = SCENARIOS.iter().find_map(|scenario| {
            let reason = scenario.left_out(Release::V1_34, Form::Long)?;
            Some((scenario, reason))
        });
        let (scenario, reason) = needy.unwrap();
        let results = [Ran::Not(reason.clone()), ended(false)];
        let text = shown(&[scenario, &SCENARIOS[0]], &results, Form::Short);
        let line = text.lines().nth(1).unwrap();
        assert!(
            line.contains("not applicable") && line.ends_with(&reason.to_string()),
            "{text}"
        );
        let tally = counted(&results);
        assert_eq!((tally.passed, tally.failed, tally.skipped), (1, 0, 1));
    }
}
