//! What can be wrong with a configuration: the field, its value, and what to write instead.

use thiserror::Error;

use crate::config::{Driver, Kind};
use crate::group::API_VERSION;
use crate::path::FieldPath;

/// A configuration that is not what it must be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// Not JSON at all.
    #[error("{at}: is not JSON ({problem}); write an object with apiVersion and kind")]
    NotJson {
        /// Where.
        at: FieldPath,
        /// What the JSON reader says.
        problem: String,
    },
    /// Another type of value than the field has.
    #[error("{at}: must be {expected}, but is {found}")]
    Type {
        /// Where.
        at: FieldPath,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// A field that the kind does not have.
    #[error(
        "{at}: strict decoding error: unknown field {:?}; {}",
        at.within(), known(fields)
    )]
    UnknownField {
        /// Where.
        at: FieldPath,
        /// The fields that there are.
        fields: &'static [&'static str],
    },
    /// A field that stands twice.
    #[error(
        "{at}: strict decoding error: duplicate field {:?}; write it once",
        at.within()
    )]
    DuplicateField {
        /// Where.
        at: FieldPath,
    },
    /// A field without which the rest means nothing.
    #[error("{at}: is missing; {remedy}")]
    Missing {
        /// Where.
        at: FieldPath,
        /// What to write.
        remedy: String,
    },
    /// Another group or version.
    #[error("{at}: unknown API version {found:?}; write {}", one_of(versions))]
    ApiVersion {
        /// Where.
        at: FieldPath,
        /// What it says.
        found: String,
        /// Those that there are: of the kind, if that is known.
        versions: Vec<&'static str>,
    },
    /// A kind that the group does not have.
    #[error("{at}: unknown kind {found:?}; write {}", one_of(kinds))]
    UnknownKind {
        /// Where.
        at: FieldPath,
        /// What it says.
        found: String,
        /// The kinds of the API version that it stands beside.
        kinds: Vec<&'static str>,
    },
    /// A kind that belongs to the other driver.
    #[error(
        "{at}: {:?} configures devices of {}, not of {driver}; name that driver in opaque.driver, \
         or write {}",
        kind.as_str(), kind.driver(), one_of(&driver.kinds(API_VERSION))
    )]
    OtherDriver {
        /// Where.
        at: FieldPath,
        /// The kind.
        kind: Kind,
        /// The driver to which it was addressed.
        driver: Driver,
    },
    /// A value that the field's list of values does not have.
    #[error("{at}: unknown {what} {found:?}; write {}", one_of(values))]
    Value {
        /// Where.
        at: FieldPath,
        /// What the field holds, as users know it.
        what: &'static str,
        /// What it says.
        found: String,
        /// The values that there are.
        values: Vec<&'static str>,
    },
    /// A number outside its range.
    #[error("{at}: {what} must not be {found}; write a whole number from {least} to {most}")]
    Range {
        /// Where.
        at: FieldPath,
        /// What the field holds.
        what: &'static str,
        /// What it says.
        found: String,
        /// Smallest value.
        least: i64,
        /// Largest value.
        most: i64,
    },
    /// A memory limit that no daemon can be given.
    #[error("{at}: invalid limit: {found} {problem}; write an amount such as 512Mi or 10Gi")]
    Limit {
        /// Where.
        at: FieldPath,
        /// What it says.
        found: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A key that names no device.
    #[error(
        "{at}: invalid device {found:?}; write the index of a device among the claim's \
         devices in the order of their UUIDs (0, 1, …), or its UUID (GPU-… or MIG-…)"
    )]
    Device {
        /// Where.
        at: FieldPath,
        /// The key.
        found: String,
    },
    /// A percentage that no limit can be.
    #[error(
        "{at}: invalid limit: {found} is not a whole percentage; write one from 1% to 100%, or an \
         amount such as 10Gi"
    )]
    Percentage {
        /// Where.
        at: FieldPath,
        /// What it says.
        found: String,
    },
    /// A value that another field rules out.
    #[error("{at}: {found} cannot be used with {by}; {remedy}")]
    Excluded {
        /// Where.
        at: FieldPath,
        /// What it says.
        found: String,
        /// The field that rules it out, with its value.
        by: &'static str,
        /// What to write instead.
        remedy: &'static str,
    },
    /// Settings of a strategy that was not chosen.
    #[error(
        "{at}: cannot be used with the strategy {strategy:?}; remove it, or write \
         strategy: {belongs}"
    )]
    OtherStrategy {
        /// Where.
        at: FieldPath,
        /// The strategy that was chosen.
        strategy: &'static str,
        /// The strategy to which the settings belong.
        belongs: &'static str,
    },
}

/// `a`, `a or b`, `a, b or c`.
pub(crate) fn one_of(values: &[&str]) -> String {
    match values {
        [] => "nothing".to_owned(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

fn known(fields: &[&str]) -> String {
    format!("remove it, or write {}", one_of(fields))
}
