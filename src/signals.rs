//! SIGINT, SIGTERM and a closed stdout: how a run ends from outside, whatever it is waiting for.

use std::sync::Arc;

use crate::client::Client;
use crate::error::Result;
use crate::messages::Messages;

/// Starts the threads that end the process: on a signal with the last true STATE, on a closed stdout without a word.
///
/// # Errors
/// When the system refuses the handlers.
#[cfg(unix)]
pub(crate) fn watch(messages: &Arc<Messages>, client: &Arc<Client>) -> Result<()> {
    use std::process::exit;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::io::Errno;
    use signal_hook::consts::{SIGINT, SIGTERM};
    use signal_hook::iterator::Signals;

    use crate::error::Error;

    /// A reader that takes nothing more, or a token endpoint that hangs, must not outlast the two seconds promised.
    const PATIENCE: Duration = Duration::from_millis(1700);

    /// Does what is left to do, but not for ever.
    fn at_most_a_while(last: impl FnOnce() + Send + 'static) {
        let (done, waits) = mpsc::channel();
        thread::spawn(move || {
            last();
            let _ = done.send(());
        });
        let _ = waits.recv_timeout(PATIENCE);
    }

    let mut signals =
        Signals::new([SIGINT, SIGTERM]).map_err(|e| Error::Failed(format!("cannot watch for signals: {e}")))?;
    let (out, caller) = (Arc::clone(messages), Arc::clone(client));
    thread::spawn(move || {
        let Some(signal) = signals.forever().next() else { return };
        let settling = Arc::clone(&caller);
        at_most_a_while(move || {
            // From here to the exit no line follows the last STATE.
            let _ = out.end();
            settling.settle();
        });
        caller.tell_calls();
        let name = if signal == SIGINT { "SIGINT" } else { "SIGTERM" };
        log::warn!("ended by {name}; run again with the last STATE to go on");
        exit(128 + signal);
    });
    let caller = Arc::clone(client);
    thread::spawn(move || {
        let stdout = rustix::stdio::stdout();
        // No events asked for: only that the other end has gone is told. A file never tells.
        let mut fds = [PollFd::new(&stdout, PollFlags::empty())];
        while poll(&mut fds, None) == Err(Errno::INTR) {}
        if fds[0].revents().contains(PollFlags::ERR) {
            at_most_a_while(move || caller.settle());
            exit(Error::Closed.exit_code().into());
        }
    });
    Ok(())
}

/// Elsewhere the system's own way to end a process stands.
#[cfg(not(unix))]
#[allow(clippy::unnecessary_wraps)]
pub(crate) fn watch(_: &Arc<Messages>, _: &Arc<Client>) -> Result<()> {
    Ok(())
}
