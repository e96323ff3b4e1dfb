//! Kubernetes feature gates as the user names them: `a=true,b=false`, parsed once.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Feature gates for every component of the cluster.
///
/// Turning a beta gate off plays an older cluster cheaply.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gates(BTreeMap<String, bool>);

/// A text that is not a list of feature gates.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("read the feature gate {text:?}: write it as Name=true or Name=false, several with commas")]
pub struct ParseGatesError {
    text: String,
}

impl Gates {
    /// The gates and their values, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, bool)> {
        self.0.iter().map(|(name, on)| (name.as_str(), *on))
    }

    /// The same, with these on unless something is said of them.
    #[must_use]
    pub(crate) fn with_on(&self, names: &[&str]) -> Self {
        let mut gates = self.0.clone();
        for name in names {
            gates.entry((*name).to_owned()).or_insert(true);
        }
        Self(gates)
    }

    /// The flag that a component takes, or none when no gate is set: an empty flag is an error to them.
    pub fn flag(&self) -> Option<String> {
        (!self.0.is_empty()).then(|| format!("--feature-gates={self}"))
    }
}

impl FromStr for Gates {
    type Err = ParseGatesError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(parse_one)
            .collect::<Result<_, _>>()
            .map(Gates)
    }
}

fn parse_one(part: &str) -> Result<(String, bool), ParseGatesError> {
    let refused = || ParseGatesError {
        text: part.to_owned(),
    };
    let (name, value) = part.split_once('=').ok_or_else(refused)?;
    let on = value.parse().map_err(|_| refused())?;
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric()) {
        return Err(refused());
    }
    Ok((name.to_owned(), on))
}

impl fmt::Display for Gates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, on)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{name}={on}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_are_read_in_any_order_and_written_by_name() {
        for (text, written) in [
            ("", ""),
            (
                "DRAPartitionableDevices=false",
                "DRAPartitionableDevices=false",
            ),
            ("B=true,A=false", "A=false,B=true"),
            (" A=true , ", "A=true"),
        ] {
            assert_eq!(
                text.parse::<Gates>().unwrap().to_string(),
                written,
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_gate_without_a_name_or_a_boolean_is_refused_by_its_text() {
        for text in ["A", "A=yes", "=true", "A B=true", "A=true=false"] {
            assert_eq!(
                text.parse::<Gates>(),
                Err(ParseGatesError {
                    text: text.to_owned()
                })
            );
        }
    }

    #[test]
    fn no_gates_make_no_flag() {
        assert_eq!(Gates::default().flag(), None);
        assert_eq!(
            "A=true".parse::<Gates>().unwrap().flag().as_deref(),
            Some("--feature-gates=A=true")
        );
    }
}
