//! The binary: arguments in, Singer messages out, an exit code at the end.

use std::process::ExitCode;

use clap::Parser;
use tap_constant_contact::{Args, Output, run};

fn main() -> ExitCode {
    // clap ends the process itself for --help, --version and wrong flags (exit 2).
    let args = Args::parse();
    match run(&args, Output::Stdout) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => ExitCode::from(e.exit_code()),
    }
}
