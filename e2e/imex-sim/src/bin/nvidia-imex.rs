//! A simulated `nvidia-imex`.

use std::{fs, path::PathBuf, process::ExitCode};

use clap::Parser;
use imex_sim::{
    config::Config,
    daemon::{Daemon, Pace},
};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1},
    iterator::Signals,
};

/// The IMEX daemon. Simulated: no memory is behind it.
#[derive(Debug, Parser)]
#[command(name = "nvidia-imex", disable_version_flag = true)]
struct Arguments {
    /// The configuration file.
    #[arg(short, long, default_value = "/etc/nvidia-imex/config.cfg")]
    config: PathBuf,
    /// Where peers connect, in place of `SERVER_PORT`.
    #[arg(short, long)]
    port: Option<u16>,
    /// Where the daemon keeps what it needs after an unclean end.
    #[arg(long, default_value = "/var/run/nvidia-imex", hide = true)]
    state: PathBuf,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nvidia-imex (simulated): {error}");
            let mut source = error.source();
            while let Some(cause) = source {
                eprintln!("  {cause}");
                source = cause.source();
            }
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let mut config = Config::load(&arguments.config)?;
    config.server_port = arguments.port.unwrap_or(config.server_port);
    fs::create_dir_all(&arguments.state)?;
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGQUIT, SIGUSR1, SIGHUP])?;
    let daemon = Daemon::start(&config, &arguments.state, Pace::default())?;
    eprintln!(
        "nvidia-imex (simulated): serving on port {}",
        config.server_port
    );
    for signal in signals.forever() {
        match signal {
            SIGUSR1 => {
                let heeded = daemon.reload();
                let what = if heeded {
                    "calling all peers anew"
                } else {
                    "SIGUSR1 came too soon after the last one"
                };
                eprintln!("nvidia-imex (simulated): {what}");
            }
            SIGHUP => eprintln!("nvidia-imex (simulated): {:?}", daemon.status()),
            _ => break,
        }
    }
    daemon.stop();
    Ok(())
}
