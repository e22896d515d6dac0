//! Random histories: an account that changes between runs and while they go on, runs that are cut off at any call, and
//! states that runners merge. Whatever happened, the rows that a target holds in the end are the account.
//!
//! The service's clock begins two months back and is moved on between the runs, so that no overlap of a bookmark covers
//! what an earlier run should have read.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::process::Stdio;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use fake::account::Size;
use fake::{Account, Fake, Fault, Order, Switches, What};
use fastrand::Rng;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Map, Value, json};

use crate::merge::has_interrupted_read;
use crate::tap::{Ran, command, common, file, sorted, streams, without_nulls};

/// How many histories `cargo test` plays; `HISTORIES=300` plays more.
const EPISODES: u64 = 24;

#[test]
fn whatever_happens_a_target_ends_up_with_the_account() {
    let episodes = std::env::var("HISTORIES").map_or(EPISODES, |text| text.parse().expect("HISTORIES is a number"));
    let first = std::env::var("FIRST_HISTORY").map_or(0, |text| text.parse().expect("FIRST_HISTORY is a number"));
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let seed = first + next.fetch_add(1, Ordering::Relaxed) as u64;
                    if seed >= first + episodes {
                        break;
                    }
                    if let Err(why) = History::new(seed).play() {
                        failed.lock().unwrap().push(format!("history {seed}: {why}"));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{} of {episodes} failed:\n{}", failed.len(), failed.join("\n\n"));
}

/// How a run ends.
#[derive(Clone, Copy, Debug)]
enum End {
    ByItself,
    /// The daily quota is used up after so many calls.
    Quota(usize),
    /// So many calls are allowed by `max_requests`.
    Limit(usize),
    /// A signal at a call.
    Signal(Signal, usize),
}

/// What a runner makes of the STATEs of a run and the state that it had.
#[derive(Clone, Copy, Debug)]
enum Keeps {
    Last,
    MergedDeeply,
    MergedAtTheTop,
    MergedDeeplyWithoutNulls,
}

struct History {
    random: Rng,
    fake: Fake,
    /// The rows that the target holds, by stream and key.
    target: BTreeMap<(String, String), Map<String, Value>>,
    state: Option<Value>,
    streams: Vec<String>,
    /// Nothing changes any more while a run goes on.
    is_quiet: bool,
    /// What happened, for whoever reads of a failure.
    told: Vec<String>,
}

impl History {
    fn new(seed: u64) -> History {
        let mut random = Rng::with_seed(seed);
        let begin = Utc::now() - TimeDelta::days(60);
        let size = Size { contacts: random.usize(3..50), lists: random.usize(2..5), campaigns: random.usize(0..7) };
        let account = Account::generate_at(seed, size, begin).with_all_details();
        // What the detail of a campaign hides can only be found by contact; that is told in a warning.
        let orders = [Order::Scrambled, Order::UpdatedDesc, Order::CreatedDesc];
        let switches = Switches {
            rotating: false,
            clock_skew: TimeDelta::days(-60),
            contacts_order: orders[random.usize(..3)],
            updated_after_inclusive: random.bool(),
            optout_after_defaults_status: random.bool(),
            empty_reports_lack_rows: random.bool(),
            summary_max_years: (random.u32(..4) == 0).then_some(5),
            per_day: 1_000_000,
            ..Switches::default()
        };
        let streams = streams().iter().map(|stream| (*stream).to_owned()).collect();
        let fake = Fake::start_with(account, switches);
        History {
            random,
            fake,
            target: BTreeMap::new(),
            state: None,
            streams,
            is_quiet: false,
            told: vec![format!("{size:?}")],
        }
    }

    fn play(mut self) -> Result<(), String> {
        for _ in 0..self.random.usize(1..6) {
            let end = self.any_end();
            let keeps = self.any_keeping();
            let catalog = self.any_catalog();
            let refresh = self.random.u32(..8) == 0;
            self.run(end, keeps, &catalog, refresh)?;
            self.pass_time();
        }
        // In the end every stream is read, until nothing is left to go on with.
        let everything = self.catalog_of(&self.streams.clone(), &[]);
        for attempt in 0.. {
            let keeps = self.any_keeping();
            let code = self.run(End::ByItself, keeps, &everything, false)?;
            // A run may also finish an older read, on the other route, whose days end before the bookmark.
            if code == Some(0) && !self.state.as_ref().is_some_and(has_interrupted_read) {
                break;
            }
            if attempt == 3 {
                return Err(self.failure("the last run does not end well"));
            }
        }
        // What came up while the last of them went on.
        self.is_quiet = true;
        self.run(End::ByItself, Keeps::Last, &everything, false)?;
        self.compare()
    }

    fn any_end(&mut self) -> End {
        let at = self.random.usize(1..60);
        match self.random.u32(..8) {
            0 => End::Quota(at),
            1 => End::Limit(at),
            2 => End::Signal(Signal::KILL, at),
            3 => End::Signal(Signal::TERM, at),
            4 => End::Signal(Signal::INT, at),
            _ => End::ByItself,
        }
    }

    fn any_keeping(&mut self) -> Keeps {
        let all = [Keeps::Last, Keeps::MergedDeeply, Keeps::MergedAtTheTop, Keeps::MergedDeeplyWithoutNulls];
        all[self.random.usize(..all.len())]
    }

    /// A catalog that selects some streams, and at times not all of their fields.
    fn any_catalog(&mut self) -> Value {
        let mut streams = self.streams.clone();
        if self.random.bool() {
            self.random.shuffle(&mut streams);
            streams.truncate(self.random.usize(1..=streams.len()));
        }
        let deselected: &[&str] = if self.random.u32(..4) == 0 { &["first_name", "name"] } else { &[] };
        self.catalog_of(&streams, deselected)
    }

    fn catalog_of(&self, streams: &[String], deselected: &[&str]) -> Value {
        let mut streams = streams.to_vec();
        streams.sort_by_key(|name| self.streams.iter().position(|known| known == name));
        let entry = |name: &String| {
            let mut metadata = vec![json!({"breadcrumb": [], "metadata": {"selected": true}})];
            metadata.extend(
                deselected
                    .iter()
                    .filter(|field| (**field == "first_name") == (name == "contacts"))
                    .filter(|_| ["contacts", "email_campaigns"].contains(&name.as_str()))
                    .map(|field| json!({"breadcrumb": ["properties", field], "metadata": {"selected": false}})),
            );
            json!({"tap_stream_id": name, "stream": name, "schema": {}, "metadata": metadata})
        };
        json!({"streams": streams.iter().map(entry).collect::<Vec<_>>()})
    }

    /// Hours or days go by, in which the account changes.
    fn pass_time(&mut self) {
        for _ in 0..self.random.usize(0..8) {
            let minutes = self.random.i64(10..1000);
            let mut switches = self.fake.switches();
            switches.clock_skew = (switches.clock_skew + TimeDelta::minutes(minutes)).min(TimeDelta::zero());
            drop(switches);
            let changed = change(&mut self.fake.account(), &mut self.random, Change::Between);
            self.told.push(format!("between: {changed}"));
        }
    }

    /// One run, whose rows and states reach the target as far as they do; gives its exit code.
    fn run(&mut self, end: End, keeps: Keeps, catalog: &Value, refresh: bool) -> Result<Option<i32>, String> {
        let routes = ["auto", "auto", "contacts", "campaigns"];
        let mut config = self.fake.config();
        // Equal rows that fill a page cannot be told from a page that was pushed on.
        config["page_size"] = json!(self.random.usize(6..30));
        config["activity_route"] = json!(routes[self.random.usize(..4)]);
        // Whatever opens later than this after a sending is told to be left out.
        config["activity_lookback_days"] = json!(36_500);
        config["contacts_full_refresh_days"] = json!(0);
        if let End::Limit(calls) = end {
            config["max_requests"] = json!(calls);
        }
        let names: Vec<&str> =
            catalog["streams"].as_array().unwrap().iter().map(|s| s["stream"].as_str().unwrap()).collect();
        self.told.push(format!(
            "{end:?}, {keeps:?}, {names:?}, refresh {refresh}, page_size {}, {}",
            config["page_size"], config["activity_route"]
        ));
        let moves = !self.is_quiet && self.random.u32(..3) == 0;
        self.fake.heal();
        if let End::Quota(at) = end {
            self.fake.fault(Fault { path: "/v3/".into(), skip: at, times: usize::MAX, what: What::QuotaExceeded });
        }
        let pid = Arc::new(AtomicI32::new(0));
        let mut calls = 0;
        let (mut random, of_hook) = (self.random.fork(), pid.clone());
        let during = Arc::new(Mutex::new(Vec::new()));
        let noted = during.clone();
        self.fake.before_call(Box::new(move |call, account| {
            calls += 1;
            if moves && random.u32(..6) == 0 {
                let what = change(account, &mut random, Change::During);
                noted
                    .lock()
                    .unwrap()
                    .push(format!("  before call {calls}, {}: {what}", call.split('?').next().unwrap()));
            }
            if let End::Signal(signal, at) = end
                && at == calls
            {
                while of_hook.load(Ordering::SeqCst) == 0 {
                    thread::sleep(Duration::from_millis(1));
                }
                if let Some(pid) = Pid::from_raw(of_hook.load(Ordering::SeqCst)) {
                    let _ = kill_process(pid, signal);
                }
            }
        }));
        let (config, catalog) = (file(&config), file(catalog));
        let state = self.state.as_ref().filter(|_| !refresh).map(file);
        let mut command = command();
        command.arg("--config").arg(config.path()).arg("--catalog").arg(catalog.path());
        if let Some(state) = &state {
            command.arg("--state").arg(state.path());
        }
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        pid.store(i32::try_from(child.id()).unwrap(), Ordering::SeqCst);
        let mut errors = child.stderr.take().unwrap();
        let errors = thread::spawn(move || {
            let mut text = String::new();
            errors.read_to_string(&mut text).unwrap();
            text
        });
        let mut out = String::new();
        child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        let code = child.wait().unwrap().code();
        let errors = errors.join().unwrap();
        self.fake.before_call(Box::new(|_, _| {}));
        self.told.append(&mut during.lock().unwrap());
        // A kill may tear the last line: what reads it ends there.
        let whole = &out[..out.rfind('\n').map_or(0, |end| end + 1)];
        let messages: Vec<Value> = whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let expected: &[Option<i32>] = match end {
            End::ByItself => &[Some(0)],
            End::Quota(_) | End::Limit(_) => &[Some(0), Some(4)],
            End::Signal(Signal::TERM, _) => &[Some(0), Some(143)],
            End::Signal(Signal::INT, _) => &[Some(0), Some(130)],
            End::Signal(..) => &[Some(0), None],
        };
        if !expected.contains(&code) {
            return Err(self.failure(&format!("exit code {code:?}: {errors}")));
        }
        self.load(&Ran { code, messages, stderr: errors }, keeps);
        self.told.push(format!("  ended with {code:?}: {}", self.state.as_ref().map_or_else(String::new, short)));
        Ok(code)
    }

    /// The rows before the last STATE reach the target, those behind it only at times.
    fn load(&mut self, ran: &Ran, keeps: Keeps) {
        let last = ran.messages.iter().rposition(|message| message["type"] == "STATE");
        let end = if self.random.bool() { last.map_or(0, |last| last + 1) } else { ran.messages.len() };
        let mut schemas: BTreeMap<&str, (&Value, &Value)> = BTreeMap::new();
        for message in &ran.messages[..end] {
            let stream = message["stream"].as_str().unwrap_or_default();
            match message["type"].as_str().unwrap() {
                "SCHEMA" => {
                    schemas.insert(stream, (&message["schema"]["properties"], &message["key_properties"]));
                }
                "RECORD" => {
                    let (properties, keys) = schemas[stream];
                    let record = &message["record"];
                    let key: Vec<&Value> =
                        keys.as_array().unwrap().iter().map(|key| &record[key.as_str().unwrap()]).collect();
                    let row = self.target.entry((stream.to_owned(), json!(key).to_string())).or_default();
                    for column in properties.as_object().unwrap().keys() {
                        row.insert(column.clone(), record[column].clone());
                    }
                }
                _ => {}
            }
        }
        for message in ran.messages.iter().filter(|message| message["type"] == "STATE") {
            let new = message["value"].clone();
            self.state = Some(match (self.state.take(), keeps) {
                (None, _) | (_, Keeps::Last) => new,
                (Some(old), Keeps::MergedDeeply) => merged(old, new),
                (Some(old), Keeps::MergedAtTheTop) => {
                    let mut old = old;
                    old.as_object_mut().unwrap().extend(new.as_object().unwrap().clone());
                    old
                }
                (Some(old), Keeps::MergedDeeplyWithoutNulls) => merged(old, without_nulls(&new)),
            });
        }
    }

    /// The target's rows against the account's own truth.
    fn compare(&self) -> Result<(), String> {
        let account = self.fake.account().clone();
        for stream in &self.streams {
            let held =
                self.target.iter().filter(|((of, _), _)| of == stream).map(|(_, row)| Value::Object(row.clone()));
            let held = sorted(held.map(|row| common(without_nulls(&row))));
            let truth = sorted(account.truth(stream).iter().map(|row| common(without_nulls(row))));
            let lost: Vec<&String> = truth.iter().filter(|row| held.binary_search(row).is_err()).collect();
            let invented: Vec<&String> = held.iter().filter(|row| truth.binary_search(row).is_err()).collect();
            if !lost.is_empty() || !invented.is_empty() {
                let some = |rows: &[&String]| rows.iter().take(3).flat_map(|row| ["\n    ", row]).collect::<String>();
                return Err(self.failure(&format!(
                    "{stream}: of {} rows {} are lost:{}\n  and {} invented or stale:{}",
                    truth.len(),
                    lost.len(),
                    some(&lost),
                    invented.len(),
                    some(&invented)
                )));
            }
        }
        Ok(())
    }

    fn failure(&self, why: &str) -> String {
        format!("{why}\n  {}\n  state: {}", self.told.join("\n  "), self.state.as_ref().unwrap_or(&Value::Null))
    }
}

/// The values of the bookmarks that say something.
fn short(state: &Value) -> String {
    let says_something =
        |(_, value): &(&String, &Value)| !matches!(value, Value::Null | Value::Bool(false)) && *value != "";
    let of = |(stream, bookmark): (&String, &Value)| {
        let members = bookmark.as_object().unwrap().iter().filter(says_something);
        let members = members.filter(|(key, _)| {
            key.starts_with("resume") || ["replication_key_value", "full_refresh_at", "route"].contains(&key.as_str())
        });
        let members: Vec<String> = members.map(|(key, value)| format!("{key} {value}")).collect();
        format!("\n    {stream}: {}", members.join(", "))
    };
    state["bookmarks"].as_object().unwrap().iter().map(of).collect()
}

/// Objects recursively, all else replaced: how Meltano merges states.
fn merged(old: Value, new: Value) -> Value {
    match (old, new) {
        (Value::Object(mut old), Value::Object(new)) => {
            for (key, value) in new {
                let was = old.get_mut(&key).map(Value::take).unwrap_or_default();
                old.insert(key, merged(was, value));
            }
            Value::Object(old)
        }
        (_, new) => new,
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Change {
    Between,
    During,
}

/// Something that happens to an account, dated so that the service can tell of it later. Says what it was, for whoever
/// reads of a failure.
fn change(account: &mut Account, random: &mut Rng, when: Change) -> String {
    let one = random.usize(..account.contacts.len());
    let sent = account.sent_activities();
    let (at, contact) = (account.now(), account.contacts[one].id.clone());
    let what = match random.u32(..10) {
        0 => {
            account.rename(one, "Renamed");
            format!("{contact} is renamed")
        }
        1 => {
            account.unsubscribe(one);
            format!("{contact} unsubscribes")
        }
        2 => {
            account.delete(one);
            format!("{contact} is deleted")
        }
        3 => format!("{} is new", account.add_contact()),
        4 if when == Change::Between => {
            let some: Vec<_> = account.contacts.iter().filter(|_| random.bool()).map(|c| c.id.clone()).collect();
            let activity = account.send_campaign(&format!("Campaign of {at}"), &some);
            format!("{activity} is sent to {} contacts", some.len())
        }
        _ if !sent.is_empty() => {
            let activity = &sent[random.usize(..sent.len())];
            account.open(one, activity);
            format!("{contact} opens {activity}")
        }
        _ => "nothing".to_owned(),
    };
    format!("{}: {what}", at.to_rfc3339())
}
