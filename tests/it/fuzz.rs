//! Whatever the service sends and whatever the files say, a run ends in time and in order, and shows no secret.
//!
//! `cargo test` runs a fixed set of cases. `FUZZ_SECONDS=600` runs each target for ten minutes, from a random seed.
//! `FUZZ_SEED=N` runs one case, to repeat a failure.

use std::collections::{BTreeSet, HashMap};
use std::env;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use fake::account::Size;
use fake::{Account, Answer, Fake, Switches};
use fastrand::Rng;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::mutation::mutate;
use crate::tap::command;

/// How many cases of each target `cargo test` plays.
const SHARE: u64 = 60;

/// The longest that a run may take. Settings and mutations leave no reason to wait.
const LONGEST: Duration = Duration::from_secs(20);
const NO_END: &str = "it did not end";

#[test]
fn what_the_service_sends() {
    play(|seed| {
        let mut case = Case::new(seed);
        let config = case.config();
        case.write("config.json", config.to_string().as_bytes());
        let secrets = case.mutate_answers();
        let mut run = case.tap();
        run.arg("--config").arg(case.path("config.json"));
        if case.random.u32(..6) == 0 {
            run.arg("--test");
        }
        let ran = Ran::of(run);
        ran.judge(&secrets.lock().unwrap())
    });
}

#[test]
fn what_files_say() {
    play(|seed| {
        let mut case = Case::new(seed);
        // What is set here keeps the run short and on the loopback.
        let limits = ["api_url", "auth_url", "requests_per_second", "max_retries", "request_timeout", "token_file"];
        let config = case.config();
        let limits: Value = limits.map(|name| (name.to_owned(), config[name].clone())).into_iter().collect();
        case.write("limits.json", limits.to_string().as_bytes());
        case.write("tokens.json", json!({"refresh_token": config["refresh_token"]}).to_string().as_bytes());
        case.write("config.json", everything_set(config).to_string().as_bytes());
        case.write("catalog.json", discovered().as_bytes());
        case.write("state.json", state().to_string().as_bytes());
        let mut files = ["config.json", "catalog.json", "state.json", "tokens.json"];
        case.random.shuffle(&mut files);
        for name in &files[..case.random.usize(1..=2)] {
            let whole = fs::read(case.path(name)).unwrap();
            let bytes = mutate(&mut case.random, &whole, &[]);
            case.write(name, &bytes);
        }
        let mut run = case.tap();
        run.arg("--config").arg(case.path("config.json")).arg("--config").arg(case.path("limits.json"));
        run.arg("--catalog").arg(case.path("catalog.json")).arg("--state").arg(case.path("state.json"));
        match case.random.u32(..6) {
            0 => drop(run.arg("--discover")),
            1 => drop(run.arg("--test")),
            _ => {}
        }
        let secrets = case.secrets();
        Ran::of(run).judge(&secrets)
    });
}

/// Plays cases on as many threads as there are processors; fails with the seeds of those that failed.
fn play(case: impl Fn(u64) -> Result<(), String> + Sync) {
    let number = |name: &str| env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let (seconds, seed) = (number("FUZZ_SECONDS"), number("FUZZ_SEED"));
    let end = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let first = seed.unwrap_or_else(|| end.map_or(0, |_| u64::from(fastrand::u32(..))));
    let cases = if seed.is_some() { 1 } else { end.map_or(SHARE, |_| u64::MAX - first) };
    let (next, failed) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let too_late = end.is_some_and(|end| Instant::now() > end);
                    if n >= cases || too_late || failed.lock().unwrap().len() >= 10 {
                        break;
                    }
                    if let Err(why) = case(first + n) {
                        failed.lock().unwrap().push((first + n, why));
                    }
                }
            });
        }
    });
    let played = next.into_inner().min(cases);
    let mut failed = failed.into_inner().unwrap();
    // A busy machine may have kept it from its end.
    failed.retain(|(seed, why)| !why.starts_with(NO_END) || case(*seed).is_err());
    let failed: Vec<_> = failed.into_iter().map(|(seed, why)| format!("FUZZ_SEED={seed}: {why}")).collect();
    assert!(failed.is_empty(), "{} of {played} cases from seed {first} failed:\n{}", failed.len(), failed.join("\n\n"));
}

/// A fake account and a folder for the files of one run.
struct Case {
    seed: u64,
    random: Rng,
    fake: Fake,
    folder: TempDir,
}

impl Case {
    fn new(seed: u64) -> Case {
        let mut random = Rng::with_seed(seed);
        let account = Account::generate(seed, Size { contacts: 3, lists: 2, campaigns: 2 });
        // Damaged answers may lead the tap to ask for anything.
        let rotating = random.bool();
        let switches = Switches { strict: false, rotating, gzip: random.bool(), ..Switches::default() };
        Case { seed, random, fake: Fake::start_with(account, switches), folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
    }

    fn config(&mut self) -> Value {
        let mut config = self.fake.config();
        config["token_file"] = json!(self.path("tokens.json"));
        config["max_retries"] = json!(self.random.u32(..=1));
        config["request_timeout"] = json!(3);
        config["page_size"] = json!(self.random.u32(1..4));
        config["activity_route"] = json!(["contacts", "campaigns"][self.random.usize(..2)]);
        config
    }

    /// The secrets that the tap has from its files.
    fn secrets(&self) -> BTreeSet<String> {
        let tokens = self.fake.tokens();
        tokens.client_secret.iter().chain([&tokens.refresh_token]).cloned().collect()
    }

    /// From here on damages answers; gives the secrets that the tap has, those in whole answers among them.
    fn mutate_answers(&mut self) -> Arc<Mutex<BTreeSet<String>>> {
        let secrets = Arc::new(Mutex::new(self.secrets()));
        let seed = self.seed;
        // One answer, a few, or half of them; of everything, of the API, or of one kind of call.
        let rate = [0.01, 0.05, 0.5][self.random.usize(..3)];
        let paths = ["/", "/v3/", "/contacts", "/reports/", "/emails", "_lists", "_fields", "_tags", "token"];
        let path = paths[self.random.usize(..paths.len())];
        let known = secrets.clone();
        let mut issued = BTreeSet::new();
        let mut counts: HashMap<String, u64> = HashMap::new();
        self.fake.before_answer(Box::new(move |target, answer| {
            let called = target.split('?').next().unwrap_or_default();
            let count = counts.entry(called.to_owned()).or_default();
            *count += 1;
            // The order of concurrent calls must not matter, or no case could be played again.
            let mut hasher = DefaultHasher::new();
            (seed, called, *count).hash(&mut hasher);
            let mut random = Rng::with_seed(hasher.finish());
            let mut known = known.lock().unwrap();
            if called.contains(path) && (random.f64() < rate || path == "token") {
                // A server can only echo what it was sent.
                let is_echo = |secret: &&String| called.ends_with("/token") || issued.contains(*secret);
                let words: Vec<String> = known.iter().filter(is_echo).cloned().collect();
                mutate_answer(&mut random, answer, &words);
            }
            let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            if called.ends_with("/token") {
                // What is shorter could stand anywhere by chance.
                let of = |name: &str| body[name].as_str().filter(|token| token.len() >= 12).map(str::to_owned);
                issued.extend(of("access_token"));
                known.extend(of("access_token").into_iter().chain(of("refresh_token")));
            }
        }));
        secrets
    }

    /// The tap, whose calls to anything but the loopback fail.
    fn tap(&mut self) -> Command {
        let mut command = command();
        for name in ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"] {
            command.env_remove(name.to_lowercase()).env(name, "http://127.0.0.1:9");
        }
        command.env("NO_PROXY", "127.0.0.1").env("LOGLEVEL", ["INFO", "DEBUG"][self.random.usize(..2)]);
        if self.random.u32(..4) == 0 {
            command.args(["--log-format", "json"]);
        }
        command
    }
}

fn mutate_answer(random: &mut Rng, answer: &mut Answer, words: &[String]) {
    if random.u32(..6) == 0 && !words.is_empty() {
        // An error that shows what the request brought.
        let echo = format!("{}\u{1b}", words[random.usize(..words.len())]);
        answer.status = [400, 401, 403, 404, 500][random.usize(..5)];
        answer.body = json!({"error_key": echo, "error_message": echo, "error": echo, "error_description": echo})
            .to_string()
            .into_bytes();
    }
    if random.u32(..4) != 0 {
        answer.body = mutate(random, &answer.body, words);
    }
    if random.u32(..4) == 0 {
        let statuses = [201, 204, 206, 301, 302, 304, 400, 401, 403, 404, 405, 409, 418, 429, 500, 502, 503, 599, 700];
        answer.status = statuses[random.usize(..statuses.len())];
    }
    if random.u32(..4) == 0 {
        let names = ["Date", "Content-Type", "x-amzn-requestid", "Retry-After", "Location", "Set-Cookie", "X-Odd"];
        let name = names[random.usize(..names.len())];
        // A long wait would be kept.
        let waits = ["0", "1", "", "-1", "soon", "1.5", "Thu, 01 Jan 1970 00:00:00 GMT", "Thu, 32 Foo 20 99:99:99"];
        let others = [
            "Fri, 31 Dec 9999 23:59:59 GMT",
            "Thu, 01 Jan 1970 00:00:00 GMT",
            "\u{e9}\u{1b}[31m",
            "text/html; charset=\u{7f}",
            "http://example.com/v3/contacts",
            "\t",
            "a\r\nX-More: b",
        ];
        let value = match random.u32(..4) {
            _ if name == "Retry-After" => waits[random.usize(..waits.len())].to_owned(),
            0 => "x".repeat(random.usize(1..9000)),
            1 if !words.is_empty() => format!("Bearer {}", words[random.usize(..words.len())]),
            _ => others[random.usize(..others.len())].to_owned(),
        };
        answer.headers.retain(|(other, _)| other != name);
        answer.headers.push((name.to_owned(), value));
    }
    if random.u32(..16) == 0 {
        answer.headers.truncate(random.usize(..answer.headers.len()));
    }
}

/// What a run wrote, and how it ended.
struct Ran {
    /// `None` when it was killed by a signal.
    code: Option<i32>,
    took: Duration,
    out: Vec<u8>,
    log: Vec<u8>,
}

impl Ran {
    fn of(mut command: Command) -> Ran {
        fn collect(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
            thread::spawn(move || {
                let mut bytes = Vec::new();
                pipe.read_to_end(&mut bytes).unwrap();
                bytes
            })
        }
        let begun = Instant::now();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (out, log) = (collect(child.stdout.take().unwrap()), collect(child.stderr.take().unwrap()));
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if begun.elapsed() > LONGEST {
                child.kill().unwrap();
            }
            thread::sleep(Duration::from_millis(2));
        };
        Ran { code: status.code(), took: begun.elapsed(), out: out.join().unwrap(), log: log.join().unwrap() }
    }

    /// What is wrong with it.
    fn judge(&self, secrets: &BTreeSet<String>) -> Result<(), String> {
        let log = String::from_utf8_lossy(&self.log);
        self.complaint(&log, secrets).map_or(Ok(()), |complaint| {
            let code = self.code;
            Err(format!("{complaint} (exit code {code:?} after {:?})\n{}", self.took, shown(&log)))
        })
    }

    fn complaint(&self, log: &str, secrets: &BTreeSet<String>) -> Option<String> {
        if self.took > LONGEST {
            return Some(NO_END.into());
        }
        if log.contains("panicked") || !matches!(self.code, Some(0..=4)) {
            return Some("it panicked, or ended with a code that the contract does not have".into());
        }
        if std::str::from_utf8(&self.log).is_err() {
            return Some("stderr is not UTF-8".into());
        }
        if let Some(line) = log.lines().find(|line| line.chars().count() > 2000) {
            return Some(format!("a line of {} characters on stderr", line.chars().count()));
        }
        if let Some(found) = log.chars().find(|c| c.is_control() && *c != '\n') {
            return Some(format!("{found:?} on stderr"));
        }
        let out = String::from_utf8_lossy(&self.out);
        for (place, text) in [("stderr", log), ("stdout", &out)] {
            for line in text.lines() {
                if let Some(secret) = secrets.iter().find(|secret| line.contains(*secret)) {
                    return Some(format!("{secret} is on {place}: {line:?}"));
                }
            }
        }
        complaint_of_messages(&out)
    }
}

/// The end of a log, safe to print.
fn shown(log: &str) -> String {
    let lines: Vec<_> = log.lines().map(|line| line.chars().take(400).collect::<String>()).collect();
    let end = &lines[lines.len().saturating_sub(12)..];
    end.iter().map(|line| line.escape_debug().to_string()).collect::<Vec<_>>().join("\n")
}

/// What is wrong with what a target gets.
fn complaint_of_messages(out: &str) -> Option<String> {
    // A catalog, which is one object over many lines.
    if out.is_empty() || serde_json::from_str::<Value>(out).is_ok_and(|whole| whole["streams"].is_array()) {
        return None;
    }
    if !out.ends_with('\n') {
        return Some("the last line of stdout is torn".into());
    }
    let mut keys: HashMap<String, Value> = HashMap::new();
    let mut last = String::new();
    for line in out.lines() {
        let Ok(message) = serde_json::from_str::<Value>(line) else { return Some(format!("no message: {line:?}")) };
        let stream = message["stream"].as_str().unwrap_or_default().to_owned();
        message["type"].as_str().unwrap_or_default().clone_into(&mut last);
        match last.as_str() {
            "SCHEMA" => drop(keys.insert(stream, message["key_properties"].clone())),
            "RECORD" => {
                let Some(keys) = keys.get(&stream).and_then(Value::as_array) else {
                    return Some(format!("no SCHEMA before {line:?}"));
                };
                if keys.iter().any(|key| message["record"][key.as_str().unwrap_or_default()].is_null()) {
                    return Some(format!("a key is null in {line:?}"));
                }
            }
            "STATE" if message["value"].is_object() => {}
            _ => return Some(format!("no message: {line:?}")),
        }
    }
    (last != "STATE").then(|| "the last line is no STATE".into())
}

fn discovered() -> &'static str {
    static CATALOG: LazyLock<String> =
        LazyLock::new(|| String::from_utf8(command().arg("--discover").output().unwrap().stdout).unwrap());
    &CATALOG
}

/// A config in which more settings stand than one needs, each in a form that is allowed.
fn everything_set(mut config: Value) -> Value {
    let more = json!({
        "start_date": "2026-01-01",
        "updated_days_back": "7",
        "contact_status": ["all"],
        "include_subresources": "custom_fields,notes",
        "tracking_activity_types": ["em_opens", "em_clicks"],
        "report_start_date": "2026-01-01",
        "report_end_days_back": 1,
        "timezone": "Europe/Berlin",
        "activity_lookback_days": 10,
        "contacts_full_refresh_days": "2",
        "max_requests": 400,
        "on_quota": "stop",
        "lock_timeout": 5,
        "user_agent": "fuzz/1",
        "redirect_uri": "http://localhost:8910/callback",
    });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    config
}

/// The state of a run that was cut off in the middle of a report.
fn state() -> Value {
    json!({
        "bookmarks": {
            "contacts": {
                "replication_key": "updated_at", "replication_key_value": "2026-11-20T09:55:00Z",
                "full_refresh_at": "2026-11-20T09:55:00Z", "filter": "status=all;include=custom_fields,notes",
                "deselected": "",
            },
            "email_campaigns": {
                "replication_key": "updated_at", "replication_key_value": "2026-11-20T09:55:00Z", "deselected": "",
                "resume_since": "", "resume_until": "", "resume_after": "",
            },
            "contact_activity_details": {
                "replication_key": "created_time", "replication_key_value": "2026-11-19T10:00:00Z",
                "filter": "status=all;types=em_opens,em_clicks", "deselected": "link_url", "route": "campaigns",
                "lookback_days": 30, "read_from": "", "resume_since": "2026-11-19T10:00:00Z",
                "resume_until": "2026-11-20T10:00:00Z", "resume_route": "campaigns",
                "resume_after": "71600990-908b-11e6-907f-00166bff2500", "resume_complete": false,
                "resume_filter": "status=all;types=em_opens,em_clicks", "resume_deselected": "link_url",
            },
        },
        "currently_syncing": "contact_activity_details",
    })
}
