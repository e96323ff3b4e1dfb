//! Runs fuzz targets: a short and repeatable run as a test, a long and guided one on demand.
//!
//! A target is a test with the type of its inputs and a check. `cargo test` makes the same inputs
//! each time, from a seed that it prints; `cargo bolero test` lets libFuzzer look for inputs that
//! reach new code. An input that broke something becomes an ordinary test beside the target.
//!
//! Targets are in `tests` here, or among the unit tests of a package that has a library and no other
//! test program: a guided run links every program of the package with libFuzzer, which is only in
//! those that have a target.

use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, RefUnwindSafe};
use std::str::FromStr;

pub use bolero;
use bolero::TypeGenerator;
use bolero_generator::driver::{Options, Rng};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::SeedableRng;

/// Chooses other inputs for the short run.
const SEED: &str = "TESSERA_FUZZ_SEED";
/// Chooses how many inputs each short run makes.
const INPUTS: &str = "TESSERA_FUZZ_INPUTS";
/// The seed of a run for which none is chosen. Any number does.
const USUAL_SEED: u64 = 1;

/// Whether this is built by `cargo bolero`, which guides by what the inputs reach.
pub const GUIDED: bool = cfg!(fuzzing);

/// Runs a target: `fuzz!(inputs in a short run, Type, |input| check)`.
///
/// The check gets a reference, and fails by panic.
#[macro_export]
macro_rules! fuzz {
    ($inputs:expr, $type:ty, $check:expr) => {{
        if $crate::GUIDED {
            $crate::bolero::check!()
                .with_type::<$type>()
                .for_each($crate::to_its_end::<$type>($check));
        } else {
            $crate::short_run::<$type>($inputs, $check);
        }
    }};
}

/// Checks as many inputs as `inputs`, the same ones each time.
pub fn short_run<T: TypeGenerator + Debug>(inputs: u32, check: impl Fn(&T)) {
    let seed = chosen(SEED).unwrap_or(USUAL_SEED);
    let inputs = chosen(INPUTS).unwrap_or(inputs);
    println!("seed {seed}, {inputs} inputs; {SEED} and {INPUTS} choose others");
    let options = Options::default();
    let mut numbers = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut checked = 0;
    for at in 0..inputs {
        if let Some(input) = T::generate(&mut Rng::new(&mut numbers, &options)) {
            let told = Told { at, input };
            check(&told.input);
            checked += 1;
        }
    }
    assert!(checked > 0, "no input was made");
}

/// The same check, for an engine that catches its panic: nobody looks at its state after one.
pub fn to_its_end<T>(check: impl Fn(&T)) -> impl Fn(&T) + RefUnwindSafe {
    let check = AssertUnwindSafe(check);
    move |input| {
        let whole = &check;
        whole(input);
    }
}

/// The number that is chosen, if one is. What is no number fails the run: it would be another than the one that was meant.
fn chosen<N: FromStr>(name: &str) -> Option<N> {
    let text = std::env::var(name).ok()?;
    let number = text.parse().ok();
    assert!(number.is_some(), "{name} is {text:?}, which is no number");
    number
}

/// Tells which input it was when the check fails.
struct Told<T: Debug> {
    at: u32,
    input: T,
}

impl<T: Debug> Drop for Told<T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("input {}: {:?}", self.at, self.input);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn two_runs_check_the_same_inputs_and_not_always_the_same_one() {
        let seen = || {
            let seen = RefCell::new(Vec::new());
            short_run::<Vec<u8>>(100, |input| seen.borrow_mut().push(input.clone()));
            seen.into_inner()
        };
        let first = seen();
        assert_eq!(first, seen());
        assert!(first.iter().any(|input| *input != first[0]));
    }
}
