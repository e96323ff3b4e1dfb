//! The plugin's process.

use std::io::Read as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use jiff::Timestamp;
use tessera_domain::{ObjectName, outlook};
use tessera_kubectl::args::{Args, Command, Output};
use tessera_kubectl::cluster::{Kubectl, read};
use tessera_kubectl::{manifest, show};

fn main() -> ExitCode {
    match answer(&Args::parse()) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn answer(args: &Args) -> anyhow::Result<String> {
    let asking = args.command.asking();
    let mut rules = asking.rules()?;
    let kubectl = Kubectl::new(asking);
    let namespace = match &asking.namespace {
        Some(namespace) => namespace.clone(),
        None => kubectl.namespace()?,
    };
    let file = match &args.command {
        Command::Plan { filename, .. } => filename.as_deref(),
        Command::Explain { .. } => None,
    };
    let text = file.map(contents).transpose()?;
    let mut world = read(&kubectl)?;
    rules.sessions_of = world.sessions_of();
    let name = match (&args.command, text) {
        (_, Some(text)) => manifest::apply(&mut world, &text, &namespace)?,
        (Command::Plan { name, .. }, None) => {
            ObjectName::new(&namespace, name.as_deref().unwrap_or_default())
        }
        (Command::Explain { name, .. }, None) => ObjectName::new(&namespace, name),
    };
    let outlook = outlook(&world, &rules, &name, asking.gpus, Timestamp::now())?;
    Ok(match (asking.output, &args.command) {
        (Output::Json, _) => serde_json::to_string_pretty(&outlook)? + "\n",
        (Output::Text, Command::Plan { .. }) => show::plan(&outlook),
        (Output::Text, Command::Explain { .. }) => show::explanation(&outlook),
    })
}

fn contents(file: &Path) -> anyhow::Result<String> {
    if file == Path::new("-") {
        let mut text = String::new();
        let read = std::io::stdin().read_to_string(&mut text);
        read.context("read the manifests from standard input")?;
        return Ok(text);
    }
    std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))
}
