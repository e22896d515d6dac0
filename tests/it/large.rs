//! The calls and memory that a larger account takes.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use fake::account::Size;
use fake::{Account, Fake, Kind};
use serde_json::json;
use tempfile::NamedTempFile;

use crate::tap::{REPORTS, command, file, only, tap_with};

/// The peak memory of a running process in KiB.
fn peak(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Watches a process until it ends. Returns its peak memory in KiB.
pub fn watch_peak(pid: u32) -> thread::JoinHandle<u64> {
    thread::spawn(move || {
        let mut most = 0;
        while let Some(now) = peak(pid) {
            most = most.max(now);
            thread::sleep(Duration::from_millis(5));
        }
        most
    })
}

/// A running tap that reads the contacts, and its files.
fn reads_contacts(fake: &Fake) -> (Child, [NamedTempFile; 2]) {
    let files = [file(&fake.config()), file(&only(&["contacts"]))];
    let mut command = command();
    command.arg("--config").arg(files[0].path()).arg("--catalog").arg(files[1].path());
    (command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap(), files)
}

#[test]
fn twenty_thousand_contacts_take_little_memory_and_few_calls() {
    let fake = Fake::start(Account::generate(41, Size { contacts: 20_000, lists: 5, campaigns: 1 }));
    let (mut tap, _files) = reads_contacts(&fake);
    let (mut records, mut most) = (0, 0);
    for line in BufReader::new(tap.stdout.take().unwrap()).lines() {
        if line.unwrap().starts_with(r#"{"type":"RECORD""#) {
            records += 1;
            if records % 1000 == 0 {
                // After the last one the process may have ended.
                most = most.max(peak(tap.id()).unwrap_or_default());
            }
        }
    }
    assert_eq!(tap.wait().unwrap().code(), Some(0));
    assert_eq!(records, fake.account().contacts.len());
    assert!(most > 1000 && most < 40 * 1024, "{most} KiB");
    let listing = fake.api_calls().iter().filter(|call| call.path.ends_with("/contacts")).count();
    // The pages, and a call of the plan for the count.
    assert_eq!(listing, 20_000 / 500 + 1);
    // Beside these: custom fields, tags and both kinds of lists, and one to spare.
    assert!(fake.api_calls().len() <= listing + 5, "{}", fake.api_calls().len());
}

#[test]
fn activity_of_twenty_six_thousand_contacts_by_campaign_takes_little_memory() {
    let mut account = Account::generate(41, Size { contacts: 26_000, lists: 5, campaigns: 1 });
    let everybody: Vec<_> = account.contacts.iter().map(|contact| contact.id.clone()).collect();
    account.send_campaign("To everybody", &everybody);
    let fake = Fake::start(account);
    let mut config = fake.config();
    config["activity_route"] = json!("campaigns");
    let files = [file(&config), file(&only(&REPORTS))];
    let mut command = command();
    command.arg("--config").arg(files[0].path()).arg("--catalog").arg(files[1].path());
    let mut tap = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let peak = watch_peak(tap.id());
    let lines = BufReader::new(tap.stdout.take().unwrap()).lines();
    let records = lines.filter(|line| line.as_ref().unwrap().starts_with(r#"{"type":"RECORD""#)).count();
    assert_eq!(tap.wait().unwrap().code(), Some(0));
    // A summary and a send of each contact, and those of the other campaign.
    assert!(records >= 2 * 26_000, "{records} records");
    let most = peak.join().unwrap();
    assert!(most > 1000 && most * 1024 < 45_000_000, "{most} KiB");
}

#[test]
fn the_next_pages_are_fetched_while_one_is_written() {
    let fake = Fake::start(Account::generate(42, Size { contacts: 5000, lists: 1, campaigns: 0 }));
    let (mut tap, _files) = reads_contacts(&fake);
    let mut out = BufReader::with_capacity(1 << 10, tap.stdout.take().unwrap());
    let mut line = String::new();
    for _ in 0..10 {
        out.read_line(&mut line).unwrap();
    }
    // A pipe holds less than a page, so the tap is still writing its first page.
    thread::sleep(Duration::from_secs(2));
    let listing = || fake.api_calls().iter().filter(|call| call.path.ends_with("/contacts")).count();
    // The call for the count, the page that is being written, the one that waits, and the one that is fetched next.
    assert_eq!(listing(), 4);
    std::io::copy(&mut out, &mut std::io::sink()).unwrap();
    assert_eq!(tap.wait().unwrap().code(), Some(0));
    assert_eq!(listing(), 11);
}

#[test]
fn a_long_report_writes_a_state_every_ten_thousand_records() {
    let (contacts, each) = (300, 90);
    let mut account = Account::generate(42, Size { contacts, lists: 1, campaigns: 1 });
    account.activities.clear();
    let activity = account.sent_activities()[0].clone();
    for n in 0..contacts {
        let id = account.contacts[n].id.clone();
        for _ in 0..each {
            account.track(Kind::Opens, &id, &activity);
        }
    }
    let fake = Fake::start(account);
    let more = json!({"activity_route": "contacts", "requests_per_second": 10_000});
    let ran = tap_with(&fake, &more, None, Some(&only(&["contact_activity_details"])));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let (mut since, mut in_between, mut last) = (0, 0, String::new());
    for message in &ran.messages {
        match message["type"].as_str().unwrap() {
            "RECORD" => {
                since += 1;
                last = message["record"]["contact_id"].as_str().unwrap().to_owned();
            }
            "STATE" => {
                // It may be due within a contact's rows, and is written after them.
                assert!(since <= 10_000 + each, "{since} records before a STATE");
                since = 0;
                let bookmark = &message["value"]["bookmarks"]["contact_activity_details"];
                if let Some(after) = bookmark["resume_after"].as_str().filter(|after| !after.is_empty()) {
                    assert_eq!(after, last);
                    in_between += 1;
                }
            }
            _ => {}
        }
    }
    let records = ran.records("contact_activity_details").len();
    assert!(records >= 25_000 && in_between == records / 10_000, "{records} records, {in_between} on the way");
}
