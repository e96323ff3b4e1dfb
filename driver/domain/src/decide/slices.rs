//! The slices of slots as they are written.

use serde_json::json;

use crate::facts::ObjectName;
use crate::keys;
use crate::slots::Slots;
use crate::world::{Kind, StoredSlots};
use crate::write::{Verb, Write};

/// The writes that make the stored slices those of `slots`.
pub(super) fn slots_writes(slots: &Slots, stored: Option<&StoredSlots>) -> Vec<Write> {
    let generation = stored.map_or(1, |stored| stored.generation.saturating_add(1));
    let old = stored.map_or(&[][..], |stored| &stored.slices);
    let mut writes = Vec::new();
    for at in 0..slots.slices() {
        let slice = slots.render(at, generation);
        let name = slice.metadata.name.clone().unwrap_or_default();
        let verb = if old.contains(&name) {
            let mut annotations = json!(slice.metadata.annotations);
            for gone in [
                keys::CLOSED_ANNOTATION,
                keys::FORMER_ANNOTATION,
                keys::SHARES_ANNOTATION,
                keys::SPARES_ANNOTATION,
                keys::RELEASED_ANNOTATION,
                keys::AWAITS_ANNOTATION,
            ] {
                if annotations.get(gone).is_none() {
                    annotations[gone] = serde_json::Value::Null;
                }
            }
            let metadata = json!({"annotations": annotations});
            Verb::Merge(json!({"metadata": metadata, "spec": slice.spec}))
        } else {
            Verb::Create(json!(slice))
        };
        writes.push(Write {
            kind: Kind::Slice,
            name: ObjectName::new("", &name),
            verb,
        });
    }
    let kept: Vec<String> = writes.iter().map(|write| write.name.name.clone()).collect();
    let surplus = old.iter().filter(|name| !kept.contains(name));
    writes.extend(surplus.map(|name| slice_end(name)));
    writes
}

pub(super) fn slice_end(name: &str) -> Write {
    Write {
        kind: Kind::Slice,
        name: ObjectName::new("", name),
        verb: Verb::Delete(None),
    }
}
