//! Interrupted runs: the rows before the last STATE and those of the next run are together the whole account.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use chrono::{Days, NaiveTime, TimeDelta, Utc};
use fake::account::Size;
use fake::{Account, Fake, Fault, Switches, What};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use crate::merge::is_at_rest;
use crate::round;
use crate::tap::{REPORTS, Ran, config, file, only, sorted, streams, tap, tap_with, without_nulls};

fn spawn(fake: &Fake, more: &Value, arguments: &[&str]) -> (Child, NamedTempFile) {
    let config = file(&config(fake, more));
    let mut command = Command::new(env!("CARGO_BIN_EXE_tap-constant-contact"));
    command.args(arguments).arg("--config").arg(config.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
    (command.spawn().unwrap(), config)
}

/// A running tap.
struct Running {
    child: Child,
    /// Its stdout, read by a thread so that the tap never waits for a reader.
    out: JoinHandle<String>,
    _config: NamedTempFile,
}

impl Running {
    fn start(fake: &Fake, more: &Value) -> Running {
        Running::start_with(fake, more, &[])
    }

    fn start_with(fake: &Fake, more: &Value, arguments: &[&str]) -> Running {
        let (mut child, config) = spawn(fake, more, arguments);
        let mut pipe = child.stdout.take().unwrap();
        let out = thread::spawn(move || {
            let mut text = String::new();
            pipe.read_to_string(&mut text).unwrap();
            text
        });
        Running { child, out, _config: config }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the end. Returns the whole lines of stdout, and what follows the last of them.
    fn end(mut self) -> (Ran, String) {
        let text = self.out.join().unwrap();
        let (whole, torn) = text.rsplit_once('\n').unwrap_or(("", &text));
        let messages = whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let mut stderr = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        let code = self.child.wait().unwrap().code();
        (Ran { code, messages, stderr }, torn.to_owned())
    }
}

/// Waits until the fake has received such a call.
fn until(fake: &Fake, seen: impl Fn(&fake::Call) -> bool) {
    let begun = Instant::now();
    while !fake.calls().iter().any(&seen) {
        assert!(begun.elapsed() < Duration::from_secs(20), "the call did not come");
        thread::sleep(Duration::from_millis(2));
    }
}

/// What a target has stored of a run: everything before the last STATE. Also returns that state.
fn kept(ran: &Ran) -> (Ran, Option<Value>) {
    let last = ran.messages.iter().rposition(|m| m["type"] == "STATE");
    let messages = ran.messages[..last.map_or(0, |at| at + 1)].to_vec();
    let state = messages.last().map(|m: &Value| m["value"].clone());
    (Ran { code: ran.code, messages, stderr: String::new() }, state)
}

fn assert_union_is_truth(fake: &Fake, runs: &[Ran], context: &str) {
    for stream in streams() {
        let truth = sorted(fake.account().truth(stream).iter().map(without_nulls));
        let mut read = sorted(runs.iter().flat_map(|ran| ran.records(stream)));
        read.dedup();
        assert!(read == truth, "{context}: {stream} has {} rows, the account {}", read.len(), truth.len());
    }
}

fn account(seed: u64) -> Account {
    Account::generate(seed, Size { contacts: 40, lists: 4, campaigns: 6 })
}

/// Interrupts a full sync, which takes this many calls, at a random moment. Checks that the next run reads the rest. Returns
/// whether the first run was interrupted.
fn cut_off(signal: Signal, route: &str, seed: u64, calls: usize) -> bool {
    let switches = Switches::long_lived();
    let fake = Fake::start_with(account(seed % 4), switches);
    let more = json!({"activity_route": route});
    // After a number of calls, which unlike a time does not depend on the speed of the machine; and a little later, to hit
    // every step between two calls.
    let mut random = fastrand::Rng::with_seed(seed);
    let (call, later) = (random.usize(..calls), Duration::from_micros(random.u64(..8000)));
    let mut running = Running::start(&fake, &more);
    while fake.calls().len() < call && running.child.try_wait().unwrap().is_none() {
        thread::sleep(Duration::from_micros(200));
    }
    thread::sleep(later);
    running.signal(signal);
    let (first, torn) = running.end();
    let context = format!("{signal:?} {later:?} after call {call} on the route {route}, seed {seed}");
    let cut = first.code != Some(0);
    if cut && signal == Signal::TERM {
        assert_eq!(torn, "", "{context}");
        // Before the signal handlers are installed, the system ends the process, and nothing was written.
        if let Some(code) = first.code {
            assert_eq!(code, 143, "{context}: {}", first.stderr);
            if !first.messages.is_empty() {
                first.last_state();
            }
        } else {
            assert!(first.messages.is_empty(), "{context}");
        }
    }
    let (first, state) = kept(&first);
    let second = tap(&fake, &more, state.as_ref());
    assert_eq!(second.code, Some(0), "{context}: {}", second.stderr);
    let end = second.last_state();
    assert!(is_at_rest(&end), "{context}: {end}");
    assert_union_is_truth(&fake, &[first, second], &context);
    cut
}

fn cut_off_at_100_moments(signal: Signal) {
    let calls = |route: &str| {
        let fake = Fake::start(account(0));
        assert_eq!(tap(&fake, &json!({"activity_route": route}), None).code, Some(0));
        fake.calls().len()
    };
    let routes = ["contacts", "campaigns"].map(|route| (route, calls(route)));
    let seeds = Mutex::new(0..100);
    let cut = Mutex::new(0);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let Some(seed) = seeds.lock().unwrap().next() else { break };
                    let (route, calls) = routes[usize::from(seed % 3 == 0)];
                    *cut.lock().unwrap() += usize::from(cut_off(signal, route, seed, calls));
                }
            });
        }
    });
    // A run may end before the signal; most must not.
    assert!(*cut.lock().unwrap() >= 80, "only {} of 100 runs were cut off", cut.lock().unwrap());
}

#[test]
fn a_run_killed_at_any_moment_loses_nothing() {
    cut_off_at_100_moments(Signal::KILL);
}

#[test]
fn a_run_terminated_at_any_moment_loses_nothing() {
    cut_off_at_100_moments(Signal::TERM);
}

#[test]
fn a_signal_ends_every_kind_of_wait_within_two_seconds() {
    let hang = |path: &str| Fault {
        path: path.into(),
        skip: 1,
        times: usize::MAX,
        what: What::SlowDrip(Duration::from_secs(5)),
    };
    let fails = |path: &str, what: What| Fault { path: path.into(), skip: 1, times: usize::MAX, what };
    let throttled = What::Status(429, r#"{"error_key":"throttled"}"#.into(), "application/json");
    let cases: Vec<(&str, Fault, Value)> = vec![
        ("an answer that does not come", hang("activity_summary"), json!({})),
        ("a backoff", fails("activity_summary", What::Refuse), json!({"max_retries": 20})),
        ("the pace after throttling", fails("activity_summary", throttled), json!({"max_retries": 20})),
        ("the quota", fails("activity_summary", What::QuotaExceeded), json!({"on_quota": "wait"})),
        ("the pace", Fault::once("nothing", What::NotFound), json!({"requests_per_second": 0.2})),
    ];
    for (name, fault, mut more) in cases {
        for signal in [Signal::INT, Signal::TERM] {
            let fake = Fake::start(account(1));
            fake.fault(fault.clone());
            more["activity_route"] = json!("contacts");
            let running = Running::start(&fake, &more);
            let slow = name == "the pace";
            until(&fake, |call| slow || call.path.contains("activity_summary"));
            thread::sleep(Duration::from_millis(300));
            let sent = Instant::now();
            running.signal(signal);
            let (ran, torn) = running.end();
            fake.heal();
            let took = sent.elapsed();
            assert!(took < Duration::from_secs(2), "{name}: {took:?}");
            assert_eq!(ran.code, Some(128 + signal.as_raw()), "{name}: {}", ran.stderr);
            assert_eq!(torn, "", "{name}");
            assert!(ran.stderr.contains("run again with the last STATE"), "{name}: {}", ran.stderr);
            assert!(ran.stderr.contains("% of the daily quota"), "{name}: {}", ran.stderr);
            assert!(!ran.stderr.contains("CRITICAL") && !ran.stderr.contains("panicked"), "{name}: {}", ran.stderr);
            let state = ran.last_state();
            assert!(state["bookmarks"].is_object(), "{name}: {state}");
        }
    }
}

#[test]
fn a_refreshed_token_is_on_disk_before_a_signal_ends_the_run() {
    let cases = [
        (&[][..], Signal::TERM, 800),
        // Longer than the two seconds that everything else may take.
        (&[], Signal::INT, 3000),
        (&[], Signal::HUP, 800),
        (&["--test"], Signal::INT, 800),
    ];
    thread::scope(|scope| {
        for (arguments, signal, latency) in cases {
            scope.spawn(move || {
                let fake = Fake::start(account(2));
                let folder = tempfile::tempdir().unwrap();
                let more = json!({"token_file": folder.path().join("tokens.json")});
                fake.switches().latency = Duration::from_millis(latency);
                let running = Running::start_with(&fake, &more, arguments);
                until(&fake, |call| call.is_token);
                running.signal(signal);
                let (ran, _) = running.end();
                assert_eq!(ran.code, Some(128 + signal.as_raw()), "{}", ran.stderr);
                assert!(!ran.stderr.contains("did not come"), "{}", ran.stderr);
                fake.switches().latency = Duration::ZERO;
                let next = tap(&fake, &more, None);
                assert_eq!(next.code, Some(0), "{signal:?} {arguments:?}: {}", next.stderr);
            });
        }
    });
}

#[test]
fn a_hangup_does_not_end_a_run_under_nohup() {
    let fake = Fake::start(account(2));
    fake.switches().latency = Duration::from_millis(100);
    let config = file(&fake.config());
    let mut nohup = Command::new("nohup");
    nohup.arg(env!("CARGO_BIN_EXE_tap-constant-contact")).arg("--config").arg(config.path());
    let child = nohup.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    until(&fake, |call| !call.is_token);
    kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
    let ran = Ran::of(&child.wait_with_output().unwrap());
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
}

#[test]
fn a_run_ends_at_once_and_quietly_when_its_reader_is_gone() {
    // Also while nothing is written: the wait for the quota takes hours.
    for quota in [false, true] {
        let fake = Fake::start(Account::generate(3, Size { contacts: 24, lists: 1, campaigns: 1 }));
        let mut more = json!({"activity_route": "contacts"});
        if quota {
            more["on_quota"] = json!("wait");
            fake.fault(Fault {
                // The plan reads twenty contacts before the first line is written.
                path: "activity_details".into(),
                skip: 21,
                times: usize::MAX,
                what: What::QuotaExceeded,
            });
        }
        let (mut child, _config) = spawn(&fake, &more, &["--select", "contact_activity_details"]);
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        if quota {
            // Everything before the wait fits into the pipe, so the tap can only notice that it was closed.
            let details = || fake.api_calls().iter().filter(|call| call.path.contains("activity_details")).count();
            let began = Instant::now();
            while details() <= 21 && began.elapsed() < Duration::from_secs(20) {
                thread::sleep(Duration::from_millis(20));
            }
            assert!(details() > 21);
            thread::sleep(Duration::from_millis(300));
        }
        let closed = Instant::now();
        drop(out);
        let mut stderr = String::new();
        child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        let code = child.wait().unwrap().code();
        assert!(closed.elapsed() < Duration::from_secs(2));
        assert_eq!(code, Some(141), "{stderr}");
        for word in ["CRITICAL", "ERROR", "panicked", "Broken pipe"] {
            assert!(!stderr.contains(word), "{stderr}");
        }
        fake.heal();
    }
}

#[test]
fn a_round_over_three_days_reads_every_contact_once() {
    // A tenth of a real account with a tenth of the quota; the benchmark uses the real numbers.
    round::read_over_three_days(2500, 1000, 50);
}

#[test]
fn the_wait_for_the_quota_ends_with_the_day_and_renews_the_login() {
    let fake = Fake::start(account(4));
    // The day of the service ends in two seconds, and so does the access token.
    let midnight = (Utc::now().date_naive() + Days::new(1)).and_time(NaiveTime::MIN).and_utc();
    {
        let mut switches = fake.switches();
        switches.clock_skew = midnight - Utc::now() - TimeDelta::seconds(2);
        switches.per_day = 50;
        switches.expires_in = 2;
    }
    let ran = tap(&fake, &json!({"activity_route": "contacts", "on_quota": "wait"}), None);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(ran.stderr.matches("waiting for it").count(), 1, "{}", ran.stderr);
    assert!(fake.tokens().refreshes >= 2);
    assert_union_is_truth(&fake, &[ran], "after the wait");
}

#[test]
fn a_quota_that_is_reset_late_is_tried_again_after_seconds() {
    let fake = Fake::start(account(4));
    let midnight = (Utc::now().date_naive() + Days::new(1)).and_time(NaiveTime::MIN).and_utc();
    fake.switches().clock_skew = midnight - Utc::now() - TimeDelta::seconds(4);
    // Once before the day ends, and once after.
    fake.fault(Fault { path: "/emails".into(), skip: 0, times: 2, what: What::QuotaExceeded });
    let begun = Instant::now();
    let ran = tap_with(&fake, &json!({"on_quota": "wait"}), None, Some(&only(&["email_campaigns"])));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(begun.elapsed() >= Duration::from_secs(4 + 5 + 5), "{:?}", begun.elapsed());
    assert_eq!(ran.stderr.matches("waiting for it").count(), 1, "{}", ran.stderr);
    assert_eq!(ran.stderr.matches("is not reset yet; next try in 5 s").count(), 1, "{}", ran.stderr);
    assert_eq!(ran.records("email_campaigns").len(), fake.account().truth("email_campaigns").len());
}

#[test]
fn a_max_requests_that_allows_no_progress_is_reported_and_others_are_not() {
    let fake = months_ago(6);
    let reports = &REPORTS[..];
    for (route, streams, limit, makes_progress) in [
        ("auto", streams(), 1, false),
        ("contacts", &["contact_activity_details"], 2, false),
        ("campaigns", reports, 3, false),
        // Calls made ahead for later contacts are lost when the run ends.
        ("contacts", streams(), 40, true),
        ("campaigns", reports, 30, true),
    ] {
        let more = json!({"activity_route": route, "max_requests": limit});
        let mut state: Option<Value> = None;
        for run in 0.. {
            let ran = tap_with(&fake, &more, state.as_ref(), Some(&only(streams)));
            let context = format!("{route} {limit}, run {run}: {}", ran.stderr);
            if ran.code == Some(0) {
                assert!(makes_progress && run > 0, "{context}");
                break;
            }
            assert_eq!(ran.code, Some(4), "{context}");
            assert!(run < 30, "the read does not end: {context}");
            if ran.stderr.contains(&format!("max_requests = {limit} is not enough to make progress; raise it to ")) {
                assert!(!makes_progress && !ran.stderr.contains("run again"), "{context}");
                // It is true: another run makes no progress.
                let again = tap_with(&fake, &more, Some(&ran.last_state()), Some(&only(streams)));
                assert_eq!(again.last_state(), ran.last_state(), "{context}");
                break;
            }
            assert!(ran.stderr.contains("run again with the last STATE to go on"), "{context}");
            state = Some(ran.last_state());
            fake.switches().clock_skew += TimeDelta::hours(1);
        }
    }
}

/// An account two months ago, so that the service's clock can be moved on between runs.
fn months_ago(seed: u64) -> Fake {
    let size = Size { contacts: 40, lists: 4, campaigns: 6 };
    let account = Account::generate_at(seed, size, Utc::now() - TimeDelta::days(60)).with_all_details();
    Fake::start_with(account, Switches { clock_skew: TimeDelta::days(-60), ..Switches::long_lived() })
}

/// The state of a run by contact that ended behind the summary's last contact and before the details' first one.
fn behind_the_summary(fake: &Fake, more: &Value) -> Value {
    let reached = |limit: u64| {
        let mut more = more.clone();
        more["activity_route"] = json!("contacts");
        more["max_requests"] = json!(limit);
        let mut state = tap_with(fake, &more, None, Some(&only(&REPORTS))).last_state();
        let is_reached = state["bookmarks"][REPORTS[0]]["resume_complete"] == true;
        // Calls for the plan have read some details ahead.
        for key in ["since", "until", "route", "after", "filter"] {
            state["bookmarks"][REPORTS[1]][format!("resume_{key}")] = json!("");
        }
        is_reached.then_some(state)
    };
    (40..).find_map(reached).unwrap()
}

/// The log of a run on the next day, which reads the details and not the summary again.
fn the_day_after(fake: &Fake, more: &Value, state: &Value) -> String {
    let summaries = || fake.api_calls().iter().filter(|call| call.path.ends_with("/activity_summary")).count();
    fake.switches().clock_skew += TimeDelta::days(1);
    let before = summaries();
    let ran = tap_with(fake, more, Some(state), Some(&only(&REPORTS)));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(!ran.records(REPORTS[1]).is_empty() && ran.records(REPORTS[0]).is_empty(), "{}", ran.stderr);
    assert!(before > 0 && summaries() == before, "{}", ran.stderr);
    ran.stderr
}

#[test]
fn a_round_over_two_days_ends_with_the_days_of_the_first_and_says_so() {
    let (fake, more) = (months_ago(6), json!({"activity_route": "contacts", "report_days_back": 1000}));
    let log = the_day_after(&fake, &more, &behind_the_summary(&fake, &more));
    let told = "contact_activity_details: the read that an earlier run began is complete, up to ";
    assert!(log.contains(told), "{log}");
}

#[test]
fn both_reports_of_a_round_take_one_route() {
    // With one type of activity, the details are cheaper by campaign.
    let (fake, more) = (months_ago(6), json!({"tracking_activity_types": ["em_opens"]}));
    let log = the_day_after(&fake, &more, &behind_the_summary(&fake, &more));
    assert!(log.contains("by the contact route (to continue the interrupted read)"), "{log}");
}

#[test]
fn a_report_that_waits_is_not_read_where_no_plan_is_made() {
    let fake = months_ago(6);
    let mut state = behind_the_summary(&fake, &json!({}));
    state["currently_syncing"] = Value::Null;
    let more = json!({"activity_route": "contacts", "max_requests": 19});
    let ran = tap_with(&fake, &more, Some(&state), Some(&only(&REPORTS)));
    assert_eq!(ran.code, Some(4), "{}", ran.stderr);
    assert!(ran.stderr.contains("plan: none") && ran.records(REPORTS[0]).is_empty(), "{}", ran.stderr);
    assert_eq!(ran.last_state()["bookmarks"][REPORTS[0]], state["bookmarks"][REPORTS[0]], "{}", ran.stderr);
}

/// The number after these words, if they are there.
fn number_after(text: &str, words: &str) -> Option<u64> {
    let (_, rest) = text.split_once(words)?;
    rest.split_once(' ')?.0.parse().ok()
}

#[test]
fn the_smallest_limits_read_everything_or_name_one_that_does() {
    for (route, limit) in [("auto", 3), ("auto", 7), ("auto", 10), ("contacts", 4), ("contacts", 8)] {
        let mut account = Account::generate(1, Size { contacts: 30, lists: 3, campaigns: 6 });
        account.campaigns.iter_mut().for_each(|campaign| campaign.detail_404 = false);
        let fake = Fake::start_with(account, Switches::long_lived());
        let mut limit: u64 = limit;
        let (mut all, mut state): (Vec<Ran>, Option<Value>) = (Vec::new(), None);
        // The details are read last.
        while state.as_ref().is_none_or(|state| state["bookmarks"][REPORTS[1]]["replication_key_value"].is_null()) {
            let more = json!({"activity_route": route, "max_requests": limit});
            let ran = tap(&fake, &more, state.as_ref());
            assert!(all.len() < 60, "{route}: no end with {limit} calls: {}", ran.stderr);
            state = Some(ran.last_state());
            if let Some(more) = number_after(&ran.stderr, "is not enough to make progress; raise it to ") {
                assert!(more > limit && more <= 40, "{route}: {limit} calls: {}", ran.stderr);
                limit = more;
            }
            all.push(ran);
        }
        assert_union_is_truth(&fake, &all, &format!("{} runs of up to {limit} calls by {route}", all.len()));
    }
}

/// The calls that every run makes for the plan and for the first streams must leave some for the reports.
#[test]
fn runs_with_a_small_limit_read_every_stream_in_the_end() {
    for (route, limit, runs) in [("campaigns", 20, 30), ("contacts", 50, 12)] {
        let mut account = Account::generate(1, Size { contacts: 60, lists: 6, campaigns: 10 });
        // Otherwise some campaigns could be read only contact by contact.
        account.campaigns.iter_mut().for_each(|campaign| campaign.detail_404 = false);
        let fake = Fake::start_with(account, Switches::long_lived());
        // With this lookback, every run writes all campaigns again.
        let more = json!({"activity_route": route, "max_requests": limit, "activity_lookback_days": 3650});
        let (mut all, mut state): (Vec<Ran>, Option<Value>) = (Vec::new(), None);
        for _ in 0..runs {
            let ran = tap(&fake, &more, state.as_ref());
            state = Some(ran.last_state());
            all.push(ran);
            if all.last().unwrap().code == Some(0) {
                break;
            }
        }
        assert_union_is_truth(&fake, &all, &format!("{} runs of {limit} calls by {route}", all.len()));
    }
}

#[test]
fn a_read_over_several_runs_says_how_much_is_left_and_when_it_is_complete() {
    let fake = Fake::start_with(account(6), Switches::long_lived());
    let complete = "INFO the read that an earlier run began is complete";
    // Enough calls for an incremental read, and too few for the many small pages of the first one.
    let limit = 130;
    let more = json!({"activity_route": "contacts", "page_size": 3, "max_requests": limit});
    let (mut state, mut cut_off) = (None, 0);
    loop {
        let ran = tap(&fake, &more, state.as_ref());
        state = Some(ran.last_state());
        assert_eq!(ran.stderr.contains(complete), ran.code == Some(0), "{}", ran.stderr);
        if ran.code == Some(0) {
            break;
        }
        cut_off += 1;
        // Calls made ahead for later contacts may use up the limit before the planned number is reached.
        let left = number_after(&ran.stderr, "plan: about ").unwrap().saturating_sub(limit);
        let expected = match left.div_ceil(limit) {
            0 => "to go on\n".to_owned(),
            1 => format!("to go on (about {left} calls left, at least 1 run)\n"),
            runs => format!("to go on (about {left} calls left, at least {runs} runs)\n"),
        };
        assert!(ran.stderr.contains(&expected), "{expected}: {}", ran.stderr);
        assert!(cut_off < 10, "{}", ran.stderr);
    }
    assert!(cut_off > 1, "{cut_off}");
    // A run that continues nothing has nothing to announce.
    assert!(!tap(&fake, &json!({}), state.as_ref()).stderr.contains(complete));
}

#[test]
fn a_finished_report_is_skipped_until_the_other_one_is_finished() {
    let fake = Fake::start(account(5));
    for report in [json!({}), json!({"report_start_date": "2020-01-01"})] {
        let folder = tempfile::tempdir().unwrap();
        let mut more = json!({"activity_route": "contacts", "token_file": folder.path().join("tokens.json")});
        more.as_object_mut().unwrap().extend(report.as_object().unwrap().clone());
        // After the sample of contacts that the plan reads.
        fake.fault(Fault { path: "activity_details".into(), skip: 30, times: 1, what: What::QuotaExceeded });
        let first = tap(&fake, &more, None);
        assert_eq!(first.code, Some(4), "{}", first.stderr);
        fake.heal();
        fake.forget_calls();
        let second = tap(&fake, &more, Some(&first.last_state()));
        assert_eq!(second.code, Some(0), "{}", second.stderr);
        assert_eq!(fake.api_calls().iter().filter(|c| c.path.contains("activity_summary")).count(), 0);
        assert_eq!(second.messages[0]["stream"], "contact_activity_details");
        let end = second.last_state();
        assert!(is_at_rest(&end), "{end}");
        let bookmark = &end["bookmarks"]["contact_action_summary"]["replication_key_value"];
        assert_eq!(bookmark.is_string(), report == json!({}));
        assert_union_is_truth(&fake, &[first, second], "two runs");
    }
}
