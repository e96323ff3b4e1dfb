//! Quantities by value: the server stores `1024Mi` as `1Gi`, and that is no change.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// One unit in the scale that is used here: the API's smallest suffix is `n`.
const ONE: i128 = 1_000_000_000;

/// The API caps larger magnitudes (`apimachinery/pkg/api/resource/quantity.go`).
const CAP: i128 = i64::MAX as i128 * ONE;

/// The text that all spellings of one amount share; a text that is no quantity stays as it is.
pub(crate) fn canonical(quantity: &Quantity) -> Quantity {
    match nanos(&quantity.0) {
        Some(nanos) => Quantity(format!("{nanos}n")),
        None => quantity.clone(),
    }
}

/// The amount in billionths, rounded away from zero and capped as the API does.
fn nanos(text: &str) -> Option<i128> {
    let (negative, unsigned) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let number = unsigned
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(number);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let (unit, divisor) = scale(suffix)?;
    let divisor = divisor.checked_mul(power_of_ten(fraction.len())?)?;
    let magnitude = digits(whole)
        .and_then(|high| high.checked_mul(power_of_ten(fraction.len())?))
        .and_then(|high| high.checked_add(digits(fraction)?))
        .and_then(|mantissa| mantissa.checked_mul(unit))
        .map_or(CAP, |scaled| ceiling(scaled, divisor).min(CAP));
    Some(if negative { -magnitude } else { magnitude })
}

/// What a suffix multiplies by and divides by, in billionths.
fn scale(suffix: &str) -> Option<(i128, i128)> {
    let binary = |power: u32| (ONE << (10 * power), 1);
    Some(match suffix {
        "n" => (1, 1),
        "u" => (1_000, 1),
        "m" => (1_000_000, 1),
        "" => (ONE, 1),
        "k" => (ONE * power_of_ten(3)?, 1),
        "M" => (ONE * power_of_ten(6)?, 1),
        "G" => (ONE * power_of_ten(9)?, 1),
        "T" => (ONE * power_of_ten(12)?, 1),
        "P" => (ONE * power_of_ten(15)?, 1),
        "E" => (ONE * power_of_ten(18)?, 1),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        exponent => {
            let exponent: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = power_of_ten(usize::try_from(exponent.unsigned_abs()).ok()?)?;
            if exponent < 0 {
                (ONE, power)
            } else {
                (ONE.checked_mul(power)?, 1)
            }
        }
    })
}

fn digits(text: &str) -> Option<i128> {
    if text.is_empty() {
        Some(0)
    } else {
        text.parse().ok()
    }
}

fn power_of_ten(power: usize) -> Option<i128> {
    10_i128.checked_pow(u32::try_from(power).ok()?)
}

fn ceiling(value: i128, divisor: i128) -> i128 {
    value / divisor + i128::from(value % divisor != 0)
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
