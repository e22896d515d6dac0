//! What the tap costs: time, memory and calls, measured on the real binary against servers on the loopback.
//!
//! `cargo bench` prints tables in Markdown, and exits with 1 when a promise is broken; `benches/README.md` holds the
//! tables of one machine. `cargo bench -- routes` runs one part of it: `contacts`, `memory`, `routes`, `days` or
//! `latency`.
#![cfg(target_os = "linux")]
// A bench measures in floating point and prints.
#![allow(clippy::cast_precision_loss, clippy::print_stdout, missing_docs)]

mod cached;
// The benchmark does not use everything in these modules.
#[allow(dead_code, unused_imports)]
#[path = "../../tests/it/merge.rs"]
mod merge;
mod process;
#[path = "../../tests/it/round.rs"]
mod round;
// The benchmark does not use everything in it.
#[allow(dead_code)]
#[path = "../../tests/it/tap.rs"]
mod tap;

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::panic::catch_unwind;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use cached::{Bodies, Cached};
use chrono::TimeDelta;
use fake::account::{Row, Size};
use fake::{Account, Fake, Kind, Switches};
use process::{Ran, run, unpaced};
use serde::Deserialize;
use serde_json::{Value, json};
use tap::{REPORTS, streams};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    // The baseline runs as a process of its own, measured like the tap.
    if let [_, name, folder] = args.as_slice()
        && name == "baseline"
    {
        baseline(folder);
        return ExitCode::SUCCESS;
    }
    let begun = Instant::now();
    let mut promises = Promises::default();
    println!("{}\n", machine());
    let size = fs::metadata(env!("CARGO_BIN_EXE_tap-constant-contact")).unwrap().len();
    println!("Binary: {:.1} MB\n", size as f64 / 1e6);
    let parts: [(&str, Part); 5] =
        [("contacts", contacts), ("memory", memory), ("routes", routes), ("days", days), ("latency", latency)];
    let named: Vec<&String> = args[1..].iter().filter(|arg| !arg.starts_with('-')).collect();
    for (name, part) in parts {
        if named.is_empty() || named.iter().any(|one| *one == name) {
            part(&mut promises);
        }
    }
    let kept = promises.print();
    println!("\nTook {} s", begun.elapsed().as_secs());
    if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A part of the benchmark: prints its tables, and says which promises it saw kept.
type Part = fn(&mut Promises);

/// What was promised, what was measured, and whether that keeps it.
#[derive(Default)]
struct Promises(Vec<(String, String, bool)>);

impl Promises {
    fn add(&mut self, promise: impl Into<String>, measured: impl Into<String>, kept: bool) {
        self.0.push((promise.into(), measured.into(), kept));
    }

    fn print(&self) -> bool {
        println!("| promise | measured | |");
        println!("|---|---|---|");
        for (promise, measured, kept) in &self.0 {
            println!("| {promise} | {measured} | {} |", if *kept { "kept" } else { "**BROKEN**" });
        }
        self.0.iter().all(|(_, _, kept)| *kept)
    }
}

fn machine() -> String {
    let find = |path: &str, name: &str| {
        let text = fs::read_to_string(path).unwrap();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once([':', '=']).map_or("?", |(_, value)| value.trim().trim_matches('"')).to_owned()
    };
    let memory: f64 = find("/proc/meminfo", "MemTotal").trim_end_matches(" kB").parse().unwrap();
    format!(
        "Machine: {} cores, {}, {:.0} GB of memory, {}",
        thread::available_parallelism().unwrap(),
        find("/proc/cpuinfo", "model name"),
        memory * 1024.0 / 1e9,
        find("/etc/os-release", "PRETTY_NAME"),
    )
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

/// A full read of the contacts, with all sub-resources, from pages made beforehand.
fn contacts(promises: &mut Promises) {
    const PAIRS: usize = 7;
    let bodies = Bodies::of(200_000);
    let folder = tempfile::tempdir().unwrap();
    for (i, body) in bodies.contacts.iter().enumerate() {
        fs::write(folder.path().join(format!("{i:04}")), body).unwrap();
    }
    let bytes: usize = bodies.contacts.iter().map(Vec::len).sum();
    let cached = Cached::start(bodies);
    let read = |contacts: usize| process::tap(&cached.config(contacts), &["contacts"], None, |_| ());
    let (mut plain, mut whole) = (Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        let mut command = Command::new(std::env::current_exe().unwrap());
        plain.push(run(command.arg("baseline").arg(folder.path()), |_| ()));
        whole.push(read(200_000));
    }
    let small: Vec<Ran> = (0..PAIRS).map(|_| read(20_000)).collect();
    println!("A full read of the contacts with all sub-resources: 200,000 are {} MB of JSON", bytes / 1_000_000);
    println!("(medians of {PAIRS} runs, taken in turns; memory is the largest of all)\n");
    println!("| what | s | records/s | CPU s | CPU µs a contact | peak MB | first record after ms |");
    println!("|---|---|---|---|---|---|---|");
    let mut peak = 0f64;
    let rows = [("baseline", 200_000, &plain), ("tap", 200_000, &whole), ("tap, 20,000 contacts", 20_000, &small)];
    for (name, contacts, ran) in rows {
        let of = |what: fn(&Ran) -> f64| median(ran.iter().map(what).collect());
        let (wall, cpu) = (of(|ran| ran.wall.as_secs_f64()), of(|ran| ran.cpu.as_secs_f64()));
        let contacts = f64::from(contacts);
        peak = ran.iter().map(|ran| ran.peak_mb).fold(0.0, f64::max);
        let first = of(|ran| ran.first_record.as_secs_f64() * 1e3);
        println!(
            "| {name} | {wall:.2} | {:.0} | {cpu:.2} | {:.1} | {peak:.0} | {first:.0} |",
            contacts / wall,
            cpu * 1e6 / contacts
        );
        if name == "tap" {
            promises.add("200,000 contacts are read in under 40 MB", format!("{peak:.0} MB"), peak < 40.0);
        }
    }
    let ratios = whole.iter().zip(&plain).map(|(tap, plain)| tap.cpu.as_secs_f64() / plain.cpu.as_secs_f64());
    let ratio = median(ratios.clone().collect());
    let all: Vec<String> = ratios.map(|ratio| format!("{ratio:.2}")).collect();
    println!("\nThe tap's CPU time over the baseline's, pair by pair: {}\n", all.join(", "));
    promises.add(
        "and at most 2.5 times the CPU time of parsing and writing alone",
        format!("{ratio:.2} times (median of {PAIRS} pairs)"),
        ratio <= 2.5,
    );
    assert!(peak > 1.0, "the memory was not measured");
}

/// Parses the pages of a folder into the tap's own records, and writes them.
fn baseline(folder: &str) {
    let mut out = std::io::BufWriter::with_capacity(1 << 16, std::io::stdout());
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    for name in names {
        tap_constant_contact::parse_and_write_contacts(&fs::read_to_string(name).unwrap(), &mut out).unwrap();
    }
    out.flush().unwrap();
}

/// An account whose every campaign went to every contact that has an address: what costs most.
///
/// A fifth open it, some of them twice; a thirtieth click, a hundredth bounce, a few unsubscribe.
fn dense(contacts: usize, campaigns: usize) -> Account {
    let mut account = Account::generate(26, Size { contacts, lists: 20, campaigns }).with_all_details();
    let sent: Vec<_> = account.campaigns.iter().flat_map(|c| &c.activities).filter(|a| a.sent_at.is_some()).collect();
    let mut rows = Vec::new();
    for activity in sent {
        let at = activity.sent_at.unwrap();
        for (i, contact) in account.contacts.iter().enumerate().filter(|(_, contact)| contact.email.is_some()) {
            let mut row = |kind, seconds: usize| {
                let at = at + TimeDelta::seconds(i64::try_from(seconds).unwrap());
                rows.push(Row { contact_id: contact.id.clone(), activity_id: activity.id.clone(), kind, at });
            };
            row(Kind::Sends, 0);
            if i % 100 == 0 {
                row(Kind::Bounces, 5);
                continue;
            }
            if i % 5 == 1 {
                row(Kind::Opens, 60 + i % 80_000);
            }
            if i % 15 == 1 {
                row(Kind::Opens, 90 + i % 80_000);
            }
            if i % 30 == 1 {
                row(Kind::Clicks, 95 + i % 80_000);
            }
            if i % 1000 == 1 {
                row(Kind::Optouts, 99 + i % 80_000);
            }
        }
    }
    // As the fake sorts them, which costs nothing then.
    rows.sort_by(|a, b| (b.at, &b.contact_id).cmp(&(a.at, &a.contact_id)));
    account.activities = rows;
    account
}

/// A server of an account without limits.
fn open(account: Account) -> Fake {
    Fake::start_with(
        account,
        Switches { rotating: false, gzip: false, per_second: u32::MAX, per_day: u32::MAX, ..Switches::default() },
    )
}

/// A full read of all streams, the reports by campaign.
fn memory(_: &mut Promises) {
    println!(
        "A full read of all streams, by the campaign route, of an account whose three sendings went to everybody\n"
    );
    println!("| contacts | records | calls | peak MB |");
    println!("|---|---|---|---|");
    for contacts in [20_000, 200_000] {
        let fake = open(dense(contacts, 2));
        let mut records = 0;
        let ran = process::tap(&unpaced(&fake, &json!({"activity_route": "auto"})), streams(), None, |line| {
            records += u32::from(line.starts_with(r#"{"type":"RECORD""#));
        });
        assert!(ran.stderr.contains("by the campaign route"), "{}", ran.stderr);
        println!("| {contacts} | {records} | {} | {:.0} |", fake.api_calls().len(), ran.peak_mb);
    }
    println!();
}

/// The rows of a run, in a form that two runs share whatever their order: their number, and a sum of hashes.
#[derive(Default, Debug, PartialEq)]
struct Rows {
    count: u64,
    sum: u64,
}

impl Rows {
    fn take(&mut self, line: &str) {
        /// The fields that both routes have.
        #[derive(Deserialize, Hash)]
        struct Line<'a> {
            stream: &'a str,
            #[serde(borrow)]
            record: Record<'a>,
        }
        #[derive(Deserialize, Hash)]
        struct Record<'a> {
            contact_id: &'a str,
            campaign_activity_id: &'a str,
            tracking_activity_type: Option<&'a str>,
            created_time: Option<&'a str>,
            campaign_activity_name: Option<String>,
            occurrence: Option<u64>,
            start_on: Option<&'a str>,
            em_sends: Option<u64>,
            em_opens: Option<u64>,
            em_clicks: Option<u64>,
            em_bounces: Option<u64>,
            em_forwards: Option<u64>,
            em_unsubscribes: Option<u64>,
        }
        if line.starts_with(r#"{"type":"RECORD""#) {
            let mut hasher = DefaultHasher::new();
            serde_json::from_str::<Line>(line).unwrap().hash(&mut hasher);
            self.count += 1;
            self.sum = self.sum.wrapping_add(hasher.finish());
        }
    }
}

/// What a run of both reports took.
struct Report {
    ran: Ran,
    rows: Rows,
    calls: usize,
}

fn reports(fake: &Fake, route: &str, state: Option<&Value>) -> Report {
    fake.forget_calls();
    let mut rows = Rows::default();
    let ran = process::tap(&unpaced(fake, &json!({"activity_route": route})), &REPORTS, state, |line| rows.take(line));
    Report { ran, rows, calls: fake.api_calls().len() }
}

/// The number of calls in the plan.
fn planned_calls(report: &Report) -> usize {
    let (_, rest) = report.ran.stderr.split_once("plan: about ").expect("a plan");
    rest.split_once(' ').unwrap().0.parse().unwrap()
}

/// Calls of both routes, counted by running them.
fn routes(promises: &mut Promises) {
    println!("Calls of the two contact reports together, 22 campaigns, each sent to every contact\n");
    println!("| contacts | rows | contact route | campaign route | planned | share | the day after a campaign |");
    println!("|---|---|---|---|---|---|---|");
    let mut measured = Vec::new();
    for contacts in [1_000, 26_000] {
        let fake = open(dense(contacts, 22));
        let by_contact = reports(&fake, "contacts", None);
        let by_campaign = reports(&fake, "auto", None);
        let same = by_contact.rows == by_campaign.rows;
        // One more campaign goes out to everybody, and a fifth open it.
        let ids: Vec<_> = fake.account().contacts.iter().map(|contact| contact.id.clone()).collect();
        let activity = fake.account().send_campaign("The day after", &ids);
        (0..contacts).step_by(5).for_each(|contact| fake.account().open(contact, &activity));
        let after = reports(&fake, "auto", Some(&by_campaign.ran.state()));
        let share = 100.0 * by_campaign.calls as f64 / by_contact.calls as f64;
        println!(
            "| {contacts} | {} | {} | {} | {} | {share:.1} % | {} |",
            by_campaign.rows.count,
            by_contact.calls,
            by_campaign.calls,
            planned_calls(&by_campaign),
            after.calls
        );
        if contacts == 26_000 {
            promises.add(
                "26,000 contacts, 22 campaigns: both routes give the same rows",
                format!("{} rows", by_campaign.rows.count),
                same,
            );
            promises.add(
                "the campaign route takes at most 5 % of the calls of the contact route",
                format!("{share:.1} %"),
                share <= 5.0,
            );
            let peak = by_campaign.ran.peak_mb;
            promises.add("and under 45 MB", format!("{peak:.0} MB"), peak < 45.0);
            promises.add(
                "and at most 300 calls the day after a campaign",
                format!("{} calls", after.calls),
                after.calls <= 300,
            );
            promises.add(
                "the day after brings that day's rows",
                format!("{} rows", after.rows.count),
                after.rows.count >= 2 * ids.len() as u64 + ids.len() as u64 / 5,
            );
        }
        measured.push((contacts, [by_contact.calls, by_campaign.calls, after.calls]));
    }
    let [(few, low), (many, high)] = measured.as_slice() else { unreachable!("two sizes") };
    let at = |contacts: usize, column: usize| {
        let slope = (high[column] - low[column]) as f64 / (many - few) as f64;
        high[column] as f64 + slope * (contacts - many) as f64
    };
    let [by_contact, by_campaign, after] = [0, 1, 2].map(|column| at(250_000, column));
    let share = 100.0 * by_campaign / by_contact;
    println!("| 250000, computed | | {by_contact:.0} | {by_campaign:.0} | | {share:.1} % | {after:.0} |\n");
    println!("The last line goes on along the straight line through the two above.\n");
}

/// A read that takes more calls than a day has, at full size.
fn days(promises: &mut Promises) {
    let kept = catch_unwind(|| round::read_over_three_days(25_000, 10_000, 500)).is_ok();
    promises.add(
        "25,000 contacts by contact at 10,000 calls a day: three days, one window, none missed or repeated",
        "25,000 contacts",
        kept,
    );
}

/// Calls a second at several latencies, at the default pace, of both routes; all at once, since they mostly wait.
fn latency(promises: &mut Promises) {
    const LATENCIES: [u64; 5] = [0, 100, 300, 500, 1000];
    const ROUTES: [(&str, &str); 2] = [("contacts", "contact_reports"), ("campaigns", "/tracking/")];
    let account = dense(5_000, 22);
    let ids: Vec<&str> = account.contacts.iter().take(400).map(|contact| &*contact.id).collect();
    let read = &|latency: u64, route: &str, path: &str| {
        let mut more = json!({"requests_per_second": 4, "activity_route": route});
        if route == "contacts" {
            more["contact_ids"] = json!(ids);
        }
        pace(account.clone(), latency, &more, path)
    };
    // Each on its own is measured again if it failed: a machine that is busy with other things delays calls.
    let of_route = |latency: u64, route: &str, path: &str| {
        best(|| read(latency, route, path), |pace| latency > 500 || (pace.steady >= 3.85 && pace.most <= 4))
    };
    // As many calls are under way as at 4 a second and 500 ms, in a quarter of the time.
    let of_long = || {
        let more = json!({"requests_per_second": 16, "activity_route": "campaigns"});
        best(|| pace(dense(26_000, 22), 125, &more, "/tracking/"), |pace| pace.whole >= 0.9 * 16.0)
    };
    let paces = thread::scope(|scope| {
        let of_route = &of_route;
        let runs =
            LATENCIES.map(|latency| ROUTES.map(|(route, path)| scope.spawn(move || of_route(latency, route, path))));
        runs.map(|routes| routes.map(|run| run.join().unwrap()))
    });
    // On its own, since such an account keeps a processor busy.
    let long = of_long();
    println!("Calls a second at the default pace of 4, and the most in any sliding second\n");
    println!("| latency ms | contact route | campaign route |");
    println!("|---|---|---|");
    for (latency, [by_contact, by_campaign]) in LATENCIES.iter().zip(&paces) {
        println!(
            "| {latency} | {:.2}, {} | {:.2}, {} |",
            by_contact.steady, by_contact.most, by_campaign.steady, by_campaign.most
        );
    }
    println!();
    let up_to_500_ms =
        || LATENCIES.iter().zip(&paces).filter(|(latency, _)| **latency <= 500).flat_map(|(_, paces)| paces);
    let slowest = up_to_500_ms().map(|pace| pace.steady).fold(f64::INFINITY, f64::min);
    let most = up_to_500_ms().map(|pace| pace.most).max().unwrap();
    promises.add(
        "both routes make at least 3.85 calls a second at 0 to 500 ms of latency",
        format!("{slowest:.2} a second"),
        slowest >= 3.85,
    );
    promises.add("and never more than 4 in any sliding second", format!("at most {most}"), most <= 4);
    promises.add(
        "the reports of 26,000 contacts, though some are 52 pages long, keep 90 % of four times that pace at a quarter of the latency",
        format!("{:.1} %", long.whole * 100.0 / 16.0),
        long.whole >= 0.9 * 16.0,
    );
}

struct MeasuredPace {
    /// Calls a second from the first to the last call that is looked at, without the longest pause.
    whole: f64,
    /// Calls a second between the first tenth of these calls and the last one: the plan waits for its answers, and at the end
    /// the pages of one report may be all that is left, of which each names the next.
    steady: f64,
    /// The most calls in any sliding second.
    most: usize,
}

/// Measures until it is good, three times at most.
fn best<T>(mut measure: impl FnMut() -> T, is_good: impl Fn(&T) -> bool) -> T {
    let mut measured = measure();
    for _ in 0..2 {
        if is_good(&measured) {
            break;
        }
        measured = measure();
    }
    measured
}

/// The pace of a run, from the first to the last call whose path holds `path`.
fn pace(account: Account, latency: u64, more: &Value, path: &str) -> MeasuredPace {
    let latency = Duration::from_millis(latency);
    let fake = Fake::start_with(account, Switches { latency, rotating: false, gzip: false, ..Switches::default() });
    let mut config = fake.config();
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    process::tap(&config, &REPORTS[1..], None, |_| ());
    let mut calls = fake.api_calls();
    calls.sort_by_key(|call| call.at);
    let all: Vec<Instant> = calls.iter().map(|call| call.at).collect();
    // What a report looks up on its way takes its share of the pace as well.
    let first = calls.iter().position(|call| call.path.contains(path)).unwrap();
    let last = calls.iter().rposition(|call| call.path.contains(path)).unwrap();
    let pauses: Vec<f64> = all[first..=last].windows(2).map(|two| (two[1] - two[0]).as_secs_f64()).collect();
    let rest = pauses.iter().sum::<f64>() - pauses.iter().copied().fold(0.0, f64::max);
    let middle = &pauses[pauses.len() / 10..pauses.len() * 9 / 10];
    MeasuredPace {
        whole: (pauses.len() - 1) as f64 / rest,
        steady: middle.len() as f64 / middle.iter().sum::<f64>(),
        most: most_in_a_second(&all),
    }
}

/// The most calls that any sliding second holds.
fn most_in_a_second(times: &[Instant]) -> usize {
    (0..times.len())
        .map(|i| times[i..].iter().take_while(|at| at.duration_since(times[i]) < Duration::from_secs(1)).count())
        .max()
        .unwrap_or(0)
}
