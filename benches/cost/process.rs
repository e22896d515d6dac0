//! Processes, and what they cost.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::tap::{command, file, only};
use fake::Fake;

/// What a process cost, and what it said.
pub struct Ran {
    pub wall: Duration,
    /// User and system time.
    pub cpu: Duration,
    /// The largest resident size.
    pub peak_mb: f64,
    pub first_record: Duration,
    /// The last line of stdout.
    pub last: String,
    pub stderr: String,
}

impl Ran {
    /// The state that a run of the tap ended with.
    pub fn state(&self) -> Value {
        let message: Value = serde_json::from_str(&self.last).unwrap();
        assert_eq!(message["type"], "STATE", "{}", self.stderr);
        message["value"].clone()
    }
}

/// Runs the tap on some streams, and hands each line of its stdout over.
pub fn tap(config: &Value, streams: &[&str], state: Option<&Value>, line: impl FnMut(&str)) -> Ran {
    let (config, catalog) = (file(config), file(&only(streams)));
    let mut command = command();
    command.arg("--config").arg(config.path()).arg("--catalog").arg(catalog.path());
    let state = state.map(file);
    if let Some(state) = &state {
        command.arg("--state").arg(state.path());
    }
    run(&mut command, line)
}

/// The fake's config at any pace, with more settings.
pub fn unpaced(fake: &Fake, more: &Value) -> Value {
    let mut config = fake.config();
    config["requests_per_second"] = 10_000.into();
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    config
}

/// Runs a command to its good end, and hands each line of its stdout over.
pub fn run(command: &mut Command, mut each: impl FnMut(&str)) -> Ran {
    let begun = Instant::now();
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::with_capacity(1 << 18, child.stdout.take().unwrap());
    let mut errors = child.stderr.take().unwrap();
    let stderr = thread::spawn(move || {
        let mut text = String::new();
        errors.read_to_string(&mut text).unwrap();
        text
    });
    let peak = watch(&child);
    let (mut line, mut last, mut first_record) = (String::new(), String::new(), None);
    loop {
        line.clear();
        if out.read_line(&mut line).unwrap() == 0 {
            break;
        }
        // The lines of the baseline are bare records.
        if first_record.is_none() && !line.starts_with(r#"{"type":"SCHEMA""#) {
            first_record = Some(begun.elapsed());
        }
        each(&line);
        std::mem::swap(&mut line, &mut last);
    }
    // An ended child keeps its times until it is waited for.
    let cpu = cpu_of(&child);
    let stderr = stderr.join().unwrap();
    assert!(child.wait().unwrap().success(), "{stderr}");
    let (wall, peak_mb) = (begun.elapsed(), peak.join().unwrap());
    Ran { wall, cpu, peak_mb, first_record: first_record.unwrap_or(wall), last, stderr }
}

/// User and system time of a process that ends, from its stat file.
fn cpu_of(child: &Child) -> Duration {
    let path = format!("/proc/{}/stat", child.id());
    loop {
        let stat = fs::read_to_string(&path).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        if fields[0] == "Z" {
            let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
            return Duration::from_millis(ticks * 10);
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// The largest resident size of a process, looked at until it ends.
fn watch(child: &Child) -> JoinHandle<f64> {
    let path = format!("/proc/{}/status", child.id());
    thread::spawn(move || {
        let mut peak = 0.0;
        while let Ok(status) = fs::read_to_string(&path) {
            let Some(line) = status.lines().find_map(|line| line.strip_prefix("VmHWM:")) else { break };
            let kib: f64 = line.trim().trim_end_matches(" kB").parse().unwrap();
            peak = kib * 1024.0 / 1e6;
            thread::sleep(Duration::from_millis(5));
        }
        peak
    })
}
