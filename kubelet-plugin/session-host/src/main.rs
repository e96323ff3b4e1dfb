//! The session host's process.

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use tessera_session_host::args::Args;
use tessera_session_host::keeper::keep;
use tessera_session_host::run::run;
use tessera_shell::{logging, shutdown};

fn main() -> ExitCode {
    let args = Args::parse();
    let ended = logging::init(args.log)
        .context("set up the log")
        .and_then(|()| start(&args));
    match ended {
        Ok(code) => code,
        Err(error) => {
            // Through the log, so that whoever collects it finds the reason of the exit there.
            tracing::error!(error = %logging::chain(error.as_ref()), "the process ends");
            ExitCode::FAILURE
        }
    }
}

fn start(args: &Args) -> anyhow::Result<ExitCode> {
    if args.keeper && !args.kept {
        return Ok(keep()?);
    }
    // One thread: it waits, and a single thread wakes no other. Questions to the daemon have their own.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(async {
        let stop = shutdown::signals().context("listen for signals")?;
        run(args, stop).await
    })?;
    Ok(ExitCode::SUCCESS)
}
