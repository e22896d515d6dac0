//! SIGINT, SIGTERM, SIGHUP and a closed stdout: how a run ends from outside, whatever it is waiting for.

use std::sync::Arc;

use crate::error::Result;
use crate::messages::Messages;

/// What a run still has to do when it is ended from outside.
pub(crate) struct Ending {
    pub(crate) messages: Arc<Messages>,
    /// Whether a login is being renewed: the old one is spent, and the new one is not on disk yet.
    pub(crate) is_renewing: Arc<dyn Fn() -> bool + Send + Sync>,
    /// Logs what the run has done so far.
    pub(crate) log_summary: Arc<dyn Fn() + Send + Sync>,
    /// How to go on, for the user.
    pub(crate) advice: &'static str,
}

impl Ending {
    /// The end of a run that has nothing to say about itself.
    pub(crate) fn new(messages: &Arc<Messages>, is_renewing: impl Fn() -> bool + Send + Sync + 'static) -> Ending {
        Ending {
            messages: Arc::clone(messages),
            is_renewing: Arc::new(is_renewing),
            log_summary: Arc::new(|| {}),
            advice: "",
        }
    }
}

#[cfg(unix)]
pub(crate) use unix::{end_on_closed_stdout, end_on_signals};

#[cfg(unix)]
mod unix {
    use std::fs;
    use std::process::exit;
    use std::thread::{self, Builder, JoinHandle};
    use std::time::{Duration, Instant};

    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::io::Errno;
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    use signal_hook::iterator::Signals;

    use super::{Arc, Ending, Messages, Result};
    use crate::error::Error;
    use crate::logger;

    /// How long the end waits for a target that does not read and for a login that is being renewed. Container runtimes
    /// kill ten seconds after they asked.
    const LONGEST_END: Duration = Duration::from_secs(8);
    /// A second signal within this time is taken for the first one, passed on: Ctrl-C reaches a job from the terminal and
    /// from its runner. It ends the run after this time.
    const ECHO: Duration = Duration::from_millis(500);
    const TICK: Duration = Duration::from_millis(10);

    /// Starts the thread that ends the process on a signal, after the last true STATE.
    ///
    /// # Errors
    /// `Failed` when the system grants no handlers or no thread.
    pub(crate) fn end_on_signals(ending: Ending) -> Result<()> {
        let failed =
            |e| Error::Failed(format!("cannot watch for signals: {e}. Raise the limits on processes and files"));
        let mut watched = vec![SIGINT, SIGTERM];
        if !hangups_are_ignored() {
            watched.push(SIGHUP);
        }
        let mut signals = Signals::new(watched).map_err(failed)?;
        let work = move || {
            if let Some(signal) = signals.forever().next() {
                end(signal, &mut signals, &ending);
            }
        };
        Builder::new().name("signals".into()).spawn(work).map_err(failed)?;
        Ok(())
    }

    fn end(signal: i32, signals: &mut Signals, ending: &Ending) -> ! {
        let started = Instant::now();
        // From its end to the exit no line follows the last STATE.
        let last_state = write_last_state(&ending.messages);
        let is_written = || last_state.as_ref().is_none_or(JoinHandle::is_finished);
        let mut is_told = false;
        let mut is_urgent = false;
        while !is_written() || (ending.is_renewing)() {
            // A hangup comes more than once: from the shell and from the system.
            is_urgent |= signals.pending().any(|signal| signal != SIGHUP);
            let elapsed = started.elapsed();
            if elapsed >= LONGEST_END || (is_urgent && elapsed >= ECHO) {
                break;
            }
            if elapsed >= ECHO && !is_told && (ending.is_renewing)() {
                log::warn!(
                    "the login is being renewed; waiting until it is stored, {} s at most",
                    LONGEST_END.as_secs()
                );
                is_told = true;
            }
            thread::sleep(TICK);
        }
        (ending.log_summary)();
        if !is_written() {
            log::warn!(
                "the target does not read, so that it does not get the last STATE; the next run repeats some rows"
            );
        }
        if (ending.is_renewing)() {
            log::error!(
                "the login was being renewed, and the answer did not come; if the next run says invalid_grant, log in again"
            );
        }
        let name = match signal {
            SIGINT => "SIGINT",
            SIGHUP => "SIGHUP",
            _ => "SIGTERM",
        };
        log::warn!("stopped by {name}{}", ending.advice);
        logger::finish();
        exit(128 + signal);
    }

    /// Writes the last STATE in a thread of its own, because the target may not read; in this one where there can be no
    /// other.
    fn write_last_state(messages: &Arc<Messages>) -> Option<JoinHandle<()>> {
        let out = Arc::clone(messages);
        let writer = Builder::new().spawn(move || drop(out.end()));
        if writer.is_err() {
            drop(messages.end());
        }
        writer.ok()
    }

    /// Whether this was started by `nohup` or the like, and is to outlive its terminal.
    fn hangups_are_ignored() -> bool {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        // Where /proc does not tell, the system decides what a hangup does.
        mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_none_or(|mask| mask >> (SIGHUP - 1) & 1 == 1)
    }

    /// Starts the thread that ends the process without a word when nobody reads stdout any more. Where the system grants
    /// no thread, the next write ends the run.
    pub(crate) fn end_on_closed_stdout(is_renewing: Arc<dyn Fn() -> bool + Send + Sync>) {
        let work = move || {
            let stdout = rustix::stdio::stdout();
            // Without events to wait for, poll returns when the other end is closed. A file has none.
            let mut fds = [PollFd::new(&stdout, PollFlags::empty())];
            while poll(&mut fds, None) == Err(Errno::INTR) {}
            if fds[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) {
                let started = Instant::now();
                while is_renewing() && started.elapsed() < LONGEST_END {
                    thread::sleep(TICK);
                }
                logger::finish();
                exit(Error::Closed.exit_code().into());
            }
        };
        let _ = Builder::new().name("stdout".into()).spawn(work);
    }
}

/// Elsewhere the system ends the process in its own way.
#[cfg(not(unix))]
#[allow(clippy::unnecessary_wraps)]
pub(crate) fn end_on_signals(_: Ending) -> Result<()> {
    Ok(())
}

/// Elsewhere the next write fails.
#[cfg(not(unix))]
pub(crate) fn end_on_closed_stdout(_: Arc<dyn Fn() -> bool + Send + Sync>) {}
