//! The errors that end a run, and their exit codes.

use std::io;

/// Why a run ended. The text is what the user reads on the `CRITICAL` line.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The command line, config, catalog or state cannot be used. No call was made.
    #[error("{0}")]
    Usage(String),
    /// The credentials were refused for good.
    #[error("{0}")]
    Credentials(String),
    /// The service refuses a resource to these credentials (403).
    #[error("{0}")]
    Forbidden(String),
    /// The service does not know what was asked for (404).
    #[error("{0}")]
    NotFound(String),
    /// The service calls the request itself wrong (400).
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
    /// The exit code. `--help` lists them all.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Usage(_) => 2,
            Error::Credentials(_) | Error::Forbidden(_) => 3,
            Error::NotFound(_) | Error::Refused(_) | Error::Failed(_) => 1,
            Error::Quota(_) => 4,
            Error::LosesData(_) => 5,
            // The same as if SIGPIPE had ended the process, which shells and runners know.
            Error::Closed => 128 + 13,
        }
    }

    /// Whether the service refuses this one thing permanently, so that a retry would get the same answer.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Error::Forbidden(_) | Error::NotFound(_) | Error::Refused(_))
    }

    pub(crate) fn is_forbidden(&self) -> bool {
        matches!(self, Error::Forbidden(_))
    }

    /// A refusal as a failure, for a resource that has answered before.
    #[must_use]
    pub(crate) fn into_failure(self) -> Error {
        match self {
            Error::Forbidden(why) | Error::NotFound(why) | Error::Refused(why) => Error::Failed(why),
            other => other,
        }
    }

    /// The same error, with the place in front of its text.
    #[must_use]
    pub fn context(mut self, what: impl std::fmt::Display) -> Error {
        match &mut self {
            Error::Usage(text)
            | Error::Credentials(text)
            | Error::Forbidden(text)
            | Error::NotFound(text)
            | Error::Refused(text)
            | Error::Failed(text)
            | Error::Quota(text)
            | Error::LosesData(text) => *text = format!("{what}: {text}"),
            Error::Closed => {}
        }
        self
    }
}

/// From a failed write to stdout: its reader is gone, or the disk is full.
impl From<io::Error> for Error {
    fn from(e: io::Error) -> Error {
        if e.kind() == io::ErrorKind::BrokenPipe {
            Error::Closed
        } else {
            Error::Failed(format!("cannot write to stdout: {e}"))
        }
    }
}

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;
