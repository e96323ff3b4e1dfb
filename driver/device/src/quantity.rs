//! Kubernetes quantities by value.

/// One unit in the scale that is used here: the API's smallest suffix is `n`.
pub const ONE: i128 = 1_000_000_000;

/// The API caps larger magnitudes (`apimachinery/pkg/api/resource/quantity.go`).
const CAP: i128 = i64::MAX as i128 * ONE;

/// The amount of a quantity in billionths, rounded away from zero and capped as the API does. `None` if
/// the text is no quantity.
pub fn nanos(text: &str) -> Option<i128> {
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

    use super::*;

    #[test]
    fn a_quantity_is_its_amount_in_billionths() {
        for (text, amount) in [
            ("1", Some(ONE)),
            ("1.5Ki", Some(ONE * 1536)),
            ("-2m", Some(-2_000_000)),
            ("1e3", Some(ONE * 1000)),
            ("", None),
            ("Gi", None),
            ("1 Gi", None),
            ("1.2.3", None),
            ("ten", None),
        ] {
            assert_eq!(nanos(text), amount, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_the_parser(text: String) {
            let _ = nanos(&text);
        }

        #[test]
        fn what_memory_displays_reads_back_as_it_was(bytes in 0..=i64::MAX.unsigned_abs()) {
            prop_assert_eq!(nanos(&crate::Bytes(bytes).to_string()), Some(i128::from(bytes) * ONE));
        }
    }
}
