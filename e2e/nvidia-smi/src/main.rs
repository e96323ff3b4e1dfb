//! A simulated `nvidia-smi`: what people type to see which GPUs a container got.
//!
//! It asks the management library that the loader finds, as the real program does, so it works
//! wherever the library does and nowhere else. `-L` prints what the real one prints; everything
//! else says that it is simulated.

mod policy;
mod report;
mod switch;

use std::{env, ffi::OsString, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use nvml_wrapper::{
    Nvml, bitmasks::InitFlags, enum_wrappers::device::ComputeMode, error::NvmlError,
};

/// The name by which programs ask the loader for the library.
const LIBRARY: &str = "libnvidia-ml.so.1";

/// Exit codes of the real program, from its manual page.
mod exit {
    pub(crate) const INVALID_ARGUMENT: u8 = 2;
    pub(crate) const NOT_AVAILABLE: u8 = 3;
    pub(crate) const NO_PERMISSION: u8 = 4;
    pub(crate) const NOT_FOUND: u8 = 6;
    pub(crate) const DRIVER_NOT_LOADED: u8 = 9;
    pub(crate) const LIBRARY_NOT_FOUND: u8 = 12;
    pub(crate) const GPU_IS_LOST: u8 = 15;
    pub(crate) const OTHER: u8 = 255;
}

/// Shows the GPUs that this process can use. Simulated: no GPU is behind it.
#[derive(Debug, Parser)]
#[command(
    name = "nvidia-smi",
    disable_version_flag = true,
    args_conflicts_with_subcommands = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// List the GPUs with their names and UUIDs.
    #[arg(short = 'L', long)]
    list_gpus: bool,
    /// Print the versions of driver, library and CUDA.
    #[arg(long)]
    version: bool,
    /// Which GPU: its number, its UUID or its PCI address. All of them if none is named.
    #[arg(short, long)]
    id: Option<String>,
    /// Switch MIG mode off (0) or on (1); `-mig` for short.
    #[arg(long, value_name = "MODE", value_parser = clap::value_parser!(u8).range(0..=1))]
    multi_instance_gpu: Option<u8>,
    /// Set how many programs may use a GPU: 0 or DEFAULT, 2 or PROHIBITED, 3 or `EXCLUSIVE_PROCESS`.
    #[arg(short, long, value_name = "MODE", value_parser = policy::mode)]
    compute_mode: Option<ComputeMode>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show or set the time slice of GPUs.
    ComputePolicy(Policies),
}

#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("what").required(true))]
struct Policies {
    /// Which GPU, as above.
    #[arg(short, long)]
    id: Option<String>,
    /// Show how they are set.
    #[arg(short, long, group = "what")]
    list: bool,
    /// Set the time slice: 0 for DEFAULT, 1 for SHORT, 2 for MEDIUM, 3 for LONG.
    #[arg(long, value_name = "NUMBER", group = "what", value_parser = clap::value_parser!(u32).range(0..=3))]
    set_timeslice: Option<u32>,
}

/// The command line, in which the real program has a long option with one dash.
fn words() -> impl Iterator<Item = OsString> {
    env::args_os().map(|word| match word.to_str() {
        Some("-mig") => "--multi-instance-gpu".into(),
        _ => word,
    })
}

fn main() -> ExitCode {
    let arguments = Arguments::parse_from(words());
    match run(&arguments) {
        Ok(report) => {
            print!("{}", report.text);
            ExitCode::from(report.code)
        }
        Err(error) => {
            let (code, explanation) = explain(&error);
            println!("{explanation}");
            ExitCode::from(code)
        }
    }
}

fn run(arguments: &Arguments) -> Result<report::Report, NvmlError> {
    let nvml = Nvml::builder()
        .lib_path(LIBRARY.as_ref())
        .flags(InitFlags::NO_GPUS)
        .init()?;
    let id = arguments.id.as_deref();
    if let Some(Command::ComputePolicy(policies)) = &arguments.command {
        let id = policies.id.as_deref();
        match policies.set_timeslice {
            Some(slice) => policy::set_time_slice(&nvml, id, slice),
            None => policy::list(&nvml, id),
        }
    } else if let Some(mode) = arguments.compute_mode {
        policy::set_mode(&nvml, id, mode)
    } else if let Some(mode) = arguments.multi_instance_gpu {
        switch::mig_mode(&nvml, id, mode == 1)
    } else if arguments.list_gpus {
        report::list(&nvml)
    } else if arguments.version {
        report::versions(&nvml)
    } else {
        report::table(&nvml)
    }
}

fn explain(error: &NvmlError) -> (u8, String) {
    match error {
        NvmlError::LibloadingError(source) => (
            exit::LIBRARY_NOT_FOUND,
            format!("nvidia-smi (simulated): the loader finds no {LIBRARY}: {source}"),
        ),
        NvmlError::DriverNotLoaded => (
            exit::DRIVER_NOT_LOADED,
            "nvidia-smi (simulated): there is no driver to talk to: no GPU state beside the library \
             or no /dev/nvidiactl. Did this container get the driver's files and devices?"
                .to_owned(),
        ),
        NvmlError::NotSupported => (exit::NOT_AVAILABLE, format!("nvidia-smi (simulated): {error}")),
        NvmlError::InvalidArg => (exit::INVALID_ARGUMENT, format!("nvidia-smi (simulated): {error}")),
        NvmlError::NotFound => (exit::NOT_FOUND, format!("nvidia-smi (simulated): {error}")),
        NvmlError::NoPermission => (exit::NO_PERMISSION, format!("nvidia-smi (simulated): {error}")),
        NvmlError::GpuLost => (exit::GPU_IS_LOST, format!("nvidia-smi (simulated): {error}")),
        _ => (exit::OTHER, format!("nvidia-smi (simulated): {error}")),
    }
}
