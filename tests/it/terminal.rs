//! Terminals, pipes and signals: what a run shows, and how it ends when the reader of stdout or stderr is slow, does not read
//! or is gone.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fake::account::Size;
use fake::{Account, Fake, Switches};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::{Errno, write};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use crate::tap::{command, config, file, tap};

/// An account with more rows than fit into a pipe.
fn large() -> Fake {
    let switches = Switches::long_lived();
    Fake::start_with(Account::generate(21, Size { contacts: 400, lists: 4, campaigns: 6 }), switches)
}

fn small() -> Fake {
    Fake::start(Account::generate(11, Size { contacts: 12, lists: 2, campaigns: 2 }))
}

/// The command of a sync, and its config.
fn sync(fake: &Fake, more: &Value) -> (Command, NamedTempFile) {
    let config = file(&config(fake, more));
    let mut command = command();
    command.arg("--config").arg(config.path()).env("TERM", "xterm").env_remove("NO_COLOR");
    (command, config)
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// Reads a stream to its end in a thread. Reading from a terminal ends with an error.
fn read_all(mut stream: impl Read + Send + 'static) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        String::from_utf8(bytes).unwrap()
    })
}

/// Both ends of a new terminal: that of the test, and that of the program.
pub fn terminal(columns: u16) -> (File, File) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    tcsetwinsize(&ours, Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap();
    let theirs = File::options().read(true).write(true).open(OsStr::from_bytes(name.as_bytes())).unwrap();
    (ours.into(), theirs)
}

/// Runs a command to its end with stderr on a terminal, and returns what the terminal received.
pub fn watch(mut command: Command, columns: u16) -> String {
    let (ours, theirs) = terminal(columns);
    let mut child = command.stdout(Stdio::null()).stderr(theirs).spawn().unwrap();
    // The command holds a copy of the terminal; reading ends when all are closed.
    drop(command);
    let shown = read_all(ours).join().unwrap();
    assert!(child.wait().unwrap().success(), "{shown}");
    shown
}

/// What a terminal shows: the control sequences that the tap uses.
struct Screen {
    columns: usize,
    rows: Vec<Vec<char>>,
    row: usize,
    column: usize,
}

impl Screen {
    fn of(columns: u16, input: &str) -> Screen {
        let mut screen = Screen { columns: columns.into(), rows: vec![vec![]], row: 0, column: 0 };
        let mut chars = input.chars();
        while let Some(c) = chars.next() {
            match c {
                '\u{1b}' => screen.escape(&mut chars),
                '\r' => screen.column = 0,
                '\n' => screen.row += 1,
                c => {
                    if screen.column == screen.columns {
                        (screen.row, screen.column) = (screen.row + 1, 0);
                    }
                    screen.put(c);
                }
            }
            while screen.rows.len() <= screen.row {
                screen.rows.push(vec![]);
            }
        }
        screen
    }

    fn put(&mut self, c: char) {
        while self.rows.len() <= self.row {
            self.rows.push(vec![]);
        }
        let row = &mut self.rows[self.row];
        row.resize(row.len().max(self.column + 1), ' ');
        row[self.column] = c;
        self.column += 1;
    }

    fn escape(&mut self, chars: &mut std::str::Chars) {
        assert_eq!(chars.next(), Some('['));
        let mut number = String::new();
        match chars.find(|c| {
            c.is_ascii_alphabetic() || {
                number.push(*c);
                false
            }
        }) {
            Some('A') => self.row -= number.parse::<usize>().unwrap(),
            Some('J') if number.is_empty() => {
                self.rows.truncate(self.row + 1);
                self.rows[self.row].truncate(self.column);
            }
            Some('m') => {}
            other => panic!("unexpected escape sequence {number} {other:?}"),
        }
    }

    fn lines(&self) -> Vec<String> {
        self.rows.iter().map(|row| row.iter().collect()).collect()
    }
}

#[test]
fn progress_fits_a_terminal_of_any_width() {
    for columns in [40, 60, 84] {
        let fake = small();
        // Slow enough for progress to be shown.
        let (command, _config) = sync(&fake, &json!({"activity_route": "contacts", "requests_per_second": 15}));
        let shown = watch(command, columns);
        let is_status = |line: &&str| line.starts_with("in all: ") || line.starts_with("contacts: ");
        let status: Vec<&str> = shown.split(['\n', '\r', 'J']).filter(is_status).collect();
        assert!(status.iter().any(|line| line.contains(" left")), "{shown}");
        assert!(status.iter().any(|line| line.starts_with("contacts: 12 of 12")), "{shown}");
        assert!(status.iter().all(|line| line.chars().count() < columns.into()), "{status:?}");
        // The progress is removed, and the log is complete.
        let screen = Screen::of(columns, &shown);
        assert!(!screen.lines().iter().any(|line| is_status(&&**line)), "{:?}", screen.lines());
        let text = screen.lines().concat();
        for line in ["INFO contacts: reading", "INFO contacts: 12 records in ", "% of the daily quota) in "] {
            assert!(text.contains(line), "{line}: {:?}", screen.lines());
        }
        assert_eq!(screen.column, 0);
    }
}

#[test]
fn an_interrupt_clears_the_progress_and_says_what_is_safe() {
    let fake = small();
    let (mut command, _config) = sync(&fake, &json!({"activity_route": "contacts", "requests_per_second": 4}));
    let (ours, theirs) = terminal(84);
    let mut child = command.stdout(Stdio::null()).stderr(theirs).spawn().unwrap();
    // The command holds a copy of the terminal; reading ends when all are closed.
    drop(command);
    let shown = read_all(ours);
    thread::sleep(Duration::from_millis(1200));
    signal(&child, Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let shown = shown.join().unwrap();
    assert!(shown.contains("in all: "), "nothing was drawn: {shown}");
    let screen = Screen::of(84, &shown);
    let lines = screen.lines();
    assert!(!lines.iter().any(|line| line.starts_with("in all")), "{lines:?}");
    let last = lines.iter().rposition(|line| line.starts_with("WARNING")).unwrap();
    assert!(lines[last].starts_with("WARNING stopped by SIGINT. All rows before the last STATE are safe"), "{lines:?}");
    assert!(lines[..last].concat().contains("% of the daily quota"), "{lines:?}");
    assert_eq!((screen.column, lines.last().map(String::as_str)), (0, Some("")));
}

#[test]
fn colours_and_progress_are_for_terminals_that_want_them() {
    let fake = small();
    let more = json!({"activity_route": "contacts", "requests_per_second": 15});
    let show = |environment: &[(&str, &str)], arguments: &[&str]| {
        let (mut command, _config) = sync(&fake, &more);
        command.envs(environment.iter().copied()).args(arguments);
        watch(command, 84)
    };
    let plain = show(&[], &[]);
    assert!(plain.contains("\u{1b}[32mINFO\u{1b}[0m contacts: reading") && plain.contains("in all: "), "{plain}");
    let uncoloured = show(&[("NO_COLOR", "1")], &[]);
    assert!(uncoloured.contains("in all: ") && !uncoloured.contains("[32m"), "{uncoloured}");
    let dumb = show(&[("TERM", "dumb")], &[]);
    assert!(dumb.contains("INFO contacts: reading") && !dumb.contains('\u{1b}'), "{dumb}");
    let json = show(&[], &["--log-format", "json"]);
    assert!(json.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{json}");
    let piped = tap(&fake, &json!({}), None).stderr;
    assert!(!piped.contains('\u{1b}') && !piped.contains("in all: "), "{piped}");
}

#[test]
fn messages_on_a_terminal_come_with_a_hint_to_pipe_them_into_a_target() {
    let fake = small();
    let (mut command, config) = sync(&fake, &json!({}));
    let (ours, theirs) = terminal(84);
    let mut child = command.stdout(theirs.try_clone().unwrap()).stderr(theirs).spawn().unwrap();
    // The command holds a copy of the terminal; reading ends when all are closed.
    drop(command);
    let shown = read_all(ours).join().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{shown}");
    assert!(shown.contains(r#"{"type":"RECORD","stream":"contacts""#), "{shown}");
    assert!(!shown.contains("METRIC") && !shown.contains("in all: "), "{shown}");
    let last = shown.trim_end().lines().last().unwrap();
    let pasted = format!("--config {} | target-jsonl", config.path().display());
    assert!(last.contains("INFO") && last.ends_with(&pasted), "{last}");
}

#[test]
fn a_closed_terminal_ends_a_run_but_not_one_under_nohup() {
    for hangup in [false, true] {
        let fake = small();
        fake.switches().latency = Duration::from_millis(100);
        let (mut command, _config) = sync(&fake, &json!({"activity_route": "contacts"}));
        let (ours, theirs) = terminal(84);
        let mut child = command.stdout(Stdio::piped()).stderr(theirs).spawn().unwrap();
        // The command holds a copy of the terminal; reading ends when all are closed.
        drop(command);
        let out = read_all(child.stdout.take().unwrap());
        thread::sleep(Duration::from_millis(700));
        drop(ours);
        if hangup {
            // The system and the shell each send one.
            signal(&child, Signal::HUP);
            thread::sleep(Duration::from_millis(1));
            signal(&child, Signal::HUP);
        }
        let code = child.wait().unwrap().code();
        let out = out.join().unwrap();
        assert_eq!(code, Some(if hangup { 129 } else { 0 }), "{out}");
        assert!(last_line(&out).starts_with(r#"{"type":"STATE""#), "{out}");
    }
}

#[test]
fn a_renewal_of_the_login_is_finished_after_its_terminal_is_closed() {
    let fake = small();
    let folder = tempfile::tempdir().unwrap();
    let tokens = folder.path().join("tokens.json");
    // An access token is renewed when a tenth of its lifetime is left: this one after about two seconds.
    fake.switches().expires_in = 2;
    let (mut command, _config) = sync(&fake, &json!({"token_file": tokens, "requests_per_second": 5}));
    let (ours, theirs) = terminal(84);
    let mut child = command.stdout(Stdio::null()).stderr(theirs).spawn().unwrap();
    // The command holds a copy of the terminal; reading ends when all are closed.
    drop(command);
    thread::sleep(Duration::from_secs(1));
    fake.switches().latency = Duration::from_secs(3);
    let started = Instant::now();
    while fake.calls().iter().filter(|call| call.is_token).count() < 2 {
        assert!(started.elapsed() < Duration::from_secs(20));
        thread::sleep(Duration::from_millis(5));
    }
    drop(ours);
    signal(&child, Signal::HUP);
    thread::sleep(Duration::from_millis(600));
    signal(&child, Signal::HUP);
    assert_eq!(child.wait().unwrap().code(), Some(129));
    fake.switches().latency = Duration::ZERO;
    fake.switches().expires_in = 3600;
    let next = tap(&fake, &json!({"token_file": tokens}), None);
    assert_eq!(next.code, Some(0), "{}", next.stderr);
}

fn last_line(text: &str) -> &str {
    assert!(text.ends_with('\n'), "a torn line: {:?}", &text[text.len().saturating_sub(200)..]);
    text.lines().last().unwrap()
}

/// A run whose target reads the first line and no more, after its pipes have filled.
fn stuck(fake: &Fake) -> (Child, BufReader<std::process::ChildStdout>, NamedTempFile) {
    let (mut command, config) = sync(fake, &json!({}));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::with_capacity(4096, child.stdout.take().unwrap());
    out.read_line(&mut String::new()).unwrap();
    let started = Instant::now();
    loop {
        let calls = fake.calls().len();
        thread::sleep(Duration::from_millis(500));
        if calls > 1 && fake.calls().len() == calls {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(20));
    }
    assert!(child.try_wait().unwrap().is_none(), "all of it fitted into the pipe");
    (child, out, config)
}

fn rest(mut out: impl Read) -> String {
    let mut text = String::new();
    out.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_slow_target_gets_whole_lines_and_the_last_state() {
    let (mut child, out, _config) = stuck(&large());
    signal(&child, Signal::TERM);
    thread::sleep(Duration::from_secs(3));
    assert!(child.try_wait().unwrap().is_none(), "it did not wait");
    let out = rest(out);
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert!(last_line(&out).starts_with(r#"{"type":"STATE""#), "{}", last_line(&out));
}

#[test]
fn a_run_waits_at_most_eight_seconds_for_a_target_that_does_not_read() {
    let fake = large();
    let (mut child, out, _config) = stuck(&fake);
    let sent = Instant::now();
    signal(&child, Signal::TERM);
    let code = child.wait().unwrap().code();
    let took = sent.elapsed();
    let stderr = rest(child.stderr.take().unwrap());
    assert_eq!(code, Some(143), "{stderr}");
    assert!(took > Duration::from_secs(7) && took < Duration::from_secs(9), "{took:?}");
    assert!(stderr.contains("the target does not read"), "{stderr}");
    let out = rest(out);
    assert!(serde_json::from_str::<Value>(last_line(&out)).is_ok());
}

#[test]
fn a_second_signal_ends_the_run_at_once() {
    for (first, second) in [(Signal::TERM, Signal::TERM), (Signal::INT, Signal::TERM), (Signal::HUP, Signal::INT)] {
        let (mut child, out, _config) = stuck(&large());
        signal(&child, first);
        thread::sleep(Duration::from_secs(1));
        assert!(child.try_wait().unwrap().is_none());
        let sent = Instant::now();
        signal(&child, second);
        assert_eq!(child.wait().unwrap().code(), Some(128 + first.as_raw()));
        assert!(sent.elapsed() < Duration::from_secs(1), "{:?}", sent.elapsed());
        assert!(serde_json::from_str::<Value>(last_line(&rest(out))).is_ok());
    }
}

#[test]
fn a_run_waits_for_a_stdout_that_does_not_block() {
    let fake = large();
    let whole = tap(&fake, &json!({}), None);
    let (reader, writer) = std::io::pipe().unwrap();
    let writer = OwnedFd::from(writer);
    fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
    let (mut command, _config) = sync(&fake, &json!({}));
    let mut child = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    // The command holds a copy of the terminal; reading ends when all are closed.
    drop(command);
    let stderr = read_all(child.stderr.take().unwrap());
    thread::sleep(Duration::from_secs(2));
    let out = rest(reader);
    assert_eq!(child.wait().unwrap().code(), Some(0), "{}", stderr.join().unwrap());
    assert!(last_line(&out).starts_with(r#"{"type":"STATE""#));
    assert_eq!(out.lines().count(), whole.messages.len());
}

/// A full pipe that nobody reads.
fn full_pipe() -> (std::io::PipeReader, OwnedFd) {
    let (reader, writer) = std::io::pipe().unwrap();
    let writer = OwnedFd::from(writer);
    fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
    while write(&writer, &[b'x'; 1]) != Err(Errno::AGAIN) {}
    fcntl_setfl(&writer, OFlags::empty()).unwrap();
    (reader, writer)
}

#[test]
fn a_run_ends_even_if_nobody_reads_its_log() {
    for interrupt in [None, Some(Signal::TERM), Some(Signal::INT)] {
        let fake = small();
        let (mut command, _config) = sync(&fake, &json!({}));
        let (_reader, writer) = full_pipe();
        let mut child = command.env("LOGLEVEL", "DEBUG").stdout(Stdio::piped()).stderr(writer).spawn().unwrap();
        // The command holds a copy of the terminal; reading ends when all are closed.
        drop(command);
        let out = read_all(child.stdout.take().unwrap());
        if let Some(interrupt) = interrupt {
            fake.switches().latency = Duration::from_secs(1);
            thread::sleep(Duration::from_millis(1500));
            signal(&child, interrupt);
        }
        let sent = Instant::now();
        let code = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status.code();
            }
            assert!(sent.elapsed() < Duration::from_secs(15), "it never ends");
            thread::sleep(Duration::from_millis(10));
        };
        assert_eq!(code, Some(interrupt.map_or(0, |signal| 128 + signal.as_raw())));
        assert!(interrupt.is_none() || sent.elapsed() < Duration::from_secs(3), "{:?}", sent.elapsed());
        assert!(last_line(&out.join().unwrap()).starts_with(r#"{"type":"STATE""#));
    }
}

#[test]
fn a_slow_reader_gets_the_whole_log() {
    let fake = small();
    let (mut command, _config) = sync(&fake, &json!({"activity_route": "contacts"}));
    // More than fits into a pipe, faster than it is read.
    let mut child = command.env("LOGLEVEL", "DEBUG").stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = child.stderr.take().unwrap();
    thread::sleep(Duration::from_secs(1));
    let mut text = String::new();
    stderr.read_to_string(&mut text).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let timers = text.lines().filter(|line| line.contains("http_request_duration")).count();
    assert_eq!(timers, fake.api_calls().len());
}

#[test]
fn a_run_that_cannot_start_a_thread_says_so() {
    let (mut command, _config) = sync(&small(), &json!({}));
    // No machine has memory for this stack size.
    let output = command.env("RUST_MIN_STACK", (1_u64 << 60).to_string()).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let last = stderr.lines().last().unwrap();
    assert!(last.starts_with("CRITICAL") && last.contains("Raise the limit"), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
}

#[test]
fn where_few_threads_can_be_had_the_run_says_so_or_works() {
    let account = Account::generate(11, Size { contacts: 12, lists: 2, campaigns: 2 });
    let fake = Fake::start_with(account, Switches::long_lived());
    let mut outcomes = Vec::new();
    for most in 0..16 {
        let config = file(&fake.config());
        let mut command = Command::new("sh");
        // Each thread takes a gigabyte of addresses, and there are so many.
        let limit = format!("ulimit -v {}; exec \"$@\"", (most << 20) + (800 << 10));
        command.args(["-c", &limit, "sh", env!("CARGO_BIN_EXE_tap-constant-contact")]);
        command.env("RUST_MIN_STACK", (1 << 30).to_string());
        let output = command.arg("--config").arg(config.path()).env_remove("LOGLEVEL").output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(!stderr.contains("panicked") && !stderr.contains("defect"), "{most}: {stderr}");
        let code = output.status.code();
        assert!(code == Some(0) || code == Some(1) && stderr.contains("CRITICAL "), "{most}: {code:?} {stderr}");
        outcomes.push(code);
    }
    assert!(outcomes.contains(&Some(1)) && outcomes.last() == Some(&Some(0)), "{outcomes:?}");
}

/// With from too few file descriptors to start up to enough.
#[test]
fn a_run_with_few_file_descriptors_says_so_or_works() {
    let account = Account::generate(11, Size { contacts: 12, lists: 2, campaigns: 2 });
    let fake = Fake::start_with(account, Switches::long_lived());
    let mut outcomes = std::collections::BTreeSet::new();
    for most in 4..24 {
        let config = file(&fake.config());
        let mut command = Command::new("sh");
        command.args([
            "-c",
            &format!("ulimit -n {most}; exec \"$@\""),
            "sh",
            env!("CARGO_BIN_EXE_tap-constant-contact"),
        ]);
        let output = command.arg("--config").arg(config.path()).env_remove("LOGLEVEL").output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(!stderr.contains("panicked"), "{most}: {stderr}");
        let code = output.status.code();
        // With so few, not even the dynamic loader works.
        if code == Some(127) {
            continue;
        }
        assert!(code == Some(0) || stderr.contains("CRITICAL "), "{most}: {code:?} {stderr}");
        outcomes.insert(code);
    }
    assert!(outcomes.contains(&Some(0)) && outcomes.len() > 1, "{outcomes:?}");
}

#[test]
fn text_from_outside_neither_moves_the_cursor_nor_floods_the_log() {
    let evil = "\u{1b}]0;owned\u{7}\u{1b}[2J\r\nCRITICAL forged\u{9b}31m\u{202e}";
    let (long, huge) = ("x".repeat(20_000), "x".repeat(5 << 20));
    let fake = small();
    for (name, value) in [(evil, evil), (&long, &huge)] {
        let catalog = file(&json!({"streams": [{"tap_stream_id": name, "stream": name, "schema": {}}]}));
        let state = file(&json!({"bookmarks": {name: {"replication_key_value": value}}}));
        let wrong = file(&json!({"page_size": value, name: value}));
        for (flag, given) in [("--catalog", &catalog), ("--state", &state), ("--config", &wrong)] {
            for format in ["text", "json"] {
                let (mut command, _config) = sync(&fake, &json!({}));
                let output = command.arg(flag).arg(given.path()).args(["--log-format", format]).output().unwrap();
                let stderr = String::from_utf8(output.stderr).unwrap();
                assert!(!stderr.is_empty());
                for line in stderr.lines() {
                    let start: String = line.chars().take(200).collect();
                    assert!(
                        !line.contains(char::is_control) && !line.starts_with("CRITICAL forged"),
                        "{flag}: {start}"
                    );
                    assert!(line.chars().count() <= 2000, "{flag}: {start}");
                }
            }
        }
    }
}

#[test]
fn a_piped_log_has_times_and_ends_with_a_summary() {
    let fake = small();
    let (mut command, _config) = sync(&fake, &json!({}));
    let output = command.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    let messages = String::from_utf8(output.stdout).unwrap();
    let mut requests = 0;
    for line in stderr.lines() {
        let (level, rest) = line.split_once(' ').unwrap();
        assert!(["INFO", "WARNING"].contains(&level), "{line}");
        if let Some(metric) = rest.strip_prefix("METRIC: ") {
            let metric: Value = serde_json::from_str(metric).unwrap();
            if metric["metric"] == "http_request_count" {
                assert!(metric["tags"]["stream"].is_string(), "{line}");
                requests += metric["value"].as_u64().unwrap();
            }
        } else {
            let time = rest.split(' ').next().unwrap();
            assert!(time.parse::<chrono::DateTime<chrono::Utc>>().is_ok() && time.ends_with('Z'), "{line}");
        }
    }
    let calls = fake.api_calls().len();
    assert_eq!(requests, calls as u64);
    assert!(!stderr.contains("http_request_duration"), "{stderr}");
    let records = messages.lines().filter(|line| line.starts_with(r#"{"type":"RECORD""#)).count();
    let last = stderr.lines().last().unwrap();
    assert!(
        last.contains(&format!(" {records} records and {calls} API calls (0.{calls:02} % of the daily quota) in ")),
        "{last}"
    );
}

#[test]
fn a_line_larger_than_the_pipe_arrives_whole() {
    let fake = small();
    fake.account().contacts[0].first_name = Some("é".repeat(150_000));
    let (mut command, _config) = sync(&fake, &json!({}));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let stderr = read_all(child.stderr.take().unwrap());
    let out = child.stdout.take().unwrap();
    thread::sleep(Duration::from_secs(1));
    let out = rest(out);
    assert_eq!(child.wait().unwrap().code(), Some(0), "{}", stderr.join().unwrap());
    assert!(out.lines().any(|line| line.len() > 300_000));
    assert!(out.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()));
}
