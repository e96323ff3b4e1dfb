//! The objects of a job.

use serde_json::{Map, Value, json};

use crate::Keys;
use crate::job::{Job, Replica};

/// Where the launcher finds its configuration.
const CONFIG_PATH: &str = "/etc/mpi";

/// The value of the label that tells the operator's pods from others.
const OPERATOR: &str = "mpi-operator";

const LABEL_JOB: &str = "training.kubeflow.org/job-name";
const LABEL_OPERATOR: &str = "training.kubeflow.org/operator-name";
const LABEL_ROLE: &str = "training.kubeflow.org/job-role";
const LABEL_INDEX: &str = "training.kubeflow.org/replica-index";

/// Whose pod it is.
#[derive(Clone, Copy)]
enum Role {
    Launcher,
    Worker(u32),
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Launcher => "launcher",
            Self::Worker(_) => "worker",
        }
    }
}

impl Job {
    /// The Service that gives the pods their names.
    pub(crate) fn service(&self) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": self.metadata(&self.name),
            "spec": {
                "clusterIP": "None",
                "publishNotReadyAddresses": false,
                "selector": { LABEL_JOB: self.name, LABEL_OPERATOR: OPERATOR },
            },
        })
    }

    /// What the launcher reads: all workers that are wanted, and a script that names those that run.
    pub(crate) fn config(&self, running: &[String]) -> Value {
        let (name, data) = (format!("{}-config", self.name), self.hosts(running));
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": self.metadata(&name),
            "data": data,
        })
    }

    /// The content of that. `running` are names of pods.
    pub(crate) fn hosts(&self, running: &[String]) -> Value {
        let line = |index| format!("{} slots={}\n", self.host(&self.worker(index)), self.slots);
        let hostfile: String = (0..self.workers.count).map(line).collect();
        let mut running = running.to_vec();
        running.sort_unstable();
        let echo = |pod: &String| format!("echo {}\n", self.host(pod));
        let script: String = running.iter().map(echo).collect();
        json!({ "hostfile": hostfile, "discover_hosts.sh": format!("#!/bin/sh\n{script}") })
    }

    /// The keys with which the launcher reaches the workers.
    pub(crate) fn secret(&self, keys: &Keys) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": self.metadata(&format!("{}-ssh", self.name)),
            "type": "kubernetes.io/ssh-auth",
            "stringData": { "ssh-privatekey": keys.private, "ssh-publickey": keys.public },
        })
    }

    /// A worker's pod.
    pub(crate) fn worker_pod(&self, index: u32) -> Value {
        let name = self.worker(index);
        let mut spec = self.pod_spec(&self.workers, &name, Role::Worker(index));
        let search = format!("{}.{}.svc.cluster.local", self.name, self.namespace);
        list(&mut spec["dnsConfig"]["searches"]).push(search.into());
        let first = &mut spec["containers"][0];
        if is_empty(&first["command"]) && is_empty(&first["args"]) {
            first["command"] = json!(["/usr/sbin/sshd", "-De"]);
        }
        let mut metadata = self.labelled(&self.workers, Role::Worker(index));
        metadata["name"] = json!(name);
        metadata["namespace"] = json!(self.namespace);
        metadata["ownerReferences"] = json!([self.owner()]);
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec })
    }

    /// The launcher's Job.
    pub(crate) fn launcher_job(&self) -> Value {
        let name = self.launcher();
        let mut pod = self.pod_spec(&self.launcher, &name, Role::Launcher);
        list(&mut pod["volumes"]).push(json!({
            "name": "mpi-job-config",
            "configMap": {
                "name": format!("{}-config", self.name),
                "items": [
                    { "key": "hostfile", "path": "hostfile", "mode": 0o444 },
                    { "key": "discover_hosts.sh", "path": "discover_hosts.sh", "mode": 0o555 },
                ],
            },
        }));
        let first = &mut pod["containers"][0];
        list(&mut first["volumeMounts"])
            .push(json!({ "name": "mpi-job-config", "mountPath": CONFIG_PATH }));
        let slots = self.slots.to_string();
        for (name, value) in [
            ("OMPI_MCA_orte_keep_fqdn_hostnames", "true"),
            ("OMPI_MCA_orte_default_hostfile", "/etc/mpi/hostfile"),
            ("OMPI_MCA_plm_rsh_args", "-o ConnectionAttempts=10"),
            ("OMPI_MCA_orte_set_default_slots", &slots),
            // It is no worker, so it sees no GPU.
            ("NVIDIA_VISIBLE_DEVICES", ""),
            ("NVIDIA_DRIVER_CAPABILITIES", ""),
        ] {
            list(&mut first["env"]).push(json!({ "name": name, "value": value }));
        }
        let metadata = self.labelled(&self.launcher, Role::Launcher);
        let mut spec = self.limits.clone();
        spec.insert("podReplacementPolicy".to_owned(), json!("Failed"));
        spec.insert(
            "template".to_owned(),
            json!({ "metadata": metadata, "spec": pod }),
        );
        json!({
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": self.metadata(&name),
            "spec": spec,
        })
    }

    fn metadata(&self, name: &str) -> Value {
        json!({
            "name": name,
            "namespace": self.namespace,
            "labels": { "app": self.name },
            "ownerReferences": [self.owner()],
        })
    }

    fn owner(&self) -> Value {
        json!({
            "apiVersion": "kubeflow.org/v2beta1",
            "kind": "MPIJob",
            "name": self.name,
            "uid": self.uid,
            "controller": true,
            "blockOwnerDeletion": true,
        })
    }

    /// The template's labels with ours over them, and its annotations.
    fn labelled(&self, replica: &Replica, role: Role) -> Value {
        let mut metadata = replica.template["metadata"].clone();
        let labels = map(&mut metadata["labels"]);
        for (key, value) in [
            (LABEL_OPERATOR, OPERATOR),
            (LABEL_JOB, &self.name),
            (LABEL_ROLE, role.name()),
        ] {
            labels.insert(key.to_owned(), value.into());
        }
        if let Role::Worker(index) = role {
            labels.insert(LABEL_INDEX.to_owned(), index.to_string().into());
        }
        metadata
    }

    /// What pods of both roles get. All else in the template passes through.
    fn pod_spec(&self, replica: &Replica, name: &str, role: Role) -> Value {
        let mut spec = replica.template["spec"].clone();
        spec["hostname"] = json!(name);
        spec["subdomain"] = json!(self.name);
        spec["restartPolicy"] = json!(replica.restart);
        if spec["hostNetwork"] == json!(true) {
            spec["dnsPolicy"] = json!("ClusterFirstWithHostNet");
        }
        let mut secret = json!({
            "secretName": format!("{}-ssh", self.name),
            "items": [
                { "key": "ssh-privatekey", "path": "id_rsa" },
                { "key": "ssh-publickey", "path": "id_rsa.pub" },
                { "key": "ssh-publickey", "path": "authorized_keys" },
            ],
        });
        if self.has_keys_of_root() {
            secret["defaultMode"] = json!(0o600);
        }
        list(&mut spec["volumes"]).push(json!({ "name": "ssh-auth", "secret": secret }));
        let first = &mut spec["containers"][0];
        list(&mut first["volumeMounts"])
            .push(json!({ "name": "ssh-auth", "mountPath": self.ssh_path }));
        list(&mut first["env"]).push(json!({ "name": "K_MPI_JOB_ROLE", "value": role.name() }));
        spec
    }
}

/// A list of a template, which may leave it out.
fn list(value: &mut Value) -> &mut Vec<Value> {
    if !value.is_array() {
        *value = json!([]);
    }
    value.as_array_mut().expect("it was just made a list")
}

/// A map of a template, which may leave it out.
fn map(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = json!({});
    }
    value.as_object_mut().expect("it was just made a map")
}

fn is_empty(value: &Value) -> bool {
    value.as_array().is_none_or(Vec::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::tests::example;

    fn job() -> Job {
        Job::read(&example()).unwrap()
    }

    fn env(container: &Value) -> Vec<(&str, &str)> {
        let env = container["env"].as_array().unwrap();
        env.iter()
            .map(|entry| {
                (
                    entry["name"].as_str().unwrap(),
                    entry["value"].as_str().unwrap(),
                )
            })
            .collect()
    }

    #[test]
    fn the_hostfile_has_all_workers_in_order_and_the_script_those_that_run_as_text_sorts_them() {
        let mut object = example();
        object["spec"]["mpiReplicaSpecs"]["Worker"]["replicas"] = json!(11);
        let job = Job::read(&object).unwrap();
        let running = ["train-worker-2", "train-worker-10"].map(str::to_owned);
        let hosts = job.hosts(&running);
        let hostfile = hosts["hostfile"].as_str().unwrap();
        assert_eq!(hostfile.lines().count(), 11);
        assert_eq!(
            hostfile.lines().nth(10),
            Some("train-worker-10.train.ml.svc slots=4")
        );
        assert_eq!(
            hosts["discover_hosts.sh"],
            "#!/bin/sh\necho train-worker-10.train.ml.svc\necho train-worker-2.train.ml.svc\n"
        );
    }

    #[test]
    fn a_worker_serves_ssh_under_its_own_name_and_keeps_what_its_template_has() {
        let pod = job().worker_pod(1);
        let spec = &pod["spec"];
        assert_eq!(
            (&spec["hostname"], &spec["subdomain"]),
            (&json!("train-worker-1"), &json!("train"))
        );
        assert_eq!(
            spec["dnsConfig"]["searches"],
            json!(["train.ml.svc.cluster.local"])
        );
        assert_eq!(spec["resourceClaims"][0]["resourceClaimTemplateName"], "t");
        assert_eq!(spec["restartPolicy"], "Never");
        assert_eq!(spec["volumes"][0]["secret"]["defaultMode"], 0o600);
        let first = &spec["containers"][0];
        assert_eq!(first["command"], json!(["/usr/sbin/sshd", "-De"]));
        assert_eq!(first["volumeMounts"][0]["mountPath"], job().ssh_path);
        assert_eq!(env(first), [("K_MPI_JOB_ROLE", "worker")]);
        let labels = &pod["metadata"]["labels"];
        assert_eq!(
            (&labels["team"], &labels[LABEL_INDEX]),
            (&json!("a"), &json!("1"))
        );
        assert_eq!(pod["metadata"]["ownerReferences"][0]["uid"], "u-1");
    }

    #[test]
    fn a_worker_with_a_command_keeps_it_and_keys_elsewhere_have_the_usual_mode() {
        let mut object = example();
        object["spec"]["sshAuthMountPath"] = json!("/home/mpiuser/.ssh");
        object["spec"]["mpiReplicaSpecs"]["Worker"]["template"]["spec"]["containers"][0]["args"] =
            json!(["-De", "-f", "x"]);
        let pod = Job::read(&object).unwrap().worker_pod(0);
        assert_eq!(pod["spec"]["containers"][0].get("command"), None);
        assert_eq!(pod["spec"]["volumes"][0]["secret"].get("defaultMode"), None);
    }

    #[test]
    fn the_launcher_finds_the_hosts_and_sees_no_gpu() {
        let launcher = job().launcher_job();
        assert_eq!(launcher["metadata"]["name"], "train-launcher");
        assert_eq!(launcher["spec"]["backoffLimit"], 2);
        let spec = &launcher["spec"]["template"]["spec"];
        assert_eq!(spec["restartPolicy"], "OnFailure");
        let first = &spec["containers"][0];
        assert_eq!(first["command"], json!(["mpirun"]));
        let env = env(first);
        assert_eq!(env[0], ("K_MPI_JOB_ROLE", "launcher"));
        for wanted in [
            ("OMPI_MCA_orte_default_hostfile", "/etc/mpi/hostfile"),
            ("OMPI_MCA_orte_set_default_slots", "4"),
            ("NVIDIA_VISIBLE_DEVICES", ""),
        ] {
            assert!(env.contains(&wanted), "{wanted:?} is not in {env:?}");
        }
        let labels = &launcher["spec"]["template"]["metadata"]["labels"];
        assert_eq!(
            (&labels[LABEL_ROLE], labels.get(LABEL_INDEX)),
            (&json!("launcher"), None)
        );
    }
}
