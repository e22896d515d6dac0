//! SIGINT, SIGTERM, SIGHUP and a closed stdout: how a run ends from outside, whatever it is waiting for.

use std::sync::Arc;

use crate::client::Client;
use crate::error::Result;
use crate::messages::Messages;

#[cfg(unix)]
pub(crate) use unix::{end_on_closed_stdout, end_on_signals};

#[cfg(unix)]
mod unix {
    use std::fs;
    use std::process::exit;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::io::Errno;
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    use signal_hook::iterator::Signals;

    use super::{Arc, Client, Messages, Result};
    use crate::error::Error;

    /// A reader that takes nothing more, or a network that hangs, must not outlast the two seconds promised.
    const PATIENCE: Duration = Duration::from_millis(1700);
    /// How much longer an answer is waited for that may bring a single-use token: without it only a person's consent
    /// would help. Those who follow a signal with a kill grant ten seconds.
    const LONGER: Duration = Duration::from_secs(7);

    /// Does what is left to do, but not for ever.
    fn at_most(time: Duration, last: impl FnOnce() + Send + 'static) {
        let (done, waits) = mpsc::channel();
        thread::spawn(move || {
            last();
            let _ = done.send(());
        });
        let _ = waits.recv_timeout(time);
    }

    /// Does what is left to do, then waits for a token that is being renewed to be stored.
    fn end(client: &Arc<Client>, last: impl FnOnce() + Send + 'static) {
        let settling = Arc::clone(client);
        at_most(PATIENCE, move || {
            last();
            settling.settle();
        });
        if client.is_renewing() {
            log::warn!("the login is being renewed; waiting for it to be stored");
            let settling = Arc::clone(client);
            at_most(LONGER, move || settling.settle());
        }
        if client.is_renewing() {
            log::error!("its answer did not come; if the next run says invalid_grant, log in again");
        }
    }

    /// Starts the thread that ends the process on a signal, with the last true STATE if there is one; `next` says how
    /// to go on.
    ///
    /// # Errors
    /// When the system refuses the handlers.
    pub(crate) fn end_on_signals(messages: &Arc<Messages>, client: &Arc<Client>, next: &'static str) -> Result<()> {
        let mut watched = vec![SIGINT, SIGTERM];
        if !hangups_are_ignored() {
            watched.push(SIGHUP);
        }
        let mut signals = Signals::new(watched).map_err(|e| Error::Failed(format!("cannot watch for signals: {e}")))?;
        let (out, client) = (Arc::clone(messages), Arc::clone(client));
        thread::spawn(move || {
            let Some(signal) = signals.forever().next() else { return };
            // From here to the exit no line follows the last STATE.
            end(&client, move || drop(out.end()));
            client.tell_calls();
            let name = match signal {
                SIGINT => "SIGINT",
                SIGHUP => "SIGHUP",
                _ => "SIGTERM",
            };
            log::warn!("ended by {name}{next}");
            exit(128 + signal);
        });
        Ok(())
    }

    /// Whether this was started by `nohup` or the like, and is to outlive its terminal.
    fn hangups_are_ignored() -> bool {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        // Where nobody tells, they are left to the system.
        mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_none_or(|mask| mask >> (SIGHUP - 1) & 1 == 1)
    }

    /// Starts the thread that ends the process without a word when nobody reads stdout any more.
    pub(crate) fn end_on_closed_stdout(client: &Arc<Client>) {
        let client = Arc::clone(client);
        thread::spawn(move || {
            let stdout = rustix::stdio::stdout();
            // No events asked for: only that the other end has gone is told. A file never tells.
            let mut fds = [PollFd::new(&stdout, PollFlags::empty())];
            while poll(&mut fds, None) == Err(Errno::INTR) {}
            if fds[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) {
                end(&client, || {});
                exit(Error::Closed.exit_code().into());
            }
        });
    }
}

/// Elsewhere the system's own way to end a process stands.
#[cfg(not(unix))]
#[allow(clippy::unnecessary_wraps)]
pub(crate) fn end_on_signals(_: &Arc<Messages>, _: &Arc<Client>, _: &'static str) -> Result<()> {
    Ok(())
}

/// Elsewhere the next write fails.
#[cfg(not(unix))]
pub(crate) fn end_on_closed_stdout(_: &Arc<Client>) {}
