//! Which fields a server did not keep.
//!
//! A server drops the fields of feature gates that are off, without an error. Only the stored
//! object tells. List attributes are the exception: without its list such an attribute has no
//! value, and 1.36 refuses the whole slice as invalid.

use std::collections::BTreeSet;
use std::fmt;

use k8s_openapi::api::resource::v1::{ResourceSlice, ResourceSliceSpec};
use serde_json::Value;

/// A field of a slice's spec, the same for all entries of a list.
///
/// Displays like `devices[].consumesCounters`; a key with a dot or slash stands in brackets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FieldPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Field(String),
    EachItem,
}

impl FieldPath {
    /// Whether without this field nothing keeps two devices that overlap from being given away at once.
    pub(crate) fn is_of_counters(&self) -> bool {
        let names = ["sharedCounters", "consumesCounters"];
        let is_one = |step: &Step| matches!(step, Step::Field(name) if names.contains(&&**name));
        self.0.iter().any(is_one)
    }

    /// Whether devices cannot be shared without the field.
    pub(crate) fn is_of_sharing(&self) -> bool {
        let names = self.0.iter().filter_map(|step| match step {
            Step::Field(name) => Some(name.as_str()),
            Step::EachItem => None,
        });
        let names: Vec<&str> = names.collect();
        matches!(
            names.as_slice(),
            ["devices", "allowMultipleAllocations", ..]
                | ["devices", "capacity", _, "requestPolicy", ..]
        )
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in self.0.iter().enumerate() {
            match step {
                Step::EachItem => f.write_str("[]")?,
                Step::Field(name) if name.contains(['.', '/']) => write!(f, "[{name}]")?,
                Step::Field(name) if at == 0 => f.write_str(name)?,
                Step::Field(name) => write!(f, ".{name}")?,
            }
        }
        Ok(())
    }
}

/// The fields of the spec that were sent and are not stored.
///
/// Of a dropped field its outermost path is listed. A value that changed is not dropped, nor is a
/// list that lost entries: neither is what a feature gate does.
pub fn dropped_fields(sent: &ResourceSlice, stored: &ResourceSlice) -> BTreeSet<FieldPath> {
    let mut dropped = BTreeSet::new();
    compare(
        &spec_value(&sent.spec),
        &spec_value(&stored.spec),
        &mut Vec::new(),
        &mut dropped,
    );
    dropped
}

/// The spec without these fields.
pub(crate) fn without(spec: ResourceSliceSpec, fields: &BTreeSet<FieldPath>) -> ResourceSliceSpec {
    if fields.is_empty() {
        return spec;
    }
    let mut value = spec_value(&spec);
    for FieldPath(steps) in fields {
        remove(&mut value, steps);
    }
    serde_json::from_value(value).unwrap_or(spec)
}

fn spec_value(spec: &ResourceSliceSpec) -> Value {
    serde_json::to_value(spec).expect("a spec has string keys and finite numbers only")
}

fn compare(sent: &Value, stored: &Value, at: &mut Vec<Step>, dropped: &mut BTreeSet<FieldPath>) {
    match (sent, stored) {
        (Value::Object(sent), Value::Object(stored)) => {
            for (key, value) in sent.iter().filter(|(_, value)| !is_empty(value)) {
                at.push(Step::Field(key.clone()));
                match stored.get(key).filter(|value| !is_empty(value)) {
                    Some(stored) => compare(value, stored, at, dropped),
                    None => {
                        dropped.insert(FieldPath(at.clone()));
                    }
                }
                at.pop();
            }
        }
        (Value::Array(sent), Value::Array(stored)) if sent.len() == stored.len() => {
            at.push(Step::EachItem);
            for (sent, stored) in sent.iter().zip(stored) {
                compare(sent, stored, at, dropped);
            }
            at.pop();
        }
        _ => {}
    }
}

/// The server leaves empty collections out.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

fn remove(value: &mut Value, steps: &[Step]) {
    match (steps, value) {
        ([Step::Field(last)], Value::Object(fields)) => {
            fields.remove(last);
        }
        ([Step::Field(name), rest @ ..], Value::Object(fields)) => {
            if let Some(inner) = fields.get_mut(name) {
                remove(inner, rest);
            }
        }
        ([Step::EachItem, rest @ ..], Value::Array(items)) => {
            for item in items {
                remove(item, rest);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
