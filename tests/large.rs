//! What a read of a larger account costs in calls and memory.
#![cfg(target_os = "linux")]

mod fake;
mod tap;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use fake::account::Size;
use fake::{Account, Fake};
use tap::{command, file, only};

/// The largest resident size of a process so far, in KiB.
fn peak(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[test]
fn twenty_thousand_contacts_take_little_memory_and_few_calls() {
    let fake = Fake::start(Account::generate(41, Size { contacts: 20_000, lists: 5, campaigns: 1 }));
    let (config, catalog) = (file(&fake.config()), file(&only(&["contacts"])));
    let mut tap = command()
        .arg("--config")
        .arg(config.path())
        .arg("--catalog")
        .arg(catalog.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (mut records, mut most) = (0, 0);
    for line in BufReader::new(tap.stdout.take().unwrap()).lines() {
        if line.unwrap().starts_with(r#"{"type":"RECORD""#) {
            records += 1;
            if records % 1000 == 0 {
                most = most.max(peak(tap.id()).unwrap());
            }
        }
    }
    assert_eq!(tap.wait().unwrap().code(), Some(0));
    assert_eq!(records, fake.account().contacts.len());
    assert!(most > 1000 && most < 60 * 1024, "{most} KiB");
    let listing = fake.api_calls().iter().filter(|call| call.path.ends_with("/contacts")).count();
    assert_eq!(listing, 20_000 / 500);
    // Beside the listing, one for the service's clock.
    assert!(fake.api_calls().len() <= listing + 2, "{}", fake.api_calls().len());
}

#[test]
fn the_next_pages_are_under_way_while_one_is_written() {
    let fake = Fake::start(Account::generate(42, Size { contacts: 5000, lists: 1, campaigns: 0 }));
    let (config, catalog) = (file(&fake.config()), file(&only(&["contacts"])));
    let mut tap = command()
        .arg("--config")
        .arg(config.path())
        .arg("--catalog")
        .arg(catalog.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut out = BufReader::with_capacity(1 << 10, tap.stdout.take().unwrap());
    let mut line = String::new();
    for _ in 0..10 {
        out.read_line(&mut line).unwrap();
    }
    // The pipe holds less than a page, so that the tap waits in the midst of its first.
    thread::sleep(Duration::from_secs(2));
    let listing = || fake.api_calls().iter().filter(|call| call.path.ends_with("/contacts")).count();
    // One waits to be handed over, one more to take its place.
    assert_eq!(listing(), 3);
    std::io::copy(&mut out, &mut std::io::sink()).unwrap();
    assert_eq!(tap.wait().unwrap().code(), Some(0));
    assert_eq!(listing(), 10);
}
