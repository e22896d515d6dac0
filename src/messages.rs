//! Writes SCHEMA, RECORD and STATE messages. The only writer of stdout.

use std::io::{self, ErrorKind, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use serde_json::{Value, json};

use crate::error::Result;

/// The most bytes of lines that are collected before they are written: half of what a pipe holds.
const BUFFER: usize = 1 << 15;

/// The Singer messages of a run. The lock is held while a line is written, so lines of several threads do not mix.
pub(crate) struct Messages {
    inner: Mutex<Inner>,
}

struct Inner {
    out: Box<dyn Write + Send>,
    /// Whole lines that are not written yet.
    buffer: Vec<u8>,
    /// The state that covers the records so far, whether it is written yet or not.
    checkpoint: Option<Value>,
    /// The state in the last STATE message.
    written: Option<Value>,
    lines_since_state: u64,
}

#[derive(Serialize)]
struct RecordLine<'a, R> {
    r#type: &'static str,
    stream: &'a str,
    record: &'a R,
    time_extracted: &'a str,
}

impl Messages {
    pub(crate) fn new(out: impl Write + Send + 'static) -> Messages {
        let buffer = Vec::with_capacity(BUFFER);
        let inner = Inner { out: Box::new(out), buffer, checkpoint: None, written: None, lines_since_state: 0 };
        Messages { inner: Mutex::new(inner) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn schema(
        &self,
        stream: &str,
        schema: &Value,
        keys: &[&str],
        replication_key: Option<&str>,
    ) -> Result<()> {
        let mut message = json!({"type": "SCHEMA", "stream": stream, "schema": schema, "key_properties": keys});
        if let Some(key) = replication_key {
            message["bookmark_properties"] = json!([key]);
        }
        self.lock().line(&message)
    }

    /// Writes a record. `extracted` is when its page was read, as [`stamp`](crate::timestamp::stamp) writes it.
    pub(crate) fn record<R: Serialize>(&self, stream: &str, record: &R, extracted: &str) -> Result<()> {
        self.lock().line(&RecordLine { r#type: "RECORD", stream, record, time_extracted: extracted })
    }

    /// Sets the state that covers the records so far, without writing it yet.
    pub(crate) fn checkpoint(&self, state: Value) {
        self.lock().checkpoint = Some(state);
    }

    /// The number of lines since the last STATE.
    pub(crate) fn lines_since_state(&self) -> u64 {
        self.lock().lines_since_state
    }

    /// Writes the checkpoint, unless it is the last line already.
    pub(crate) fn state(&self) -> Result<()> {
        self.lock().state()
    }

    /// Writes the checkpoint as the very last line: threads that try to write later wait until the process ends.
    #[cfg_attr(not(unix), expect(dead_code, reason = "only a signal asks for it"))]
    pub(crate) fn end(&self) -> Result<()> {
        let mut inner = self.lock();
        let outcome = inner.state();
        std::mem::forget(inner);
        outcome
    }

    /// Writes the catalog pretty-printed, since Meltano cannot read a line of more than 64 KiB here.
    pub(crate) fn catalog(&self, catalog: &Value) -> Result<()> {
        self.answer(format!("{catalog:#}\n").as_bytes())
    }

    /// Writes the answer to `--about` and the like.
    pub(crate) fn answer(&self, text: &[u8]) -> Result<()> {
        let mut inner = self.lock();
        inner.buffer.extend_from_slice(text);
        Ok(inner.flush()?)
    }

    pub(crate) fn flush(&self) -> Result<()> {
        Ok(self.lock().flush()?)
    }
}

impl Inner {
    fn state(&mut self) -> Result<()> {
        if let Some(state) = self.checkpoint.take() {
            // An equal STATE is repeated after other lines, since some targets only keep a STATE that comes last.
            if self.lines_since_state > 0 || self.written.as_ref() != Some(&state) {
                self.line(&json!({"type": "STATE", "value": state}))?;
                self.lines_since_state = 0;
                self.written = Some(state.clone());
            }
            self.checkpoint = Some(state);
        }
        Ok(self.flush()?)
    }

    /// Adds a line to the buffer, or nothing if it cannot be serialized.
    fn line<T: Serialize>(&mut self, message: &T) -> Result<()> {
        let start = self.buffer.len();
        if let Err(e) = serde_json::to_writer(&mut self.buffer, message) {
            self.buffer.truncate(start);
            return Err(io::Error::from(e).into());
        }
        self.buffer.push(b'\n');
        self.lines_since_state += 1;
        if self.buffer.len() >= BUFFER {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes the buffer. If that fails, the next attempt continues with the rest, so that no line is cut in the
    /// middle.
    fn flush(&mut self) -> io::Result<()> {
        let mut written = 0;
        let mut outcome = Ok(());
        while outcome.is_ok() && written < self.buffer.len() {
            match self.out.write(&self.buffer[written..]) {
                Ok(0) => outcome = Err(ErrorKind::WriteZero.into()),
                Ok(bytes) => written += bytes,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => outcome = Err(e),
            }
        }
        self.buffer.drain(..written);
        outcome.and_then(|()| self.out.flush())
    }
}

/// The process's stdout. Only whole lines are written to a pipe, so that the target never gets a partial line, however
/// the run ends and even if the target has not read for a while.
#[cfg(unix)]
pub(crate) fn stdout() -> impl Write + Send {
    unix::Stdout
}

#[cfg(not(unix))]
pub(crate) fn stdout() -> impl Write + Send {
    io::stdout()
}

#[cfg(unix)]
mod unix {
    use std::io::{self, Write};
    use std::thread;
    use std::time::Duration;

    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::io::Errno;
    use rustix::stdio::stdout;

    /// Unlike the standard library's, it has no buffer, and it waits if stdout is non-blocking.
    pub(super) struct Stdout;

    impl Write for Stdout {
        /// Writes as many of these whole lines as fit into the pipe, and at least one.
        fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
            let mut pause = Duration::from_millis(1);
            loop {
                let fd = stdout();
                let mut fds = [PollFd::new(&fd, PollFlags::OUT)];
                let _ = poll(&mut fds, None);
                let is_closed = fds[0].revents().contains(PollFlags::ERR);
                let piece = match room().filter(|_| !is_closed) {
                    None => lines,
                    Some(room) => match whole_lines(lines, room) {
                        // There will be more room once the target has read, but nothing signals that.
                        [] if !make_room(first_line(lines)) => {
                            thread::sleep(pause);
                            pause = (2 * pause).min(Duration::from_millis(16));
                            continue;
                        }
                        [] => first_line(lines),
                        some => some,
                    },
                };
                match rustix::io::write(stdout(), piece) {
                    Err(Errno::AGAIN | Errno::INTR) => {}
                    other => return Ok(other?),
                }
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn first_line(lines: &[u8]) -> &[u8] {
        let end = lines.iter().position(|byte| *byte == b'\n').map_or(lines.len(), |at| at + 1);
        &lines[..end]
    }

    /// The whole lines that fit into this many bytes.
    pub(super) fn whole_lines(lines: &[u8], room: usize) -> &[u8] {
        if lines.len() <= room {
            return lines;
        }
        let end = lines[..room].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        &lines[..end]
    }

    /// How many bytes can be written to the pipe without waiting, once it has any room; `None` if stdout is not a pipe.
    #[cfg(target_os = "linux")]
    fn room() -> Option<usize> {
        let size = rustix::pipe::fcntl_getpipe_size(stdout()).ok()?;
        let used = usize::try_from(rustix::io::ioctl_fionread(stdout()).ok()?).ok()?;
        Some(room_in(size, used, rustix::param::page_size()))
    }

    /// The kernel stores what was written in pages. It adds the end of a write to the last page only if it fits whole,
    /// so any two neighbouring pages hold more than one page's worth of bytes, except for the first, which may be half
    /// read.
    #[cfg(target_os = "linux")]
    pub(super) fn room_in(size: usize, used: usize, page: usize) -> usize {
        if used == 0 { size } else { size.saturating_sub(2 * used + 3 * page).max(rustix::pipe::PIPE_BUF) }
    }

    /// Makes the pipe larger for a long line. Returns whether the line must be written in parts, because the pipe is
    /// empty and cannot be made large enough.
    #[cfg(target_os = "linux")]
    fn make_room(line: &[u8]) -> bool {
        rustix::io::ioctl_fionread(stdout()) == Ok(0)
            && rustix::pipe::fcntl_setpipe_size(stdout(), line.len()).is_err()
            && rustix::pipe::fcntl_getpipe_size(stdout()).is_ok_and(|size| size < line.len())
    }

    #[cfg(not(target_os = "linux"))]
    fn room() -> Option<usize> {
        None
    }

    #[cfg(not(target_os = "linux"))]
    fn make_room(_: &[u8]) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// Accepts `room` bytes, then fails until there is more room.
    #[derive(Clone, Default)]
    struct Disk(Arc<Mutex<(Vec<u8>, usize)>>);

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let (written, room) = &mut *self.0.lock().unwrap();
            let taken = bytes.len().min(*room);
            *room -= taken;
            written.extend_from_slice(&bytes[..taken]);
            if taken == 0 { Err(ErrorKind::StorageFull.into()) } else { Ok(taken) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_that_did_not_fit_is_finished_before_the_next_one() {
        let disk = Disk::default();
        disk.0.lock().unwrap().1 = 10;
        let messages = Messages::new(disk.clone());
        messages.record("contacts", &json!({"id": 1}), "now").unwrap();
        messages.checkpoint(json!({"at": 1}));
        assert!(messages.state().is_err());
        disk.0.lock().unwrap().1 = 1000;
        messages.state().unwrap();
        let text = String::from_utf8(disk.0.lock().unwrap().0.clone()).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert_eq!(lines[1], json!({"type": "STATE", "value": {"at": 1}}));
    }

    #[test]
    fn a_state_is_written_once_and_again_after_other_lines() {
        let disk = Disk::default();
        disk.0.lock().unwrap().1 = 1000;
        let messages = Messages::new(disk.clone());
        messages.checkpoint(json!(1));
        messages.state().unwrap();
        messages.state().unwrap();
        messages.record("contacts", &json!(2), "now").unwrap();
        assert_eq!(messages.lines_since_state(), 1);
        messages.state().unwrap();
        let text = String::from_utf8(disk.0.lock().unwrap().0.clone()).unwrap();
        let kinds: Vec<&str> = text.lines().map(|line| &line[9..12]).collect();
        assert_eq!(kinds, ["STA", "REC", "STA"]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_pipe_gets_whole_lines_as_far_as_it_has_room() {
        use super::unix::{room_in, whole_lines};
        assert_eq!(whole_lines(b"one\ntwo\n", 8), b"one\ntwo\n");
        assert_eq!(whole_lines(b"one\ntwo\n", 7), b"one\n");
        assert_eq!(whole_lines(b"one\ntwo\n", 3), b"");
        assert_eq!(room_in(65536, 0, 4096), 65536);
        assert_eq!(room_in(65536, 8192, 4096), 65536 - 7 * 4096);
        assert_eq!(room_in(65536, 60000, 4096), 4096);
    }
}
