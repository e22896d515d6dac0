//! Just enough HTTP/1.1 for a server on the loopback.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;

/// A request.
#[derive(Debug, Default)]
pub(super) struct Request {
    pub method: String,
    pub path: String,
    /// The query as sent, without the leading question mark.
    pub query: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(n, _)| n == name);
        found.map(|(_, v)| v.as_str())
    }

    pub fn body_text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Path and query as in the request line.
    pub fn target(&self) -> String {
        if self.query.is_empty() { self.path.clone() } else { format!("{}?{}", self.path, self.query) }
    }

    /// Reads the next request of a connection; `None` at its end. `rest` keeps bytes of the request after it.
    pub fn read(stream: &mut TcpStream, rest: &mut Vec<u8>) -> io::Result<Option<Request>> {
        let mut chunk = [0; 8192];
        loop {
            let mut headers = [httparse::EMPTY_HEADER; 64];
            let mut head = httparse::Request::new(&mut headers);
            let parsed = head.parse(rest).map_err(|e| io::Error::other(e.to_string()))?;
            if let httparse::Status::Complete(start) = parsed {
                let target = head.path.unwrap_or("/");
                let (path, query) = target.split_once('?').unwrap_or((target, ""));
                let mut req = Request {
                    method: head.method.unwrap_or_default().into(),
                    path: path.into(),
                    query: query.into(),
                    ..Request::default()
                };
                for h in head.headers.iter() {
                    let value = String::from_utf8_lossy(h.value).into_owned();
                    req.headers.push((h.name.to_lowercase(), value));
                }
                let length = req.header("content-length").and_then(|v| v.parse().ok());
                let end = start + length.unwrap_or(0);
                while rest.len() < end {
                    match stream.read(&mut chunk)? {
                        0 => return Ok(None),
                        n => rest.extend_from_slice(&chunk[..n]),
                    }
                }
                req.body = rest[start..end].to_vec();
                rest.drain(..end);
                return Ok(Some(req));
            }
            match stream.read(&mut chunk)? {
                0 => return Ok(None),
                n => rest.extend_from_slice(&chunk[..n]),
            }
        }
    }
}

/// An answer of an endpoint.
#[derive(Clone, Debug)]
pub(super) struct Response {
    pub status: u16,
    pub content_type: &'static str,
    pub location: Option<String>,
    pub retry_after: Option<String>,
    /// Any other headers.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn new(status: u16, content_type: &'static str, body: impl Into<Vec<u8>>) -> Response {
        Response { status, content_type, location: None, retry_after: None, headers: Vec::new(), body: body.into() }
    }

    pub fn json(status: u16, body: &Value) -> Response {
        Response::new(status, "application/json", wire(body))
    }

    pub fn html(status: u16, body: &str) -> Response {
        Response::new(status, "text/html; charset=UTF-8", body)
    }

    pub fn redirect(location: &str) -> Response {
        Response { location: Some(location.into()), ..Response::html(302, "") }
    }

    /// Adds all headers except those about the length and compression of the body.
    pub fn finish(self, date: &str, number: u64) -> Answer {
        let mut headers =
            vec![("Date".to_owned(), date.to_owned()), ("Content-Type".to_owned(), self.content_type.to_owned())];
        headers.extend(self.headers);
        if !headers.iter().any(|(name, _)| name == "x-amzn-requestid") {
            headers.push(("x-amzn-requestid".into(), format!("00000000-0000-4000-8000-{number:012}")));
        }
        headers.extend(self.location.map(|location| ("Location".to_owned(), location)));
        headers.extend(self.retry_after.map(|wait| ("Retry-After".to_owned(), wait)));
        Answer { status: self.status, headers, body: self.body }
    }
}

/// An answer with its headers. Those about the length and compression of the body are added when it is sent.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// The status line and headers for a body of this length.
    pub(super) fn head(&self, length: usize, gzip: bool) -> String {
        let mut head = format!("HTTP/1.1 {:03} {}\r\nContent-Length: {length}\r\n", self.status, reason(self.status));
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        if gzip {
            head += "Content-Encoding: gzip\r\n";
        }
        head + "\r\n"
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        202 => "Accepted",
        302 => "Found",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        _ => "Unknown",
    }
}

/// Serializes JSON, with an escape for each character that stands for a lone surrogate (see `account::lone`).
fn wire(body: &Value) -> String {
    let text = body.to_string();
    if !text.contains('\u{10D800}') && !text.chars().any(|c| u32::from(c) >= 0x10_D800) {
        return text;
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match u32::from(c) {
            n @ 0x10_D800..=0x10_DFFF => out += &format!("\\u{:04x}", n - 0x10_0000),
            _ => out.push(c),
        }
    }
    out
}

pub(super) fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body).expect("writing to memory");
    encoder.finish().expect("writing to memory")
}

/// Percent-decodes one part of a query, in which `+` is a space.
pub(super) fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex =
            (bytes[i] == b'%').then(|| text.get(i + 1..i + 3)).flatten().and_then(|h| u8::from_str_radix(h, 16).ok());
        match (bytes[i], hex) {
            (_, Some(byte)) => {
                out.push(byte);
                i += 2;
            }
            (b'+', None) => out.push(b' '),
            (byte, None) => out.push(byte),
        }
        i += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Percent-decodes one segment of a path, in which `+` is itself.
pub(super) fn decode_segment(text: &str) -> String {
    decode(&text.replace('+', "%2B"))
}

/// The names and values of a query or form, decoded.
pub(super) fn decode_query(query: &str) -> Vec<(String, String)> {
    query
        .split('&')
        .filter(|part| !part.is_empty())
        .map(|part| {
            let (k, v) = part.split_once('=').unwrap_or((part, ""));
            (decode(k), decode(v))
        })
        .collect()
}

/// Percent-encodes everything but the unreserved characters.
pub(super) fn encode(text: &str) -> String {
    let mut out = String::new();
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || b"-._~".contains(&b) {
            out.push(char::from(b));
        } else {
            out += &format!("%{b:02X}");
        }
    }
    out
}
