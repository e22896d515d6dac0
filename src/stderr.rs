//! The only writer of stderr: a thread with a queue in front of it, so that the run never waits for a log that nobody
//! reads, and never fails because its terminal is gone.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Lines that wait for a slow reader, in bytes: more than a whole day's calls take at DEBUG. What comes on top is
/// dropped and counted.
const LONGEST_QUEUE: usize = 8 << 20;
/// How often the status lines are drawn.
const REDRAW_EVERY: Duration = Duration::from_millis(250);

/// The lines to show below the log, each shorter than so many columns; called from another thread.
pub(crate) type Status = Arc<dyn Fn(usize) -> Vec<String> + Send + Sync>;

/// A handle to the thread that writes.
pub(crate) struct Stderr {
    shared: Arc<Shared>,
    /// Without it, where the system grants no more threads, each line is written by who logs it.
    has_thread: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// There is something to write.
    filled: Condvar,
    /// All is written.
    idle: Condvar,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<String>,
    bytes: usize,
    dropped: usize,
    status: Option<Status>,
    /// Whether the thread has something that it has not finished writing.
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

    /// Writes a line, or several in one piece. Where lines before it had to be dropped, `notice` says how many, in a line
    /// that comes first.
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

    /// Draws these lines below all others from now on, or takes them off the screen.
    pub(crate) fn set_status(&self, status: Option<Status>) {
        self.shared.lock().status = status;
        self.shared.filled.notify_one();
    }

    /// Waits until everything is written, but no longer than this.
    pub(crate) fn flush(&self, longest: Duration) {
        if !self.has_thread {
            return;
        }
        let is_busy = |queue: &mut Queue| queue.is_writing || !queue.lines.is_empty();
        drop(self.shared.idle.wait_timeout_while(self.shared.lock(), longest, is_busy));
    }
}

/// The work of the thread. One write carries the old status off the screen, the new lines and the new status onto it, so
/// that nothing is ever half drawn.
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

/// Writes as far as it can be written: there is nobody to tell that stderr fails.
fn write_all(text: &str) {
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        match io::stderr().write(rest) {
            Ok(0) => return,
            Ok(written) => rest = &rest[written..],
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            // Whoever shares the terminal or pipe made it non-blocking.
            Err(e) if e.kind() == ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(10)),
            Err(_) => return,
        }
    }
}

/// What the status takes of the terminal: the width of each line drawn.
#[derive(Default)]
struct Screen {
    drawn: Vec<usize>,
}

impl Screen {
    /// Takes the status off. Where the window was made narrower since, its lines wrap.
    fn erase(&mut self) -> String {
        let (_, columns) = size();
        match self.drawn.drain(..).map(|width| width.div_ceil(columns).max(1)).sum::<usize>() {
            0 => String::new(),
            // Up by so many rows, to the first column, and from there on nothing.
            rows => format!("\x1b[{rows}A\r\x1b[J"),
        }
    }

    /// Puts the status on, as much of its end as fits, and leaves the cursor below it.
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
        // Without its thread.
        let stderr = Stderr { shared: Arc::default(), has_thread: true };
        let line = || stderr.line("x".repeat(LONGEST_QUEUE / 4), |dropped| format!("{dropped} dropped"));
        (0..7).for_each(|_| line());
        assert_eq!(stderr.shared.lock().lines.len(), 4);
        *stderr.shared.lock() = Queue { dropped: 3, ..Queue::default() };
        line();
        let queue = stderr.shared.lock();
        assert_eq!((&*queue.lines[0], queue.lines.len(), queue.dropped), ("3 dropped", 2, 0));
        drop(queue);
        // Nor does it keep anybody waiting.
        stderr.flush(Duration::from_millis(1));
    }

    #[test]
    fn the_status_is_taken_off_as_many_rows_as_it_was_put_on() {
        let mut screen = Screen::default();
        assert_eq!(screen.erase(), "");
        assert_eq!(screen.draw(&|_| vec!["one".into(), "two".into()]), "one\ntwo\n");
        assert_eq!(screen.erase(), "\x1b[2A\r\x1b[J");
        assert_eq!(screen.erase(), "");
    }
}
