//! Random histories: an account that changes between runs and while they go on, runs that are cut off at any call or
//! get odd answers, and states that runners merge. Whatever happened, the rows that a target holds in the end are the
//! account.
//!
//! Some rows can only be missing: those that the service refuses for good, or sends without a usable key. The run that
//! misses them must say so, and then `--full-table` brings them.
//!
//! The service's clock begins two months back and is moved on between the runs, so that no overlap of a bookmark covers
//! what an earlier run should have read.

use std::collections::{BTreeMap, BTreeSet};
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
use crate::tap::{REPORTS, Ran, command, common, file, sorted, streams, without_nulls};

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

/// What goes wrong in a run beside its end.
#[derive(Clone, Debug)]
enum Trouble {
    None,
    /// The service refuses calls, or fails.
    Fault(Fault),
    /// Rows of such calls come without a field, or are no rows.
    OddRows {
        path: &'static str,
        is_usable: bool,
    },
}

/// Parts of the addresses of all kinds of calls.
const CALLS: [&str; 17] = [
    "/contact_lists?",
    "/contacts?status",
    "/contacts?cursor",
    "/contact_custom_fields",
    "/contact_tags",
    "/emails?",
    "&next=",
    "/email_campaign_summaries?limit",
    "/email_campaign_summaries?next",
    "/stats/email",
    "/v3/emails/",
    "/emails/activities/",
    "/tracking/",
    "/tracking/opens?next",
    "/activity_summary?",
    "/activity_details?",
    "/activity_details?next",
];

/// Where rows may be odd, with the stream that the rows are of.
const ROWS: [(&str, &str); 7] = [
    ("/contact_lists?", "contact_lists"),
    ("/contacts?", "contacts"),
    ("/emails?", "email_campaigns"),
    ("/email_campaign_summaries?", "email_campaigns"),
    ("/tracking/", DETAILS),
    ("/activity_summary?", SUMMARY),
    ("/activity_details?", DETAILS),
];

const SUMMARY: &str = REPORTS[0];
const DETAILS: &str = REPORTS[1];

struct History {
    random: Rng,
    fake: Fake,
    /// The key fields of each stream.
    keys: BTreeMap<String, Vec<String>>,
    /// Streams of which a run has said that it misses rows or fields.
    missing: BTreeSet<&'static str>,
    /// Streams whose rows came without optional fields, about which there is nothing to say.
    lacking: BTreeSet<&'static str>,
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
            keys: BTreeMap::new(),
            missing: BTreeSet::new(),
            lacking: BTreeSet::new(),
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
            let trouble = self.any_trouble();
            self.run(end, &trouble, keeps, &catalog, if refresh { Reads::FromTheStart } else { Reads::On })?;
            self.pass_time();
        }
        // In the end every stream is read, until nothing is left to go on with.
        let everything = self.catalog_of(&self.streams.clone(), &[]);
        for attempt in 0.. {
            let keeps = self.any_keeping();
            let code = self.run(End::ByItself, &Trouble::None, keeps, &everything, Reads::On)?;
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
        self.run(End::ByItself, &Trouble::None, Keeps::Last, &everything, Reads::On)?;
        if !(self.missing.is_empty() && self.lacking.is_empty()) {
            self.compare_keys()?;
            self.run(End::ByItself, &Trouble::None, Keeps::Last, &everything, Reads::MissingOnes)?;
        }
        self.compare()
    }

    fn any_trouble(&mut self) -> Trouble {
        let status = |status, body: &str| What::Status(status, body.into(), "application/json");
        let path = match self.random.u32(..6) {
            0 => {
                let account = self.fake.account();
                let (contact, campaign) =
                    (&account.contacts[self.random.usize(..account.contacts.len())], account.campaigns.first());
                match campaign {
                    Some(campaign) if self.random.bool() => format!("/v3/emails/{}", &*campaign.id),
                    Some(campaign) if self.random.bool() => format!("{}/tracking/", &*campaign.activities[0].id),
                    _ => format!("/contact_reports/{}/", &*contact.id),
                }
            }
            _ => CALLS[self.random.usize(..CALLS.len())].to_owned(),
        };
        let what = match self.random.u32(..9) {
            0 => What::Forbidden,
            1 => What::NotFound,
            2 => status(400, r#"[{"error_key": "no", "error_message": "No"}]"#),
            3 => status(503, ""),
            4 => What::Status(403, "<html>Access denied</html>".into(), "text/html"),
            5 => What::Throttled,
            6 => status(429, r#"{"message": "Limit Exceeded"}"#),
            7 => status(200, "{}"),
            _ => status(200, r#"{"error_key": "throttled"}"#),
        };
        // An empty answer that comes again on a first page says that there is nothing.
        let is_empty = matches!(&what, What::Status(200, body, _) if body == "{}");
        let times = if is_empty || self.random.bool() { 1 } else { usize::MAX };
        match self.random.u32(..4) {
            0 | 1 => Trouble::Fault(Fault { path, skip: [0, 0, 0, 1, 4][self.random.usize(..5)], times, what }),
            2 => Trouble::OddRows { path: ROWS[self.random.usize(..ROWS.len())].0, is_usable: self.random.bool() },
            _ => Trouble::None,
        }
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
    fn run(
        &mut self,
        end: End,
        trouble: &Trouble,
        keeps: Keeps,
        catalog: &Value,
        reads: Reads,
    ) -> Result<Option<i32>, String> {
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
            "{end:?}, {trouble:?}, {keeps:?}, {names:?}, reads {reads:?}, page_size {}, {}",
            config["page_size"], config["activity_route"]
        ));
        let moves = !self.is_quiet && self.random.u32(..3) == 0;
        self.fake.heal();
        if let End::Quota(at) = end {
            self.fake.fault(Fault { path: "/v3/".into(), skip: at, times: usize::MAX, what: What::QuotaExceeded });
        }
        // Some troubles last, and each try more waits for a second or two.
        config["max_retries"] = json!(1);
        match trouble {
            Trouble::None => {}
            Trouble::Fault(fault) => self.fake.fault(fault.clone()),
            Trouble::OddRows { path, is_usable } => self.spoil_rows(path, *is_usable),
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
        let state = self.state.as_ref().filter(|_| reads != Reads::FromTheStart).map(file);
        let mut command = command();
        command.arg("--config").arg(config.path()).arg("--catalog").arg(catalog.path());
        if let Some(state) = &state {
            command.arg("--state").arg(state.path());
        }
        if reads == Reads::MissingOnes {
            for stream in self.missing.union(&self.lacking) {
                command.args(["--full-table", stream]);
            }
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
        self.fake.before_answer(Box::new(|_, _| {}));
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
        let of_trouble = !matches!(trouble, Trouble::None) && matches!(code, Some(1 | 3 | 4));
        if !expected.contains(&code) && !of_trouble {
            return Err(self.failure(&format!("exit code {code:?}: {errors}")));
        }
        if !matches!(trouble, Trouble::None) {
            self.note_missing(&errors);
        }
        self.load(&Ran { code, messages, stderr: errors }, keeps);
        self.told.push(format!("  ended with {code:?}: {}", self.state.as_ref().map_or_else(String::new, short)));
        Ok(code)
    }

    /// Spoils one row in some of the answers: of a usable one a field is missing, another one is no row.
    fn spoil_rows(&mut self, path: &'static str, is_usable: bool) {
        if is_usable {
            self.lacking.extend(ROWS.iter().filter(|(of, _)| *of == path).map(|(_, stream)| stream));
        }
        let mut random = self.random.fork();
        self.fake.before_answer(Box::new(move |target, answer| {
            if !target.contains(path) || random.u32(..3) > 0 {
                return;
            }
            let Ok(mut body) = serde_json::from_slice::<Value>(&answer.body) else { return };
            let mut lists = body.as_object_mut().into_iter().flat_map(|members| members.values_mut());
            let Some(rows) = lists.find_map(Value::as_array_mut).filter(|rows| !rows.is_empty()) else { return };
            let at = random.usize(..rows.len());
            if is_usable && let Some(fields) = rows[at].as_object_mut() {
                let field = fields.keys().nth(random.usize(..fields.len())).unwrap().clone();
                fields.remove(&field);
            } else {
                rows[at] = json!("no row");
            }
            answer.body = body.to_string().into_bytes();
        }));
    }

    /// Notes the streams of which a run says that rows or fields are missing, and that no later run brings them.
    fn note_missing(&mut self, log: &str) {
        let says = |line: &&str| {
            let words = [
                "not written",
                "are null",
                "become null",
                "are missing",
                "activity is not read",
                "refused one by one",
                "has no report for",
                "null in",
            ];
            words.iter().any(|words| line.contains(words))
        };
        for line in
            log.lines().filter(|line| line.starts_with("WARNING") || line.contains("has no report")).filter(says)
        {
            let named = streams()
                .iter()
                .filter(|stream| [": ", " and "].iter().any(|after| line.contains(&format!("{stream}{after}"))))
                .copied();
            let mut named: BTreeSet<&str> = named.collect();
            // The rows of a tracking report are those of both, and what is said of activity as well.
            if line.contains("activity") || named.is_empty() {
                named.extend(REPORTS);
            }
            self.told.push(format!("  said of {named:?}: {line}"));
            self.missing.extend(named);
        }
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
                    let names = keys.as_array().unwrap().iter().map(|key| key.as_str().unwrap().to_owned());
                    self.keys.insert(stream.to_owned(), names.collect());
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

    /// Where rows came without optional fields, none of them is missing.
    fn compare_keys(&self) -> Result<(), String> {
        for stream in self.lacking.difference(&self.missing) {
            let truth = self.fake.account().truth(stream);
            let key = |row: &Value| {
                let keys = self.keys.get(*stream).into_iter().flatten();
                json!(keys.map(|key| &row[key]).collect::<Vec<_>>()).to_string()
            };
            let is_lost = |row: &&Value| !self.target.contains_key(&((*stream).to_owned(), key(row)));
            let lost: Vec<&Value> = truth.iter().filter(is_lost).collect();
            if let Some(first) = lost.first() {
                let (rows, lost) = (truth.len(), lost.len());
                return Err(self.failure(&format!("{stream}: {lost} of {rows} rows are lost, such as {first}")));
            }
        }
        Ok(())
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

/// From where a run reads.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Reads {
    /// From its state.
    On,
    /// Without a state, which is put into the one before all the same.
    FromTheStart,
    /// From its state, but everything of those streams of which something is missing.
    MissingOnes,
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
