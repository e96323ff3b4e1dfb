//! The kubelet plugin's process.

use std::process::ExitCode;

use clap::Parser;
use tessera_kubelet_plugin::args::Args;
use tessera_kubelet_plugin::keeper::keep;
use tessera_kubelet_plugin::run::run;
use tessera_kubelet_plugin::sockets::Instance;
use tessera_shell::{logging, program};

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    logging::init(args.log)?;
    let instance = match (args.kept, args.keeper) {
        (true, _) => Instance::take(&args)?,
        (false, true) => return Ok(keep(&args)?),
        (false, false) => Instance::bind(&args)?,
    };
    // A Prepare is a read from the API server and a few small files. What blocks (NVML) runs on threads of its own.
    program::on_one_thread(async |stop| run(args, instance, stop).await)??;
    Ok(ExitCode::SUCCESS)
}
