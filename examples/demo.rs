//! A full sync of an invented account: no credentials, no network. Singer messages on stdout, the log on stderr; last it
//! says what the account holds, which is what a target should have then.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use fake::account::Size;
use fake::{Account, Fake};
use tap_constant_contact::{Args, Output, run};

fn main() -> ExitCode {
    let mut account = Account::generate(1, Size { contacts: 60, lists: 6, campaigns: 8 });
    // The rows of a campaign that is unknown one by one would only come on the contact route.
    for campaign in &mut account.campaigns {
        campaign.detail_404 = false;
    }
    let fake = Fake::start(account);
    let folder = tempfile::tempdir().expect("a temporary folder");
    // Nobody else may read it, as with a true one.
    let mut config = tempfile::NamedTempFile::new_in(&folder).expect("a config in the temporary folder");
    write!(config, "{}", fake.config()).expect("a config in the temporary folder");
    let args = Args::parse_from(["tap-constant-contact".as_ref(), "--config".as_ref(), config.path().as_os_str()]);
    if let Err(e) = run(&args, Output::Stdout) {
        return ExitCode::from(e.exit_code());
    }
    for stream in ["contact_lists", "email_campaigns", "contacts", "contact_action_summary", "contact_activity_details"]
    {
        let rows = fake.account().truth(stream).len();
        if writeln!(io::stderr(), "the account holds {rows} {stream}").is_err() {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
