//! Where in a manifest a value stands, as Kubernetes writes it.

use std::fmt;

/// The path of a field: that of the parameters in their object, and that of the field within them.
///
/// Displays as one path, `spec.devices.config[0].opaque.parameters.sharing.strategy`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldPath {
    base: String,
    within: String,
}

impl FieldPath {
    /// The parameters themselves, which stand at `base` in their object.
    pub fn parameters(base: impl Into<String>) -> Self {
        Self {
            base: base.into(),
            within: String::new(),
        }
    }

    /// The field `name` of the object at this path.
    #[must_use]
    pub fn field(&self, name: &str) -> Self {
        let dot = if self.within.is_empty() { "" } else { "." };
        Self {
            base: self.base.clone(),
            within: format!("{}{dot}{name}", self.within),
        }
    }

    /// The entry `key` of the map at this path.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        Self {
            base: self.base.clone(),
            within: format!("{}[{key}]", self.within),
        }
    }

    /// The path within the parameters.
    pub fn within(&self) -> &str {
        &self.within
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { base, within } = self;
        let dot = if base.is_empty() || within.is_empty() {
            ""
        } else {
            "."
        };
        write!(f, "{base}{dot}{within}")
    }
}
