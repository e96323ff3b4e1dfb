//! Versions as NVIDIA writes them, and as the API's semver attributes want them.

use std::fmt;

/// The version of the NVIDIA kernel driver, e.g. `580.95.05`.
///
/// The text is kept as the driver says it, because file names on the node contain it. The API's
/// version attributes follow semver 2.0, which forbids leading zeros and wants three numbers, so
/// [`DriverVersion::semver`] gives that form, or nothing where the text has none: an odd version
/// costs an attribute, never the plugin.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DriverVersion(String);

impl DriverVersion {
    /// Takes the text as the driver prints it.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text as the driver prints it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The semver form (`580.95.5`), if the text is one to three dotted decimal numbers.
    pub fn semver(&self) -> Option<String> {
        let mut numbers = [0_u64; 3];
        let parts: Vec<&str> = self.0.split('.').collect();
        if parts.len() > numbers.len() {
            return None;
        }
        for (number, part) in numbers.iter_mut().zip(&parts) {
            let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
            *number = digits.then(|| part.parse().ok()).flatten()?;
        }
        Some(format!("{}.{}.{}", numbers[0], numbers[1], numbers[2]))
    }
}

impl fmt::Display for DriverVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A CUDA version: that of the driver's API, or a compute capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CudaVersion {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

impl CudaVersion {
    /// The semver form, with a patch of zero.
    pub fn semver(self) -> String {
        format!("{}.{}.0", self.major, self.minor)
    }
}

impl fmt::Display for CudaVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_driver_version_becomes_semver_or_nothing() {
        for (text, semver) in [
            ("580.95.05", Some("580.95.5")),
            ("535.104.12", Some("535.104.12")),
            ("570.00", Some("570.0.0")),
            ("615", Some("615.0.0")),
            ("", None),
            ("580.95.05.1", None),
            ("580.95.05-grid", None),
            ("580..05", None),
            ("+580.1.2", None),
            ("99999999999999999999.1.1", None),
        ] {
            assert_eq!(
                DriverVersion::new(text).semver().as_deref(),
                semver,
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_driver_version_panics_and_what_comes_out_has_no_leading_zero(text: String) {
            if let Some(semver) = DriverVersion::new(text).semver() {
                for part in semver.split('.') {
                    prop_assert!(part == "0" || !part.starts_with('0'));
                }
            }
        }
    }
}
