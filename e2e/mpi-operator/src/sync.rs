//! One look at a job: what is to be done next.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::Keys;
use crate::job::{Clean, Creation, Job};
use crate::status::{self, phase};

/// The kinds of objects that a job consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// v1.
    Service,
    /// v1.
    ConfigMap,
    /// v1.
    Secret,
    /// v1.
    Pod,
    /// batch/v1.
    Job,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Service,
        Self::ConfigMap,
        Self::Secret,
        Self::Pod,
        Self::Job,
    ];

    /// Its name in manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
            Self::Pod => "Pod",
            Self::Job => "Job",
        }
    }
}

/// Something to be done. Later ones are not done when one fails; the next look begins anew.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Create the object.
    Create(Value),
    /// Replace what is there by the object.
    Replace(Value),
    /// Delete a pod.
    Delete(String),
    /// Replace the job's status.
    Status(Value),
}

/// An object of a name that the job needs is another's. The real operator tells it with reason `ErrResourceExists` and
/// tries again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} {name} exists and is not controlled by this MPIJob", kind.as_str())]
pub struct Taken {
    kind: Kind,
    name: String,
}

/// The objects of a job that are there.
#[derive(Debug, Clone, Default)]
pub struct Seen<'a> {
    service: Option<&'a Value>,
    config: Option<&'a Value>,
    pub(crate) has_secret: bool,
    workers: BTreeMap<u32, &'a Value>,
    pub(crate) launcher: Option<&'a Value>,
    pub(crate) launcher_pods: Vec<&'a Value>,
}

impl<'a> Seen<'a> {
    /// Those of `job` among all objects of its namespace.
    pub fn of(job: &Job, objects: &'a [Value]) -> Result<Self, Taken> {
        let find = |kind: Kind, name: &str| {
            let is_it = |object: &&Value| {
                object["kind"] == kind.as_str() && object["metadata"]["name"] == name
            };
            let found = objects.iter().find(is_it);
            match found {
                Some(object) if !is_controlled(object, &job.uid) => Err(Taken {
                    kind,
                    name: name.to_owned(),
                }),
                found => Ok(found),
            }
        };
        let mut workers = BTreeMap::new();
        for index in 0..job.workers.count {
            if let Some(pod) = find(Kind::Pod, &job.worker(index))? {
                workers.insert(index, pod);
            }
        }
        let launcher = find(Kind::Job, &job.launcher())?;
        let launcher_uid = launcher.and_then(|launcher| launcher["metadata"]["uid"].as_str());
        let is_launched = |pod: &&Value| {
            pod["kind"] == Kind::Pod.as_str()
                && launcher_uid.is_some_and(|uid| is_controlled(pod, uid))
        };
        Ok(Self {
            service: find(Kind::Service, &job.name)?,
            config: find(Kind::ConfigMap, &format!("{}-config", job.name))?,
            has_secret: find(Kind::Secret, &format!("{}-ssh", job.name))?.is_some(),
            workers,
            launcher,
            launcher_pods: objects.iter().filter(is_launched).collect(),
        })
    }

    /// Whether the job has its keys.
    pub fn has_keys(&self) -> bool {
        self.has_secret
    }

    /// How many workers are in this phase.
    pub(crate) fn workers_in(&self, wanted: &str) -> u32 {
        let count = self
            .workers
            .values()
            .filter(|pod| phase(pod) == wanted)
            .count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    fn ready_workers(&self) -> u32 {
        let ready = |pod: &&&Value| {
            let conditions = pod["status"]["conditions"].as_array();
            let mut conditions = conditions.into_iter().flatten();
            conditions.any(|c| c["type"] == "Ready" && c["status"] == "True")
        };
        u32::try_from(self.workers.values().filter(ready).count()).unwrap_or(u32::MAX)
    }
}

fn is_controlled(object: &Value, by: &str) -> bool {
    let owners = object["metadata"]["ownerReferences"].as_array();
    let mut owners = owners.into_iter().flatten();
    owners.any(|owner| owner["controller"] == true && owner["uid"] == by)
}

/// What is to be done about a job, in this order. `keys` are for a job that has none yet, and `now` is a time as Kubernetes
/// writes it.
pub fn sync(job: &Job, seen: &Seen<'_>, keys: Option<&Keys>, now: &str) -> Vec<Step> {
    let status = status::status(job, seen, now);
    let over = status::end(seen.launcher).is_some();
    let mut steps = Vec::new();
    if over {
        steps.extend(cleaned(job, seen));
    } else {
        steps.extend(tended(job, seen, keys));
    }
    if status != job.status {
        steps.push(Step::Status(status));
    }
    let due = match job.creation {
        Creation::AtStartup => true,
        Creation::WaitForWorkersReady => seen.ready_workers() == job.workers.count,
    };
    if !over && seen.launcher.is_none() && due {
        steps.push(Step::Create(job.launcher_job()));
    }
    steps
}

/// Everything that a job needs before its launcher.
fn tended(job: &Job, seen: &Seen<'_>, keys: Option<&Keys>) -> Vec<Step> {
    let mut steps = Vec::new();
    if seen.service.is_none() {
        steps.push(Step::Create(job.service()));
    }
    let runs = |pod: &&&Value| phase(pod) == "Running";
    let running = seen
        .workers
        .values()
        .filter(runs)
        .filter_map(|pod| pod["metadata"]["name"].as_str());
    let running: Vec<_> = running.map(str::to_owned).collect();
    match seen.config {
        None => steps.push(Step::Create(job.config(&running))),
        Some(config) if config["data"] != job.hosts(&running) => {
            steps.push(Step::Replace(job.config(&running)));
        }
        Some(_) => {}
    }
    if let Some(keys) = keys.filter(|_| !seen.has_secret) {
        steps.push(Step::Create(job.secret(keys)));
    }
    let missing = (0..job.workers.count).filter(|index| !seen.workers.contains_key(index));
    steps.extend(missing.map(|index| Step::Create(job.worker_pod(index))));
    steps
}

/// The workers of a job that is over, as its policy says.
fn cleaned(job: &Job, seen: &Seen<'_>) -> Vec<Step> {
    let goes = |pod: &Value| match job.clean {
        Clean::None => false,
        Clean::Running => matches!(phase(pod), "Running" | "Pending"),
        Clean::All => true,
    };
    let there = seen
        .workers
        .iter()
        .filter(|(_, pod)| pod["metadata"]["deletionTimestamp"].is_null());
    there
        .filter(|(_, pod)| goes(pod))
        .map(|(index, _)| Step::Delete(job.worker(*index)))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::job::tests::example;

    /// The objects of one namespace, changed as the steps say.
    struct Cluster {
        job: Value,
        objects: Vec<Value>,
    }

    impl Cluster {
        fn new() -> Self {
            Self {
                job: example(),
                objects: Vec::new(),
            }
        }

        /// Does what is to be done, and tells it.
        fn step(&mut self) -> Vec<String> {
            let keys = Keys {
                private: "private".to_owned(),
                public: "public".to_owned(),
            };
            let job = Job::read(&self.job).unwrap();
            let seen = Seen::of(&job, &self.objects).unwrap();
            let steps = sync(&job, &seen, Some(&keys), "2026-11-30T00:00:00Z");
            steps.into_iter().map(|step| self.apply(step)).collect()
        }

        fn apply(&mut self, step: Step) -> String {
            let told = |object: &Value| {
                format!(
                    "{}/{}",
                    object["kind"].as_str().unwrap(),
                    object["metadata"]["name"].as_str().unwrap()
                )
            };
            match step {
                Step::Create(mut object) => {
                    object["metadata"]["uid"] = json!(told(&object));
                    self.objects.push(object.clone());
                    told(&object)
                }
                Step::Replace(object) => {
                    self.objects.retain(|other| told(other) != told(&object));
                    self.objects.push(object.clone());
                    format!("replace {}", told(&object))
                }
                Step::Delete(name) => {
                    self.objects
                        .retain(|other| other["metadata"]["name"] != json!(name));
                    format!("delete {name}")
                }
                Step::Status(status) => {
                    let conditions = status["conditions"].as_array().unwrap();
                    let last = conditions.last().map(|c| {
                        format!(
                            "{} {}",
                            c["type"].as_str().unwrap(),
                            c["status"].as_str().unwrap()
                        )
                    });
                    self.job["status"] = status;
                    format!("status {}", last.unwrap_or_default())
                }
            }
        }

        fn object(&mut self, name: &str) -> &mut Value {
            let mut objects = self.objects.iter_mut();
            objects
                .find(|object| object["metadata"]["name"] == name)
                .unwrap()
        }

        fn run_workers(&mut self) {
            for name in ["train-worker-0", "train-worker-1"] {
                self.object(name)["status"] = json!({ "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] });
            }
        }
    }

    #[test]
    fn a_job_comes_in_order_waits_for_its_workers_runs_and_is_cleaned_up() {
        let mut cluster = Cluster::new();
        assert_eq!(
            cluster.step(),
            [
                "Service/train",
                "ConfigMap/train-config",
                "Secret/train-ssh",
                "Pod/train-worker-0",
                "Pod/train-worker-1",
                "status Created True",
            ]
        );
        assert_eq!(cluster.step(), [""; 0]);
        cluster.run_workers();
        assert_eq!(
            cluster.step(),
            [
                "replace ConfigMap/train-config",
                "status Created True",
                "Job/train-launcher"
            ]
        );
        let owner = json!([{ "controller": true, "uid": "Job/train-launcher" }]);
        cluster.objects.push(json!({
            "kind": "Pod",
            "metadata": { "name": "train-launcher-x", "ownerReferences": owner },
            "status": { "phase": "Running" },
        }));
        assert_eq!(cluster.step(), ["status Running True"]);
        cluster.object("train-launcher")["status"] = json!({
            "completionTime": "2026-11-30T00:01:00Z",
            "conditions": [{ "type": "Complete", "status": "True" }],
        });
        assert_eq!(
            cluster.step(),
            [
                "delete train-worker-0",
                "delete train-worker-1",
                "status Succeeded True"
            ]
        );
        assert_eq!(
            cluster.job["status"]["completionTime"],
            "2026-11-30T00:01:00Z"
        );
        assert_eq!(cluster.step(), [""; 0]);
    }

    #[test]
    fn a_worker_that_is_gone_is_made_again_and_one_that_failed_is_not() {
        let mut cluster = Cluster::new();
        cluster.step();
        cluster.object("train-worker-0")["status"] = json!({ "phase": "Failed" });
        cluster
            .objects
            .retain(|object| object["metadata"]["name"] != "train-worker-1");
        assert_eq!(cluster.step()[0], "Pod/train-worker-1");
    }

    #[test]
    fn an_object_of_somebody_else_stops_it() {
        let mut cluster = Cluster::new();
        cluster
            .objects
            .push(json!({ "kind": "Secret", "metadata": { "name": "train-ssh" } }));
        let job = Job::read(&cluster.job).unwrap();
        let told = Seen::of(&job, &cluster.objects).unwrap_err().to_string();
        assert_eq!(
            told,
            "Secret train-ssh exists and is not controlled by this MPIJob"
        );
    }

    #[test]
    fn a_failed_launcher_fails_the_job_with_its_reason() {
        let mut cluster = Cluster::new();
        cluster.step();
        cluster.run_workers();
        cluster.step();
        cluster.object("train-launcher")["status"] = json!({ "conditions": [
            { "type": "Failed", "status": "True", "reason": "BackoffLimitExceeded" },
        ] });
        cluster.step();
        let conditions = cluster.job["status"]["conditions"].as_array().unwrap();
        assert_eq!(conditions.last().unwrap()["reason"], "BackoffLimitExceeded");
    }
}
