//! A server of prepared pages of contacts. It takes almost no time, so that the benchmark measures the tap.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use serde_json::{Value, json};

use fake::Account;
use fake::account::Size;

/// Contacts a page.
const PAGE: usize = 500;

/// Pages of contacts with all that can hang on them, each contact with an id of its own.
pub fn contact_pages(contacts: usize) -> Vec<Vec<u8>> {
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

/// The server. The number of contacts stands in the path, so that one server has accounts of several sizes.
pub struct Cached {
    address: String,
}

impl Cached {
    pub fn start(bodies: Vec<Vec<u8>>) -> Cached {
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
        let last = (page + 1) * PAGE >= contacts;
        let next = format!(r#"{{"href":"/{contacts}/contacts?cursor={}"}}"#, page + 1);
        let next = if last { "null" } else { &next };
        let tail = format!(r#","contacts_count":{contacts},"_links":{{"next":{next}}}}}"#);
        let (body, tail) = if target.contains("/contact_custom_fields") {
            (&br#"{"custom_fields":[]}"#[..], "")
        } else if target.contains("/contact_tags") {
            (&br#"{"tags":[]}"#[..], "")
        } else if target.contains("/contact_lists") {
            (&br#"{"lists":[]}"#[..], "")
        } else {
            (&bodies[page][..bodies[page].len() - 1], tail.as_str())
        };
        let length = body.len() + tail.len();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n");
        if out.write_all(head.as_bytes()).and(out.write_all(body)).and(out.write_all(tail.as_bytes())).is_err() {
            return;
        }
    }
}
