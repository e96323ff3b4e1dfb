//! A scenario, and what came of it.

use std::fmt;
use std::time::{Duration, Instant};

use tessera_cluster::{Cluster, Release};

use crate::context::Context;
use crate::diagnosis::diagnosis;
use crate::failure::Failure;
use crate::ground::Ground;
use crate::installation::{Installation, Installed};
use crate::kubernetes::Kubernetes;
use crate::need::{Need, NotServed};

/// The longest name of a namespace (RFC 1123 label).
const LONGEST_NAMESPACE: usize = 63;

/// How much time a scenario may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As it runs by default.
    Short,
    /// As it runs where somebody has the time.
    Long,
}

/// Something that must hold on a real cluster.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// The statement, as the name of its function.
    pub name: &'static str,
    /// The statement as a sentence.
    pub guarantee: &'static str,
    /// The cluster that it runs on.
    pub ground: Ground,
    /// How the product is installed meanwhile.
    pub installation: Installation,
    /// What it needs of Kubernetes that not every release serves.
    pub needs: &'static [Need],
    /// What its long form does more than the short one, if it has both.
    pub long: Option<&'static str>,
    pub(crate) run: fn(&Context<'_>) -> Result<(), Failure>,
}

/// Why a scenario does not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeftOut {
    /// The release of Kubernetes does not have what it needs.
    NotServed(NotServed),
    /// It takes more time than a run has by default.
    OnlyLong(&'static str),
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotServed(reason) => reason.fmt(f),
            Self::OnlyLong(reason) => f.write_str(reason),
        }
    }
}

/// What came of a scenario.
#[derive(Debug)]
pub struct Outcome {
    /// How long it took, with its cleaning up.
    pub took: Duration,
    /// Why it failed, if it did.
    pub trouble: Option<Trouble>,
}

/// A failed scenario.
#[derive(Debug)]
pub struct Trouble {
    /// What does not hold.
    pub failure: Failure,
    /// How things were at that moment: objects, events, ends of logs.
    pub around: String,
}

impl Scenario {
    /// Runs it in a namespace of its own and cleans up behind it, after a change of what is installed if it needs one.
    ///
    /// What it leaves on a node is a failure as well.
    pub fn run(&self, cluster: &Cluster, form: Form, installed: &mut Installed) -> Outcome {
        let began = Instant::now();
        let namespace = self.namespace();
        let trouble = self.attempt(cluster, &namespace, form, installed).err();
        Outcome {
            took: began.elapsed(),
            trouble,
        }
    }

    fn attempt(
        &self,
        cluster: &Cluster,
        namespace: &str,
        form: Form,
        installed: &mut Installed,
    ) -> Result<(), Trouble> {
        let trouble = |failure| Trouble {
            around: match &failure {
                // Whoever interrupts wants to get out, not to read.
                Failure::Interrupted => String::new(),
                _ => diagnosis(cluster, namespace),
            },
            failure,
        };
        installed
            .make(self.installation, Kubernetes::of(cluster))
            .map_err(trouble)?;
        let context = Context::new(cluster, namespace, form).map_err(trouble)?;
        let result = (self.run)(&context).map_err(trouble);
        if let Err(Trouble {
            failure: Failure::Interrupted,
            ..
        }) = result
        {
            return result;
        }
        let ended = context.end().map_err(trouble);
        result.and(ended)
    }

    /// Why it is left out of a run in this form on this release, if it is.
    pub fn left_out(&self, release: Release, form: Form) -> Option<LeftOut> {
        let not_served = self.not_served_by(release).map(LeftOut::NotServed);
        let only_long = self.ground.only_long().filter(|_| form == Form::Short);
        not_served.or(only_long.map(LeftOut::OnlyLong))
    }

    /// Why it cannot run on this release, if it cannot.
    pub(crate) fn not_served_by(&self, release: Release) -> Option<NotServed> {
        NotServed::of(self.needs, release)
    }

    /// The form in which it runs when `wanted` is asked for, if it has several.
    pub fn form(&self, wanted: Form) -> Option<Form> {
        self.long.map(|_| wanted)
    }

    fn namespace(&self) -> String {
        let mut name = self.name.replace('_', "-");
        name.truncate(LONGEST_NAMESPACE);
        name.trim_end_matches('-').to_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::Scenario;
    use crate::list::SCENARIOS;

    #[test]
    fn every_scenario_has_a_namespace_of_its_own_that_the_api_server_takes() {
        let names: BTreeSet<_> = SCENARIOS.iter().map(Scenario::namespace).collect();
        assert_eq!(names.len(), SCENARIOS.len());
        for name in names {
            let taken = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            assert!(name.chars().all(taken) && name.len() <= 63, "{name}");
            assert!(!name.starts_with('-') && !name.ends_with('-'), "{name}");
        }
    }
}
