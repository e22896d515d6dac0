//! Everything that can end a run, and the exit code that each means.

use std::io;

/// Why a run ended. The text of each variant is what the user reads on the one `CRITICAL` line.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line, config, catalog or state cannot be used. Nothing was called.
    #[error("{0}")]
    Usage(String),
    /// The credentials were refused for good.
    #[error("{0}")]
    Credentials(String),
    /// The service refuses a resource to these credentials (403).
    #[error("{0}")]
    Forbidden(String),
    /// The service does not know the thing that was asked for (404).
    #[error("{0}")]
    NotFound(String),
    /// The service holds the request itself to be wrong (400).
    #[error("{0}")]
    Refused(String),
    /// The service, the network or the disk failed, after the retries that made sense.
    #[error("{0}")]
    Failed(String),
    /// The daily quota or `max_requests` is used up.
    #[error("{0}")]
    Quota(String),
    /// `doctor` found that the present settings lose data.
    #[error("{0}")]
    LosesData(String),
    /// The program that reads stdout has gone.
    #[error("stdout was closed")]
    Closed,
}

impl Error {
    /// The exit code of the contract.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Usage(_) => 2,
            Error::Credentials(_) | Error::Forbidden(_) => 3,
            Error::NotFound(_) | Error::Refused(_) | Error::Failed(_) => 1,
            Error::Quota(_) => 4,
            Error::LosesData(_) => 5,
            // What a shell reports for a program that SIGPIPE ended.
            Error::Closed => 128 + 13,
        }
    }

    /// The same error with its text put into a larger context.
    #[must_use]
    pub fn context(self, what: impl std::fmt::Display) -> Error {
        match self {
            Error::Usage(e) => Error::Usage(format!("{what}: {e}")),
            Error::Credentials(e) => Error::Credentials(format!("{what}: {e}")),
            Error::Forbidden(e) => Error::Forbidden(format!("{what}: {e}")),
            Error::NotFound(e) => Error::NotFound(format!("{what}: {e}")),
            Error::Refused(e) => Error::Refused(format!("{what}: {e}")),
            Error::Failed(e) => Error::Failed(format!("{what}: {e}")),
            Error::Quota(e) => Error::Quota(format!("{what}: {e}")),
            Error::LosesData(e) => Error::LosesData(format!("{what}: {e}")),
            Error::Closed => Error::Closed,
        }
    }
}

/// A failed write to stdout: the reader has gone, or the disk behind it is full.
impl From<io::Error> for Error {
    fn from(e: io::Error) -> Error {
        if e.kind() == io::ErrorKind::BrokenPipe {
            Error::Closed
        } else {
            Error::Failed(format!("cannot write to stdout: {e}"))
        }
    }
}

/// Text from outside as a message shows it: without control characters, and cut at 200 characters.
pub(crate) fn shown(text: &str) -> String {
    let mut kept = text.chars().filter(|c| !c.is_control());
    let mut short: String = kept.by_ref().take(200).collect();
    if kept.next().is_some() {
        short.push('…');
    }
    short
}

pub(crate) type Result<T> = std::result::Result<T, Error>;
