//! The binary: arguments in, Singer messages out, an exit code at the end.

use std::process::ExitCode;

use tap_constant_contact::{Args, run};

fn main() -> ExitCode {
    match run(&Args::from_command_line()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => ExitCode::from(e.exit_code()),
    }
}
