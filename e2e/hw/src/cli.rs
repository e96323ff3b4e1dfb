//! The commands, and what they do to the state.

mod fabric;
mod mig;

use std::{fmt::Write as _, path::PathBuf, sync::atomic::AtomicBool};

use anyhow::{Context as _, Result};
use clap::{ArgAction, Args, Parser, Subcommand};
use tessera_hw::{
    Artifacts, ComputeMode, Condition, Effect, Gpu, Injection, Node, Repeat, TimeSlice,
    injection::ReturnCode,
    install::{self, Replaced, find_state},
    kernel,
    state::Presence,
};

/// Shows and changes the GPUs of a simulated node.
///
/// Changes show at once in every process of the node. A GPU is named by its minor number, its UUID
/// or its PCI address.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Arguments {
    /// Root of the simulated driver installation.
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install a driver and GPUs under the root, in place of an earlier installation.
    Install(Install),
    /// Remove what `install` made.
    Uninstall,
    /// Replace the driver by another version. GPUs and injections stay.
    Upgrade {
        /// The new version: `590.48.01`.
        version: String,
        /// Replace the files alone: the old modules stay loaded and the new library refuses to
        /// start.
        #[arg(long)]
        files_only: bool,
    },
    /// Show the GPUs and the injections in force.
    Show {
        /// The whole state as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Set how a GPU is.
    Set(Set),
    /// Let a GPU fall off the bus.
    Lose {
        /// Which GPU.
        gpu: String,
    },
    /// Begin to reset a GPU: it is gone until `restore`.
    StartReset {
        /// Which GPU.
        gpu: String,
    },
    /// Bring a GPU back that is lost or being reset.
    Restore {
        /// Which GPU.
        gpu: String,
    },
    /// Cut a GPU into MIG devices of these profiles, each at the first place that is free, in place of
    /// those that it has. As mig-parted does: MIG mode is on then. Without a profile there is none.
    Cut {
        /// Which GPU.
        gpu: String,
        /// Profiles such as `1g.10gb`, large ones first; `1g.10gb:7` stands for seven.
        #[arg(value_name = "PROFILE[:COUNT]")]
        profiles: Vec<mig::Share>,
    },
    /// Destroy the MIG devices of a GPU and switch MIG mode off.
    Uncut {
        /// Which GPU.
        gpu: String,
    },
    /// Ask for a MIG mode that waits for a reset, as where another program has the GPU open. It comes
    /// with `start-reset` and `restore`.
    AwaitMig {
        /// Which GPU.
        gpu: String,
        /// The mode: `true` for on.
        #[arg(action = ArgAction::Set)]
        enabled: bool,
    },
    /// Hold a GPU or one of its GPU instances open, as monitoring does: its MIG mode cannot be switched
    /// then, or the instance not be destroyed, until `let-go`.
    Hold(mig::Held),
    /// Let go of what `hold` holds.
    LetGo(mig::Held),
    /// Change the state for processes that see it read-only, as a kernel's driver would: the simulated
    /// library finds this process by a socket below the root. Runs until it is told to stop. No real
    /// installation has such a process.
    Kernel,
    /// Change the NVLink fabric as GPUs see it. What is not named stays as it is.
    Fabric(fabric::Arguments),
    /// Let calls of an NVML function fail.
    Fail {
        #[command(flatten)]
        calls: Calls,
        /// The return code: a number or a name such as `GPU_IS_LOST`.
        #[arg(long, value_name = "CODE")]
        code: ReturnCode,
    },
    /// Let calls of an NVML function take longer.
    Delay {
        #[command(flatten)]
        calls: Calls,
        /// How much longer, in milliseconds.
        #[arg(long, value_name = "MILLISECONDS")]
        millis: u64,
    },
    /// Let the process that calls an NVML function die before the call does anything.
    Die {
        #[command(flatten)]
        calls: Calls,
    },
    /// Let calls of an NVML function hang until `release` or `reset`.
    Hang {
        #[command(flatten)]
        calls: Calls,
    },
    /// Take all injections away, so that calls that hang go on. GPUs stay as they are.
    Release,
    /// Take all injections away and make every GPU healthy and idle.
    Reset,
}

#[derive(Debug, Args)]
struct Install {
    /// The machine: a100-40g, gb200, h100, h200, p5 or t4.
    #[arg(long)]
    profile: String,
    /// The node's name, from which the identities of its GPUs are derived.
    #[arg(long)]
    node: String,
    /// The simulated library, `libnvidia_ml.so`.
    #[arg(long, value_name = "FILE")]
    nvml: PathBuf,
    /// The simulated `nvidia-smi`.
    #[arg(long, value_name = "FILE")]
    nvidia_smi: PathBuf,
}

/// Which calls an injection touches.
#[derive(Debug, Args)]
struct Calls {
    /// The C name of the function, with or without its version: `nvmlDeviceGetMemoryInfo`. `any`
    /// stands for every function.
    function: String,
    /// Count in each process of this program by itself instead of in all processes that can change
    /// the state, which containers that were given a GPU cannot: the file name of the program, such as `tessera-kubelet-plugin`. Reaches programs
    /// in all containers. A process that is started again counts from the beginning.
    #[arg(long, value_name = "PROGRAM")]
    process: Option<String>,
    /// The first call that is touched, counted from now.
    #[arg(long, value_name = "N", default_value_t = 1)]
    at: u64,
    /// How many calls are touched.
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 1,
        conflicts_with = "always"
    )]
    times: u64,
    /// Touch every call from then on, until `release` or `reset`.
    #[arg(long)]
    always: bool,
}

#[derive(Debug, Args)]
struct Set {
    /// Which GPU.
    gpu: String,
    /// Memory in use, in MiB.
    #[arg(long, value_name = "MIB")]
    memory_used: Option<u64>,
    /// Temperature in degrees Celsius.
    #[arg(long, value_name = "CELSIUS")]
    temperature: Option<u32>,
    /// Power draw in watts.
    #[arg(long, value_name = "WATTS")]
    power: Option<u32>,
    /// Load of the multiprocessors, in percent.
    #[arg(long, value_name = "PERCENT")]
    utilization: Option<u32>,
    /// Uncorrectable ECC errors.
    #[arg(long, value_name = "COUNT")]
    uncorrectable_errors: Option<u64>,
    /// Correctable ECC errors.
    #[arg(long, value_name = "COUNT")]
    correctable_errors: Option<u64>,
}

/// Runs one command and returns what to print.
pub(crate) fn run(arguments: Arguments) -> Result<String> {
    let Arguments { root, command } = arguments;
    if let Command::Install(Install {
        profile,
        node,
        nvml,
        nvidia_smi,
    }) = command
    {
        let installed = install::install(&root, &profile, &node, &Artifacts { nvml, nvidia_smi })?;
        let (_, node) = installed.state.read()?;
        return Ok(describe(&node));
    }
    if let Command::Uninstall = command {
        install::uninstall(&root)?;
        return Ok(String::new());
    }
    if let Command::Upgrade {
        version,
        files_only,
    } = command
    {
        let replaced = if files_only {
            Replaced::Files
        } else {
            Replaced::Everything
        };
        let (_, node) = install::upgrade(&root, &version, replaced)?.state.read()?;
        return Ok(describe(&node));
    }
    if let Command::Show { json } = command {
        let (_, node) = find_state(&root)?.read()?;
        return if json {
            Ok(serde_json::to_string_pretty(&node)? + "\n")
        } else {
            Ok(describe(&node))
        };
    }
    if let Command::Kernel = command {
        // It ends with its process: there is nothing to put right.
        let stop = AtomicBool::new(false);
        kernel::serve(&root, &stop)
            .with_context(|| format!("serve the simulated driver below {}", root.display()))?;
        return Ok(String::new());
    }
    install::change(&root, |node| change(node, command).map(|()| describe(node)))
}

fn change(node: &mut Node, command: Command) -> Result<()> {
    match command {
        Command::Install(_)
        | Command::Uninstall
        | Command::Upgrade { .. }
        | Command::Kernel
        | Command::Show { .. } => {}
        Command::Set(set) => apply(&set, gpu(node, &set.gpu)?),
        Command::Lose { gpu: name } => gpu(node, &name)?.condition.presence = Presence::Lost,
        Command::StartReset { gpu: name } => {
            gpu(node, &name)?.condition.presence = Presence::Resetting;
        }
        Command::Restore { gpu: name } => restore(gpu(node, &name)?),
        Command::Cut {
            gpu: name,
            profiles,
        } => {
            mig::cut(gpu(node, &name)?, &profiles)?;
        }
        Command::Uncut { gpu: name } => gpu(node, &name)?.uncut()?,
        Command::AwaitMig { gpu: name, enabled } => gpu(node, &name)?.await_mode(enabled)?,
        Command::Hold(held) => mig::hold(node, &held, true)?,
        Command::LetGo(held) => mig::hold(node, &held, false)?,
        Command::Fabric(arguments) => arguments.apply(node)?,
        Command::Fail { calls, code } => inject(node, calls, Effect::Fail(code.0)),
        Command::Delay { calls, millis } => inject(node, calls, Effect::Delay(millis)),
        Command::Die { calls } => inject(node, calls, Effect::Die),
        Command::Hang { calls } => inject(node, calls, Effect::Hang),
        Command::Release => node.injections.clear(),
        Command::Reset => node.reset(),
    }
    Ok(())
}

fn gpu<'a>(node: &'a mut Node, name: &str) -> Result<&'a mut Gpu> {
    let last = node.gpus.len().saturating_sub(1);
    node.gpu_mut(name).with_context(|| {
        format!(
            "find the GPU `{name}`: name a minor number from 0 to {last}, a UUID or a PCI address"
        )
    })
}

/// A GPU that is lost comes back by a reset too.
fn restore(gpu: &mut Gpu) {
    if gpu.condition.presence != Presence::Present {
        gpu.end_reset();
    }
}

fn apply(set: &Set, gpu: &mut Gpu) {
    let condition = &mut gpu.condition;
    condition.memory_used_mib = set.memory_used.unwrap_or(condition.memory_used_mib);
    condition.temperature = set.temperature.unwrap_or(condition.temperature);
    condition.power_watts = set.power.unwrap_or(condition.power_watts);
    condition.gpu_utilization = set.utilization.unwrap_or(condition.gpu_utilization);
    condition.uncorrectable_errors = set
        .uncorrectable_errors
        .unwrap_or(condition.uncorrectable_errors);
    condition.correctable_errors = set
        .correctable_errors
        .unwrap_or(condition.correctable_errors);
}

fn inject(node: &mut Node, calls: Calls, effect: Effect) {
    let Calls {
        function,
        process,
        at,
        times,
        always,
    } = calls;
    let repeat = if always {
        Repeat::Always
    } else {
        Repeat::Times(times)
    };
    let injection = Injection::new(&function, at, repeat, effect);
    node.inject(Injection {
        process,
        ..injection
    });
}

/// Settings that are not as they are by themselves.
fn policies(condition: &Condition) -> String {
    let mut text = String::new();
    if condition.time_slice != TimeSlice::Default {
        let _ = write!(text, "  time slice {}", condition.time_slice.name());
    }
    if condition.compute_mode != ComputeMode::Default {
        let _ = write!(text, "  compute mode {}", condition.compute_mode.name());
    }
    text
}

fn describe(node: &Node) -> String {
    let mut text = format!(
        "{}: {} simulated GPUs (profile {}), driver {}, CUDA {}\n",
        node.name,
        node.gpus.len(),
        node.profile,
        node.driver.version,
        node.driver.cuda
    );
    for Gpu {
        facts,
        condition,
        fabric,
    } in &node.gpus
    {
        let presence = match condition.presence {
            Presence::Present => "",
            Presence::Lost => "  LOST",
            Presence::Resetting => "  BEING RESET",
        };
        let held = if condition.held { "  held" } else { "" };
        let policies = policies(condition);
        let _ = writeln!(
            text,
            "  {:>2}  {}  {}  {}  {}C  {}W  {}/{}MiB{presence}{held}{policies}",
            facts.minor,
            facts.pci,
            facts.name,
            facts.uuid,
            condition.temperature,
            condition.power_watts,
            condition.memory_used_mib,
            facts.memory_total_mib,
        );
        mig::describe(&mut text, facts, &condition.mig);
        if let Some(fabric) = fabric {
            let _ = writeln!(text, "      {}", fabric::describe(fabric));
        }
    }
    for injection in &node.injections {
        let _ = writeln!(text, "  injected: {injection}");
    }
    text
}
