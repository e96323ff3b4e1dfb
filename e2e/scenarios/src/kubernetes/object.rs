//! The kinds of objects that are looked at, each with a line on how it is.

use std::collections::BTreeMap;

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicyBinding, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{ContainerStatus, Event, Namespace, Node, Pod, ServiceAccount};
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{ListableResource, Metadata};
use serde::de::DeserializeOwned;

/// Objects of one kind in one place, by name.
pub type Objects<K> = BTreeMap<String, K>;

/// A kind of object that can be listed and watched.
pub trait Object:
    ListableResource + Metadata<Ty = ObjectMeta> + DeserializeOwned + Clone + Send + 'static
{
    /// How it is, in one line: what a person would ask first when it is not as expected.
    fn state(&self) -> String {
        "is there".to_owned()
    }
}

/// An object's name.
pub fn name(object: &impl Metadata<Ty = ObjectMeta>) -> String {
    object.metadata().name.clone().unwrap_or_default()
}

/// An object's UID.
pub fn uid(object: &impl Metadata<Ty = ObjectMeta>) -> String {
    object.metadata().uid.clone().unwrap_or_default()
}

/// Whether the pod runs and every container of it is ready.
pub fn runs(pod: &Pod) -> bool {
    let status = pod.status.clone().unwrap_or_default();
    let ready = status.conditions.unwrap_or_default();
    let ready = ready
        .iter()
        .any(|c| c.type_ == "Ready" && c.status == "True");
    status.phase.as_deref() == Some("Running") && ready
}

/// Which containers the pod's are, and how often they were restarted.
pub fn containers(pod: &Pod) -> Vec<(Option<String>, i32)> {
    let statuses = pod
        .status
        .iter()
        .filter_map(|status| status.container_statuses.as_ref());
    statuses
        .flatten()
        .map(|s| (s.container_id.clone(), s.restart_count))
        .collect()
}

/// How often containers of the pod were restarted, all together.
pub fn restarts(pod: &Pod) -> i32 {
    containers(pod).into_iter().map(|(_, count)| count).sum()
}

/// One line for each object.
pub fn states<K: Object>(objects: &Objects<K>) -> String {
    if objects.is_empty() {
        return format!("  no {}", K::URL_PATH_SEGMENT);
    }
    let lines: Vec<_> = objects
        .iter()
        .map(|(name, object)| format!("  {} {name}: {}", K::KIND, object.state()))
        .collect();
    lines.join("\n")
}

impl Object for Namespace {}
impl Object for Node {}
impl Object for ServiceAccount {}
impl Object for DeviceClass {}
impl Object for ValidatingAdmissionPolicyBinding {}
impl Object for ValidatingWebhookConfiguration {}

impl Object for Pod {
    fn state(&self) -> String {
        let status = self.status.clone().unwrap_or_default();
        let node = self.spec.as_ref().and_then(|spec| spec.node_name.clone());
        let mut parts = vec![status.phase.unwrap_or_else(|| "no phase".to_owned())];
        parts.extend(node.map(|node| format!("on {node}")));
        if self.metadata.deletion_timestamp.is_some() {
            parts.push("being deleted".to_owned());
        }
        let containers = status.container_statuses.unwrap_or_default();
        parts.extend(containers.iter().filter_map(container_state));
        let conditions = status.conditions.unwrap_or_default();
        let unmet = conditions.iter().filter(|c| c.status == "False");
        parts.extend(unmet.filter_map(|condition| {
            let message = condition.message.as_ref()?;
            Some(format!("not {}: {message}", condition.type_))
        }));
        parts.join(", ")
    }
}

fn container_state(container: &ContainerStatus) -> Option<String> {
    let state = container.state.as_ref()?;
    let name = &container.name;
    if let Some(waiting) = &state.waiting {
        let (reason, message) = (waiting.reason.as_deref(), waiting.message.as_deref());
        let (reason, message) = (reason.unwrap_or_default(), message.unwrap_or_default());
        return Some(format!("{name} waits: {reason} {message}"));
    }
    let ended = state.terminated.as_ref()?;
    Some(format!("{name} ended with {}", ended.exit_code))
}

impl Object for ResourceClaim {
    fn state(&self) -> String {
        let status = self.status.clone().unwrap_or_default();
        let devices = status.allocation.and_then(|allocation| allocation.devices);
        let results = devices.and_then(|devices| devices.results);
        let held: Vec<_> = results
            .unwrap_or_default()
            .iter()
            .map(|result| format!("{}/{}", result.pool, result.device))
            .collect();
        let users: Vec<_> = status.reserved_for.unwrap_or_default();
        let users: Vec<_> = users.into_iter().map(|user| user.name).collect();
        match (held.is_empty(), users.is_empty()) {
            (true, _) => "not allocated".to_owned(),
            (false, true) => format!("{} allocated, not reserved", held.join(" ")),
            (false, false) => format!("{} reserved for {}", held.join(" "), users.join(" ")),
        }
    }
}

impl Object for ResourceSlice {
    fn state(&self) -> String {
        let (spec, count) = (&self.spec, self.spec.devices.as_ref().map_or(0, Vec::len));
        let generation = spec.pool.generation;
        format!(
            "{count} devices of {} in generation {generation} of {}",
            spec.driver, spec.pool.name
        )
    }
}

impl Object for Event {
    fn state(&self) -> String {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let about = &self.involved_object;
        format!(
            "{} {} {}/{}: {}",
            text(&self.type_),
            text(&self.reason),
            text(&about.kind),
            text(&about.name),
            text(&self.message)
        )
    }
}

impl Object for DaemonSet {
    fn state(&self) -> String {
        let status = self.status.clone().unwrap_or_default();
        format!(
            "{} of {} ready",
            status.number_ready, status.desired_number_scheduled
        )
    }
}

impl Object for Deployment {
    fn state(&self) -> String {
        let wanted = self.spec.replicas;
        let ready = self
            .status
            .as_ref()
            .and_then(|status| status.ready_replicas);
        format!("{} of {} ready", ready.unwrap_or(0), wanted.unwrap_or(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object<K: Object>(json: &str) -> K {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_pod_that_cannot_be_scheduled_says_why() {
        let pod: Pod = object(
            r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"status":{"phase":"Pending",
                "conditions":[{"type":"PodScheduled","status":"False","reason":"Unschedulable",
                               "message":"0/2 nodes are available"}]}}"#,
        );
        let wanted = "Pending, not PodScheduled: 0/2 nodes are available";
        assert_eq!(pod.state(), wanted);
    }

    #[test]
    fn a_pod_whose_container_does_not_start_says_which_and_why() {
        let pod: Pod = object(
            r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},
                "spec":{"nodeName":"node0","containers":[]},
                "status":{"phase":"Pending","containerStatuses":[{"name":"main","ready":false,
                "restartCount":0,"image":"i","imageID":"",
                "state":{"waiting":{"reason":"ErrImageNeverPull","message":"no image"}}}]}}"#,
        );
        let wanted = "Pending, on node0, main waits: ErrImageNeverPull no image";
        assert_eq!(pod.state(), wanted);
    }

    #[test]
    fn a_claim_says_what_it_holds_and_for_whom() {
        let claim = |status: &str| -> ResourceClaim {
            object(&format!(
                r#"{{"apiVersion":"resource.k8s.io/v1","kind":"ResourceClaim",
                    "metadata":{{"name":"c"}},"status":{status}}}"#
            ))
        };
        let allocation = r#""allocation":{"devices":{"results":[{"request":"gpu","driver":"d","pool":"node0","device":"gpu-3"}]}}"#;
        let reserved = r#""reservedFor":[{"resource":"pods","name":"p","uid":"u"}]"#;
        for (status, wanted) in [
            ("{}".to_owned(), "not allocated"),
            (
                format!("{{{allocation}}}"),
                "node0/gpu-3 allocated, not reserved",
            ),
            (
                format!("{{{allocation},{reserved}}}"),
                "node0/gpu-3 reserved for p",
            ),
        ] {
            assert_eq!(claim(&status).state(), wanted);
        }
    }

    #[test]
    fn no_objects_are_said_to_be_none() {
        assert_eq!(states(&Objects::<Pod>::new()), "  no pods");
    }
}
