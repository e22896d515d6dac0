//! The binary: arguments in, Singer messages out, an exit code at the end.

use std::process::ExitCode;

use tap_constant_contact::{Args, Output, run};

fn main() -> ExitCode {
    match run(&Args::from_command_line(), Output::Stdout) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => ExitCode::from(e.exit_code()),
    }
}
