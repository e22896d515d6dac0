//! A server of prepared pages of contacts. It takes almost no time, so that the benchmark measures the tap.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::process::{tap, unpaced};
use fake::account::Size;
use fake::{Account, Fake, Switches};

/// Contacts a page.
const PAGE: usize = 500;

#[derive(Deserialize)]
struct Page {
    contacts: Vec<Box<RawValue>>,
}

/// What the service answers to a read of the contacts.
pub struct Bodies {
    /// Pages of contacts with all that can hang on them, each contact with an id of its own.
    pub contacts: Vec<Vec<u8>>,
    /// All other answers, by their path and query.
    others: BTreeMap<String, Vec<u8>>,
}

impl Bodies {
    /// Those of an account of 2,000 contacts, as the fake gave them to the tap, with the contacts repeated.
    pub fn of(contacts: usize) -> Bodies {
        let account = Account::generate(3, Size { contacts: 2000, lists: 20, campaigns: 0 });
        let fake = Fake::start_with(account, Switches { gzip: false, per_second: u32::MAX, ..Switches::default() });
        let heard = Arc::new(Mutex::new(BTreeMap::new()));
        let answers = Arc::clone(&heard);
        fake.before_answer(Box::new(move |target, answer| {
            answers.lock().unwrap().insert(target.to_owned(), answer.body.clone());
        }));
        tap(&unpaced(&fake, &json!({})), &["contacts"], None, |_| ());
        let heard = std::mem::take(&mut *heard.lock().unwrap());
        let (pages, others): (BTreeMap<_, _>, BTreeMap<_, _>) =
            heard.into_iter().partition(|(target, _)| target.contains("/contacts?"));
        // Without rows that the tap has to repair first, which the baseline does not.
        let rows_of = |body: &[u8]| -> Vec<Value> {
            let page: Page = serde_json::from_slice(body).unwrap();
            page.contacts.iter().filter_map(|row| serde_json::from_str(row.get()).ok()).collect()
        };
        let rows: Vec<Value> = pages.values().flat_map(|body| rows_of(body)).collect();
        let page = |first: usize| {
            let rows = (first..contacts.min(first + PAGE)).map(|number| {
                let mut row = rows[number % rows.len()].clone();
                row["contact_id"] = json!(format!("{number:08x}-908b-11e6-907f-00166bff2500"));
                row
            });
            json!({"contacts": rows.collect::<Vec<_>>()}).to_string().into_bytes()
        };
        Bodies { contacts: (0..contacts).step_by(PAGE).map(page).collect(), others }
    }
}

/// The server. The number of contacts stands in the path, so that one server has accounts of several sizes.
pub struct Cached {
    address: String,
}

impl Cached {
    pub fn start(bodies: Bodies) -> Cached {
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

    pub fn config(&self, contacts: usize) -> Value {
        json!({
            "access_token": "access-token-of-the-benchmark", "api_url": format!("{}/{contacts}", self.address), "auth_url": self.address,
            "requests_per_second": 1000,
        })
    }
}

fn serve(stream: TcpStream, bodies: &Bodies) {
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
        let (contacts, path) = target[1..].split_once('/').unwrap();
        let contacts: usize = contacts.parse().unwrap();
        let (body, tail) = if path.starts_with("contacts?") {
            let page: usize = target.split_once("cursor=").map_or(0, |(_, page)| page.parse().unwrap());
            let body = &bodies.contacts[page];
            let last = (page + 1) * PAGE >= contacts;
            let next = format!(r#"{{"href":"/{contacts}/contacts?cursor={}"}}"#, page + 1);
            let next = if last { "null" } else { &next };
            (&body[..body.len() - 1], format!(r#","contacts_count":{contacts},"_links":{{"next":{next}}}}}"#))
        } else {
            (&*bodies.others[&format!("/v3/{path}")], String::new())
        };
        let length = body.len() + tail.len();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n");
        if out.write_all(head.as_bytes()).and(out.write_all(body)).and(out.write_all(tail.as_bytes())).is_err() {
            return;
        }
    }
}
