//! From an `AdmissionReview` to its answer.

use serde_json::json;
use tessera_api::{Config, Document, Driver, Feature, FieldPath};
use thiserror::Error;

/// Version of the reviews that are asked and answered.
const API_VERSION: &str = "admission.k8s.io/v1";

/// A request that is no review.
#[derive(Debug, Error)]
pub(super) enum ReviewError {
    /// Not JSON.
    #[error("read the AdmissionReview: {0}")]
    Json(#[from] serde_json::Error),
    /// Another kind or version.
    #[error(
        "unsupported kind {kind:?} of {api_version:?}; send an AdmissionReview of {API_VERSION}"
    )]
    Kind {
        /// Its version.
        api_version: String,
        /// Its kind.
        kind: String,
    },
    /// A review that asks nothing.
    #[error("the AdmissionReview has no request with a UID")]
    NoRequest,
    /// An object that carries no configuration.
    #[error(
        "resource {0:?} is not looked at; register the webhook for resourceclaims, \
         resourceclaimtemplates and deviceclasses"
    )]
    Resource(String),
}

/// What the API server is told.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    uid: String,
    refused: Option<String>,
}

impl Answer {
    /// Why the object is refused, if it is.
    pub(super) fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    /// The review that answers.
    pub(super) fn to_json(&self) -> String {
        let mut response = json!({"uid": self.uid, "allowed": self.refused.is_none()});
        if let Some(message) = &self.refused {
            response["status"] = json!({"message": message, "reason": "Invalid", "code": 422});
        }
        json!({"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response})
            .to_string()
    }
}

/// Looks at every configuration for our driver in the object that the review is about. They may ask for these
/// features.
pub(super) fn answer(body: &[u8], features: &[Feature]) -> Result<Answer, ReviewError> {
    let review: Document = serde_json::from_slice(body)?;
    let text = |document: &Document, name| {
        let text = document.get(name).and_then(Document::text);
        text.unwrap_or_default().to_owned()
    };
    let (api_version, kind) = (text(&review, "apiVersion"), text(&review, "kind"));
    if api_version != API_VERSION || kind != "AdmissionReview" {
        return Err(ReviewError::Kind { api_version, kind });
    }
    let request = review.get("request").ok_or(ReviewError::NoRequest)?;
    let uid = text(request, "uid");
    if uid.is_empty() {
        return Err(ReviewError::NoRequest);
    }
    let resource = request.get("resource").map(|r| text(r, "resource"));
    let path = place(&resource.unwrap_or_default())?;
    let configs = |object| request.get(object).and_then(|object| find(object, path));
    // A finalizer of an object that was accepted earlier must come off, whatever we think now.
    let refused = match configs("object") {
        Some(new) if configs("oldObject") != Some(new) => refusal(new, &path.join("."), features),
        _ => None,
    };
    Ok(Answer { uid, refused })
}

/// Where objects of this resource have their configurations.
fn place(resource: &str) -> Result<&'static [&'static str], ReviewError> {
    match resource {
        "resourceclaims" => Ok(&["spec", "devices", "config"]),
        "resourceclaimtemplates" => Ok(&["spec", "spec", "devices", "config"]),
        "deviceclasses" => Ok(&["spec", "config"]),
        other => Err(ReviewError::Resource(other.to_owned())),
    }
}

fn find<'d>(object: &'d Document, path: &[&str]) -> Option<&'d Document> {
    path.iter().try_fold(object, |at, name| at.get(name))
}

/// What is wrong with these configurations. Those of other drivers are not ours to judge.
fn refusal(configs: &Document, path: &str, features: &[Feature]) -> Option<String> {
    let problems: Vec<String> = configs
        .list()
        .iter()
        .enumerate()
        .filter_map(|(index, config)| {
            let opaque = config.get("opaque")?;
            let driver = opaque.get("driver")?.text()?;
            (driver == Driver::Gpu.as_str()).then_some(())?;
            let at = FieldPath::parameters(format!("{path}[{index}].opaque.parameters"));
            let parameters = opaque.get("parameters").unwrap_or(&Document::Null);
            problem(&at, parameters, features)
        })
        .collect();
    let count = problems.len();
    let noun = if count == 1 { "config" } else { "configs" };
    (count > 0).then(|| format!("{count} {noun} failed to validate: {}", problems.join("; ")))
}

fn problem(at: &FieldPath, parameters: &Document, features: &[Feature]) -> Option<String> {
    match Config::decode(Driver::Gpu, at, parameters) {
        Err(error) => Some(error.to_string()),
        Ok(config) => config
            .require(at, features)
            .err()
            .map(|wish| wish.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;
    use tessera_api::AVAILABLE;

    use super::*;

    fn review(resource: &str, object: &Value, old: &Value) -> Value {
        json!({"apiVersion": API_VERSION, "kind": "AdmissionReview", "request": {
            "uid": "u", "resource": {"group": "resource.k8s.io", "resource": resource},
            "object": object, "oldObject": old,
        }})
    }

    fn answered(review: &Value) -> Value {
        let answer = answer(review.to_string().as_bytes(), AVAILABLE).unwrap();
        serde_json::from_str(&answer.to_json()).unwrap()
    }

    fn config(driver: &str, kind: &str) -> Value {
        json!({"opaque": {"driver": driver, "parameters": {
            "apiVersion": "resource.nvidia.com/v1beta1", "kind": kind,
        }}})
    }

    fn claim(configs: &[Value]) -> Value {
        json!({"spec": {"devices": {"config": configs}}})
    }

    #[track_caller]
    fn refused(review: &Value, message: &str) {
        let response = &answered(review)["response"];
        assert_eq!(response["allowed"], false);
        assert_eq!(response["status"]["message"], message);
        assert_eq!(response["status"]["reason"], "Invalid");
    }

    #[test]
    fn what_is_right_or_not_ours_is_allowed_under_the_uid_of_the_request() {
        for object in [
            claim(&[]),
            json!({"spec": {}}),
            claim(&[config("gpu.nvidia.com", "GpuConfig")]),
            claim(&[config("dra.net", "Wrong")]),
        ] {
            let answer = answered(&review("resourceclaims", &object, &Value::Null));
            assert_eq!(
                answer,
                json!({"apiVersion": API_VERSION, "kind": "AdmissionReview",
                       "response": {"uid": "u", "allowed": true}})
            );
        }
    }

    #[test]
    fn every_wrong_configuration_is_named_by_its_place_in_the_object() {
        let configs = [
            config("gpu.nvidia.com", "GPUConfig"),
            config("dra.net", "Wrong"),
            config("gpu.nvidia.com", "VfioDeviceConfig"),
        ];
        refused(
            &review("resourceclaims", &claim(&configs), &Value::Null),
            "2 configs failed to validate: spec.devices.config[0].opaque.parameters.kind: unknown \
             kind \"GPUConfig\"; write GpuConfig, MigDeviceConfig or VfioDeviceConfig; \
             spec.devices.config[2].opaque.parameters.kind: \"VfioDeviceConfig\" asks for VFIO \
             passthrough, which this version does not have yet; remove the configuration",
        );
        let unknown = "1 config failed to validate: PATH[0].opaque.parameters.kind: unknown kind \
                       \"GPUConfig\"; write GpuConfig, MigDeviceConfig or VfioDeviceConfig";
        let template = json!({"spec": claim(&configs[..1])});
        refused(
            &review("resourceclaimtemplates", &template, &Value::Null),
            &unknown.replace("PATH", "spec.spec.devices.config"),
        );
        let class = json!({"spec": {"config": &configs[..1]}});
        refused(
            &review("deviceclasses", &class, &Value::Null),
            &unknown.replace("PATH", "spec.config"),
        );
    }

    #[test]
    fn what_configurations_may_ask_for_is_up_to_the_feature_gates() {
        let mut config = config("gpu.nvidia.com", "GpuConfig");
        config["opaque"]["parameters"]["sharing"] = json!({"strategy": "TimeSlicing"});
        let review = review("resourceclaims", &claim(&[config]), &Value::Null).to_string();
        let refused = |features| answer(review.as_bytes(), features).unwrap().refused;
        let off = refused(tessera_api::available(false)).unwrap();
        assert!(
            off.contains("feature gate TimeSlicingSettings is off"),
            "{off}"
        );
        assert_eq!(refused(tessera_api::available(true)), None);
    }

    #[test]
    fn a_field_that_stands_twice_is_seen() {
        let object = claim(&[config("gpu.nvidia.com", "GpuConfig")]);
        let text = review("resourceclaims", &object, &Value::Null).to_string();
        let text = text.replace(
            r#""kind":"GpuConfig""#,
            r#""kind":"GpuConfig","kind":"GpuConfig""#,
        );
        let message = answer(text.as_bytes(), AVAILABLE).unwrap().refused.unwrap();
        assert!(message.contains("duplicate field \"kind\""), "{message}");
    }

    #[test]
    fn an_object_that_was_accepted_earlier_can_still_be_changed_elsewhere() {
        let mut old = claim(&[config("gpu.nvidia.com", "GPUConfig")]);
        let new = old.clone();
        old["metadata"] = json!({"finalizers": ["resource.kubernetes.io/delete-protection"]});
        let response = &answered(&review("resourceclaims", &new, &old))["response"];
        assert_eq!(response["allowed"], true);
    }

    #[test]
    fn what_is_no_review_is_an_error_that_says_so() {
        for (body, says) in [
            ("{", "read the AdmissionReview"),
            ("[]", "unsupported kind"),
            (
                r#"{"apiVersion":"admission.k8s.io/v1beta1","kind":"AdmissionReview"}"#,
                "v1beta1",
            ),
            (
                r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}"#,
                "no request",
            ),
        ] {
            let error = answer(body.as_bytes(), AVAILABLE).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        let pods = review("pods", &Value::Null, &Value::Null).to_string();
        let error = answer(pods.as_bytes(), AVAILABLE).unwrap_err().to_string();
        assert!(error.contains("\"pods\""), "{error}");
    }

    proptest! {
        #[test]
        fn no_body_panics_the_reviewer(body: Vec<u8>) {
            let _ = answer(&body, AVAILABLE);
        }
    }
}
