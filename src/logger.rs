//! Log lines and metrics for stderr, as text or as JSON. Every message becomes one line of limited length, without
//! control characters.

use std::collections::HashSet;
use std::fs;
use std::io::{IsTerminal, stderr};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use chrono::{SecondsFormat, Utc};
use log::{Level, LevelFilter, Log, Metadata, Record};
use serde_json::{Value, json};

use crate::cli::LogFormat;
use crate::shown::{one_line, shown};
use crate::stderr::{Status, Stderr};

/// The most characters of a message. The whole line then stays below 2,000; in JSON, some characters take two.
const LONGEST_TEXT: usize = 1900;
const LONGEST_IN_JSON: usize = 850;
/// How long the end of a run waits for a slow reader of stderr.
const LAST_LINES: Duration = Duration::from_millis(500);
/// The `log` target of lines that say why a run failed.
const FATAL: &str = "tap_constant_contact::fatal";

/// Set by the first run in the process: `log` cannot replace its logger.
static LOGGER: OnceLock<Logger> = OnceLock::new();

struct Logger {
    stderr: Stderr,
    format: Format,
    /// Whether METRIC lines are written.
    has_metrics: bool,
    /// Whether the lines of [`show_status`] are drawn.
    has_status: bool,
    /// The stream that is being read, for lines in JSON.
    stream: Mutex<Option<&'static str>>,
    /// What [`warn_once`] has logged.
    warned: Mutex<HashSet<String>>,
}

#[derive(Clone, Copy)]
enum Format {
    Json,
    Text { has_time: bool, has_colour: bool },
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata) -> bool {
        // At DEBUG and TRACE the HTTP library logs URLs and headers, including the access token.
        metadata.target().starts_with("tap_constant_contact") || metadata.level() <= Level::Warn
    }

    fn log(&self, record: &Record) {
        if self.enabled(record.metadata()) {
            let level = match record.level() {
                Level::Error if record.target() == FATAL => "CRITICAL",
                level => name(level),
            };
            self.write(self.line(level, record.target(), &record.args().to_string()));
        }
    }

    fn flush(&self) {
        self.stderr.flush(LAST_LINES);
    }
}

impl Logger {
    fn new(format: Option<LogFormat>, messages_on_terminal: bool) -> Logger {
        let is_json = format.map_or_else(is_asked_for_json, |format| format == LogFormat::Json);
        let is_terminal = stderr().is_terminal();
        let can_draw = is_terminal && env("TERM").is_some_and(|term| term != "dumb");
        Logger {
            stderr: Stderr::new(),
            format: if is_json {
                Format::Json
            } else {
                Format::Text { has_time: !is_terminal, has_colour: can_draw && env("NO_COLOR").is_none() }
            },
            // A person is looking at the messages.
            has_metrics: is_json || !messages_on_terminal,
            has_status: !is_json && can_draw && !messages_on_terminal && cfg!(unix),
            stream: Mutex::default(),
            warned: Mutex::default(),
        }
    }

    fn stream(&self) -> MutexGuard<'_, Option<&'static str>> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, line: String) {
        self.stderr.line(line, |dropped| {
            let text = format!("{dropped} log lines are missing here, because nobody read stderr");
            self.line(name(Level::Warn), module_path!(), &text)
        });
    }

    fn line(&self, level: &str, target: &str, text: &str) -> String {
        match self.format {
            Format::Json => self.json(level, target, &one_line(text, LONGEST_IN_JSON)).to_string(),
            Format::Text { has_time, has_colour } => {
                let text = one_line(text, LONGEST_TEXT);
                let time =
                    if has_time { Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true) + " " } else { String::new() };
                format!("{} {time}{text}", if has_colour { coloured(level) } else { level.to_owned() })
            }
        }
    }

    /// The fields that `StructuredFormatter` of the Meltano SDK writes. Meltano formats a line only if it has all of
    /// them.
    fn json(&self, level: &str, target: &str, text: &str) -> Value {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        json!({
            "level": level.to_ascii_lowercase(),
            "pid": std::process::id(),
            "logger_name": target,
            "ts": since.as_secs_f64(),
            "thread_name": thread::current().name().unwrap_or("worker"),
            "app_name": env!("CARGO_PKG_NAME"),
            "stream_name": *self.stream(),
            "message": text,
        })
    }

    /// Without the time, because collectors of metrics expect `METRIC: ` right after the level.
    fn metric(&self, level: Level, point: Value) {
        self.write(match self.format {
            Format::Json => {
                let mut line = self.json(name(level), module_path!(), "METRIC");
                line["metric_info"] = point;
                line.to_string()
            }
            Format::Text { has_colour: true, .. } => format!("{} METRIC: {point}", coloured(name(level))),
            Format::Text { .. } => format!("{} METRIC: {point}", name(level)),
        });
    }
}

/// The name of a level in Python's logging, which Singer tools use.
fn name(level: Level) -> &'static str {
    match level {
        Level::Error => "ERROR",
        Level::Warn => "WARNING",
        Level::Info => "INFO",
        Level::Debug | Level::Trace => "DEBUG",
    }
}

fn coloured(level: &str) -> String {
    let colour = match level {
        "CRITICAL" | "ERROR" => "1;31",
        "WARNING" => "33",
        "INFO" => "32",
        _ => "2",
    };
    format!("\x1b[{colour}m{level}\x1b[0m")
}

/// An environment variable that is set and not empty.
fn env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Whether the logging config that Meltano passes asks for JSON.
fn is_asked_for_json() -> bool {
    env("SINGER_SDK_LOG_CONFIG")
        .and_then(|path| fs::read_to_string(path).ok())
        .is_some_and(|config| config.contains("StructuredFormatter"))
}

/// Starts logging at the level that `TAP_CONSTANT_CONTACT_LOGLEVEL` or `LOGLEVEL` names, else at INFO.
pub(crate) fn start(format: Option<LogFormat>, messages_on_terminal: bool) {
    let logger = LOGGER.get_or_init(|| Logger::new(format, messages_on_terminal));
    // It fails for a second run in the process, which uses the same logger.
    let _ = log::set_logger(logger);
    let asked = env("TAP_CONSTANT_CONTACT_LOGLEVEL").or_else(|| env("LOGLEVEL"));
    let level = match asked.as_deref().map(str::to_ascii_uppercase).as_deref() {
        None | Some("INFO") => Some(LevelFilter::Info),
        Some("DEBUG" | "TRACE" | "NOTSET") => Some(LevelFilter::Debug),
        Some("WARNING" | "WARN") => Some(LevelFilter::Warn),
        Some("ERROR" | "CRITICAL" | "FATAL") => Some(LevelFilter::Error),
        Some(_) => None,
    };
    log::set_max_level(level.unwrap_or(LevelFilter::Info));
    if level.is_none() {
        let asked = shown(asked.unwrap_or_default());
        log::warn!("unknown LOGLEVEL \"{asked}\": using INFO (allowed: DEBUG, INFO, WARNING, ERROR)");
    }
    // The default hook would write to stderr itself, and wait for its reader.
    std::panic::set_hook(Box::new(|panic| {
        critical(&format!("{panic}. This is a defect of the tap, please report it"));
        log::logger().flush();
    }));
}

/// Removes the status from the screen, and waits briefly for the last lines to be written.
pub(crate) fn finish() {
    show_status(None);
    log::logger().flush();
}

/// Keeps these lines below the log, if stderr is a terminal that nothing else is written to.
pub(crate) fn show_status(status: Option<Status>) {
    if let Some(logger) = LOGGER.get().filter(|logger| logger.has_status) {
        logger.stderr.set_status(status);
    }
}

/// Sets the stream that later lines in JSON name.
pub(crate) fn set_stream(stream: Option<&'static str>) {
    if let Some(logger) = LOGGER.get() {
        *logger.stream() = stream;
    }
}

/// Writes an answer for the user, whatever the log level and without one. The text may have several lines.
pub(crate) fn say(text: &str) {
    if let Some(logger) = LOGGER.get() {
        let lines: Vec<String> = text.split('\n').map(|line| one_line(line, LONGEST_TEXT)).collect();
        logger.write(lines.join("\n"));
    }
}

/// Logs why a run failed.
pub(crate) fn critical(text: &str) {
    log::error!(target: FATAL, "{text}");
}

/// Logs a warning the first time only.
pub(crate) fn warn_once(text: String) {
    let Some(logger) = LOGGER.get() else { return };
    let mut warned = logger.warned.lock().unwrap_or_else(PoisonError::into_inner);
    if !warned.contains(&text) {
        log::warn!("{text}");
        warned.insert(text);
    }
}

fn metric(level: Level, kind: &str, name: &str, value: &Value, tags: &Value) {
    if let Some(logger) = LOGGER.get().filter(|logger| logger.has_metrics && level <= log::max_level()) {
        logger.metric(level, json!({"type": kind, "metric": name, "value": value, "tags": tags}));
    }
}

/// Logs a counter in singer-python's form.
pub(crate) fn counter(name: &str, value: u64, tags: &Value) {
    metric(Level::Info, "counter", name, &value.into(), tags);
}

/// Logs a timer in singer-python's form; its value is in seconds.
pub(crate) fn timer(level: Level, name: &str, took: Duration, tags: &Value) {
    let seconds = (took.as_secs_f64() * 1e6).round() / 1e6;
    metric(level, "timer", name, &seconds.into(), tags);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn logger(format: Format) -> Logger {
        let (stream, warned) = (Mutex::default(), Mutex::default());
        Logger { stderr: Stderr::new(), format, has_metrics: true, has_status: false, stream, warned }
    }

    #[test]
    fn a_line_begins_with_its_level() {
        let text = |has_time, has_colour| logger(Format::Text { has_time, has_colour }).line("INFO", FATAL, "a\nb");
        assert_eq!(text(false, false), "INFO a b");
        assert_eq!(text(false, true), "\x1b[32mINFO\x1b[0m a b");
        let timed = text(true, false);
        let (level, rest) = timed.split_once(' ').unwrap();
        let (time, text) = rest.split_once(' ').unwrap();
        assert_eq!((level, text), ("INFO", "a b"));
        assert!(time.ends_with('Z') && time.parse::<chrono::DateTime<Utc>>().is_ok(), "{time}");
    }

    #[test]
    fn no_text_makes_a_long_line_or_one_with_control_characters() {
        let loggers = [Format::Json, Format::Text { has_time: true, has_colour: false }].map(logger);
        let config = ProptestConfig { failure_persistence: None, cases: 50, ..ProptestConfig::default() };
        proptest!(config, |(text in "(?s)(.|\"){0,3000}")| {
            for logger in &loggers {
                let line = logger.line("CRITICAL", FATAL, &text);
                prop_assert!(line.chars().count() < 2000);
                prop_assert!(!line.contains(char::is_control));
            }
        });
    }
}
