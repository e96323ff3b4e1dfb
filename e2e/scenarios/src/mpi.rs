//! Runs the stand-in for mpi-operator beside a scenario: what it decides is done by `kubectl`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tessera_cluster::SshKeys;
use tessera_mpi_operator::{Job, Keys, Kind, Seen, Step, crd, sync};

use crate::context::Context;
use crate::failure::Failure;
use crate::kubernetes::{Heard, Kubernetes, Watch};

/// How long nothing is looked at if nothing happens to a pod: jobs and Jobs are not watched.
const LOOK_AGAIN: Duration = Duration::from_millis(300);

/// The kind, as `kubectl` finds it.
const JOBS: &str = "mpijobs.kubeflow.org";

/// Installs the kind `MPIJob`, and tends the jobs of the scenario's namespace while `body` runs.
pub(crate) fn tended(
    context: &Context<'_>,
    body: impl FnOnce() -> Result<(), Failure>,
) -> Result<(), Failure> {
    let kubernetes = context.kubernetes();
    kubernetes.apply("default", &crd().to_string())?;
    let established = [
        "wait",
        "--for=condition=Established",
        "crd/mpijobs.kubeflow.org",
        "--timeout=30s",
    ];
    kubernetes.command("default", &established, None)?;
    let over = AtomicBool::new(false);
    let result = thread::scope(|scope| {
        let operator = scope.spawn(|| operate(context, &over));
        let result = body();
        over.store(true, Ordering::Relaxed);
        let operated = operator.join();
        let operated = operated.unwrap_or_else(|_| Err(Failure::wrong("the operator panicked")));
        result.and(operated)
    });
    let removed = kubernetes.delete("default", &["crd/mpijobs.kubeflow.org"]);
    result.and(removed)
}

fn operate(context: &Context<'_>, over: &AtomicBool) -> Result<(), Failure> {
    let (kubernetes, namespace) = (context.kubernetes(), context.namespace());
    let mut pods: Watch<Pod> = kubernetes.follow(context.scope())?;
    while !over.load(Ordering::Relaxed) {
        match pods.next(Instant::now() + LOOK_AGAIN) {
            Heard::News | Heard::Late => look(kubernetes, namespace)?,
            Heard::Ended(_) => pods = kubernetes.follow(context.scope())?,
            Heard::Interrupted => return Err(Failure::Interrupted),
        }
    }
    Ok(())
}

/// Looks at every job of the namespace, and does what is to be done.
fn look(kubernetes: Kubernetes<'_>, namespace: &str) -> Result<(), Failure> {
    let jobs = objects(kubernetes, namespace, JOBS)?;
    // A job that is being deleted goes with all that it owns.
    let live = jobs
        .iter()
        .filter(|job| job["metadata"]["deletionTimestamp"].is_null());
    for object in live {
        let job = Job::read(object).map_err(|fault| Failure::wrong(fault.to_string()))?;
        let kinds = Kind::ALL.map(Kind::as_str).join(",");
        let there = objects(kubernetes, namespace, &kinds)?;
        let seen = Seen::of(&job, &there).map_err(|taken| Failure::wrong(taken.to_string()))?;
        let keys = if seen.has_keys() { None } else { Some(keys()?) };
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        for step in sync(&job, &seen, keys.as_ref(), &now()) {
            match take(kubernetes, namespace, name, step) {
                // Somebody has deleted or changed the job since it was looked at.
                Err(Failure::Refused { said, .. }) if is_out_of_date(&said) => break,
                taken => taken?,
            }
        }
    }
    Ok(())
}

/// Whether an answer of the API server says that what was looked at is not what there is: one looks again.
fn is_out_of_date(said: &str) -> bool {
    ["(NotFound)", "(Conflict)", "(AlreadyExists)"]
        .iter()
        .any(|reason| said.contains(reason))
}

fn take(kubernetes: Kubernetes<'_>, namespace: &str, job: &str, step: Step) -> Result<(), Failure> {
    let write = |verb: &str, object: &Value| {
        let arguments = [verb, "--filename=-"];
        kubernetes
            .command(namespace, &arguments, Some(&object.to_string()))
            .map(drop)
    };
    match step {
        Step::Create(object) => write("create", &object),
        Step::Replace(object) => write("replace", &object),
        Step::Delete(pod) => kubernetes.delete(namespace, &["pod", &pod, "--wait=false"]),
        Step::Status(status) => {
            kubernetes.patch_status(namespace, JOBS, job, &json!({ "status": status }))
        }
    }
}

fn objects(
    kubernetes: Kubernetes<'_>,
    namespace: &str,
    kinds: &str,
) -> Result<Vec<Value>, Failure> {
    let arguments = ["get", kinds, "--output=json"];
    let text = kubernetes.command(namespace, &arguments, None)?;
    let mut list: Value = serde_json::from_str(&text).map_err(|reason| Failure::Unreadable {
        line: format!("kubectl get {kinds}"),
        reason,
    })?;
    Ok(match list["items"].take() {
        Value::Array(items) => items,
        _ => Vec::new(),
    })
}

fn keys() -> Result<Keys, Failure> {
    let pair = SshKeys::generate().map_err(|error| Failure::wrong(error.to_string()))?;
    Ok(Keys {
        private: pair.private_pem,
        public: pair.public_line,
    })
}

/// The time as Kubernetes writes it: in whole seconds.
fn now() -> String {
    let now = Timestamp::now();
    let whole = Timestamp::from_second(now.as_second()).unwrap_or(now);
    whole.to_string()
}
