//! A stand-in for the API server: it keeps objects as JSON and knows of them what their writes need.
//!
//! It is not Kubernetes: there is no validation, no defaulting and no admission. It creates, merges, deletes
//! with finalizers and preconditions, deletes what a deleted domain owned, and begins to end pods that are evicted, unless
//! they are among those that a budget keeps.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use http::{Method, header};
use serde_json::{Map, Value, json};
use tessera_domain::notice::Notice;
use tessera_domain::{Kind, ObjectName, World, Write, keys};

use crate::domains::api::{Api, WriteError, Written, read, request};

/// When the process that writes dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Death {
    /// Its n-th write has no effect.
    Before(usize),
    /// Its n-th write has its effect, and the answer is lost.
    After(usize),
}

#[derive(Debug, Default)]
pub(super) struct Server {
    objects: RefCell<BTreeMap<(Kind, ObjectName), Value>>,
    version: Cell<u64>,
    /// Writes that were asked for.
    pub(super) log: RefCell<Vec<String>>,
    pub(super) events: RefCell<Vec<Notice>>,
    pub(super) death: Cell<Option<Death>>,
    pub(super) dead: Cell<bool>,
    /// Pods that a budget keeps.
    pub(super) kept: RefCell<Vec<String>>,
}

impl Server {
    pub(super) fn put(&self, kind: Kind, mut object: Value) {
        let metadata = &mut object["metadata"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let name = ObjectName::new(&text(&metadata["namespace"]), &text(&metadata["name"]));
        if metadata.get("uid").is_none() {
            metadata["uid"] = json!(format!("{}-uid", name.name));
        }
        metadata["resourceVersion"] = json!(self.next_version());
        self.objects.borrow_mut().insert((kind, name), object);
    }

    pub(super) fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<Value> {
        let key = (kind, ObjectName::new(namespace, name));
        self.objects.borrow().get(&key).cloned()
    }

    pub(super) fn list(&self, kind: Kind) -> Vec<Value> {
        let objects = self.objects.borrow();
        let of_kind = objects.iter().filter(|((own, _), _)| *own == kind);
        of_kind.map(|(_, object)| object.clone()).collect()
    }

    pub(super) fn change(&self, kind: Kind, namespace: &str, name: &str, patch: &Value) {
        let mut object = self.get(kind, namespace, name).unwrap();
        merge(&mut object, patch);
        self.put(kind, object);
    }

    pub(super) fn remove(&self, kind: Kind, namespace: &str, name: &str) {
        let key = (kind, ObjectName::new(namespace, name));
        self.objects.borrow_mut().remove(&key);
    }

    /// A deletion by a user: what has finalizers stays until they are off.
    pub(super) fn delete(&self, kind: Kind, namespace: &str, name: &str) {
        let Some(object) = self.get(kind, namespace, name) else {
            return;
        };
        if has_finalizers(&object) {
            let patch = json!({"metadata": {"deletionTimestamp": "2026-01-01T01:00:00Z"}});
            self.change(kind, namespace, name, &patch);
        } else {
            self.remove(kind, namespace, name);
            let uid = object["metadata"]["uid"].clone();
            self.objects.borrow_mut().retain(|_, object| {
                let owners = object["metadata"]["ownerReferences"].as_array();
                !owners.is_some_and(|owners| owners.iter().any(|owner| owner["uid"] == uid))
            });
        }
    }

    /// Everything, as the lists of a process that starts anew bring it.
    pub(super) fn world(&self) -> World {
        let mut world = World::default();
        for kind in Kind::ALL {
            world.begin_list(kind);
            for object in self.list(kind) {
                world.apply(read(kind, object).unwrap());
            }
            world.end_list(kind);
        }
        world
    }

    /// All objects without what tells one history from another with the same end.
    pub(super) fn end(&self) -> Vec<Value> {
        let mut objects: Vec<Value> = self.objects.borrow().values().cloned().collect();
        for object in &mut objects {
            let metadata = object["metadata"].as_object_mut().unwrap();
            metadata.remove("resourceVersion");
        }
        objects
    }

    fn next_version(&self) -> String {
        self.version.set(self.version.get() + 1);
        self.version.get().to_string()
    }

    fn serve(&self, write: &Write) -> Result<Written, WriteError> {
        let request = request(write);
        let body: Value = serde_json::from_slice(request.body()).unwrap();
        let (namespace, name) = (&write.name.namespace, &write.name.name);
        let stored = self.get(write.kind, namespace, name);
        let conflict = |why: &str| WriteError::Conflict(format!("{}: {why}", write.name));
        if request.uri().path().ends_with("/eviction") {
            return self.evict(write, &body);
        }
        if *request.method() == Method::POST {
            if stored.is_some() {
                return Err(conflict("exists"));
            }
            self.put(write.kind, body);
            return self.answer(write);
        }
        let mut object = stored.ok_or_else(|| WriteError::Missing(write.name.to_string()))?;
        if *request.method() == Method::DELETE {
            let wanted = &body["preconditions"]["uid"];
            if !wanted.is_null() && *wanted != object["metadata"]["uid"] {
                return Err(conflict("another UID"));
            }
            self.delete(write.kind, namespace, name);
            return Ok(Written::Gone);
        }
        for same in ["resourceVersion", "uid"] {
            let wanted = body
                .pointer(&format!("/metadata/{same}"))
                .unwrap_or(&Value::Null);
            if !wanted.is_null() && *wanted != object["metadata"][same] {
                return Err(conflict(same));
            }
        }
        let content = request.headers()[header::CONTENT_TYPE].to_str().unwrap();
        if request.uri().path().ends_with("/status") {
            merge(&mut object["status"], &body["status"]);
        } else if content.contains("json-patch") {
            for operation in body.as_array().unwrap() {
                apply(&mut object, operation).ok_or_else(|| conflict("the patch does not fit"))?;
            }
        } else {
            merge(&mut object, &body);
        }
        let ended =
            object["metadata"].get("deletionTimestamp").is_some() && !has_finalizers(&object);
        self.put(write.kind, object);
        let answer = self.answer(write);
        if ended {
            self.delete(write.kind, namespace, name);
        }
        answer
    }

    fn evict(&self, write: &Write, eviction: &Value) -> Result<Written, WriteError> {
        let ObjectName { namespace, name } = &write.name;
        let Some(pod) = self.get(Kind::Pod, namespace, name) else {
            return Ok(Written::Gone);
        };
        if eviction["deleteOptions"]["preconditions"]["uid"] != pod["metadata"]["uid"] {
            return Err(WriteError::Conflict(format!("{name}: another UID")));
        }
        if self.kept.borrow().contains(name) {
            return Err(WriteError::Budget("Cannot evict pod".to_owned()));
        }
        let patch = json!({"metadata": {"deletionTimestamp": "2026-01-01T01:00:00Z"}});
        self.change(Kind::Pod, namespace, name, &patch);
        Ok(Written::Ending)
    }

    fn answer(&self, write: &Write) -> Result<Written, WriteError> {
        let object = self.get(write.kind, &write.name.namespace, &write.name.name);
        read(write.kind, object.unwrap()).map(Written::Stored)
    }
}

impl Api for Server {
    async fn write(&self, write: &Write) -> Result<Written, WriteError> {
        let count = self.log.borrow().len();
        if self.dead.get() {
            return Err(WriteError::TimedOut);
        }
        let line = format!(
            "{} {} {}",
            write.verb.as_str(),
            write.kind.as_str(),
            write.name
        );
        self.log.borrow_mut().push(line);
        match self.death.get() {
            Some(Death::Before(at)) if at == count => {
                self.dead.set(true);
                Err(WriteError::TimedOut)
            }
            Some(Death::After(at)) if at == count => {
                self.dead.set(true);
                self.serve(write)?;
                Err(WriteError::TimedOut)
            }
            _ => self.serve(write),
        }
    }

    async fn tell(&self, notice: &Notice) -> Result<(), WriteError> {
        self.events.borrow_mut().push(notice.clone());
        Ok(())
    }
}

fn has_finalizers(object: &Value) -> bool {
    let finalizers = object["metadata"]["finalizers"].as_array();
    finalizers.is_some_and(|finalizers| !finalizers.is_empty())
}

/// A JSON merge patch (RFC 7386).
fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = Value::Object(Map::new());
    }
    let fields = into.as_object_mut().unwrap();
    for (name, value) in patch {
        if value.is_null() {
            fields.remove(name);
        } else {
            merge(fields.entry(name).or_insert(Value::Null), value);
        }
    }
}

/// An operation of a JSON patch (RFC 6902); none where it does not fit.
fn apply(object: &mut Value, operation: &Value) -> Option<()> {
    let (path, value) = (operation["path"].as_str()?, &operation["value"]);
    let (parent, key) = path.rsplit_once('/')?;
    let op = operation["op"].as_str()?;
    if op == "test" {
        let found = object.pointer(path).unwrap_or(&Value::Null);
        return (found == value).then_some(());
    }
    match (op, object.pointer_mut(parent)?) {
        ("add", Value::Array(list)) if key == "-" => list.push(value.clone()),
        ("remove", Value::Array(list)) => drop(list.remove(key.parse().ok()?)),
        ("replace", Value::Array(list)) => {
            *list.get_mut(key.parse::<usize>().ok()?)? = value.clone();
        }
        ("add", Value::Object(fields)) => drop(fields.insert(key.to_owned(), value.clone())),
        _ => return None,
    }
    Some(())
}

/// Does what Kubernetes does for pods: makes their claims, gives them slots and nodes, and ends them.
pub(super) fn schedule(server: &Server) {
    for pod in server.list(Kind::Pod) {
        let metadata = &pod["metadata"];
        if metadata.get("deletionTimestamp").is_some() {
            let name = metadata["name"].as_str().unwrap();
            server.remove(Kind::Pod, "team", name);
            server.remove(Kind::Claim, "team", &format!("{name}-channel"));
        }
    }
    let slices = server.list(Kind::Slice);
    for pod in server.list(Kind::Pod) {
        let name = pod["metadata"]["name"].as_str().unwrap();
        let template = &pod["spec"]["resourceClaims"][0]["resourceClaimTemplateName"];
        let template = server.get(Kind::Template, "team", template.as_str().unwrap());
        let (Some(template), true) = (template, pod["spec"]["nodeName"].is_null()) else {
            continue;
        };
        let domain = template["metadata"]["labels"][keys::DOMAIN_LABEL]
            .as_str()
            .unwrap();
        let pool = keys::pool(domain);
        let offer = slices
            .iter()
            .find(|slice| slice["spec"]["pool"]["name"] == pool);
        let Some(offer) = offer else { continue };
        let held = server.list(Kind::Claim).len();
        let Some(slot) = offer["spec"]["devices"].get(held) else {
            continue;
        };
        let nodes = &offer["spec"]["nodeSelector"]["nodeSelectorTerms"][0]["matchExpressions"][0];
        let nodes = nodes["values"].as_array().unwrap();
        let Some(node) = nodes
            .iter()
            .find(|node| is_open(server, node.as_str().unwrap(), &pod))
        else {
            continue;
        };
        let mut claim = tessera_domain::testing::slot_claim_json(name, "");
        let result = &mut claim["status"]["allocation"]["devices"]["results"][0];
        result["pool"] = json!(pool);
        result["device"] = slot["name"].clone();
        let claim_name = claim["metadata"]["name"].clone();
        server.put(Kind::Claim, claim);
        let statuses = json!([{"name": "channel", "resourceClaimName": claim_name}]);
        let patch = json!({
            "spec": {"nodeName": node},
            "status": {"phase": "Running", "resourceClaimStatuses": statuses},
        });
        server.change(Kind::Pod, "team", name, &patch);
    }
}

/// Whether a node takes the pod: it has no pod yet, and the pod tolerates what is on it.
fn is_open(server: &Server, node: &str, pod: &Value) -> bool {
    let taken = server
        .list(Kind::Pod)
        .iter()
        .any(|other| other["spec"]["nodeName"] == node);
    let object = server.get(Kind::Node, "", node).unwrap();
    let tainted = object["spec"]["taints"]
        .as_array()
        .is_some_and(|taints| !taints.is_empty());
    let tolerations = pod["spec"]["tolerations"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let tolerates = tolerations
        .iter()
        .any(|toleration| toleration["key"] == keys::TAINT);
    !taken && (!tainted || tolerates)
}
