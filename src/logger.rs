//! Levelled lines on stderr, as text or as JSON: the only writer of that stream beside the progress on a terminal.

use std::collections::HashSet;
use std::fs;
use std::io::{IsTerminal, Write, stderr, stdout};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use log::{Level, LevelFilter, Log, Metadata, Record};
use serde_json::{Value, json};

use crate::cli::LogFormat;
use crate::progress;

/// Whether lines are JSON objects.
static STRUCTURED: AtomicBool = AtomicBool::new(false);
/// Whether METRIC lines are written.
static MEASURING: AtomicBool = AtomicBool::new(false);
/// The stream that is being read, for the lines that are JSON.
static READING: Mutex<Option<&str>> = Mutex::new(None);

struct Stderr;

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata) -> bool {
        // The HTTP library's TRACE shows the wire unredacted, its DEBUG the URLs: ours says what is needed.
        metadata.target().starts_with("tap_constant_contact") || metadata.level() <= Level::Warn
    }

    fn log(&self, record: &Record) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let level = match record.level() {
            Level::Error if record.target().ends_with("::fatal") => "CRITICAL",
            Level::Error => "ERROR",
            Level::Warn => "WARNING",
            Level::Info => "INFO",
            Level::Debug | Level::Trace => "DEBUG",
        };
        let text = record.args().to_string();
        if STRUCTURED.load(Ordering::Relaxed) {
            write(&structured(level, record.target(), &text).to_string());
        } else {
            write(&format!("{level} {}", text.replace('\n', " ")));
        }
    }

    fn flush(&self) {}
}

/// One write a line, so that lines of several threads never mix; nobody can be told if it fails.
fn write(line: &str) {
    progress::aside(|| {
        let _ = stderr().write_all(format!("{line}\n").as_bytes());
    });
}

/// A line in the fields of the Meltano SDK's `StructuredFormatter`: Meltano renders it anew only if it has them all.
fn structured(level: &str, target: &str, text: &str) -> Value {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    json!({
        "level": level.to_ascii_lowercase(),
        "pid": std::process::id(),
        "logger_name": target,
        "ts": since.as_secs_f64(),
        "thread_name": thread::current().name().unwrap_or("worker"),
        "app_name": env!("CARGO_PKG_NAME"),
        "stream_name": *READING.lock().unwrap_or_else(PoisonError::into_inner),
        "message": text,
    })
}

/// Says which stream is being read from here on.
pub(crate) fn reading(stream: Option<&'static str>) {
    *READING.lock().unwrap_or_else(PoisonError::into_inner) = stream;
}

/// Whether the logging config that Meltano names asks for JSON.
fn is_asked_for_json() -> bool {
    std::env::var_os("SINGER_SDK_LOG_CONFIG")
        .and_then(|path| fs::read_to_string(path).ok())
        .is_some_and(|config| config.contains("StructuredFormatter"))
}

/// Starts logging at the level that `TAP_CONSTANT_CONTACT_LOGLEVEL` or `LOGLEVEL` names, else INFO.
pub(crate) fn start(format: Option<LogFormat>) {
    let json = format.map_or_else(is_asked_for_json, |format| format == LogFormat::Json);
    STRUCTURED.store(json, Ordering::Relaxed);
    // Messages on the same terminal would be torn by it.
    if !json && stderr().is_terminal() && !stdout().is_terminal() {
        progress::show();
    }
    let asked = ["TAP_CONSTANT_CONTACT_LOGLEVEL", "LOGLEVEL"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|v| !v.is_empty()));
    let level = match asked.as_deref().map(str::to_ascii_uppercase).as_deref() {
        Some("DEBUG" | "TRACE" | "NOTSET") => LevelFilter::Debug,
        Some("WARNING" | "WARN") => LevelFilter::Warn,
        Some("ERROR" | "CRITICAL" | "FATAL") => LevelFilter::Error,
        _ => LevelFilter::Info,
    };
    // A second run in one process finds the logger in place.
    let _ = log::set_logger(&Stderr);
    log::set_max_level(level);
    if let Some(other) = asked.filter(|a| {
        let known = ["DEBUG", "TRACE", "NOTSET", "INFO", "WARNING", "WARN", "ERROR", "CRITICAL", "FATAL"];
        !known.contains(&a.to_ascii_uppercase().as_str())
    }) {
        log::warn!("LOGLEVEL {other:?} is not a level; INFO is used (allowed: DEBUG, INFO, WARNING, ERROR)");
    }
}

/// What a person asked to be told, at every level.
pub(crate) fn say(text: &str) {
    write(text);
}

/// The one line that says why a run failed.
pub(crate) fn critical(text: &str) {
    log::error!(target: "tap_constant_contact::fatal", "{text}");
}

/// A warning that is worth a line only the first time.
pub(crate) fn warn_once(text: String) {
    static SAID: LazyLock<Mutex<HashSet<String>>> = LazyLock::new(Mutex::default);
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    if !said.contains(&text) {
        log::warn!("{text}");
        said.insert(text);
    }
}

/// Writes METRIC lines from here on: they are a sync's, and stand in the way of who reads what `--test` says.
pub(crate) fn measure() {
    MEASURING.store(true, Ordering::Relaxed);
}

fn metric(kind: &str, metric: &str, value: &Value, tags: &Value) {
    if !MEASURING.load(Ordering::Relaxed) {
        return;
    }
    let point = json!({"type": kind, "metric": metric, "value": value, "tags": tags});
    if STRUCTURED.load(Ordering::Relaxed) && log::log_enabled!(Level::Info) {
        let mut line = structured("INFO", module_path!(), "METRIC");
        line["metric_info"] = point;
        write(&line.to_string());
    } else {
        log::info!("METRIC: {point}");
    }
}

/// A counter in singer-python's form.
pub(crate) fn counter(name: &str, value: u64, tags: &Value) {
    metric("counter", name, &value.into(), tags);
}

/// A timer in singer-python's form; the value is in seconds.
pub(crate) fn timer(name: &str, took: Duration, tags: &Value) {
    let seconds = (took.as_secs_f64() * 1e6).round() / 1e6;
    metric("timer", name, &seconds.into(), tags);
}
