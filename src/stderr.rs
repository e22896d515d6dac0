//! The only writer of stderr. A thread writes the lines from a queue, so that the run neither waits for a log that
//! nobody reads nor fails because its terminal is gone.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The most bytes that wait for a slow reader: more than a whole day's calls log at DEBUG. Lines beyond that are
/// dropped and counted.
const LONGEST_QUEUE: usize = 8 << 20;
/// How often the status lines are drawn.
const REDRAW_EVERY: Duration = Duration::from_millis(250);

/// Returns the lines to show below the log, each shorter than the given number of columns. Called from another thread.
pub(crate) type Status = Arc<dyn Fn(usize) -> Vec<String> + Send + Sync>;

/// A handle to the thread that writes.
pub(crate) struct Stderr {
    shared: Arc<Shared>,
    /// False if the system grants no more threads. Then each line is written by the thread that logs it.
    has_thread: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// Signalled when there is something to write.
    filled: Condvar,
    /// Signalled when everything is written.
    idle: Condvar,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<String>,
    bytes: usize,
    dropped: usize,
    status: Option<Status>,
    /// Whether a status is on the screen.
    is_drawn: bool,
    /// Whether the thread is writing something.
    is_writing: bool,
}

impl Queue {
    fn push(&mut self, line: String) {
        self.bytes += line.len();
        self.lines.push_back(line);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stderr {
    pub(crate) fn new() -> Stderr {
        let shared = Arc::<Shared>::default();
        let writer = Arc::clone(&shared);
        let thread = thread::Builder::new().name("stderr".into()).spawn(move || write_queue(&writer));
        Stderr { shared, has_thread: thread.is_ok() }
    }

    /// Writes a line, or several in one piece. If earlier lines were dropped, a line made by `notice` comes first and
    /// says how many.
    pub(crate) fn line(&self, line: String, notice: impl FnOnce(usize) -> String) {
        let mut queue = self.shared.lock();
        if !self.has_thread {
            write_all(&(line + "\n"));
        } else if queue.bytes + line.len() > LONGEST_QUEUE {
            queue.dropped += 1;
        } else {
            if queue.dropped > 0 {
                let notice = notice(std::mem::take(&mut queue.dropped));
                queue.push(notice);
            }
            queue.push(line);
            self.shared.filled.notify_one();
        }
    }

    /// Draws these status lines below the log from now on, or removes them from the screen.
    pub(crate) fn set_status(&self, status: Option<Status>) {
        self.shared.lock().status = status;
        self.shared.filled.notify_one();
    }

    /// Waits until everything is written, but no longer than this.
    pub(crate) fn flush(&self, longest: Duration) {
        if !self.has_thread {
            return;
        }
        let is_busy = |queue: &mut Queue| {
            queue.is_writing || !queue.lines.is_empty() || (queue.is_drawn && queue.status.is_none())
        };
        drop(self.shared.idle.wait_timeout_while(self.shared.lock(), longest, is_busy));
    }
}

/// What the thread does. One write erases the old status and adds the new lines and the new status, so that nothing is
/// ever half drawn.
fn write_queue(shared: &Shared) {
    let mut screen = Screen::default();
    let mut drawn_at = None::<Instant>;
    loop {
        let mut queue = shared.lock();
        queue.is_writing = false;
        shared.idle.notify_all();
        while queue.lines.is_empty() && queue.status.is_some() == drawn_at.is_some() {
            let Some(at) = drawn_at else {
                queue = shared.filled.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let rest = REDRAW_EVERY.saturating_sub(at.elapsed());
            if rest.is_zero() {
                break;
            }
            queue = shared.filled.wait_timeout(queue, rest).unwrap_or_else(PoisonError::into_inner).0;
        }
        queue.is_writing = true;
        let (lines, status) = (std::mem::take(&mut queue.lines), queue.status.clone());
        queue.bytes = 0;
        queue.is_drawn = status.is_some();
        drop(queue);

        let mut text = screen.erase();
        for line in lines {
            text += &line;
            text.push('\n');
        }
        drawn_at = status.map(|status| {
            text += &screen.draw(&*status);
            Instant::now()
        });
        write_all(&text);
    }
}

/// Writes as much as possible. If stderr fails, there is nowhere to report it.
fn write_all(text: &str) {
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        match io::stderr().write(rest) {
            Ok(0) => return,
            Ok(written) => rest = &rest[written..],
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            // Another process that shares the terminal or pipe has made it non-blocking.
            Err(e) if e.kind() == ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(10)),
            Err(_) => return,
        }
    }
}

/// The status lines on the terminal: the width of each.
#[derive(Default)]
struct Screen {
    drawn: Vec<usize>,
}

impl Screen {
    /// Erases the status. If the window has become narrower, its lines take more rows than were drawn.
    fn erase(&mut self) -> String {
        let (_, columns) = size();
        match self.drawn.drain(..).map(|width| width.div_ceil(columns).max(1)).sum::<usize>() {
            0 => String::new(),
            // Moves up that many rows, to the first column, and erases from there on.
            rows => format!("\x1b[{rows}A\r\x1b[J"),
        }
    }

    /// Draws the status, or as many of its last lines as fit, and leaves the cursor below it.
    fn draw(&mut self, status: &dyn Fn(usize) -> Vec<String>) -> String {
        let (rows, columns) = size();
        let lines = status(columns);
        let mut text = String::new();
        for line in &lines[lines.len().saturating_sub(rows - 1)..] {
            self.drawn.push(line.chars().count());
            text += line;
            text.push('\n');
        }
        text
    }
}

/// Rows and columns of the terminal.
fn size() -> (usize, usize) {
    #[cfg(unix)]
    if let Ok(size) = rustix::termios::tcgetwinsize(rustix::stdio::stderr())
        && size.ws_row > 1
        && size.ws_col > 1
    {
        return (size.ws_row.into(), size.ws_col.into());
    }
    (24, 80)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_that_nobody_empties_stays_short_and_says_what_is_missing() {
        // No thread empties the queue.
        let stderr = Stderr { shared: Arc::default(), has_thread: true };
        let line = || stderr.line("x".repeat(LONGEST_QUEUE / 4), |dropped| format!("{dropped} dropped"));
        (0..7).for_each(|_| line());
        assert_eq!(stderr.shared.lock().lines.len(), 4);
        *stderr.shared.lock() = Queue { dropped: 3, ..Queue::default() };
        line();
        let queue = stderr.shared.lock();
        assert_eq!((&*queue.lines[0], queue.lines.len(), queue.dropped), ("3 dropped", 2, 0));
        drop(queue);
        // Flushing does not wait for it either.
        stderr.flush(Duration::from_millis(1));
    }

    #[test]
    fn the_status_is_erased_from_as_many_rows_as_were_drawn() {
        let mut screen = Screen::default();
        assert_eq!(screen.erase(), "");
        assert_eq!(screen.draw(&|_| vec!["one".into(), "two".into()]), "one\ntwo\n");
        assert_eq!(screen.erase(), "\x1b[2A\r\x1b[J");
        assert_eq!(screen.erase(), "");
    }
}
