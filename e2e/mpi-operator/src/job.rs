//! An `MPIJob` as its author means it: read once, with the operator's defaults, and refused if it cannot be served.

use serde::Deserialize;
use serde_json::{Map, Value};

/// The longest name of a host (RFC 1035).
const LONGEST_LABEL: usize = 63;

/// The home of root in a container. A job that says nothing of its keys has them there (`sshAuthMountPath` of the API).
const ROOTS_HOME: &str = "/root";

/// The directory of a home in which ssh looks for keys.
const KEYS: &str = ".ssh";

/// A job.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) uid: String,
    pub(crate) slots: u32,
    pub(crate) ssh_path: String,
    pub(crate) creation: Creation,
    pub(crate) clean: Clean,
    /// What of the run policy is the launcher Job's own.
    pub(crate) limits: Map<String, Value>,
    pub(crate) launcher: Replica,
    pub(crate) workers: Replica,
    /// The status that is stored.
    pub(crate) status: Value,
}

/// When the launcher is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(crate) enum Creation {
    #[default]
    AtStartup,
    WaitForWorkersReady,
}

/// Which workers go when the job is over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(crate) enum Clean {
    #[default]
    None,
    Running,
    All,
}

/// One role's pods.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Replica {
    pub(crate) count: u32,
    pub(crate) restart: String,
    pub(crate) template: Value,
}

/// Why a job is not served. The operator tells it in an event and does nothing else.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// A field has another type than it should, or a value that is none.
    #[error("{0}")]
    Unreadable(#[from] serde_json::Error),
    /// There is no launcher, or more than one.
    #[error("spec.mpiReplicaSpecs.Launcher.replicas is {0}, and must be 1")]
    Launcher(u32),
    /// There are workers in the specification, and none is wanted.
    #[error(
        "spec.mpiReplicaSpecs.Worker.replicas is 0, and must be 1 at least where Worker is there"
    )]
    NoWorkers,
    /// A pod would be none.
    #[error("spec.mpiReplicaSpecs.{role}.template.spec.containers is empty")]
    NoContainer {
        /// Whose.
        role: &'static str,
    },
    /// A policy that the operator does not take.
    #[error("spec.mpiReplicaSpecs.{role}.restartPolicy is {policy:?}; write Never or OnFailure")]
    RestartPolicy {
        /// Whose.
        role: &'static str,
        /// What it is.
        policy: String,
    },
    /// The last worker would have no name.
    #[error("metadata.name makes a host of {0:?}, which is longer than 63 characters")]
    LongName(String),
    /// The real operator would do it.
    #[error("{0} is not served by this stand-in for mpi-operator")]
    NotServed(&'static str),
}

#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
    spec: Spec,
    #[serde(default)]
    status: Value,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    namespace: String,
    uid: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    slots_per_worker: Option<u32>,
    ssh_auth_mount_path: Option<String>,
    #[serde(default)]
    launcher_creation_policy: Creation,
    mpi_implementation: Option<String>,
    #[serde(default)]
    run_launcher_as_worker: bool,
    #[serde(default)]
    run_policy: RunPolicy,
    mpi_replica_specs: Replicas,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RunPolicy {
    #[serde(default)]
    clean_pod_policy: Clean,
    #[serde(default)]
    suspend: bool,
    managed_by: Option<String>,
    scheduling_policy: Option<Value>,
    backoff_limit: Option<u32>,
    active_deadline_seconds: Option<u32>,
    ttl_seconds_after_finished: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Replicas {
    launcher: Option<ReplicaSpec>,
    worker: Option<ReplicaSpec>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReplicaSpec {
    replicas: Option<u32>,
    restart_policy: Option<String>,
    #[serde(default)]
    template: Value,
}

impl Job {
    /// Reads an object of the kind, as the API server gives it.
    pub fn read(object: &Value) -> Result<Self, Fault> {
        let Object {
            metadata,
            spec,
            status,
        } = Object::deserialize(object)?;
        refuse(&spec)?;
        let launcher = replica("Launcher", spec.mpi_replica_specs.launcher, "OnFailure", 1)?;
        if launcher.count != 1 {
            return Err(Fault::Launcher(launcher.count));
        }
        let has_workers = spec.mpi_replica_specs.worker.is_some();
        let workers = match spec.mpi_replica_specs.worker {
            None => Replica::none(),
            worker => replica("Worker", worker, "Never", 0)?,
        };
        if has_workers && workers.count == 0 {
            return Err(Fault::NoWorkers);
        }
        let job = Self {
            name: metadata.name,
            namespace: metadata.namespace,
            uid: metadata.uid,
            slots: spec.slots_per_worker.unwrap_or(1),
            ssh_path: spec.ssh_auth_mount_path.unwrap_or_else(roots_keys),
            creation: spec.launcher_creation_policy,
            clean: spec.run_policy.clean_pod_policy,
            limits: limits(&spec.run_policy),
            launcher,
            workers,
            status,
        };
        let last = job.worker(job.workers.count.saturating_sub(1));
        if last.len() > LONGEST_LABEL {
            return Err(Fault::LongName(last));
        }
        Ok(job)
    }

    /// Whether the keys are those of root, which ssh takes only if nobody else reads them.
    pub(crate) fn has_keys_of_root(&self) -> bool {
        self.ssh_path == roots_keys()
    }

    /// The name of a worker's pod.
    pub(crate) fn worker(&self, index: u32) -> String {
        format!("{}-worker-{index}", self.name)
    }

    /// The name of the launcher's Job.
    pub(crate) fn launcher(&self) -> String {
        format!("{}-launcher", self.name)
    }

    /// The name of a pod in DNS.
    pub(crate) fn host(&self, pod: &str) -> String {
        format!("{pod}.{}.{}.svc", self.name, self.namespace)
    }
}

fn roots_keys() -> String {
    format!("{ROOTS_HOME}/{KEYS}")
}

impl Replica {
    fn none() -> Self {
        Self {
            count: 0,
            restart: "Never".to_owned(),
            template: Value::Null,
        }
    }
}

fn refuse(spec: &Spec) -> Result<(), Fault> {
    let policy = &spec.run_policy;
    let open_mpi = spec.mpi_implementation.as_deref().unwrap_or("OpenMPI") == "OpenMPI";
    let not_served = [
        (!open_mpi, "spec.mpiImplementation other than OpenMPI"),
        (spec.run_launcher_as_worker, "spec.runLauncherAsWorker"),
        (policy.suspend, "spec.runPolicy.suspend"),
        (policy.managed_by.is_some(), "spec.runPolicy.managedBy"),
        (
            policy.scheduling_policy.is_some(),
            "spec.runPolicy.schedulingPolicy",
        ),
    ];
    match not_served.into_iter().find(|(wanted, _)| *wanted) {
        Some((_, what)) => Err(Fault::NotServed(what)),
        None => Ok(()),
    }
}

fn replica(
    role: &'static str,
    spec: Option<ReplicaSpec>,
    restart: &str,
    count: u32,
) -> Result<Replica, Fault> {
    let Some(spec) = spec else {
        return Err(Fault::Launcher(0));
    };
    let containers = &spec.template["spec"]["containers"];
    if containers.as_array().is_none_or(Vec::is_empty) {
        return Err(Fault::NoContainer { role });
    }
    let policy = spec.restart_policy.unwrap_or_else(|| restart.to_owned());
    if !matches!(policy.as_str(), "Never" | "OnFailure") {
        return Err(Fault::RestartPolicy { role, policy });
    }
    Ok(Replica {
        count: spec.replicas.unwrap_or(count),
        restart: policy,
        template: spec.template,
    })
}

fn limits(policy: &RunPolicy) -> Map<String, Value> {
    let limits = [
        ("backoffLimit", policy.backoff_limit),
        ("activeDeadlineSeconds", policy.active_deadline_seconds),
        ("ttlSecondsAfterFinished", policy.ttl_seconds_after_finished),
    ];
    let set = limits
        .into_iter()
        .filter_map(|(name, limit)| Some((name.to_owned(), limit?.into())));
    set.collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    /// A job `train` of two workers with four slots each in the namespace `ml`.
    pub(crate) fn example() -> Value {
        json!({
            "apiVersion": "kubeflow.org/v2beta1",
            "kind": "MPIJob",
            "metadata": { "name": "train", "namespace": "ml", "uid": "u-1" },
            "spec": {
                "slotsPerWorker": 4,
                "launcherCreationPolicy": "WaitForWorkersReady",
                "runPolicy": { "cleanPodPolicy": "Running", "backoffLimit": 2 },
                "mpiReplicaSpecs": {
                    "Launcher": { "template": { "spec": { "containers": [
                        { "name": "launcher", "image": "mpi", "command": ["mpirun"] },
                    ] } } },
                    "Worker": { "replicas": 2, "template": {
                        "metadata": { "labels": { "team": "a" } },
                        "spec": {
                            "resourceClaims": [{ "name": "channel", "resourceClaimTemplateName": "t" }],
                            "containers": [{ "name": "worker", "image": "mpi" }],
                        },
                    } },
                },
            },
        })
    }

    #[test]
    fn what_is_not_written_is_as_the_operator_has_it() {
        let mut object = example();
        object["spec"] = json!({ "mpiReplicaSpecs": {
            "Launcher": object["spec"]["mpiReplicaSpecs"]["Launcher"],
        } });
        let job = Job::read(&object).unwrap();
        assert_eq!(
            (job.slots, job.workers.count, job.launcher.count),
            (1, 0, 1)
        );
        assert!(job.has_keys_of_root());
        assert_eq!(job.ssh_path.strip_prefix("/root"), Some("/.ssh"));
        assert_eq!(
            (job.creation, job.clean),
            (Creation::AtStartup, Clean::None)
        );
        assert_eq!(
            (job.launcher.restart.as_str(), job.limits.len()),
            ("OnFailure", 0)
        );
    }

    #[test]
    fn what_cannot_be_served_is_refused_with_the_field() {
        for (path, value, said) in [
            (
                "/spec/mpiReplicaSpecs/Launcher",
                json!(null),
                "Launcher.replicas is 0",
            ),
            (
                "/spec/mpiReplicaSpecs/Worker/replicas",
                json!(0),
                "Worker.replicas is 0",
            ),
            (
                "/spec/mpiReplicaSpecs/Worker/template",
                json!({}),
                "Worker.template.spec.containers",
            ),
            ("/spec/slotsPerWorker", json!("four"), "invalid type"),
            ("/metadata/name", json!("n".repeat(60)), "longer than 63"),
        ] {
            let mut object = example();
            *object.pointer_mut(path).unwrap() = value;
            let told = Job::read(&object).unwrap_err().to_string();
            assert!(told.contains(said), "{told}");
        }
        for (field, value) in [
            ("mpiImplementation", json!("Intel")),
            ("runLauncherAsWorker", json!(true)),
            ("runPolicy", json!({ "suspend": true })),
            (
                "runPolicy",
                json!({ "managedBy": "kueue.x-k8s.io/multikueue" }),
            ),
        ] {
            let mut object = example();
            object["spec"][field] = value;
            let told = Job::read(&object).unwrap_err();
            assert!(
                matches!(told, Fault::NotServed(what) if what.contains(field)),
                "{told}"
            );
        }
    }
}
