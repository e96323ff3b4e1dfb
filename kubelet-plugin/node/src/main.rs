//! The kubelet plugin's process.

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use tessera_kubelet_plugin::args::Args;
use tessera_kubelet_plugin::keeper::keep;
use tessera_kubelet_plugin::run::run;
use tessera_kubelet_plugin::sockets::Instance;
use tessera_shell::{logging, shutdown};

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    logging::init(args.log)?;
    let instance = match (args.kept, args.keeper) {
        (true, _) => Instance::take(&args)?,
        (false, true) => return Ok(keep(&args)?),
        (false, false) => Instance::bind(&args)?,
    };
    // One thread: a Prepare is a read from the API server and a few small files, and a single
    // thread wakes no other. What blocks (NVML) runs on threads of its own.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(async {
        let stop = shutdown::signals().context("listen for signals")?;
        run(args, instance, stop).await
    })?;
    Ok(ExitCode::SUCCESS)
}
