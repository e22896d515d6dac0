//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

/// Singer tap for Constant Contact.
///
/// Writes Singer messages to stdout and all else to stderr.
#[derive(Debug, Parser)]
#[command(
    name = "tap-constant-contact",
    version,
    after_help = "Exit codes: 0 everything selected was read; 1 the service, the network or the disk \
                  failed; 2 command line, config, catalog or state not usable; 3 credentials refused; \
                  4 quota or max_requests used up, the state resumes; 128+n signal n.\n\n\
                  Environment: LOGLEVEL or TAP_CONSTANT_CONTACT_LOGLEVEL (DEBUG, INFO, WARNING, ERROR)."
)]
pub struct Args {
    /// Settings as a JSON file; may be repeated, a later file's keys win. `ENV` stands for the
    /// `TAP_CONSTANT_CONTACT_<SETTING>` variables
    #[arg(short, long, value_name = "FILE", global = true)]
    pub config: Vec<PathBuf>,

    /// Where an earlier run ended: the value of its last STATE message
    #[arg(short, long, value_name = "FILE")]
    pub state: Option<PathBuf>,

    /// The streams and fields to read; without it everything is read
    #[arg(long, visible_alias = "properties", value_name = "FILE")]
    pub catalog: Option<PathBuf>,

    /// Write the catalog to stdout and stop; needs neither credentials nor the network
    #[arg(short, long)]
    pub discover: bool,

    /// Prove the credentials, make one cheap call for each selected stream, and say what may be read and what a full
    /// read would cost; writes no record
    #[arg(long)]
    pub test: bool,

    /// Describe the tap: capabilities and settings; needs neither config nor the network
    #[arg(long)]
    pub about: bool,

    /// How `--about` describes it
    #[arg(long, value_enum, default_value_t, requires = "about")]
    pub format: AboutFormat,

    /// How log lines are written; where this is not given, as the file in `SINGER_SDK_LOG_CONFIG` asks, else as text
    #[arg(long, value_enum, global = true)]
    pub log_format: Option<LogFormat>,

    /// What to do instead of a sync
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What the tap does besides syncing.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Log in to Constant Contact and store the tokens for later runs
    Login(Login),
    /// Write the completions of a shell to stdout
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write a manual page to stdout
    Man {
        /// The command that it is about, such as `login`; else the tap itself
        command: Option<String>,
    },
}

/// How `--about` is written.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub enum AboutFormat {
    /// For reading
    #[default]
    Text,
    /// With the settings as JSON Schema, in the keys of Meltano's SDK
    Json,
    /// With the settings as a table
    Markdown,
    /// The settings and capabilities of a plugin definition, for meltano.yml or Meltano's hub
    Meltano,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
pub enum LogFormat {
    /// A level and a text
    Text,
    /// One JSON object a line, as Meltano reads them
    Json,
}

/// How to log in.
#[derive(Debug, clap::Args)]
pub struct Login {
    /// Confirm on any other device instead of a browser here; for applications of the device type
    #[arg(long)]
    pub device: bool,

    /// Replace a login that still works without asking
    #[arg(short, long)]
    pub yes: bool,

    /// How long to wait for the consent
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub timeout: u64,
}
