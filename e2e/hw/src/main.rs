//! `tessera-hw`: shows and changes the GPUs of a simulated node while things run.

mod cli;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match cli::run(cli::Arguments::parse()) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("tessera-hw: {error:#}");
            ExitCode::FAILURE
        }
    }
}
