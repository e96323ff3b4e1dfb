//! Quantities by value: the server stores `1024Mi` as `1Gi`, and that is no change.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use tessera_device::quantity::nanos;

/// The text that all spellings of one amount share; a text that is no quantity stays as it is.
pub(crate) fn canonical(quantity: &Quantity) -> Quantity {
    match nanos(&quantity.0) {
        Some(nanos) => Quantity(format!("{nanos}n")),
        None => quantity.clone(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tessera_device::Bytes;

    use super::*;

    fn same(a: &str, b: &str) -> bool {
        canonical(&Quantity(a.to_owned())) == canonical(&Quantity(b.to_owned()))
    }

    #[test]
    fn spellings_of_one_amount_are_equal() {
        for (a, b) in [
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("1k", "1000"),
            ("1000m", "1"),
            ("+1", "1"),
            ("1e3", "1k"),
            ("1E3", "1000"),
            ("1500e-3", "1500m"),
            (".5", "500m"),
            ("5.", "5"),
            ("0", "0Gi"),
            ("-0", "0"),
            ("-1Ki", "-1024"),
            ("0.1n", "1n"),
            ("18446744073709551615", "9223372036854775807"),
            (
                "99999999999999999999999999999999999999999",
                "9223372036854775807",
            ),
        ] {
            assert!(same(a, b), "{a} and {b}");
        }
    }

    #[test]
    fn different_amounts_and_texts_that_are_no_amount_differ() {
        for (a, b) in [
            ("81559Mi", "81560Mi"),
            ("1", "1m"),
            ("1", "-1"),
            ("1K", "1k"),
            ("", "0"),
            (".", "0"),
            ("1.0.0", "1"),
            ("1e", "1"),
            ("one", "two"),
        ] {
            assert!(!same(a, b), "{a} and {b}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text: String) {
            canonical(&Quantity(text));
        }

        #[test]
        fn no_number_with_any_suffix_panics(text in "[-+]?[0-9]{0,50}[.]?[0-9]{0,50}([numkMGTPE]|[KMGTPE]i|[eE][-+]?[0-9]{1,12})?") {
            canonical(&Quantity(text));
        }

        #[test]
        fn memory_keeps_its_value_in_every_unit_it_is_printed_in(bytes in 0..=u64::MAX >> 1) {
            prop_assert!(same(&Bytes(bytes).to_string(), &bytes.to_string()));
        }
    }
}
