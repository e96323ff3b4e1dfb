//! The kubelet plugin's process.

use anyhow::Context;
use clap::Parser;
use tessera_kubelet_plugin::args::Args;
use tessera_kubelet_plugin::run::run;
use tessera_shell::{logging, shutdown};

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    logging::init(args.log_format, args.verbosity)?;
    // One thread: a Prepare is a read from the API server and a few small files, and a single
    // thread wakes no other. What blocks (NVML) runs on threads of its own.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(async {
        let stop = shutdown::signals().context("listen for signals")?;
        run(args, stop).await
    })
}
