//! The controller's process.

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use kube::Client;
use tessera_controller::args::{Args, Command};
use tessera_controller::{cleanup, run, webhook};
use tessera_shell::client::{ApiSource, connect};
use tessera_shell::{logging, program};
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    let args = Args::parse();
    let log = logging::init(args.log).context("set up the log");
    program::exit(log.and_then(|()| start(&args)))
}

fn start(args: &Args) -> anyhow::Result<ExitCode> {
    program::on_one_thread(async |stop| work(args, stop).await)??;
    Ok(ExitCode::SUCCESS)
}

async fn work(args: &Args, stop: CancellationToken) -> anyhow::Result<()> {
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
}

async fn api(args: &Args) -> anyhow::Result<Client> {
    let source = ApiSource {
        kubeconfig: args.kubeconfig.clone(),
        program: "tessera-controller",
    };
    Ok(connect(&source).await?)
}
