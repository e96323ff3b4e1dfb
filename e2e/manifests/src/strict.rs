//! Reads manifests as typed objects and refuses what the type does not know.
//!
//! The API server drops a misspelt or unknown field in silence; here it is an error with its path.

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, PodSpec, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding};
use k8s_openapi::api::resource::v1::DeviceClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_yaml_ng::Value;

/// An object of a kind that this project installs.
#[derive(Clone, Debug, PartialEq)]
#[allow(
    missing_docs,
    reason = "each variant is the Kubernetes kind of its name"
)]
pub enum Object {
    ServiceAccount(ServiceAccount),
    ClusterRole(ClusterRole),
    ClusterRoleBinding(ClusterRoleBinding),
    Role(Role),
    RoleBinding(RoleBinding),
    DaemonSet(Box<DaemonSet>),
    Deployment(Box<Deployment>),
    Job(Box<Job>),
    Lease(Lease),
    DeviceClass(DeviceClass),
    Policy(Box<ValidatingAdmissionPolicy>),
    PolicyBinding(Box<ValidatingAdmissionPolicyBinding>),
    Service(Box<Service>),
    Webhook(Box<ValidatingWebhookConfiguration>),
    Issuer(Box<ForeignObject>),
    Certificate(Box<ForeignObject>),
    ConfigMap(ConfigMap),
    NetworkPolicy(Box<NetworkPolicy>),
    DisruptionBudget(Box<PodDisruptionBudget>),
    ServiceMonitor(Box<ForeignObject>),
    PodMonitor(Box<ForeignObject>),
}

/// An object of another project, whose specification is read as it stands.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the fields of every Kubernetes object")]
pub struct ForeignObject {
    pub api_version: String,
    pub kind: String,
    pub metadata: ObjectMeta,
    pub spec: Value,
}

/// Why a document is no object that we would install.
#[derive(Debug, thiserror::Error)]
pub enum StrictError {
    /// Not a kind that this project installs, or no kind at all.
    #[error("{api_version:?} {kind:?} is not a kind that this project installs")]
    Kind {
        /// Its `apiVersion`.
        api_version: String,
        /// Its `kind`.
        kind: String,
    },
    /// A value has the wrong type.
    #[error("read {kind}")]
    Read {
        /// Its `kind`.
        kind: String,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// Fields that the kind does not have.
    #[error("{kind} has no fields {paths:?}")]
    Unknown {
        /// Its `kind`.
        kind: String,
        /// Their paths.
        paths: Vec<String>,
    },
}

impl Object {
    /// Reads one document.
    pub fn read(document: &Value) -> Result<Self, StrictError> {
        let field = |name| {
            document
                .get(name)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        match (field("apiVersion"), field("kind")) {
            ("v1", "ServiceAccount") => typed(document).map(Self::ServiceAccount),
            ("rbac.authorization.k8s.io/v1", "ClusterRole") => {
                typed(document).map(Self::ClusterRole)
            }
            ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => {
                typed(document).map(Self::ClusterRoleBinding)
            }
            ("rbac.authorization.k8s.io/v1", "Role") => typed(document).map(Self::Role),
            ("rbac.authorization.k8s.io/v1", "RoleBinding") => {
                typed(document).map(Self::RoleBinding)
            }
            ("apps/v1", "DaemonSet") => typed(document).map(Box::new).map(Self::DaemonSet),
            ("apps/v1", "Deployment") => typed(document).map(Box::new).map(Self::Deployment),
            ("batch/v1", "Job") => typed(document).map(Box::new).map(Self::Job),
            ("coordination.k8s.io/v1", "Lease") => typed(document).map(Self::Lease),
            ("resource.k8s.io/v1", "DeviceClass") => typed(document).map(Self::DeviceClass),
            ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy") => {
                typed(document).map(Box::new).map(Self::Policy)
            }
            ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding") => {
                typed(document).map(Box::new).map(Self::PolicyBinding)
            }
            ("v1", "Service") => typed(document).map(Box::new).map(Self::Service),
            ("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration") => {
                typed(document).map(Box::new).map(Self::Webhook)
            }
            ("cert-manager.io/v1", "Issuer") => typed(document).map(Box::new).map(Self::Issuer),
            ("cert-manager.io/v1", "Certificate") => {
                typed(document).map(Box::new).map(Self::Certificate)
            }
            ("v1", "ConfigMap") => typed(document).map(Self::ConfigMap),
            ("networking.k8s.io/v1", "NetworkPolicy") => {
                typed(document).map(Box::new).map(Self::NetworkPolicy)
            }
            ("policy/v1", "PodDisruptionBudget") => {
                typed(document).map(Box::new).map(Self::DisruptionBudget)
            }
            ("monitoring.coreos.com/v1", "ServiceMonitor") => {
                typed(document).map(Box::new).map(Self::ServiceMonitor)
            }
            ("monitoring.coreos.com/v1", "PodMonitor") => {
                typed(document).map(Box::new).map(Self::PodMonitor)
            }
            (api_version, kind) => Err(StrictError::Kind {
                api_version: api_version.to_owned(),
                kind: kind.to_owned(),
            }),
        }
    }

    /// Name, namespace, labels and annotations.
    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::ServiceAccount(object) => &object.metadata,
            Self::ClusterRole(object) => &object.metadata,
            Self::ClusterRoleBinding(object) => &object.metadata,
            Self::Role(object) => &object.metadata,
            Self::RoleBinding(object) => &object.metadata,
            Self::DaemonSet(object) => &object.metadata,
            Self::Deployment(object) => &object.metadata,
            Self::Job(object) => &object.metadata,
            Self::Lease(object) => &object.metadata,
            Self::DeviceClass(object) => &object.metadata,
            Self::Policy(object) => &object.metadata,
            Self::PolicyBinding(object) => &object.metadata,
            Self::Service(object) => &object.metadata,
            Self::Webhook(object) => &object.metadata,
            Self::Issuer(object)
            | Self::Certificate(object)
            | Self::ServiceMonitor(object)
            | Self::PodMonitor(object) => &object.metadata,
            Self::ConfigMap(object) => &object.metadata,
            Self::NetworkPolicy(object) => &object.metadata,
            Self::DisruptionBudget(object) => &object.metadata,
        }
    }

    /// The name; empty where there is none.
    pub fn name(&self) -> &str {
        self.metadata().name.as_deref().unwrap_or_default()
    }

    /// The pods that it makes, if it makes any.
    pub fn pod(&self) -> Option<&PodSpec> {
        match self.content() {
            Content::Pods(spec) => spec,
            Content::Rights(_) | Content::Other => None,
        }
    }

    /// The rights that it grants, if it is a role.
    pub fn rules(&self) -> Option<&[PolicyRule]> {
        match self.content() {
            Content::Rights(rules) => rules,
            Content::Pods(_) | Content::Other => None,
        }
    }

    /// Names every kind, so that a new one with pods or rights cannot go past the tests of those.
    fn content(&self) -> Content<'_> {
        match self {
            Self::DaemonSet(set) => Content::Pods(set.spec.template.spec.as_ref()),
            Self::Deployment(deployment) => Content::Pods(deployment.spec.template.spec.as_ref()),
            Self::Job(job) => {
                let spec = job.spec.as_ref();
                Content::Pods(spec.and_then(|spec| spec.template.spec.as_ref()))
            }
            Self::ClusterRole(role) => Content::Rights(role.rules.as_deref()),
            Self::Role(role) => Content::Rights(role.rules.as_deref()),
            Self::ServiceAccount(_)
            | Self::ClusterRoleBinding(_)
            | Self::RoleBinding(_)
            | Self::Lease(_)
            | Self::DeviceClass(_)
            | Self::Policy(_)
            | Self::PolicyBinding(_)
            | Self::Service(_)
            | Self::Webhook(_)
            | Self::Issuer(_)
            | Self::Certificate(_)
            | Self::ConfigMap(_)
            | Self::NetworkPolicy(_)
            | Self::DisruptionBudget(_)
            | Self::ServiceMonitor(_)
            | Self::PodMonitor(_) => Content::Other,
        }
    }
}

/// What tests look at in an object beyond its metadata.
enum Content<'a> {
    Pods(Option<&'a PodSpec>),
    Rights(Option<&'a [PolicyRule]>),
    Other,
}

fn typed<T: DeserializeOwned>(document: &Value) -> Result<T, StrictError> {
    let kind = document
        .get("kind")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let failed = |source| StrictError::Read {
        kind: kind.to_owned(),
        source,
    };
    // Through JSON, because the API server reads YAML so: a number is no string there.
    let json = serde_json::to_value(document).map_err(failed)?;
    let mut paths = Vec::new();
    let object = serde_ignored::deserialize(json, |path| paths.push(path.to_string()));
    let object = object.map_err(failed)?;
    if paths.is_empty() {
        Ok(object)
    } else {
        Err(StrictError::Unknown {
            kind: kind.to_owned(),
            paths,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(yaml: &str) -> Result<Object, StrictError> {
        Object::read(&serde_yaml_ng::from_str(yaml).unwrap())
    }

    #[test]
    fn a_misspelt_field_is_refused_with_its_path() {
        let error = read(
            "{apiVersion: apps/v1, kind: DaemonSet, spec: {selector: {}, template: \
             {spec: {containers: [{name: a, imagePulPolicy: Never}]}}}}",
        )
        .unwrap_err();
        assert!(
            error.to_string().contains("containers.?.0.imagePulPolicy"),
            "{error}"
        );
    }

    #[test]
    fn a_number_where_a_string_belongs_is_refused() {
        let error = read(
            "{apiVersion: apps/v1, kind: DaemonSet, spec: {selector: {}, template: \
             {spec: {containers: [{name: a, env: [{name: PORT, value: 8080}]}]}}}}",
        );
        assert!(matches!(error, Err(StrictError::Read { .. })), "{error:?}");
    }

    #[test]
    fn a_kind_that_we_do_not_install_is_refused() {
        assert!(matches!(
            read("{apiVersion: v1, kind: Secret}"),
            Err(StrictError::Kind { .. })
        ));
        assert!(matches!(read("hello"), Err(StrictError::Kind { .. })));
    }
}
