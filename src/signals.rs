//! Ends a run on SIGINT, SIGTERM, SIGHUP or a closed stdout, whatever it is waiting for.

use std::sync::Arc;

use crate::error::Result;
use crate::messages::Messages;

/// What a run still has to do before it ends.
#[cfg_attr(not(unix), expect(dead_code, reason = "there the system ends the process in its own way"))]
pub(crate) struct Ending {
    pub(crate) messages: Arc<Messages>,
    /// Whether the tokens are being refreshed: the old refresh token has been used, and the new one is not on disk yet.
    pub(crate) is_renewing: Arc<dyn Fn() -> bool + Send + Sync>,
    /// Logs what the run has done so far.
    pub(crate) log_summary: Arc<dyn Fn() + Send + Sync>,
    /// What the user can do next.
    pub(crate) advice: &'static str,
}

impl Ending {
    /// For a run without a summary and without advice.
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

    /// How long to wait for a target that does not read and for a refresh of the tokens. Container runtimes kill a
    /// process ten seconds after SIGTERM.
    const LONGEST_END: Duration = Duration::from_secs(8);
    /// A second signal ends the run at once, but not before this time is over: on Ctrl-C, the terminal and a runner
    /// such as Meltano both send one.
    const ECHO: Duration = Duration::from_millis(500);
    const TICK: Duration = Duration::from_millis(10);

    /// Starts the thread that writes the last STATE and ends the process when a signal comes.
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
        // Once it is written, no other line can follow the last STATE.
        let last_state = write_last_state(&ending.messages);
        let is_written = || last_state.as_ref().is_none_or(JoinHandle::is_finished);
        let mut has_warned = false;
        let mut is_urgent = false;
        while !is_written() || (ending.is_renewing)() {
            // When a terminal closes, the shell and the system both send a hangup.
            is_urgent |= signals.pending().any(|signal| signal != SIGHUP);
            let elapsed = started.elapsed();
            if elapsed >= LONGEST_END || (is_urgent && elapsed >= ECHO) {
                break;
            }
            if elapsed >= ECHO && !has_warned && (ending.is_renewing)() {
                log::warn!(
                    "the login is being renewed; waiting until it is stored, {} s at most",
                    LONGEST_END.as_secs()
                );
                has_warned = true;
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

    /// Writes the last STATE in a thread of its own, because the target may not read it. If the system grants no
    /// thread, it is written in this one.
    fn write_last_state(messages: &Arc<Messages>) -> Option<JoinHandle<()>> {
        let out = Arc::clone(messages);
        let writer = Builder::new().spawn(move || drop(out.end()));
        if writer.is_err() {
            drop(messages.end());
        }
        writer.ok()
    }

    /// Whether the process was started with `nohup` or the like, to outlive its terminal.
    fn hangups_are_ignored() -> bool {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        // Without /proc, the system's own handling of a hangup stays.
        mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_none_or(|mask| mask >> (SIGHUP - 1) & 1 == 1)
    }

    /// Starts the thread that ends the process silently when nobody reads stdout any more. If the system grants no
    /// thread, the next write ends the run.
    pub(crate) fn end_on_closed_stdout(is_renewing: Arc<dyn Fn() -> bool + Send + Sync>) {
        let work = move || {
            let stdout = rustix::stdio::stdout();
            // When asked for no event, poll returns once the other end of a pipe is closed. A file has no other end.
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

/// On other systems, a signal ends the process right away.
#[cfg(not(unix))]
#[allow(clippy::unnecessary_wraps)]
pub(crate) fn end_on_signals(_: Ending) -> Result<()> {
    Ok(())
}

/// On other systems, the next write fails.
#[cfg(not(unix))]
pub(crate) fn end_on_closed_stdout(_: Arc<dyn Fn() -> bool + Send + Sync>) {}
