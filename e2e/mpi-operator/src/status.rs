//! What the operator says of a job.

use serde_json::{Value, json};

use crate::job::Job;
use crate::sync::Seen;

/// How a pod or a Job ended, if it did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    Succeeded,
    Failed { reason: String },
}

/// How the launcher's Job ended, if it did.
pub(crate) fn end(launcher: Option<&Value>) -> Option<End> {
    let conditions = launcher?["status"]["conditions"].as_array()?;
    conditions
        .iter()
        .filter(|c| c["status"] == "True")
        .find_map(|condition| match condition["type"].as_str()? {
            "Complete" => Some(End::Succeeded),
            "Failed" => {
                let reason = condition["reason"].as_str().unwrap_or("MPIJobFailed");
                Some(End::Failed {
                    reason: reason.to_owned(),
                })
            }
            _ => None,
        })
}

/// The status that the job should have. `now` is a time as Kubernetes writes it.
pub(crate) fn status(job: &Job, seen: &Seen<'_>, now: &str) -> Value {
    let mut status = job.status.clone();
    if !status.is_object() {
        status = json!({});
    }
    if status["startTime"].is_null() {
        status["startTime"] = json!(now);
    }
    let end = end(seen.launcher);
    let (name, namespace) = (&job.name, &job.namespace);
    let mut said = vec![(
        "Created",
        true,
        "MPIJobCreated".to_owned(),
        format!("MPIJob {namespace}/{name} is created."),
    )];
    let all_run = seen.workers_in("Running") == job.workers.count;
    let launches = seen.launcher_pods.iter().any(|pod| phase(pod) == "Running");
    let running = format!("MPIJob {namespace}/{name} is running.");
    match &end {
        None if all_run && launches => {
            said.push(("Running", true, "MPIJobRunning".to_owned(), running));
        }
        None => {}
        Some(end) => {
            said.push(("Running", false, "MPIJobRunning".to_owned(), running));
            said.push(match end {
                End::Succeeded => (
                    "Succeeded",
                    true,
                    "MPIJobSucceeded".to_owned(),
                    format!("MPIJob {namespace}/{name} successfully completed."),
                ),
                End::Failed { reason } => (
                    "Failed",
                    true,
                    reason.clone(),
                    format!("MPIJob {namespace}/{name} has failed."),
                ),
            });
            if status["completionTime"].is_null() {
                let completed = seen
                    .launcher
                    .map(|launcher| launcher["status"]["completionTime"].clone());
                status["completionTime"] = completed
                    .filter(Value::is_string)
                    .unwrap_or_else(|| json!(now));
            }
        }
    }
    for (kind, holds, reason, message) in said {
        set(&mut status, (kind, holds, &reason, &message), now);
    }
    status["replicaStatuses"] = counts(seen, end.as_ref());
    status
}

/// A condition of the same status and reason stays as it is; one that changes moves to the end.
fn set(status: &mut Value, (kind, holds, reason, message): (&str, bool, &str, &str), now: &str) {
    let text = if holds { "True" } else { "False" };
    let mut conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    let known = conditions
        .iter()
        .position(|condition| condition["type"] == kind);
    if let Some(at) = known {
        let condition = &conditions[at];
        if condition["status"] == text && condition["reason"] == reason {
            return;
        }
        conditions.remove(at);
    }
    conditions.push(json!({
        "type": kind,
        "status": text,
        "reason": reason,
        "message": message,
        "lastUpdateTime": now,
        "lastTransitionTime": now,
    }));
    status["conditions"] = conditions.into();
}

fn counts(seen: &Seen<'_>, end: Option<&End>) -> Value {
    let count = |names: [(&str, usize); 3]| {
        let positive = names.into_iter().filter(|(_, count)| *count > 0);
        Value::Object(
            positive
                .map(|(name, count)| (name.to_owned(), json!(count)))
                .collect(),
        )
    };
    let launchers = |wanted: &str| {
        seen.launcher_pods
            .iter()
            .filter(|pod| phase(pod) == wanted)
            .count()
    };
    let workers = |wanted: &str| seen.workers_in(wanted) as usize;
    let over = end.is_some();
    json!({
        "Launcher": count([
            ("active", launchers("Running") + launchers("Pending")),
            ("succeeded", launchers("Succeeded")),
            ("failed", launchers("Failed")),
        ]),
        "Worker": if over { json!({}) } else { count([
            ("active", workers("Running")),
            ("succeeded", workers("Succeeded")),
            ("failed", workers("Failed")),
        ]) },
    })
}

/// The phase of a pod.
pub(crate) fn phase(pod: &Value) -> &str {
    pod["status"]["phase"].as_str().unwrap_or("Pending")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_changes_moves_to_the_end_and_one_that_does_not_keeps_its_times() {
        let mut status = json!({});
        for (kind, holds, now) in [
            ("Created", true, "1"),
            ("Running", true, "2"),
            ("Created", true, "3"),
            ("Running", false, "4"),
        ] {
            set(&mut status, (kind, holds, "Reason", "text"), now);
        }
        let all = status["conditions"].as_array().unwrap();
        let told: Vec<_> = all
            .iter()
            .map(|c| {
                (
                    c["type"].as_str().unwrap(),
                    c["status"].as_str().unwrap(),
                    c["lastTransitionTime"].as_str().unwrap(),
                )
            })
            .collect();
        assert_eq!(told, [("Created", "True", "1"), ("Running", "False", "4")]);
    }
}
