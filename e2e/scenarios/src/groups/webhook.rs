//! The webhook refuses wrong configurations by itself, for clusters on which the chart's policy is not used.

use std::time::{Duration, Instant};

use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicyBinding, ValidatingWebhookConfiguration,
};
use serde_json::json;
use tessera_cluster::{ClusterError, ServingCertificate};

use super::configuration::{WRONG, configured};
use crate::context::{Context, START_LIMIT};
use crate::failure::Failure;
use crate::kubernetes::{Objects, Scope};
use crate::pause::pause;
use crate::release::{self, RELEASE};

const SECRET: &str = "webhook-certificate";
const BINDING: &str = "tessera-configuration";

/// What the API server may take until it asks a new webhook and no more the policy whose binding is deleted.
const ADMISSION_LIMIT: Duration = Duration::from_secs(30);
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// How the API server begins what a webhook says.
const DENIED: &str =
    r#"admission webhook "validate-resource-claim-parameters.gpu.nvidia.com" denied the request"#;

pub(crate) fn the_webhook_refuses_a_wrong_configuration_when_it_is_applied(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let outcome = switched_on(context).and_then(|()| refuses(context));
    // The scenarios after this one find the installation as it was.
    outcome.and(switched_off(context))
}

fn switched_on(context: &Context<'_>) -> Result<(), Failure> {
    let kubernetes = context.kubernetes();
    let host = format!("{RELEASE}-webhook.{RELEASE}.svc");
    let ServingCertificate {
        authority_pem,
        certificate_pem,
        key_pem,
    } = ServingCertificate::of(&host).map_err(ClusterError::from)?;
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": SECRET},
        "stringData": {"tls.crt": certificate_pem, "tls.key": key_pem},
    });
    kubernetes.apply(RELEASE, &secret.to_string())?;
    let authority = json!(ByteString(authority_pem.into_bytes()));
    let authority = authority.as_str().unwrap_or_default();
    release::change(
        kubernetes,
        &[
            "webhook.enabled=true".to_owned(),
            "webhook.tls.mode=secret".to_owned(),
            format!("webhook.tls.secret.name={SECRET}"),
            format!("webhook.tls.secret.caBundle={authority}"),
        ],
    )?;
    // The policy answers first, and then nobody hears the webhook.
    kubernetes.delete(RELEASE, &["validatingadmissionpolicybindings", BINDING])
}

fn refuses(context: &Context<'_>) -> Result<(), Failure> {
    let (parameters, _) = WRONG[0];
    let deadline = Instant::now() + ADMISSION_LIMIT;
    while !said_of(context, parameters)?.contains(DENIED) {
        if Instant::now() > deadline {
            return Err(Failure::wrong("the webhook is not asked"));
        }
        pause(TRY_AGAIN)?;
    }
    for (parameters, message) in WRONG {
        let said = said_of(context, parameters)?;
        let message = format!("spec.devices.config[0].opaque.parameters.{message}");
        if !said.contains(DENIED) || !said.contains(&message) {
            return Err(Failure::wrong(format!(
                "of {parameters} is said {said:?} and not {message:?}"
            )));
        }
    }
    context.apply(&configured(
        "{apiVersion: resource.nvidia.com/v1beta1, kind: GpuConfig}",
    ))
}

/// What is said when somebody applies a claim with these parameters; nothing if it is taken.
fn said_of(context: &Context<'_>, parameters: &str) -> Result<String, Failure> {
    match context.apply(&configured(parameters)) {
        Err(Failure::Refused { said, .. }) => Ok(said),
        Err(other) => Err(other),
        Ok(()) => {
            // Until the API server asks the webhook, it takes everything.
            context.delete_claim("configured")?;
            Ok(String::new())
        }
    }
}

fn switched_off(context: &Context<'_>) -> Result<(), Failure> {
    let kubernetes = context.kubernetes();
    release::change(kubernetes, &["webhook.enabled=false".to_owned()])?;
    kubernetes.delete(RELEASE, &["secrets", SECRET, "--ignore-not-found"])?;
    let what = "the webhook to be gone";
    kubernetes.wait(
        Scope::Cluster,
        what,
        START_LIMIT,
        |webhooks: &Objects<ValidatingWebhookConfiguration>| {
            (!webhooks.contains_key("tessera-webhook")).then_some(())
        },
    )?;
    let what = "the policy to be back";
    kubernetes.wait(
        Scope::Cluster,
        what,
        START_LIMIT,
        |bindings: &Objects<ValidatingAdmissionPolicyBinding>| {
            bindings.contains_key(BINDING).then_some(())
        },
    )
}
