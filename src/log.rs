//! Levelled lines on stderr: the only writer of that stream.

use std::collections::HashSet;
use std::io::Write;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use log::{Level, LevelFilter, Log, Metadata, Record};
use serde_json::{Value, json};

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
        // One write a line, so that lines of several threads never mix; nobody can be told if it fails.
        let text = record.args().to_string().replace('\n', " ");
        let _ = std::io::stderr().write_all(format!("{level} {text}\n").as_bytes());
    }

    fn flush(&self) {}
}

/// Starts logging at the level that `TAP_CONSTANT_CONTACT_LOGLEVEL` or `LOGLEVEL` names, else INFO.
pub(crate) fn start() {
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
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
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

fn metric(kind: &str, metric: &str, value: &Value, tags: &Value) {
    log::info!("METRIC: {}", json!({"type": kind, "metric": metric, "value": value, "tags": tags}));
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
