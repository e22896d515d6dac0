//! A full sync of an invented account: no credentials, no network. Singer messages on stdout, the log on stderr.

#[path = "../tests/fake/mod.rs"]
mod fake;

use std::io;
use std::process::ExitCode;

use clap::Parser;
use fake::account::Size;
use fake::{Account, Fake};
use tap_constant_contact::{Args, run};

fn main() -> ExitCode {
    let fake = Fake::start(Account::generate(1, Size { contacts: 60, lists: 6, campaigns: 8 }));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = folder.path().join("config.json");
    std::fs::write(&config, fake.config().to_string()).expect("a config in the temporary folder");
    let args = Args::parse_from(["tap-constant-contact".as_ref(), "--config".as_ref(), config.as_os_str()]);
    match run(&args, Box::new(io::stdout())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => ExitCode::from(e.exit_code()),
    }
}
