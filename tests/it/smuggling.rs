//! One answer on a connection is never taken for the next one, and no text makes a request of its own.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use fake::account::Size;
use fake::{Account, Fake, Switches};
use serde_json::{Value, json};

use crate::tap::{Ran, command, file};

const EVIL: &str = "11111111-1111-4111-8111-111111111111";

/// What a server behind this one would like to be taken for the answer to the next request.
fn forged() -> String {
    let body = format!(r#"{{"contacts":[{{"contact_id":"{EVIL}","updated_at":"2026-01-01T00:00:00Z"}}]}}"#);
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// A server before the fake's API that writes each answer as it likes, given the head's lines without a length, and the
/// body. Its second value is the text of all requests.
fn front(
    fake: &Fake,
    write: impl Fn(&str, &str) -> String + Send + Sync + 'static,
) -> (String, Arc<Mutex<Vec<String>>>) {
    fn head(stream: &mut impl Read) -> Option<String> {
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).ok()?;
            head.push(byte[0]);
        }
        String::from_utf8(head).ok()
    }
    let behind = fake.api_url().trim_start_matches("http://").trim_end_matches("/v3").to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v3", listener.local_addr().unwrap());
    let (write, seen) = (Arc::new(write), Arc::new(Mutex::new(Vec::new())));
    let noted = Arc::clone(&seen);
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let (write, noted, behind) = (Arc::clone(&write), Arc::clone(&noted), behind.clone());
            thread::spawn(move || {
                while let Some(request) = head(&mut client) {
                    noted.lock().unwrap().push(request.clone());
                    let mut server = TcpStream::connect(&behind).ok()?;
                    server.write_all(request.as_bytes()).ok()?;
                    let head = head(&mut server)?;
                    let length = |line: &str| line.strip_prefix("Content-Length: ")?.parse::<usize>().ok();
                    let mut body = vec![0; head.lines().find_map(length)?];
                    server.read_exact(&mut body).ok()?;
                    let lines = head.trim_end().lines().filter(|line| length(line).is_none()).collect::<Vec<_>>();
                    let answer = write(&lines.join("\r\n"), &String::from_utf8_lossy(&body));
                    client.write_all(answer.as_bytes()).ok()?;
                }
                Some(())
            });
        }
    });
    (url, seen)
}

fn fake() -> Fake {
    let account = Account::generate(37, Size { contacts: 9, lists: 2, campaigns: 2 });
    Fake::start_with(account, Switches { rotating: false, gzip: false, strict: false, ..Switches::default() })
}

fn run(fake: &Fake, more: &Value) -> Ran {
    let mut config = fake.config();
    config.as_object_mut().unwrap().extend(json!({"page_size": 2, "max_retries": 0}).as_object().unwrap().clone());
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let config = file(&config);
    let mut command = command();
    Ran::of(&command.arg("--config").arg(config.path()).args(["--select", "contacts"]).output().unwrap())
}

#[test]
fn no_answer_is_taken_for_the_next_one() {
    type Write = fn(&str, &str) -> String;
    let cases: [(&str, Write, bool); 12] = [
        ("as it should be", |head, body| format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()), true),
        (
            "an interim answer",
            |head, body| {
                let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
                format!("{hints}{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
            },
            true,
        ),
        (
            "a second answer in the tail",
            |head, body| format!("{head}\r\nContent-Length: {}\r\n\r\n{body}{}", body.len(), forged()),
            true,
        ),
        (
            "rubbish in the tail",
            |head, body| format!("{head}\r\nContent-Length: {}\r\n\r\n{body}\r\n\r\n", body.len()),
            true,
        ),
        (
            "a second answer behind the last chunk",
            |head, body| {
                let length = body.len();
                format!("{head}\r\nTransfer-Encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n{}", forged())
            },
            true,
        ),
        (
            "a length of 0 beside chunks",
            |head, body| {
                let head = format!("{head}\r\nContent-Length: 0\r\nTransfer-Encoding: chunked");
                format!("{head}\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n{}", body.len(), forged())
            },
            true,
        ),
        (
            "chunks beside a length that holds a second answer",
            |head, body| {
                let chunks = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
                let length = chunks.len() + forged().len();
                let head = format!("{head}\r\nTransfer-Encoding: chunked\r\nContent-Length: {length}");
                format!("{head}\r\n\r\n{chunks}{}", forged())
            },
            true,
        ),
        (
            "two lengths",
            |head, body| {
                let head = format!("{head}\r\nContent-Length: {}\r\nContent-Length: 2", body.len());
                format!("{head}\r\n\r\n{body}{}", forged())
            },
            false,
        ),
        (
            "a list of lengths",
            |head, body| format!("{head}\r\nContent-Length: 2, {}\r\n\r\n{body}{}", body.len(), forged()),
            false,
        ),
        (
            "a length with a sign",
            |head, body| format!("{head}\r\nContent-Length: +{}\r\n\r\n{body}{}", body.len(), forged()),
            false,
        ),
        (
            "a chunk of no size",
            |head, body| format!("{head}\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n{body}\r\n0\r\n\r\n{}", forged()),
            false,
        ),
        (
            "a chunk of a size that no number can hold",
            |head, body| {
                let size = "f".repeat(17);
                format!("{head}\r\nTransfer-Encoding: chunked\r\n\r\n{size}\r\n{body}\r\n0\r\n\r\n{}", forged())
            },
            false,
        ),
    ];
    for (what, write, is_readable) in cases {
        let fake = fake();
        let (api_url, _) = front(&fake, write);
        let ran = run(&fake, &json!({"api_url": api_url, "request_timeout": 5}));
        let rows = ran.records("contacts");
        assert!(!format!("{:?}", ran.messages).contains(EVIL), "{what}");
        assert!(!ran.stderr.contains("panicked"), "{what}: {}", ran.stderr);
        if is_readable {
            assert_eq!(
                (ran.code, rows.len()),
                (Some(0), fake.account().truth("contacts").len()),
                "{what}: {}",
                ran.stderr
            );
        } else {
            assert_eq!(ran.code, Some(1), "{what}: {}", ran.stderr);
        }
    }
}

/// Text that would be a second request if it stood in the first one as it is.
const INJECTED: [&str; 4] = [
    "a HTTP/1.1\r\nX-Evil: 1\r\n\r\nGET /evil HTTP/1.1\r\nHost: a\r\n\r\n",
    "a\r\nX-Evil: 1",
    "a\nX-Evil: 1",
    "a\u{0}\u{7f}\u{85}\u{2028} HTTP/1.0\r",
];

/// Whether each request has the lines that a request of the tap has, and no others.
fn check_requests(what: &str, requests: &[String]) {
    for request in requests {
        let mut lines = request.trim_end().split("\r\n");
        let first: Vec<&str> = lines.next().unwrap().split(' ').collect();
        assert!(matches!(first[..], ["GET", path, "HTTP/1.1"] if path.starts_with("/v3/")), "{what}: {request:?}");
        for line in lines {
            let name = line.split(':').next().unwrap().to_lowercase();
            let known = ["host", "user-agent", "accept", "accept-encoding", "authorization"];
            assert!(known.contains(&&*name) && !line.contains(char::is_control), "{what}: {request:?}");
        }
    }
}

#[test]
fn no_setting_makes_a_request_of_its_own() {
    for text in INJECTED {
        for setting in
            ["user_agent", "access_token", "refresh_token", "client_id", "client_secret", "contact_ids", "api_url"]
        {
            let fake = fake();
            let (api_url, requests) =
                front(&fake, |head, body| format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
            let value = match setting {
                "contact_ids" => json!([text]),
                "api_url" => json!(format!("{api_url}/{text}")),
                _ => json!(text),
            };
            let mut more = json!({"api_url": api_url, "activity_route": "contacts"});
            more[setting] = value;
            let mut config = fake.config();
            config.as_object_mut().unwrap().extend(json!({"max_retries": 0}).as_object().unwrap().clone());
            config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let config = file(&config);
            let ran = Ran::of(&command().arg("--config").arg(config.path()).output().unwrap());
            let what = format!("{setting} {text:?}");
            assert!(!ran.stderr.contains("panicked"), "{what}: {}", ran.stderr);
            check_requests(&what, &requests.lock().unwrap());
            assert!(fake.calls().iter().all(|call| call.path != "/evil"), "{what}");
        }
    }
}

#[test]
fn no_answer_makes_a_request_of_its_own() {
    for text in INJECTED {
        for field in ["href", "contact_id", "campaign_id", "campaign_activity_id", "list_id", "access_token"] {
            let fake = fake();
            let (api_url, requests) =
                front(&fake, |head, body| format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
            fake.before_answer(Box::new(move |_, answer| {
                let Ok(mut body) = serde_json::from_slice::<Value>(&answer.body) else { return };
                set(&mut body, field, text);
                if field == "href" && body.get("contacts").is_some() {
                    body["_links"] = json!({"next": {"href": format!("/v3/{text}")}});
                }
                answer.body = body.to_string().into_bytes();
            }));
            let mut config = fake.config();
            config["api_url"] = json!(api_url);
            config["activity_route"] = json!("contacts");
            let config = file(&config);
            let ran = Ran::of(&command().arg("--config").arg(config.path()).output().unwrap());
            let what = format!("{field} {text:?}");
            assert!(!ran.stderr.contains("panicked"), "{what}: {}", ran.stderr);
            check_requests(&what, &requests.lock().unwrap());
            if ["href", "access_token"].contains(&field) {
                assert_eq!(ran.code, Some(1), "{what}: {}", ran.stderr);
                let told = match field {
                    "href" => {
                        "a next link holds characters that no request may have, so it was not followed; run again"
                    }
                    _ => "the access token holds characters that no request may have, so it was not sent; log in again",
                };
                assert!(ran.stderr.contains(told), "{what}: {}", ran.stderr);
            }
        }
    }
}

/// Gives all members of this name, at any depth, a text.
fn set(value: &mut Value, name: &str, text: &str) {
    match value {
        Value::Object(members) => {
            for (key, value) in members {
                if key == name { *value = json!(text) } else { set(value, name, text) }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| set(item, name, text)),
        _ => {}
    }
}
