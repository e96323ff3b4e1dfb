//! The `ResourceClaimTemplate` of a domain, which its pods name.

use k8s_openapi::api::resource::v1::{
    CELDeviceSelector, DeviceClaim, DeviceClaimConfiguration, DeviceRequest, DeviceSelector,
    ExactDeviceRequest, OpaqueDeviceConfiguration, ResourceClaimSpec, ResourceClaimTemplate,
    ResourceClaimTemplateSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde_json::json;
use tessera_api::{API_VERSION, ComputeDomain, ComputeDomainChannelConfig, Config};

use crate::facts::{ObjectName, TemplateFacts};
use crate::keys;
use crate::world::Kind;
use crate::write::{Verb, Write};

/// The template that `domain` is to have.
///
/// Its claims get a slot of the domain and nothing else of the class; the configuration tells the node
/// which domain is meant, so that it can refuse a slot of another.
pub fn template(domain: &ComputeDomain) -> ResourceClaimTemplate {
    let metadata = &domain.metadata;
    let uid = metadata.uid.clone().unwrap_or_default();
    let channel = &domain.spec.channel;
    let labels = [
        (keys::DOMAIN_LABEL.to_owned(), uid.clone()),
        (keys::TARGET_LABEL.to_owned(), keys::WORKLOAD.to_owned()),
    ];
    let claim = DeviceClaim {
        requests: Some(vec![request(&uid)]),
        config: Some(vec![configuration(&uid, domain)]),
        constraints: None,
    };
    ResourceClaimTemplate {
        metadata: ObjectMeta {
            name: Some(channel.resource_claim_template.name.clone()),
            namespace: metadata.namespace.clone(),
            labels: Some(labels.into()),
            owner_references: Some(vec![OwnerReference {
                api_version: API_VERSION.to_owned(),
                kind: "ComputeDomain".to_owned(),
                name: metadata.name.clone().unwrap_or_default(),
                uid,
                controller: Some(true),
                // It would take a right to the domain's finalizers where that is enforced.
                block_owner_deletion: None,
            }]),
            ..ObjectMeta::default()
        },
        spec: Some(ResourceClaimTemplateSpec {
            metadata: None,
            spec: Some(ResourceClaimSpec {
                devices: Some(claim),
            }),
        }),
    }
}

fn request(uid: &str) -> DeviceRequest {
    // A device without the attribute would end the scheduling of the pod with an error.
    let attributes = format!("device.attributes[\"{}\"]", keys::DRIVER);
    let expression = format!("\"domain\" in {attributes} && {attributes}.domain == \"{uid}\"");
    let selector = DeviceSelector {
        cel: Some(CELDeviceSelector { expression }),
    };
    DeviceRequest {
        name: keys::CHANNEL_REQUEST.to_owned(),
        exactly: Some(ExactDeviceRequest {
            device_class_name: keys::CHANNEL_CLASS.to_owned(),
            selectors: Some(vec![selector]),
            ..ExactDeviceRequest::default()
        }),
        first_available: None,
    }
}

fn configuration(uid: &str, domain: &ComputeDomain) -> DeviceClaimConfiguration {
    let channel = ComputeDomainChannelConfig {
        domain_id: uid.to_owned(),
        allocation_mode: domain.spec.channel.allocation_mode,
    };
    let parameters = Config::ComputeDomainChannel(channel).encode();
    DeviceClaimConfiguration {
        requests: Some(vec![keys::CHANNEL_REQUEST.to_owned()]),
        opaque: Some(OpaqueDeviceConfiguration {
            driver: keys::DRIVER.to_owned(),
            parameters: RawExtension(parameters),
        }),
    }
}

/// The writes that end a template, whoever made it.
pub(crate) fn template_end(name: &ObjectName, facts: &TemplateFacts) -> Vec<Write> {
    let mut writes = Vec::new();
    if !facts.finalizers.is_empty() {
        // The reference's controller puts one on, and may not be there any more.
        writes.push(Write {
            kind: Kind::Template,
            name: name.clone(),
            verb: Verb::Merge(json!({"metadata": {"finalizers": null}})),
        });
    }
    if !facts.deleting {
        writes.push(Write {
            kind: Kind::Template,
            name: name.clone(),
            verb: Verb::Delete(Some(facts.uid.clone())),
        });
    }
    writes
}

#[cfg(test)]
mod tests {
    use tessera_api::{AllocationMode, Document, Driver, FieldPath};

    use super::*;
    use crate::testing::domain;

    #[test]
    fn a_template_is_of_its_domain_and_carries_what_the_node_checks() {
        let mut domain = domain("train", 2);
        domain.spec.channel.allocation_mode = AllocationMode::All;
        let template = template(&domain);
        let owner = &template.metadata.owner_references.unwrap()[0];
        assert_eq!(
            (owner.kind.as_str(), owner.uid.as_str()),
            ("ComputeDomain", "train-uid")
        );
        let devices = template.spec.unwrap().spec.unwrap().devices.unwrap();
        let request = devices.requests.unwrap().remove(0).exactly.unwrap();
        let selector = request.selectors.unwrap().remove(0).cel.unwrap().expression;
        assert!(selector.ends_with(".domain == \"train-uid\""), "{selector}");
        let opaque = devices.config.unwrap().remove(0).opaque.unwrap();
        let document = Document::from(&opaque.parameters.0);
        let at = FieldPath::parameters("parameters");
        let config = Config::decode(Driver::ComputeDomain, &at, &document).unwrap();
        assert_eq!(
            config,
            Config::ComputeDomainChannel(ComputeDomainChannelConfig {
                domain_id: "train-uid".to_owned(),
                allocation_mode: AllocationMode::All,
            })
        );
    }
}
