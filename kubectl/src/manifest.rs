//! A domain that is not in the cluster, with what stands beside it in a file.

use serde::Deserialize as _;
use serde_json::{Value, json};
use tessera_domain::{Kind, Object, ObjectName, World};
use thiserror::Error;

/// Why a file says nothing of a domain.
#[derive(Debug, Error)]
pub enum ManifestError {
    /// It is not YAML.
    #[error("document {number} of the file is not YAML")]
    NotYaml {
        /// Which, from 1 on.
        number: usize,
        /// Where.
        #[source]
        source: serde_yaml_ng::Error,
    },
    /// An object that is not what its kind says.
    #[error("{kind} {name} of the file cannot be read")]
    Unreadable {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// Not one domain.
    #[error("the file has {0} objects of the kind ComputeDomain; write one of them")]
    NotOneDomain(usize),
    /// It is in the cluster.
    #[error(
        "ComputeDomain {0} is in the cluster already; ask for it by its name instead of the file, or give the one of the \
         file another name"
    )]
    Exists(ObjectName),
    /// A claim that nobody can make.
    #[error(
        "pod {pod} has claims of the template {template}, which is not in the file; put it there, so that its GPUs are known"
    )]
    NoTemplate {
        /// The pod.
        pod: String,
        /// The template.
        template: String,
    },
}

/// Puts the objects of a file into the world, as if they had just been applied, and tells the name of its domain.
pub fn apply(world: &mut World, text: &str, namespace: &str) -> Result<ObjectName, ManifestError> {
    let objects = objects(text, namespace)?;
    let of_kind = |kind: &'static str| objects.iter().filter(move |it| it["kind"] == kind);
    let domains: Vec<&Value> = of_kind("ComputeDomain").collect();
    let &[domain] = &domains[..] else {
        return Err(ManifestError::NotOneDomain(domains.len()));
    };
    let name = ObjectName::new(&text_of(domain, "namespace"), &text_of(domain, "name"));
    let exists = |other: &tessera_domain::ObjectName| *other == name;
    if world
        .domains()
        .any(|domain| exists(&ObjectName::of(&domain.metadata)))
    {
        return Err(ManifestError::Exists(name));
    }
    put(world, Kind::Domain, domain.clone())?;
    for policy in of_kind("DomainPolicy") {
        put(world, Kind::Policy, policy.clone())?;
    }
    let own = &domain["spec"]["channel"]["resourceClaimTemplate"]["name"];
    for object in &objects {
        if object["metadata"]["namespace"] != name.namespace.as_str() {
            continue;
        }
        if let Some(spec) = pod_spec(object, own) {
            let pod = format!("{}-{}", object["kind"], object["metadata"]["name"]);
            let pod = pod.replace('"', "").to_lowercase();
            pending(world, &objects, &name.namespace, &pod, spec, own)?;
        }
    }
    Ok(name)
}

/// The objects of a file, each in a namespace.
fn objects(text: &str, namespace: &str) -> Result<Vec<Value>, ManifestError> {
    let mut objects = Vec::new();
    for (at, document) in serde_yaml_ng::Deserializer::from_str(text).enumerate() {
        let mut object = Value::deserialize(document).map_err(|source| ManifestError::NotYaml {
            number: at + 1,
            source,
        })?;
        if !object.is_object() {
            continue;
        }
        let named = object["metadata"]["namespace"].is_string();
        if !named {
            object["metadata"]["namespace"] = json!(namespace);
        }
        objects.push(object);
    }
    Ok(objects)
}

fn put(world: &mut World, kind: Kind, mut object: Value) -> Result<(), ManifestError> {
    let name = text_of(&object, "name");
    let written = object["kind"].as_str().unwrap_or_default().to_owned();
    // What the API server would give it, unlike that of any other object.
    object["metadata"]["uid"] = json!(format!("file-{name}"));
    let read = Object::read(kind, object).map_err(|source| ManifestError::Unreadable {
        kind: written,
        name,
        source,
    })?;
    world.apply(read);
    Ok(())
}

fn text_of(object: &Value, field: &str) -> String {
    let text = object["metadata"][field].as_str();
    text.unwrap_or_default().to_owned()
}

/// The first specification of pods in an object that has a claim of the domain's template: a pod's own, or that of a
/// workload's template, wherever its kind keeps it.
fn pod_spec<'v>(value: &'v Value, template: &Value) -> Option<&'v Value> {
    let claims = value["resourceClaims"].as_array();
    let names = |claim: &Value| claim["resourceClaimTemplateName"] == *template;
    if value["containers"].is_array() && claims.is_some_and(|claims| claims.iter().any(names)) {
        return Some(value);
    }
    match value {
        Value::Object(fields) => fields.values().find_map(|it| pod_spec(it, template)),
        Value::Array(entries) => entries.iter().find_map(|it| pod_spec(it, template)),
        _ => None,
    }
}

/// A pod of this specification waits, and its claims are made.
fn pending(
    world: &mut World,
    objects: &[Value],
    namespace: &str,
    pod: &str,
    spec: &Value,
    own: &Value,
) -> Result<(), ManifestError> {
    let mut made = Vec::new();
    for claim in spec["resourceClaims"].as_array().into_iter().flatten() {
        let template = &claim["resourceClaimTemplateName"];
        if template.is_null() || template == own {
            continue;
        }
        let found = objects.iter().find(|it| {
            it["kind"] == "ResourceClaimTemplate" && it["metadata"]["name"] == *template
        });
        let found = found.ok_or_else(|| ManifestError::NoTemplate {
            pod: pod.to_owned(),
            template: template.as_str().unwrap_or_default().to_owned(),
        })?;
        let name = format!("{pod}-{}", claim["name"].as_str().unwrap_or_default());
        made.push(json!({"name": claim["name"], "resourceClaimName": name}));
        let metadata = json!({"name": name, "namespace": namespace});
        let claim = json!({
            "kind": "ResourceClaim", "metadata": metadata, "spec": found["spec"]["spec"],
        });
        put(world, Kind::Claim, claim)?;
    }
    let metadata = json!({"name": pod, "namespace": namespace});
    let mut spec = spec.clone();
    spec["nodeName"] = Value::Null;
    let status = json!({"phase": "Pending", "resourceClaimStatuses": made});
    put(
        world,
        Kind::Pod,
        json!({"kind": "Pod", "metadata": metadata, "spec": spec, "status": status}),
    )
}
