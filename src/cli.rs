//! The command line.

use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgGroup, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::config::setting_like;

/// Singer tap for Constant Contact.
///
/// Writes Singer messages to stdout and everything else to stderr.
#[derive(Debug, Parser)]
#[command(
    name = "tap-constant-contact",
    version,
    arg_required_else_help = true,
    group = ArgGroup::new("described").args(["about", "test"]).multiple(true),
    after_help = "Exit codes: 0 everything selected was read; 1 the service, the network or the disk \
                  failed; 2 command line, config, catalog or state not usable; 3 credentials refused; \
                  4 quota or max_requests used up, the next run continues from the state; 5 doctor found that these settings lose data; 128+n signal n.\n\n\
                  Environment: LOGLEVEL or TAP_CONSTANT_CONTACT_LOGLEVEL (DEBUG, INFO, WARNING, ERROR)."
)]
pub struct Args {
    /// Settings as a JSON file; may be repeated, a later file's keys win. `ENV` stands for the
    /// `TAP_CONSTANT_CONTACT_<SETTING>` variables
    #[arg(short, long, value_name = "FILE", global = true)]
    pub config: Vec<PathBuf>,

    /// The value of the last STATE message of an earlier run; this run continues from there
    #[arg(short, long, value_name = "FILE")]
    pub state: Option<PathBuf>,

    /// The streams and fields to read, as a catalog; without it everything is read
    #[arg(long, visible_alias = "properties", value_name = "FILE", conflicts_with = "select")]
    pub catalog: Option<PathBuf>,

    /// The streams and fields to read, as patterns: `STREAM`, `STREAM.FIELD`, `!STREAM.FIELD`, `*.*`. May be
    /// repeated, or a list with commas; an exclusion (`!`) always wins
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    pub select: Vec<String>,

    /// Read this stream from its beginning, whatever the state says; `*` for all. May be repeated, or a list with commas
    #[arg(long, value_name = "STREAM", value_delimiter = ',')]
    pub full_table: Vec<String>,

    /// Write the catalog to stdout and stop; needs neither credentials nor the network. It always lists everything
    #[arg(short, long, conflicts_with = "select")]
    pub discover: bool,

    /// Check the credentials, make one cheap call for each selected stream, and say what can be read and what a full
    /// read would cost; writes no record
    #[arg(long)]
    pub test: bool,

    /// Describe the tap: its capabilities and settings; needs neither config nor the network
    #[arg(long)]
    pub about: bool,

    /// The form of the answer to `--about`, or to `--test` (text or json)
    #[arg(long, value_enum, default_value_t, requires = "described")]
    pub format: Format,

    /// The form of log lines; by default as the file in `SINGER_SDK_LOG_CONFIG` asks, else text
    #[arg(long, value_enum, global = true)]
    pub log_format: Option<LogFormat>,

    /// What to do instead of a sync
    #[command(subcommand)]
    pub command: Option<Command>,
}

impl Args {
    /// The arguments of this process. Ends it for `--help`, `--version` and arguments that are wrong (exit 2).
    pub fn from_command_line() -> Args {
        Args::try_parse().unwrap_or_else(|mut e| {
            let given = |kind| e.get(kind).map(ToString::to_string).unwrap_or_default();
            let (argument, command) = (given(ContextKind::InvalidArg), given(ContextKind::InvalidSubcommand));
            // Many programs take their settings as arguments.
            if let Some(setting) = setting_like(&argument).filter(|_| e.kind() == ErrorKind::UnknownArgument) {
                let tip = format!("{setting} is a setting: write it into the config, as \"{setting}\": …");
                e.remove(ContextKind::SuggestedArg);
                e.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
            }
            let tip = match command.as_str() {
                "test" | "discover" | "about" => Some(format!("--{command} is an argument")),
                "sync" | "run" => Some("a sync is what happens without a command".into()),
                _ if Path::new(&command).exists() => Some("each config needs a --config before it".into()),
                _ => None,
            };
            if let Some(tip) = tip {
                e.remove(ContextKind::SuggestedSubcommand);
                e.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
            }
            e.exit()
        })
    }
}

/// What the tap does besides syncing.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Log in to Constant Contact and store the tokens for later runs
    Login(Login),
    /// Check with read-only calls how the service behaves on this account where its documentation says nothing, and
    /// whether these settings lose data. Makes at most 200 calls
    Doctor(Doctor),
    /// Write shell completions to stdout
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

/// The form of an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, ValueEnum)]
pub enum Format {
    /// For reading
    #[default]
    Text,
    /// For programs; the settings as JSON Schema, under the keys of Meltano's SDK
    Json,
    /// The settings as a table
    Markdown,
    /// A plugin definition for meltano.yml or Meltano Hub
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

/// How to examine an account.
#[derive(Debug, clap::Args)]
pub struct Doctor {
    /// The form of the report
    #[arg(long, value_enum, default_value_t)]
    pub format: ReportFormat,

    /// Also show ids of the service where a person must look something up
    #[arg(long)]
    pub show_ids: bool,
}

/// The form of a report.
#[derive(Debug, Clone, Copy, Default, PartialEq, ValueEnum)]
pub enum ReportFormat {
    /// For reading
    #[default]
    Text,
    /// For programs, and to paste into an issue
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
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: u64,
}
