//! What a scenario works with: a namespace of its own on the running cluster.

use std::thread;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Event, Pod, ServiceAccount};
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceSlice};
use serde_json::Value;
use tessera_cluster::{Cluster, Node};

use crate::agreement::await_agreement;
use crate::failure::{Failure, nothing, same};
use crate::gpus::{Offered, held, listed, offered};
use crate::kubernetes::{Kubernetes, Object, Objects, Scope, containers, runs};
use crate::leftovers;
use crate::scenario::Form;

/// What a pod may take to run: several at once on a busy machine of two cores.
pub(crate) const START_LIMIT: Duration = Duration::from_mins(1);

/// What Kubernetes' garbage collector may take to delete what belonged to a deleted object.
pub(crate) const COLLECT_LIMIT: Duration = Duration::from_secs(30);

/// Time between two looks at the files of a node, which nothing watches.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// The line that our pods write after `nvidia-smi -L`, so that a log is known to be complete.
pub(crate) const LISTED: &str = "listed";

/// A namespace on the running cluster.
pub(crate) struct Context<'a> {
    kubernetes: Kubernetes<'a>,
    namespace: String,
    form: Form,
}

impl<'a> Context<'a> {
    /// Makes the namespace.
    pub(crate) fn new(cluster: &'a Cluster, namespace: &str, form: Form) -> Result<Self, Failure> {
        let context = Self {
            kubernetes: Kubernetes::of(cluster),
            namespace: namespace.to_owned(),
            form,
        };
        context.kubernetes.apply(
            "default",
            &format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {namespace}}}}}"),
        )?;
        // The API server refuses pods in a namespace that has no service account yet.
        let what = "the service account of the namespace";
        let scope = Scope::Namespace(namespace);
        let limit = Duration::from_secs(30);
        context
            .kubernetes
            .wait(scope, what, limit, |accounts: &Objects<ServiceAccount>| {
                accounts.contains_key("default").then_some(())
            })?;
        Ok(context)
    }

    /// Removes what the scenario made and checks that nothing of it is left on any node.
    ///
    /// Before that and after it scheduler, kubelet, plugin and hardware must agree about who has what.
    pub(crate) fn end(self) -> Result<(), Failure> {
        let before = self.agreed();
        let everything = "pods,resourceclaims,resourceclaimtemplates";
        self.kubernetes
            .delete(&self.namespace, &[everything, "--all"])?;
        self.kubernetes.give_up_namespace(&self.namespace)?;
        before?;
        self.nothing_left()?;
        self.agreed()
    }

    /// Waits until all who keep account of GPUs agree about every node.
    pub(crate) fn agreed(&self) -> Result<(), Failure> {
        await_agreement(self.kubernetes, self.nodes())
    }

    /// The cluster's Kubernetes.
    pub(crate) fn kubernetes(&self) -> Kubernetes<'a> {
        self.kubernetes
    }

    /// What the form of this run asks for.
    pub(crate) fn either<T>(&self, short: T, long: T) -> T {
        match self.form {
            Form::Short => short,
            Form::Long => long,
        }
    }

    /// The namespace's name.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The namespace, as a place to look into.
    pub(crate) fn scope(&self) -> Scope<'_> {
        Scope::Namespace(&self.namespace)
    }

    /// The nodes.
    pub(crate) fn nodes(&self) -> &'a [Node] {
        self.kubernetes.cluster().nodes()
    }

    /// The first node with this simulated hardware.
    pub(crate) fn node_with(&self, profile: &str) -> Result<&'a Node, Failure> {
        let mut nodes = self.nodes().iter();
        nodes
            .find(|node| node.profile() == Some(profile))
            .ok_or_else(|| Failure::wrong(format!("no node of the cluster has profile {profile}")))
    }

    /// Gives the namespace a label.
    pub(crate) fn label_namespace(&self, key: &str, value: &str) -> Result<(), Failure> {
        let namespace = &self.namespace;
        self.kubernetes.apply(
            "default",
            &format!(
                "{{apiVersion: v1, kind: Namespace, \
                 metadata: {{name: {namespace}, labels: {{{key}: {value:?}}}}}}}"
            ),
        )
    }

    /// Creates the objects that `yaml` describes.
    pub(crate) fn apply(&self, yaml: &str) -> Result<(), Failure> {
        self.kubernetes.apply(&self.namespace, yaml)
    }

    /// Deletes pods and returns when they are gone.
    pub(crate) fn delete_pods(&self, names: &[&str]) -> Result<(), Failure> {
        let mut arguments = vec!["pods"];
        arguments.extend(names);
        self.kubernetes.delete(&self.namespace, &arguments)
    }

    /// Tells the API server to delete pods, and does not wait until they are gone.
    pub(crate) fn let_go(&self, names: &[&str]) -> Result<(), Failure> {
        if names.is_empty() {
            return Ok(());
        }
        let mut arguments = vec!["pods", "--wait=false"];
        arguments.extend(names);
        self.kubernetes.delete(&self.namespace, &arguments)
    }

    /// Waits until `look` finds what it wants in the namespace's pods.
    pub(crate) fn pods<T>(
        &self,
        what: &str,
        look: impl FnMut(&Objects<Pod>) -> Option<T>,
    ) -> Result<T, Failure> {
        self.pods_within(what, START_LIMIT, look)
    }

    /// Like [`pods`](Self::pods), with a limit of its own.
    pub(crate) fn pods_within<T>(
        &self,
        what: &str,
        limit: Duration,
        look: impl FnMut(&Objects<Pod>) -> Option<T>,
    ) -> Result<T, Failure> {
        let scope = Scope::Namespace(&self.namespace);
        self.kubernetes.wait(scope, what, limit, look)
    }

    /// Waits until there is an event of this kind in a place.
    pub(crate) fn event(
        &self,
        scope: Scope<'_>,
        what: &str,
        is_it: impl Fn(&Event) -> bool,
    ) -> Result<Event, Failure> {
        self.kubernetes
            .wait(scope, what, START_LIMIT, |events: &Objects<Event>| {
                events.values().find(|event| is_it(event)).cloned()
            })
    }

    /// What the kubelet says about preparations that failed. Each costs a pod more than a minute.
    pub(crate) fn failed_preparations(&self) -> Result<Vec<String>, Failure> {
        let events: Objects<Event> = self.list()?;
        let failed = events.into_values().filter(failed_preparation);
        Ok(failed.filter_map(|event| event.message).collect())
    }

    /// What `kubectl describe` says about an object.
    pub(crate) fn describe(&self, object: &str) -> Result<String, Failure> {
        self.kubernetes.describe(&self.namespace, object)
    }

    /// Waits until all these pods run.
    pub(crate) fn running(&self, names: &[&str]) -> Result<Objects<Pod>, Failure> {
        self.running_within(names, START_LIMIT)
    }

    /// Like [`running`](Self::running), with a limit of its own.
    pub(crate) fn running_within(
        &self,
        names: &[&str],
        limit: Duration,
    ) -> Result<Objects<Pod>, Failure> {
        let what = format!("{} to run", names.join(", "));
        self.pods_within(&what, limit, |pods| {
            let runs = |name: &&str| pods.get(*name).is_some_and(runs);
            names.iter().all(runs).then(|| pods.clone())
        })
    }

    /// Waits until `nvidia-smi -L` has run in the container, and returns the UUIDs that it listed.
    pub(crate) fn seen(&self, pod: &str, container: &str) -> Result<Vec<String>, Failure> {
        let lines = self.written(pod, container)?;
        let listed = listed(lines.iter().map(String::as_str)).map_err(|_| {
            let lines = lines.join("\n");
            Failure::wrong(format!("nvidia-smi -L in {pod}/{container} says:\n{lines}"))
        })?;
        Ok(listed.into_iter().map(|gpu| gpu.uuid).collect())
    }

    /// The UUIDs that `nvidia-smi -L` lists when it is run in the container now.
    pub(crate) fn lists(&self, pod: &str, container: &str) -> Result<Vec<String>, Failure> {
        let text = self.execute(pod, container, &["nvidia-smi", "-L"])?;
        let gpus = listed(text.lines()).map_err(|_| {
            Failure::wrong(format!("nvidia-smi -L in {pod}/{container} says:\n{text}"))
        })?;
        Ok(gpus.into_iter().map(|gpu| gpu.uuid).collect())
    }

    /// What the container writes before it says that it has listed everything.
    pub(crate) fn written(&self, pod: &str, container: &str) -> Result<Vec<String>, Failure> {
        let complete = |lines: &[String]| lines.last().is_some_and(|line| line == LISTED);
        let what = "the end of the list";
        let mut lines = self.kubernetes.lines(
            &self.namespace,
            (pod, container),
            what,
            START_LIMIT,
            complete,
        )?;
        lines.pop();
        Ok(lines)
    }

    /// What a program writes that is run in a container.
    pub(crate) fn execute(
        &self,
        pod: &str,
        container: &str,
        program: &[&str],
    ) -> Result<String, Failure> {
        self.kubernetes
            .execute(&self.namespace, pod, container, program)
    }

    /// Waits until the namespace has no claim.
    pub(crate) fn no_claims(&self) -> Result<(), Failure> {
        let scope = Scope::Namespace(&self.namespace);
        let what = "no claim to be left";
        self.kubernetes.wait(
            scope,
            what,
            COLLECT_LIMIT,
            |claims: &Objects<ResourceClaim>| claims.is_empty().then_some(()),
        )
    }

    /// Deletes a claim and returns when it is gone.
    pub(crate) fn delete_claim(&self, name: &str) -> Result<(), Failure> {
        let arguments = ["resourceclaim", name];
        self.kubernetes.delete(&self.namespace, &arguments)
    }

    /// Changes the status of an object, which users leave to Kubernetes.
    pub(crate) fn patch_status(
        &self,
        kind: &str,
        name: &str,
        status: &Value,
    ) -> Result<(), Failure> {
        let scope = &self.namespace;
        self.kubernetes.patch_status(scope, kind, name, status)
    }

    /// The namespace's claims.
    pub(crate) fn claims(&self) -> Result<Objects<ResourceClaim>, Failure> {
        self.kubernetes.list(Scope::Namespace(&self.namespace))
    }

    /// The GPUs that this claim holds, as their slices describe them.
    pub(crate) fn held(&self, claim: &str) -> Result<Vec<Offered>, Failure> {
        let claims = self.claims()?;
        let found = claims.get(claim);
        let claim = found.ok_or_else(|| Failure::wrong(format!("there is no claim {claim:?}")))?;
        let slices: Objects<ResourceSlice> = self.kubernetes.list(Scope::Cluster)?;
        let offers = offered(&slices);
        let offer = |place| {
            let mut offers = offers.iter();
            let found = offers.find(|offer| offer.place == place).cloned();
            found.ok_or_else(|| Failure::wrong(format!("{place:?} is allocated, and in no slice")))
        };
        held(claim).into_iter().map(offer).collect()
    }

    /// Everything of one kind in the namespace.
    pub(crate) fn list<T: Object>(&self) -> Result<Objects<T>, Failure> {
        self.kubernetes.list(Scope::Namespace(&self.namespace))
    }

    /// Waits until no node has anything of any claim.
    pub(crate) fn nothing_left_within(&self, limit: Duration) -> Result<(), Failure> {
        let deadline = Instant::now() + limit;
        loop {
            match self.nothing_left() {
                Err(_) if Instant::now() < deadline => thread::sleep(LOOK_AGAIN),
                outcome => return outcome,
            }
        }
    }

    /// Holds if no node has anything of any claim.
    pub(crate) fn nothing_left(&self) -> Result<(), Failure> {
        for node in self.nodes() {
            let name = node.name();
            let records = leftovers::records(node)?;
            nothing(&format!("journal records are left on {name}"), &records)?;
            let specs = leftovers::specs(node)?;
            nothing(&format!("CDI specifications are left on {name}"), &specs)?;
        }
        Ok(())
    }
}

/// Whether the kubelet says in it that a claim of a pod was not prepared.
pub(crate) fn failed_preparation(event: &Event) -> bool {
    event.reason.as_deref() == Some("FailedPrepareDynamicResources")
}

/// Holds if the pod's containers are those that were running before ([`containers`]), and were not restarted.
pub(crate) fn went_on(pod: &Pod, before: &Vec<(Option<String>, i32)>) -> Result<(), Failure> {
    same("the containers that ran before", &containers(pod), before)
}

/// The claim that was generated for this entry of the pod's `resourceClaims`.
pub(crate) fn claim_of(pod: &Pod, entry: &str) -> Result<String, Failure> {
    let status = pod.status.clone().unwrap_or_default();
    let statuses = status.resource_claim_statuses.unwrap_or_default();
    let mut named = statuses.into_iter().filter(|status| status.name == entry);
    let name = named.next().and_then(|status| status.resource_claim_name);
    name.ok_or_else(|| Failure::wrong(format!("the pod has no claim generated for {entry:?}")))
}

/// The UUIDs of GPUs, in their order.
pub(crate) fn uuids(gpus: &[Offered]) -> Vec<String> {
    gpus.iter().map(|gpu| gpu.uuid.clone()).collect()
}
