//! The first process of a node or of the control plane: `launch PLAN` starts it and prints its id, `run PLAN` is it.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use tessera_cluster::{supervisor, with_causes};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let verb = arguments.next();
    let (Some(verb), Some(plan), None) =
        (verb, arguments.next().map(PathBuf::from), arguments.next())
    else {
        eprintln!("usage: {} launch|run PLAN", supervisor::PROGRAM);
        return ExitCode::from(2);
    };
    let outcome = match verb.to_str() {
        Some("launch") => supervisor::launch(&plan).and_then(|pid| {
            writeln!(std::io::stdout(), "{pid}").map_err(|source| supervisor::InitError::Launch {
                plan: plan.clone(),
                source,
            })
        }),
        Some("run") => supervisor::run(&plan),
        _ => {
            eprintln!("{}: no verb {}", supervisor::PROGRAM, verb.display());
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", with_causes(&error));
            ExitCode::FAILURE
        }
    }
}
