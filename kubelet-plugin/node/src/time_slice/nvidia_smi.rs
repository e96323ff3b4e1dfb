//! The operations as the installed driver's `nvidia-smi` does them.
//!
//! NVML has no call for the time slice, so the program of the driver root is run, as the reference driver
//! does.

use std::time::Duration;

use tessera_api::Interval;
use tessera_device::GpuUuid;
use tessera_driver_root::program::{Heard, command, run};

use super::{TimeSliceError, TimeSliceOperations};
use crate::deadline::Deadline;
use crate::driver_root::{self, DriverRoot};

/// Bound of one run. The program looks at every GPU of the node before it does anything.
const PER_RUN: Duration = Duration::from_secs(15);

/// How much of what the program prints is read.
const READ: usize = 1024;

/// How much of that an error says, in characters.
const SAID: usize = 200;

/// The `nvidia-smi` of the driver that is installed at the time of the call.
#[derive(Clone, Debug)]
pub struct NvidiaSmi {
    /// Where the driver is.
    pub driver_root: DriverRoot,
}

impl TimeSliceOperations for NvidiaSmi {
    fn admit_all(&self, gpu: &GpuUuid, limit: Deadline) -> Result<(), TimeSliceError> {
        self.run(gpu, &["-i", gpu.as_str(), "-c", "DEFAULT"], limit)
    }

    fn set(
        &self,
        gpu: &GpuUuid,
        interval: Interval,
        limit: Deadline,
    ) -> Result<(), TimeSliceError> {
        let number = number(interval);
        let arguments = [
            "compute-policy",
            "-i",
            gpu.as_str(),
            "--set-timeslice",
            number,
        ];
        self.run(gpu, &arguments, limit)
    }
}

/// The number of an interval, as `nvidia-smi compute-policy --help` has it.
fn number(interval: Interval) -> &'static str {
    match interval {
        Interval::Default => "0",
        Interval::Short => "1",
        Interval::Medium => "2",
        Interval::Long => "3",
    }
}

impl NvidiaSmi {
    fn run(
        &self,
        gpu: &GpuUuid,
        arguments: &[&str],
        limit: Deadline,
    ) -> Result<(), TimeSliceError> {
        let library = driver_root::find_nvml(&self.driver_root)?;
        let program = driver_root::find_smi(&self.driver_root)?;
        let program = program.ok_or(TimeSliceError::NoProgram)?;
        let started = |source| TimeSliceError::Start {
            gpu: gpu.clone(),
            program: program.clone(),
            source,
        };
        let mut smi = command(&program, Some(&library));
        smi.args(arguments);
        let limit = limit.at_most(PER_RUN).remaining();
        match run(smi, Heard::OutputAndErrors, READ, limit).map_err(started)? {
            Some(ran) if ran.status.success() => Ok(()),
            Some(ran) => Err(TimeSliceError::Refused {
                arguments: arguments.join(" "),
                code: ran.status.code(),
                said: in_a_line(&ran.said),
            }),
            None => Err(TimeSliceError::TimedOut { gpu: gpu.clone() }),
        }
    }
}

/// What was said, as one line.
fn in_a_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let line = words.join(" ");
    let line: String = line
        .chars()
        .filter(|c| !c.is_control())
        .take(SAID)
        .collect();
    if line.is_empty() {
        "nothing".to_owned()
    } else {
        line
    }
}
