//! What the tap costs: time, memory and calls, measured on the real binary against servers on the loopback.
//!
//! `cargo bench` prints tables in Markdown; `benches/README.md` holds those of one machine.

// A bench measures in floating point and prints.
#![allow(clippy::cast_precision_loss, clippy::print_stdout, missing_docs)]

#[path = "../tests/fake/mod.rs"]
mod fake;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use fake::account::Size;
use fake::{Account, Fake, Switches};
use serde_json::{Value, json};

const TAP: &str = env!("CARGO_BIN_EXE_tap-constant-contact");
/// Contacts a page.
const PAGE: usize = 500;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    // The baseline runs as a process of its own, measured like the tap.
    if let [_, name, folder] = args.as_slice()
        && name == "baseline"
    {
        return baseline(folder);
    }
    println!("Binary: {:.1} MB\n", fs::metadata(TAP).unwrap().len() as f64 / 1e6);
    contacts();
    routes();
    latency();
}

/// A full read of the contacts, with all sub-resources, from pages made beforehand.
fn contacts() {
    let bodies = contact_pages(200_000);
    let folder = tempfile::tempdir().unwrap();
    for (i, body) in bodies.iter().enumerate() {
        fs::write(folder.path().join(format!("{i:04}")), body).unwrap();
    }
    let bytes: usize = bodies.iter().map(Vec::len).sum();
    println!("200,000 contacts, {} MB of JSON\n", bytes / 1_000_000);
    println!("| what | s | records/s | CPU s | CPU µs a contact | peak MB | first record ms |");
    println!("|---|---|---|---|---|---|---|");
    let cached = Cached::start(bodies);
    for _ in 0..3 {
        let exe = std::env::current_exe().unwrap();
        let mut command = Command::new(exe);
        row("baseline", 200_000, command.arg("baseline").arg(folder.path()));
        row("tap", 200_000, tap(&cached.config(200_000), &["contacts"]).command());
    }
    row("tap, 20,000 contacts", 20_000, tap(&cached.config(20_000), &["contacts"]).command());
    println!();
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

/// What a process cost.
struct Cost {
    wall: Duration,
    /// User and system time.
    cpu: Duration,
    peak_kb: u64,
    first_record: Duration,
}

fn row(name: &str, contacts: u32, command: &mut Command) {
    let cost = measure(command);
    println!(
        "| {name} | {:.2} | {:.0} | {:.2} | {:.1} | {:.0} | {} |",
        cost.wall.as_secs_f64(),
        f64::from(contacts) / cost.wall.as_secs_f64(),
        cost.cpu.as_secs_f64(),
        cost.cpu.as_secs_f64() * 1e6 / f64::from(contacts),
        cost.peak_kb as f64 / 1024.0,
        cost.first_record.as_millis(),
    );
}

/// Runs a command to its end and reads its stdout away.
fn measure(command: &mut Command) -> Cost {
    let begun = Instant::now();
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut out = BufReader::with_capacity(1 << 20, child.stdout.take().unwrap());
    let peak = watch(&child);
    let mut line = String::new();
    while !line.contains("RECORD") && !line.contains("contact_id") {
        line.clear();
        assert!(out.read_line(&mut line).unwrap() > 0, "no record");
    }
    let first_record = begun.elapsed();
    std::io::copy(&mut out, &mut std::io::sink()).unwrap();
    // An ended child keeps its times until it is waited for.
    let cpu = cpu_of(&child);
    assert!(child.wait().unwrap().success());
    Cost { wall: begun.elapsed(), cpu, peak_kb: peak.join().unwrap(), first_record }
}

/// User and system time of a process, from its stat file.
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

/// The largest resident size of a process, in kB, looked at until it ends.
fn watch(child: &Child) -> thread::JoinHandle<u64> {
    let path = format!("/proc/{}/status", child.id());
    thread::spawn(move || {
        let mut peak = 0;
        while let Ok(status) = fs::read_to_string(&path) {
            let Some(line) = status.lines().find_map(|line| line.strip_prefix("VmHWM:")) else { break };
            peak = line.trim().trim_end_matches(" kB").parse().unwrap_or(peak);
            thread::sleep(Duration::from_millis(5));
        }
        peak
    })
}

/// A run of the tap that waits to be started, with the files that it needs.
struct Prepared {
    folder: tempfile::TempDir,
    command: Option<Command>,
}

impl Prepared {
    fn command(&mut self) -> &mut Command {
        let file = |name: &str| self.folder.path().join(name);
        let mut command = Command::new(TAP);
        command.arg("--config").arg(file("config.json")).arg("--catalog").arg(file("catalog.json"));
        if file("state.json").exists() {
            command.arg("--state").arg(file("state.json"));
        }
        self.command.insert(command)
    }
}

fn tap(config: &Value, streams: &[&str]) -> Prepared {
    let folder = tempfile::tempdir().unwrap();
    let entry = |name: &&str| {
        json!({"tap_stream_id": name, "stream": name, "schema": {},
               "metadata": [{"breadcrumb": [], "metadata": {"selected": true}}]})
    };
    let catalog = json!({"streams": streams.iter().map(entry).collect::<Vec<_>>()});
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    fs::write(folder.path().join("catalog.json"), catalog.to_string()).unwrap();
    Prepared { folder, command: None }
}

/// Pages of contacts with all that can hang on them, each contact with an id of its own.
fn contact_pages(contacts: usize) -> Vec<Vec<u8>> {
    let account = Account::generate(3, Size { contacts: 2000, lists: 20, campaigns: 0 });
    let rows = account.truth("contacts");
    let pages = contacts.div_ceil(PAGE);
    (0..pages)
        .map(|page| {
            let rows: Vec<Value> = (0..PAGE.min(contacts - page * PAGE))
                .map(|i| {
                    let number = page * PAGE + i;
                    let mut row = rows[number % rows.len()].clone();
                    row["contact_id"] = json!(format!("{number:08x}-908b-11e6-907f-00166bff2500"));
                    // Absent, as the service sends it.
                    row.as_object_mut().unwrap().retain(|_, value| !value.is_null());
                    row
                })
                .collect();
            json!({"contacts": rows}).to_string().into_bytes()
        })
        .collect()
}

/// A server of pages made beforehand: it costs next to nothing, so that what is measured is the tap.
struct Cached {
    address: String,
}

impl Cached {
    fn start(bodies: Vec<Vec<u8>>) -> Cached {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let bodies = Arc::new(bodies);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let bodies = Arc::clone(&bodies);
                thread::spawn(move || serve(stream.unwrap(), &bodies));
            }
        });
        Cached { address }
    }

    /// `contacts` stands in the path, so that one server has accounts of several sizes.
    fn config(&self, contacts: usize) -> Value {
        json!({
            "access_token": "bench", "api_url": format!("{}/{contacts}", self.address), "auth_url": self.address,
            "requests_per_second": 1000,
        })
    }
}

fn serve(stream: TcpStream, bodies: &[Vec<u8>]) {
    stream.set_nodelay(true).unwrap();
    let mut out = stream.try_clone().unwrap();
    let mut lines = BufReader::new(stream).lines();
    loop {
        let Some(Ok(request)) = lines.next() else { return };
        while let Some(Ok(line)) = lines.next() {
            if line.is_empty() {
                break;
            }
        }
        let target = request.split(' ').nth(1).unwrap();
        let contacts: usize = target.split('/').nth(1).unwrap().parse().unwrap();
        let page: usize = target.split_once("cursor=").map_or(0, |(_, page)| page.parse().unwrap());
        let body = if target.contains("/contacts/counts") { b"{}}".as_slice() } else { &bodies[page] };
        let last = (page + 1) * PAGE >= contacts;
        let next = format!(r#"{{"href":"/{contacts}/contacts?cursor={}"}}"#, page + 1);
        let next = if last { "null" } else { &next };
        let tail = format!(r#","contacts_count":{contacts},"_links":{{"next":{next}}}}}"#);
        let (body, tail) = if body == b"{}}" { (&b"{}"[..], String::new()) } else { (&body[..body.len() - 1], tail) };
        let length = body.len() + tail.len();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n");
        if out.write_all(head.as_bytes()).and(out.write_all(body)).and(out.write_all(tail.as_bytes())).is_err() {
            return;
        }
    }
}

/// Calls of both routes, counted by running them.
fn routes() {
    println!("Calls of the two contact reports together\n");
    println!("| contacts | campaigns sent | contact route | campaign route | the day after, campaign route |");
    println!("|---|---|---|---|---|");
    let reports = ["contact_action_summary", "contact_activity_details"];
    for contacts in [1_000, 26_000] {
        let switches = Switches { rotating: false, per_day: u32::MAX, ..Switches::default() };
        let account = Account::generate(26, Size { contacts, lists: 3, campaigns: 22 });
        let fake = Fake::start_with(account, switches);
        let sent = fake.account().sent_activities().len();
        let calls = |route: &str, state: Option<&Value>| {
            let mut config = fake.config();
            config["activity_route"] = json!(route);
            config["requests_per_second"] = json!(10_000);
            let mut run = tap(&config, &reports);
            if let Some(state) = state {
                fs::write(run.folder.path().join("state.json"), state.to_string()).unwrap();
            }
            fake.forget_calls();
            let last = last_line(run.command());
            (fake.api_calls().len(), last["value"].clone())
        };
        let (by_contact, _) = calls("contacts", None);
        let (by_campaign, state) = calls("campaigns", None);
        let (again, _) = calls("campaigns", Some(&state));
        println!("| {contacts} | {sent} | {by_contact} | {by_campaign} | {again} |");
    }
    println!();
}

fn last_line(command: &mut Command) -> Value {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut errors = child.stderr.take().unwrap();
    let stderr = thread::spawn(move || {
        let mut text = String::new();
        errors.read_to_string(&mut text).unwrap();
        text
    });
    let last = BufReader::new(child.stdout.take().unwrap()).lines().last();
    assert!(child.wait().unwrap().success(), "{}", stderr.join().unwrap());
    serde_json::from_str(&last.unwrap().unwrap()).unwrap()
}

/// Calls a second at several latencies, at the default pace.
fn latency() {
    println!("Calls a second at the default pace of 4\n");
    println!("| latency ms | contact route | campaign route |");
    println!("|---|---|---|");
    let account = Account::generate(9, Size { contacts: 60, lists: 1, campaigns: 12 });
    let ids: Vec<String> = account.contacts.iter().map(|c| c.id.to_string()).collect();
    for latency in [0, 100, 300, 500, 1000] {
        let [by_contact, by_campaign] =
            [("contacts", "contact_reports"), ("campaigns", "/tracking/")].map(|(route, path)| {
                let latency = Duration::from_millis(latency);
                let switches = Switches { latency, max_pace: Some(4), rotating: false, ..Switches::default() };
                let fake = Fake::start_with(account.clone(), switches);
                let mut config = fake.config();
                config["activity_route"] = json!(route);
                config["requests_per_second"] = json!(4);
                config["contact_ids"] = json!(ids);
                last_line(tap(&config, &["contact_activity_details"]).command());
                let times: Vec<Instant> =
                    fake.api_calls().iter().filter(|c| c.path.contains(path)).map(|c| c.at).collect();
                let span = times.iter().max().unwrap().duration_since(*times.iter().min().unwrap());
                (times.len() - 1) as f64 / span.as_secs_f64()
            });
        println!("| {latency} | {by_contact:.2} | {by_campaign:.2} |");
    }
}
