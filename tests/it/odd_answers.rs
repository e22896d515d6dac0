//! Answers that are odd, hostile or rare: none may lose rows, flood the log or cause a panic.

use std::net::TcpListener;
use std::process::Stdio;
use std::time::{Duration, Instant};

use fake::account::Size;
use fake::{Account, Fake, Fault, Kind, Switches, What};
use serde_json::{Value, json};

use crate::tap::{Ran, command, file, only, tap_with};

const DETAILS: &str = "contact_activity_details";

fn fake() -> Fake {
    let account = Account::generate(29, Size { contacts: 9, lists: 2, campaigns: 2 });
    Fake::start_with(account, Switches::long_lived())
}

fn answer(status: u16, headers: &[(&'static str, &str)], body: &str) -> What {
    let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    What::Answer(status, headers, body.to_owned())
}

/// A run that reads only the contacts.
fn contacts(fake: &Fake, more: &Value) -> Ran {
    tap_with(fake, more, None, Some(&only(&["contacts"])))
}

fn critical(ran: &Ran) -> &str {
    ran.stderr.lines().find(|line| line.starts_with("CRITICAL")).unwrap_or_default()
}

/// Checks what must be true of every run, whatever the service sends.
fn check_lines(ran: &Ran) {
    for line in ran.stderr.lines() {
        assert!(line.len() < 2000, "a line of {} bytes: {}", line.len(), &line[..200]);
        assert!(!line.contains(char::is_control), "{line:?}");
    }
    assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
}

#[test]
fn the_gateways_own_429_is_the_daily_quota() {
    let header = ("x-amzn-errortype", "LimitExceededException");
    for what in [
        answer(429, &[header], r#"{"message":"Limit Exceeded"}"#),
        answer(429, &[], r#"{"message":"Limit Exceeded"}"#),
        answer(429, &[header], ""),
    ] {
        let fake = fake();
        fake.fault(Fault::always("/contacts", what.clone()));
        let ran = contacts(&fake, &json!({}));
        assert_eq!(ran.code, Some(4), "{what:?}: {}", ran.stderr);
        assert!(critical(&ran).contains("00:00 UTC"), "{}", ran.stderr);
    }
}

#[test]
fn a_403_in_html_is_a_filter_in_front_and_passes() {
    let filter = What::Status(403, "<html><body>Access denied</body></html>".into(), "text/html");
    let fake = fake();
    fake.fault(Fault::once("/contacts?", filter.clone()));
    let ran = contacts(&fake, &json!({}));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("403"), "{}", ran.stderr);

    fake.fault(Fault::always("/contacts?", filter));
    let ran = contacts(&fake, &json!({"max_retries": 1}));
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(critical(&ran).contains("filter in front of the service"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("scope"), "{}", ran.stderr);
}

#[test]
fn a_wrong_api_url_is_named() {
    // An unknown path answers 404 below /v3, and the gateway's 403 elsewhere.
    for path in ["/v3/v3", "/v4"] {
        let fake = fake();
        let url = fake.api_url().replace("/v3", path);
        let ran = contacts(&fake, &json!({"api_url": url, "max_retries": 1}));
        assert_eq!(ran.code, Some(1), "{path}: {}", ran.stderr);
        assert!(critical(&ran).contains(&format!("api_url ({url})")), "{path}: {}", ran.stderr);
    }
}

#[test]
fn an_unknown_contact_does_not_blame_api_url() {
    let fake = fake();
    let more = json!({"contact_ids": ["00000000-0000-4000-8000-000000000000"]});
    let ran = tap_with(&fake, &more, None, Some(&only(&[DETAILS])));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(!ran.stderr.contains("api_url"), "{}", ran.stderr);
}

#[test]
fn each_retry_is_a_warning_that_counts() {
    let fake = fake();
    fake.fault(Fault { path: "/contacts?".into(), skip: 0, times: 2, what: answer(503, &[], "") });
    let ran = contacts(&fake, &json!({"max_retries": 3}));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let retries: Vec<&str> = ran.stderr.lines().filter(|l| l.contains("retry ")).collect();
    assert_eq!(retries.len(), 2, "{}", ran.stderr);
    for (n, line) in retries.iter().enumerate() {
        let words = format!("retry {} of 3 in ", n + 1);
        assert!(line.starts_with("WARNING contacts: 503 with an empty body") && line.contains(&words), "{line}");
    }
}

#[test]
fn the_tap_waits_as_long_as_the_service_asks_and_says_so() {
    let fake = fake();
    fake.fault(Fault::once("/contacts?", answer(503, &[("retry-after", "2")], "")));
    let begun = Instant::now();
    let ran = contacts(&fake, &json!({}));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(begun.elapsed() >= Duration::from_secs(2));
    assert!(ran.stderr.contains("retry 1 of 5 in 2.0 s"), "{}", ran.stderr);
}

#[test]
fn a_retry_after_of_any_size_is_tolerated() {
    for asked in ["18446744073709551615", "18446744073709551616", "-1", "Fri, 31 Dec 9999 23:59:59 GMT", "é"] {
        for status in [429, 503] {
            let fake = fake();
            fake.fault(Fault::always("/contacts?", answer(status, &[("retry-after", asked)], "")));
            let ran = contacts(&fake, &json!({"max_retries": 0}));
            assert_eq!(ran.code, Some(1), "{asked}: {}", ran.stderr);
            check_lines(&ran);
        }
    }
}

#[test]
fn a_call_that_could_not_connect_is_not_counted() {
    let fake = fake();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    // A closed port, and an unknown host.
    for url in [format!("http://{closed}/v3"), "https://tap.invalid/v3".to_owned()] {
        let ran = contacts(&fake, &json!({"api_url": url, "max_retries": 2, "max_requests": 1}));
        // Not 4, since the one allowed call was not made.
        assert_eq!(ran.code, Some(1), "{}", ran.stderr);
        // Reported with the first retry, and no other call is tried.
        assert_eq!(ran.stderr.matches("; retry ").count(), 2, "{}", ran.stderr);
    }
}

#[test]
fn a_call_whose_answer_was_lost_is_counted() {
    let fake = fake();
    fake.fault(Fault::always("/contacts?", What::LostAnswer));
    let ran = contacts(&fake, &json!({"max_retries": 5, "max_requests": 2}));
    assert_eq!(ran.code, Some(4), "{}", ran.stderr);
    assert_eq!(fake.api_calls().len(), 2);
}

#[test]
fn a_page_of_rows_without_one_that_is_usable_ends_the_run() {
    let fake = fake();
    let page = r#"{"contacts":[{"id":"1","first_name":"A"},{"id":"2"}],"contacts_count":2}"#;
    fake.fault(Fault::always("/contacts?", answer(200, &[], page)));
    let ran = contacts(&fake, &json!({}));
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(critical(&ran).contains("contact_id missing or unusable"), "{}", ran.stderr);
    assert_eq!(ran.last_state()["bookmarks"]["contacts"]["replication_key_value"], Value::Null);
}

#[test]
fn a_hundred_thousand_unknown_fields_draw_twenty_warnings_and_a_count() {
    let fake = fake();
    let fields: Vec<String> = (0..100_000).map(|n| format!(r#""odd_{n}":1"#)).collect();
    let page = format!(r#"{{"contacts":[{{"contact_id":"a",{}}}]}}"#, fields.join(","));
    fake.fault(Fault::always("/contacts?", answer(200, &[], &page)));
    let ran = contacts(&fake, &json!({}));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(ran.stderr.matches("odd_").count(), 20, "{}", ran.stderr);
    assert!(ran.stderr.contains("at least 980 more unknown fields"), "{}", ran.stderr);
}

#[test]
fn log_lines_are_short_whatever_the_service_sends() {
    let long = "x".repeat(5 << 20);
    let controls = r"\u001b[31m\u0007\r\nCRITICAL\u009b2J\u2028";
    for text in [long.as_str(), controls] {
        for (status, body) in [
            (400, format!(r#"[{{"error_key":"{text}","error_message":"{text}"}}]"#)),
            (500, format!(r#"{{"message":"{text}"}}"#)),
            (403, format!(r#"{{"error_key":"a","error_message":"{text}"}}"#)),
            (200, format!(r#"{{"contacts":[{{"contact_id":"{text}","{text}":1,"created_at":[1]}}]}}"#)),
            (200, format!(r#"{{"contacts":[{{"contact_id":["{text}"]}}]}}"#)),
            (200, format!(r#"{{"contacts":[{{"contact_id":"a","created_at":"{text}"}}]}}"#)),
            (200, format!(r#"{{"{text}":1}}"#)),
            (200, format!(r#"{{"contacts":[],"_links":{{"next":{{"href":"{text}"}}}}}}"#)),
        ] {
            let fake = fake();
            fake.fault(Fault::always("/contacts?", answer(status, &[], &body)));
            let ran = contacts(&fake, &json!({"max_retries": 0}));
            assert!(ran.code.is_some(), "{}", ran.stderr);
            check_lines(&ran);
        }
    }
}

#[test]
fn ids_are_escaped_in_paths() {
    let odd = "a/../b?c=d#e%20 é+";
    let mut account = Account::generate(29, Size { contacts: 4, lists: 1, campaigns: 1 });
    account.contacts[0].id = odd.into();
    let activity = account.sent_activities()[0].clone();
    account.track(Kind::Opens, 0, &activity);
    let fake = Fake::start_with(account, Switches::long_lived());
    let streams = only(&["contact_action_summary", DETAILS]);
    let ran = tap_with(&fake, &json!({"activity_route": "contacts"}), None, Some(&streams));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let rows = ran.records(DETAILS);
    assert!(rows.iter().any(|row| row["contact_id"] == odd), "{}", ran.stderr);
    let escaped = "/v3/reports/contact_reports/a%2F..%2Fb%3Fc%3Dd%23e%2520%20%C3%A9%2B/activity_details";
    assert!(fake.api_calls().iter().any(|call| call.path == escaped));
}

#[test]
fn a_proxy_that_cannot_be_used_is_named_and_not_bypassed() {
    for (variable, value) in [
        ("ALL_PROXY", "socks5://name:pass-word@127.0.0.1:1080"),
        ("https_proxy", "socks4a://127.0.0.1"),
        ("HTTPS_PROXY", ""),
        ("HTTPS_PROXY", "http://"),
        ("HTTP_PROXY", "ftp://127.0.0.1"),
    ] {
        let run = |no_proxy: &str| {
            let config = file(&json!({"client_id": "a", "access_token": "b", "max_retries": 0, "request_timeout": 1}));
            let mut command = command();
            for variable in ["ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"] {
                command.env_remove(variable).env_remove(variable.to_lowercase());
            }
            command.arg("--config").arg(config.path()).env(variable, value).env("NO_PROXY", no_proxy);
            Ran::of(&command.stdout(Stdio::piped()).output().unwrap())
        };
        let ran = run("example.com");
        assert_eq!(ran.code, Some(2), "{variable}={value}: {}", ran.stderr);
        assert!(critical(&ran).contains(variable), "{}", ran.stderr);
        assert!(!ran.stderr.contains("pass-word"), "{}", ran.stderr);
        // No call was made without the proxy.
        let ran = run(".cc.email,api.cc.email,authz.constantcontact.com");
        assert_ne!(ran.code, Some(2), "{variable}={value}: {}", ran.stderr);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn only_one_large_body_is_in_memory_at_a_time() {
    use std::io::BufRead;
    let account = Account::generate(31, Size { contacts: 8, lists: 1, campaigns: 1 });
    let switches = Switches { gzip: false, latency: Duration::from_millis(300), ..Switches::long_lived() };
    let fake = Fake::start_with(account, switches);
    fake.fault(Fault::always("/activity_details", What::Big(45 << 20)));
    let mut config = fake.config();
    config["activity_route"] = json!("contacts");
    let files = [file(&config), file(&only(&[DETAILS]))];
    let mut command = command();
    command.arg("--config").arg(files[0].path()).arg("--catalog").arg(files[1].path());
    let mut tap = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let peak = crate::large::watch_peak(tap.id());
    let rows = std::io::BufReader::new(tap.stdout.take().unwrap()).lines().map_while(Result::ok);
    let rows = rows.filter(|line| line.starts_with(r#"{"type":"RECORD""#)).count();
    let ended = tap.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(0), "{}", String::from_utf8_lossy(&ended.stderr));
    assert_eq!(rows, fake.account().truth(DETAILS).len());
    let peak = peak.join().unwrap();
    assert!(peak < 200 << 10, "{peak} KiB");
}

/// A body that decompresses to four hundred times its size is given up before it fills the memory.
#[cfg(target_os = "linux")]
#[test]
fn a_body_that_decompresses_without_end_takes_little_memory() {
    use std::io::{BufRead, BufReader, Write};
    use std::process::Command;

    let bomb = Command::new("sh").args(["-c", "head -c 400M /dev/zero | gzip -1"]).output().unwrap().stdout;
    assert!(bomb.len() > 100_000);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let api = format!("http://{}/v3", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            lines.take_while(|line| !line.is_empty()).for_each(drop);
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                bomb.len()
            );
            let mut stream = stream;
            // The tap does not read it to its end.
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&bomb));
        }
    });
    let fake = fake();
    let mut config = fake.config();
    (config["api_url"], config["max_retries"]) = (json!(api), json!(0));
    let config = file(&config);
    let mut command = command();
    command.arg("--config").arg(config.path()).args(["--select", "contacts"]);
    let tap = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let peak = crate::large::watch_peak(tap.id());
    let ran = Ran::of(&tap.wait_with_output().unwrap());
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    let peak = peak.join().unwrap();
    assert!(peak < 150 << 10, "{peak} KiB");
}

/// A limit below what one answer takes. Where even less can be had, the system or the language ends the process.
#[cfg(target_os = "linux")]
#[test]
fn where_memory_runs_short_the_run_says_so() {
    let account = Account::generate(31, Size { contacts: 8, lists: 1, campaigns: 1 });
    let fake = Fake::start_with(account, Switches { rotating: false, gzip: false, ..Switches::default() });
    fake.fault(Fault::always("/activity_details", What::Big(45 << 20)));
    let mut config = fake.config();
    config["activity_route"] = json!("contacts");
    let files = [file(&config), file(&only(&[DETAILS]))];
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "ulimit -v 71680; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_tap-constant-contact")]);
    command.arg("--config").arg(files[0].path()).arg("--catalog").arg(files[1].path());
    // Otherwise each thread takes addresses for much more than it needs.
    command.env_remove("LOGLEVEL").env("MALLOC_ARENA_MAX", "1").env("RUST_MIN_STACK", (256 << 10).to_string());
    let ran = Ran::of(&command.output().unwrap());
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(critical(&ran).contains("not enough memory to read an answer"), "{}", ran.stderr);
}
