//! The session host's process.

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use tessera_session_host::args::Args;
use tessera_session_host::keeper::keep;
use tessera_session_host::run::run;
use tessera_shell::{logging, program};

fn main() -> ExitCode {
    let args = Args::parse();
    let log = logging::init(args.log).context("set up the log");
    program::exit(log.and_then(|()| start(&args)))
}

fn start(args: &Args) -> anyhow::Result<ExitCode> {
    if args.keeper && !args.kept {
        return Ok(keep()?);
    }
    program::on_one_thread(async |stop| run(args, stop).await)??;
    Ok(ExitCode::SUCCESS)
}
