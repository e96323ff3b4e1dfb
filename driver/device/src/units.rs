//! Amounts with their unit in the type.

use std::fmt;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// An amount of memory in bytes.
///
/// Displays as a Kubernetes quantity in the largest binary unit that loses nothing, which is the
/// form in which the reference driver publishes memory (`81559Mi`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bytes(pub u64);

impl Bytes {
    /// So many mebibytes; saturates instead of wrapping.
    pub const fn from_mib(mib: u64) -> Self {
        Self(mib.saturating_mul(MIB))
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(bytes) = self;
        for (unit, suffix) in [(GIB, "Gi"), (MIB, "Mi"), (KIB, "Ki")] {
            if *bytes != 0 && bytes.is_multiple_of(unit) {
                return write!(f, "{}{suffix}", bytes / unit);
            }
        }
        write!(f, "{bytes}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_printed_in_the_largest_unit_that_loses_nothing() {
        for (bytes, text) in [
            (0, "0"),
            (1, "1"),
            (1024, "1Ki"),
            (1536, "1536"),
            (81559 << 20, "81559Mi"),
            (80 << 30, "80Gi"),
            (u64::MAX, "18446744073709551615"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }
}
