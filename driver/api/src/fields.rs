//! Reads the fields of one object strictly.
//!
//! `null` is an absent field, as it is for Kubernetes' decoders.

use serde_json::Number;
use tessera_device::quantity;

use crate::document::{Document, excerpt};
use crate::error::{ConfigError, one_of};
use crate::path::FieldPath;

/// The fields of an object, none of which stands twice.
pub(crate) struct Fields<'d> {
    at: FieldPath,
    entries: &'d [(String, Document)],
}

/// A field that has a value.
pub(crate) struct Field<'d> {
    pub(crate) at: FieldPath,
    pub(crate) value: &'d Document,
}

impl<'d> Fields<'d> {
    /// The fields of the object `document`, which stands at `at`.
    pub(crate) fn of(at: FieldPath, document: &'d Document) -> Result<Self, ConfigError> {
        let Document::Object(entries) = document else {
            return Err(wrong_type(at, "an object", document));
        };
        let repeated = entries
            .iter()
            .enumerate()
            .find(|(index, (name, _))| entries[..*index].iter().any(|(other, _)| other == name));
        match repeated {
            Some((_, (name, _))) => Err(ConfigError::DuplicateField {
                at: at.field(&excerpt(name)),
            }),
            None => Ok(Self { at, entries }),
        }
    }

    /// Refuses every field that is not among `known`.
    pub(crate) fn only(self, known: &'static [&'static str]) -> Result<Self, ConfigError> {
        match self
            .entries
            .iter()
            .find(|(name, _)| !known.contains(&name.as_str()))
        {
            Some((name, _)) => Err(ConfigError::UnknownField {
                at: self.at.field(&excerpt(name)),
                fields: known,
            }),
            None => Ok(self),
        }
    }

    /// The field `name`, if it has a value.
    pub(crate) fn get(&self, name: &str) -> Option<Field<'d>> {
        let (_, value) = self.entries.iter().find(|(field, _)| field == name)?;
        (*value != Document::Null).then(|| Field {
            at: self.at.field(name),
            value,
        })
    }

    /// The field `name`, which must have a value: one of `values`, if there are any.
    pub(crate) fn required(&self, name: &str, values: &[&str]) -> Result<Field<'d>, ConfigError> {
        self.get(name).ok_or_else(|| ConfigError::Missing {
            at: self.at.field(name),
            remedy: format!("write {}", one_of(values)),
        })
    }

    /// Every entry, as of a map whose keys the user chooses.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&'d str, Field<'d>)> {
        self.entries.iter().map(|(key, value)| {
            let at = self.at.key(&excerpt(key));
            (key.as_str(), Field { at, value })
        })
    }
}

impl<'d> Field<'d> {
    /// The fields of the object in this field.
    pub(crate) fn fields(self) -> Result<Fields<'d>, ConfigError> {
        Fields::of(self.at, self.value)
    }

    /// The entries of the list in this field.
    pub(crate) fn list(&self) -> Result<impl Iterator<Item = Field<'d>>, ConfigError> {
        let Document::List(entries) = self.value else {
            return Err(self.wrong_type("a list"));
        };
        let at = self.at.clone();
        let entries = entries.iter().enumerate();
        Ok(entries.map(move |(index, value)| Field {
            at: at.key(&index.to_string()),
            value,
        }))
    }

    /// The string in this field.
    pub(crate) fn text(&self) -> Result<&'d str, ConfigError> {
        self.value.text().ok_or_else(|| self.wrong_type("a string"))
    }

    /// The boolean in this field.
    pub(crate) fn boolean(&self) -> Result<bool, ConfigError> {
        match self.value {
            Document::Bool(value) => Ok(*value),
            _ => Err(self.wrong_type("a boolean")),
        }
    }

    /// The number in this field.
    pub(crate) fn number(&self) -> Result<&'d Number, ConfigError> {
        match self.value {
            Document::Number(value) => Ok(value),
            _ => Err(self.wrong_type("a whole number")),
        }
    }

    /// Which of `choices` this field holds, by its name. `what` is what users call the field.
    pub(crate) fn one_of<T: Copy>(
        &self,
        what: &'static str,
        choices: &[T],
        name: impl Fn(T) -> &'static str,
    ) -> Result<T, ConfigError> {
        let text = self.text()?;
        let chosen = choices.iter().find(|choice| name(**choice) == text);
        chosen.copied().ok_or_else(|| ConfigError::Value {
            at: self.at.clone(),
            what,
            found: excerpt(text),
            values: choices.iter().copied().map(name).collect(),
        })
    }

    /// The whole MiB of the quantity in this field, of which there is at least one.
    ///
    /// A quantity is written as a string or as a number, as everywhere in Kubernetes.
    pub(crate) fn mebibytes(&self) -> Result<u64, ConfigError> {
        let text = match self.value {
            Document::Text(text) => text.clone(),
            Document::Number(number) => number.to_string(),
            _ => return Err(self.wrong_type("a quantity")),
        };
        let limit = |problem| ConfigError::Limit {
            at: self.at.clone(),
            found: self.value.to_string(),
            problem,
        };
        let amount = quantity::nanos(&text).ok_or_else(|| limit("is not a quantity"))?;
        let mebibytes = amount / (quantity::ONE << 20);
        u64::try_from(mebibytes)
            .ok()
            .filter(|mebibytes| *mebibytes > 0)
            .ok_or_else(|| limit("is less than 1Mi"))
    }

    /// The whole number in this field, which must be from `least` to `most`. `what` is what users call it.
    pub(crate) fn whole<N: TryFrom<u64> + Into<i64> + Copy + PartialOrd>(
        &self,
        what: &'static str,
        least: N,
        most: N,
    ) -> Result<N, ConfigError> {
        let number = self.number()?;
        number
            .as_u64()
            .and_then(|number| N::try_from(number).ok())
            .filter(|number| (least..=most).contains(number))
            .ok_or_else(|| ConfigError::Range {
                at: self.at.clone(),
                what,
                found: number.to_string(),
                least: least.into(),
                most: most.into(),
            })
    }

    fn wrong_type(&self, expected: &'static str) -> ConfigError {
        wrong_type(self.at.clone(), expected, self.value)
    }
}

fn wrong_type(at: FieldPath, expected: &'static str, found: &Document) -> ConfigError {
    let found = match found {
        Document::Null | Document::List(_) | Document::Object(_) => found.noun().to_owned(),
        _ => format!("{}, {found}", found.noun()),
    };
    ConfigError::Type {
        at,
        expected,
        found,
    }
}
