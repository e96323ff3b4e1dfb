//! What a test does to the n-th call of an NVML function.
//!
//! An injection counts the calls of its function from the moment when it is set and takes effect at
//! the calls it names. There are two ways to count:
//!
//! - Over all processes of the node together, in the state file. That works only for processes that
//!   can write the file, or that reach the simulated kernel ([`crate::kernel`]) by the driver root, as
//!   the plugin does in its container. Containers that were given a GPU are left alone.
//! - In each process of one program by itself ([`Injection::process`]), in memory of that process.
//!   That needs no right to write, so it reaches a program in a container; and a process that is
//!   started again counts from the beginning.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// What happens to the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// The call returns this NVML code and does nothing.
    Fail(u32),
    /// The call takes this many milliseconds longer.
    Delay(u64),
    /// The calling process aborts before the call does anything.
    Die,
    /// The call does not return before the injection is taken away.
    Hang,
}

/// Stands for every function where an injection names one.
pub const ANY_FUNCTION: &str = "any";

/// How long an injection stays in force once its first call has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Repeat {
    /// For this many calls.
    Times(u64),
    /// Until it is taken away.
    Always,
}

/// One injection and how far it has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Injection {
    /// Tells it from every other injection of the node; [`crate::Node::inject`] gives it.
    #[serde(default)]
    pub id: u64,
    /// The C name of the NVML function, or [`ANY_FUNCTION`].
    pub function: String,
    /// The file name of the program whose processes count for themselves. Nothing: all processes
    /// that can change the state count together.
    #[serde(default)]
    pub process: Option<String>,
    /// The first call that is touched, counted from 1.
    pub at: u64,
    /// How many calls are touched.
    pub repeat: Repeat,
    /// What happens to them.
    pub effect: Effect,
    /// Calls seen so far by all processes together.
    #[serde(default)]
    pub seen: u64,
}

impl Injection {
    /// An injection that nobody has counted for yet, over all processes together.
    pub fn new(function: &str, at: u64, repeat: Repeat, effect: Effect) -> Self {
        Self {
            id: 0,
            function: function.to_owned(),
            process: None,
            at,
            repeat,
            effect,
            seen: 0,
        }
    }

    /// The same for each process of the program with this file name.
    #[must_use]
    pub fn in_each(self, program: &str) -> Self {
        let process = Some(program.to_owned());
        Self { process, ..self }
    }

    /// True if a call of `symbol` is one of this function's. A name without a version stands for
    /// every version: `nvmlInit` for `nvmlInit_v2` too.
    pub fn concerns(&self, symbol: &str) -> bool {
        if self.function == ANY_FUNCTION {
            return true;
        }
        symbol.strip_prefix(&self.function).is_some_and(|rest| {
            rest.is_empty()
                || rest
                    .strip_prefix("_v")
                    .is_some_and(|version| version.parse::<u32>().is_ok())
        })
    }

    /// What happens to the call with this number, counted from 1.
    pub fn touches(&self, call: u64) -> Option<Effect> {
        let first = self.at.max(1);
        let due = match self.repeat {
            Repeat::Times(times) => (first..first.saturating_add(times)).contains(&call),
            Repeat::Always => call >= first,
        };
        due.then_some(self.effect)
    }

    /// Counts one call of all processes together and says what happens to it.
    pub fn observe(&mut self) -> Option<Effect> {
        self.seen = self.seen.saturating_add(1);
        self.touches(self.seen)
    }

    /// True once no further call can be touched, as far as all processes together know. Where each
    /// process counts for itself, another may be started; and a call that hangs is let go by taking
    /// the injection away.
    pub fn is_spent(&self) -> bool {
        match self.repeat {
            _ if self.process.is_some() || self.effect == Effect::Hang => false,
            Repeat::Times(times) => self.seen.saturating_add(1) >= self.at.max(1) + times,
            Repeat::Always => false,
        }
    }
}

impl fmt::Display for Injection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.effect {
            Effect::Fail(code) => write!(f, "{} returns {code}", self.function)?,
            Effect::Delay(millis) => write!(f, "{} takes {millis} ms longer", self.function)?,
            Effect::Die => write!(f, "{} kills its caller", self.function)?,
            Effect::Hang => write!(f, "{} hangs until it is released", self.function)?,
        }
        match self.repeat {
            Repeat::Times(1) => write!(f, " at call {}", self.at)?,
            Repeat::Times(times) => write!(f, " at {times} calls from call {}", self.at)?,
            Repeat::Always => write!(f, " from call {} on", self.at)?,
        }
        match &self.process {
            Some(program) => write!(f, " of each process of {program}"),
            None => write!(f, " ({} seen)", self.seen),
        }
    }
}

/// An NVML return code, by number or by the name in `nvml.h` without its `NVML_ERROR_`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReturnCode(pub u32);

/// Names and numbers of `nvmlReturn_enum` in NVIDIA's `nvml.h`.
const RETURN_CODES: &[(&str, u32)] = &[
    ("SUCCESS", 0),
    ("UNINITIALIZED", 1),
    ("INVALID_ARGUMENT", 2),
    ("NOT_SUPPORTED", 3),
    ("NO_PERMISSION", 4),
    ("ALREADY_INITIALIZED", 5),
    ("NOT_FOUND", 6),
    ("INSUFFICIENT_SIZE", 7),
    ("INSUFFICIENT_POWER", 8),
    ("DRIVER_NOT_LOADED", 9),
    ("TIMEOUT", 10),
    ("IRQ_ISSUE", 11),
    ("LIBRARY_NOT_FOUND", 12),
    ("FUNCTION_NOT_FOUND", 13),
    ("CORRUPTED_INFOROM", 14),
    ("GPU_IS_LOST", 15),
    ("RESET_REQUIRED", 16),
    ("OPERATING_SYSTEM", 17),
    ("LIB_RM_VERSION_MISMATCH", 18),
    ("IN_USE", 19),
    ("MEMORY", 20),
    ("NO_DATA", 21),
    ("VGPU_ECC_NOT_SUPPORTED", 22),
    ("INSUFFICIENT_RESOURCES", 23),
    ("FREQ_NOT_SUPPORTED", 24),
    ("ARGUMENT_VERSION_MISMATCH", 25),
    ("DEPRECATED", 26),
    ("NOT_READY", 27),
    ("GPU_NOT_FOUND", 28),
    ("INVALID_STATE", 29),
    ("RESET_TYPE_NOT_SUPPORTED", 30),
    ("UNKNOWN", 999),
];

/// Why a text names no return code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no NVML return code; give its number or a name such as GPU_IS_LOST")]
pub struct UnknownReturnCode(String);

impl FromStr for ReturnCode {
    type Err = UnknownReturnCode;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(number) = text.parse() {
            return Ok(Self(number));
        }
        let name = text.strip_prefix("NVML_").unwrap_or(text);
        let name = name.strip_prefix("ERROR_").unwrap_or(name);
        RETURN_CODES
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, number)| Self(*number))
            .ok_or_else(|| UnknownReturnCode(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(at: u64, repeat: Repeat, touched: [bool; 5]) {
        let mut injection = Injection::new("f", at, repeat, Effect::Fail(15));
        for (call, touched) in touched.into_iter().enumerate() {
            assert_eq!(injection.observe().is_some(), touched, "call {}", call + 1);
        }
    }

    #[test]
    fn an_injection_touches_exactly_the_calls_it_names() {
        check(1, Repeat::Times(1), [true, false, false, false, false]);
        check(3, Repeat::Times(1), [false, false, true, false, false]);
        check(2, Repeat::Times(2), [false, true, true, false, false]);
        check(4, Repeat::Always, [false, false, false, true, true]);
        // Zero is taken as the first call: nobody means "never".
        check(0, Repeat::Times(1), [true, false, false, false, false]);
    }

    #[test]
    fn an_injection_is_spent_after_its_last_call() {
        let mut injection = Injection::new("f", 2, Repeat::Times(1), Effect::Die);
        assert!(!injection.is_spent());
        injection.observe();
        assert!(!injection.is_spent());
        injection.observe();
        assert!(injection.is_spent());
    }

    #[test]
    fn what_hangs_and_what_others_may_still_count_is_never_spent() {
        let hang = Injection::new("f", 1, Repeat::Times(1), Effect::Hang);
        let each = Injection::new("f", 1, Repeat::Times(1), Effect::Die).in_each("program");
        for mut injection in [hang, each] {
            injection.observe();
            assert!(!injection.is_spent(), "{injection}");
        }
    }

    #[test]
    fn return_codes_are_known_by_number_and_by_name() {
        for text in ["15", "GPU_IS_LOST", "gpu_is_lost", "NVML_ERROR_GPU_IS_LOST"] {
            assert_eq!(text.parse(), Ok(ReturnCode(15)), "{text}");
        }
        assert!("LOST".parse::<ReturnCode>().is_err());
    }
}
