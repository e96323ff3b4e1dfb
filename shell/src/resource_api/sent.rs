//! An object as a server sends it, without what nobody here reads.
//!
//! What a server keeps of who wrote which field (`metadata.managedFields`) is half of a claim's text, a map in a map for each
//! field. It is passed over while the text is read: to hold it, and to take it apart again for a typed object, would cost
//! more than the rest of the claim.

use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

/// Where the fields stand that nobody reads.
const UNREAD: &[&str] = &["metadata", "managedFields"];

/// The object.
#[derive(Debug)]
pub(super) struct Sent(pub(super) Value);

impl<'de> Deserialize<'de> for Sent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Without(UNREAD).deserialize(deserializer).map(Self)
    }
}

/// Reads an object, but for what stands at this path in it. What is on the way there is an object, too.
struct Without(&'static [&'static str]);

impl<'de> DeserializeSeed<'de> for Without {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Without {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            let value = match self.0 {
                [last] if *last == name => {
                    fields.next_value::<IgnoredAny>()?;
                    continue;
                }
                [next, rest @ ..] if *next == name => fields.next_value_seed(Self(rest))?,
                _ => fields.next_value()?,
            };
            object.insert(name, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sent(text: &str) -> Result<Value, serde_json::Error> {
        serde_json::from_str::<Sent>(text).map(|Sent(object)| object)
    }

    #[test]
    fn an_object_is_read_whole_but_for_who_wrote_which_field() {
        let text = r#"{
            "kind": "ResourceClaim",
            "metadata": {"name": "a", "managedFields": [{"fieldsV1": {"f:spec": {".": {}}}}], "uid": "u"},
            "spec": {"metadata": {"managedFields": 1}, "managedFields": [2]},
            "managedFields": 3
        }"#;
        let expected = json!({
            "kind": "ResourceClaim",
            "metadata": {"name": "a", "uid": "u"},
            "spec": {"metadata": {"managedFields": 1}, "managedFields": [2]},
            "managedFields": 3,
        });
        assert_eq!(sent(text).unwrap(), expected);
    }

    #[test]
    fn what_is_no_object_is_an_error() {
        for text in ["[]", "7", r#"{"metadata": "none"}"#, r#"{"metadata": {"#] {
            assert!(sent(text).is_err(), "{text}");
        }
    }
}
