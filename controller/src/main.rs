//! The controller's process.

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use kube::Client;
use tessera_controller::args::{Args, Command};
use tessera_controller::{cleanup, run, webhook};
use tessera_shell::client::{ApiSource, connect};
use tessera_shell::{logging, shutdown};

fn main() -> ExitCode {
    let args = Args::parse();
    let ended = logging::init(args.log)
        .context("set up the log")
        .and_then(|()| start(&args));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Through the log, so that whoever collects it finds the reason of the exit there.
            tracing::error!(error = %logging::chain(error.as_ref()), "the process ends");
            ExitCode::FAILURE
        }
    }
}

fn start(args: &Args) -> anyhow::Result<()> {
    // One thread: the controller waits, and a single thread wakes no other.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(async {
        let stop = shutdown::signals().context("listen for signals")?;
        match &args.command {
            Some(Command::Cleanup) => {
                let client = api(args).await?;
                tokio::select! {
                    done = cleanup::run(client) => Ok(done?),
                    () = stop.cancelled() => anyhow::bail!("cleanup was interrupted"),
                }
            }
            // It answers and never asks, so it needs no account.
            Some(Command::Webhook(webhook)) => Ok(webhook::run(webhook, stop).await?),
            None => run::run(api(args).await?, args, stop).await,
        }
    })
}

async fn api(args: &Args) -> anyhow::Result<Client> {
    let source = ApiSource {
        kubeconfig: args.kubeconfig.clone(),
        program: "tessera-controller",
    };
    Ok(connect(&source).await?)
}
