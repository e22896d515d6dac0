//! Runs the real binary and reads what it wrote.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpListener;
use std::process::{Command, Output};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};

use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};
use tempfile::NamedTempFile;

use fake::Fake;

use crate::merge;

/// A temporary file with this JSON.
pub fn file(value: &Value) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(value.to_string().as_bytes()).unwrap();
    file
}

/// A free port for the tap to listen on. It is below 32768, where the system assigns none, so that no server of another test
/// takes it in between.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let begin = std::process::id() * 37;
    loop {
        let port = 10_000 + u16::try_from((begin + u32::from(NEXT.fetch_add(1, Ordering::Relaxed))) % 20_000).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// The contact reports, which are read by contact or by campaign.
pub const REPORTS: [&str; 2] = ["contact_action_summary", "contact_activity_details"];

/// The entries of the catalog that `--discover` writes.
pub fn discovered() -> &'static [Value] {
    static CATALOG: LazyLock<Value> =
        LazyLock::new(|| serde_json::from_slice(&command().arg("--discover").output().unwrap().stdout).unwrap());
    CATALOG["streams"].as_array().unwrap()
}

/// All streams, as discovery lists them.
pub fn streams() -> &'static [&'static str] {
    static STREAMS: LazyLock<Vec<&str>> = LazyLock::new(|| named(|_| true));
    &STREAMS
}

/// The streams that have a bookmark.
pub fn incremental() -> &'static [&'static str] {
    static INCREMENTAL: LazyLock<Vec<&str>> = LazyLock::new(|| named(|entry| entry["replication_key"].is_string()));
    &INCREMENTAL
}

fn named(is_wanted: impl Fn(&Value) -> bool) -> Vec<&'static str> {
    let entries = discovered().iter().filter(|entry| is_wanted(entry));
    entries.map(|entry| entry["tap_stream_id"].as_str().unwrap()).collect()
}

/// The result of a run.
pub struct Ran {
    pub code: Option<i32>,
    pub messages: Vec<Value>,
    pub stderr: String,
}

impl Ran {
    pub fn of(output: &Output) -> Ran {
        let stdout = String::from_utf8(output.stdout.clone()).unwrap();
        Ran {
            code: output.status.code(),
            messages: stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
            stderr: without_times(&String::from_utf8_lossy(&output.stderr)),
        }
    }

    /// The records of a stream, without nulls and without the fields that only the campaign route fills.
    pub fn records(&self, stream: &str) -> Vec<Value> {
        let of = |m: &&Value| m["type"] == "RECORD" && m["stream"] == stream;
        self.messages.iter().filter(of).map(|m| common(without_nulls(&m["record"]))).collect()
    }

    /// The values of all STATEs, in order.
    pub fn states(&self) -> Vec<&Value> {
        self.messages.iter().filter(|m| m["type"] == "STATE").map(|m| &m["value"]).collect()
    }

    /// The value of the last message, which must be a STATE.
    pub fn last_state(&self) -> Value {
        let last = self.messages.last().unwrap();
        assert_eq!(last["type"], "STATE", "{}", self.stderr);
        last["value"].clone()
    }
}

/// A log without the times.
pub fn without_times(log: &str) -> String {
    let line = |line: &str| match line.splitn(3, ' ').collect::<Vec<_>>()[..] {
        [level, time, text] if time.parse::<DateTime<Utc>>().is_ok() => format!("{level} {text}"),
        _ => line.to_owned(),
    };
    log.split('\n').map(line).collect::<Vec<_>>().join("\n")
}

/// A catalog that selects all fields of these streams.
pub fn only(streams: &[&str]) -> Value {
    let entry = |name: &&str| {
        json!({
            "tap_stream_id": name, "stream": name, "schema": {},
            "metadata": [{"breadcrumb": [], "metadata": {"selected": true}}],
        })
    };
    json!({"streams": streams.iter().map(entry).collect::<Vec<_>>()})
}

/// A catalog that selects one stream without these fields, each of them a path.
pub fn without(stream: &str, fields: &[&[&str]]) -> Value {
    let mut catalog = only(&[stream]);
    let metadata = catalog["streams"][0]["metadata"].as_array_mut().unwrap();
    for path in fields {
        let breadcrumb: Vec<&str> = path.iter().flat_map(|name| ["properties", name]).collect();
        metadata.push(json!({"breadcrumb": breadcrumb, "metadata": {"selected": false}}));
    }
    catalog
}

/// The records that a full read of a stream must write, as [`sorted`] text.
pub fn truth(fake: &Fake, stream: &str) -> Vec<String> {
    sorted(fake.account().truth(stream).iter().map(without_nulls))
}

/// The binary, in an environment without a browser and without settings.
pub fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tap-constant-contact"));
    for variable in ["BROWSER", "DISPLAY", "WAYLAND_DISPLAY", "LOGLEVEL", "SINGER_SDK_LOG_CONFIG"] {
        command.env_remove(variable);
    }
    command
}

/// The fake's config with `more` settings.
pub fn config(fake: &Fake, more: &Value) -> Value {
    let mut config = fake.config();
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    config
}

/// Runs the tap with the fake's config, `more` settings, and a state if given.
pub fn tap(fake: &Fake, more: &Value, state: Option<&Value>) -> Ran {
    tap_with(fake, more, state, None)
}

/// The same with a catalog. Also checks that the STATEs of the run can be merged.
pub fn tap_with(fake: &Fake, more: &Value, state: Option<&Value>, catalog: Option<&Value>) -> Ran {
    let config = file(&config(fake, more));
    let mut command = command();
    command.arg("--config").arg(config.path());
    let state_file = state.map(file);
    if let Some(file) = &state_file {
        command.arg("--state").arg(file.path());
    }
    let catalog_file = catalog.map(file);
    if let Some(file) = &catalog_file {
        command.arg("--catalog").arg(file.path());
    }
    let ran = Ran::of(&command.output().unwrap());
    merge::assert_mergeable(state, &ran, &selected(catalog));
    ran
}

/// The streams that a catalog selects.
fn selected(catalog: Option<&Value>) -> Vec<String> {
    let Some(catalog) = catalog else { return streams().iter().map(|name| (*name).to_owned()).collect() };
    let is_selected = |entry: &&Value| entry["metadata"][0]["metadata"]["selected"] == true;
    let entries = catalog["streams"].as_array().into_iter().flatten().filter(is_selected);
    entries.map(|entry| entry["tap_stream_id"].as_str().unwrap().to_owned()).collect()
}

/// A record of the contact reports without the fields that only the campaign route fills.
pub fn common(mut record: Value) -> Value {
    if record.get("tracking_activity_type").is_some() {
        let fields = record.as_object_mut().unwrap();
        fields.retain(|name, _| {
            !["email_address", "device_type", "url_id", "link_url", "bounce_code", "opt_out_reason"]
                .contains(&name.as_str())
        });
    }
    record
}

pub fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept: Map<_, _> =
                map.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), without_nulls(v))).collect();
            Value::Object(kept)
        }
        Value::Array(items) => items.iter().map(without_nulls).collect(),
        other => other.clone(),
    }
}

/// Rows as sorted text, so that two sets of them can be compared.
pub fn sorted(rows: impl IntoIterator<Item = Value>) -> Vec<String> {
    fn canonical(value: &Value) -> Value {
        match value {
            Value::Object(map) => {
                let sorted: BTreeMap<_, _> = map.iter().map(|(k, v)| (k.clone(), canonical(v))).collect();
                sorted.into_iter().collect::<Map<_, _>>().into()
            }
            Value::Array(items) => items.iter().map(canonical).collect(),
            other => other.clone(),
        }
    }
    let mut rows: Vec<String> = rows.into_iter().map(|row| canonical(&row).to_string()).collect();
    rows.sort();
    rows
}
