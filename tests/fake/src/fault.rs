//! Faults: what goes wrong, and with which requests.

use std::time::Duration;

use serde_json::{Value, json};

use super::http::{Request, Response};

/// What goes wrong with a request.
#[derive(Clone, Debug)]
pub enum What {
    /// Answer with this status, body and content type without serving the request.
    Status(u16, String, &'static str),
    /// Answer with this error status and `Retry-After` without serving the request.
    RetryAfter(u16, String),
    /// Serve the request, then replace the answer: a function from its body to a status, content type and body.
    Change(fn(&Value) -> (u16, &'static str, String)),
    /// Answer with this error status and a body that repeats the secrets of the request.
    Echo(u16),
    /// Answer with this status, headers and JSON without serving the request. In headers and JSON, `$TOKEN` stands for
    /// the access token of the request, `$ESCAPED` and `$PERCENT` for the same in JSON and percent escapes.
    Answer(u16, Vec<(&'static str, String)>, String),
    Throttled,
    QuotaExceeded,
    Unauthorized,
    Forbidden,
    NotFound,
    /// Close the connection without serving the request.
    Refuse,
    /// Serve the request, then close the connection without an answer.
    LostAnswer,
    /// Serve the request, send half of the body and close the connection.
    CutBody,
    /// Serve the request, send the body without its last byte and close the connection.
    CutLastByte,
    /// Serve the request and send half of the JSON with a `Content-Length` that matches.
    TruncatedJson,
    /// Serve the request and answer 200 with an empty body.
    Empty200,
    /// Serve the request and answer 200 with an HTML page.
    Html200,
    /// Send the body one byte at a time, with this pause before each.
    SlowDrip(Duration),
    /// Send half of the gzip stream with a `Content-Length` that matches.
    CutGzip,
    /// Send this instead of the next link, even on the last page.
    NextLink(String),
    /// Send the request itself as the next link.
    LoopingLink,
    /// Answer 302 to this address without serving the request.
    Redirect(String),
    /// Serve the request and pad the answer with this many bytes.
    Big(usize),
    /// Send a `Date` header this far in the future, in an error of this status or, without one, in a valid answer.
    Ahead(chrono::Duration, Option<u16>),
}

/// A fault for requests whose path and query contain `path`.
#[derive(Clone, Debug)]
pub struct Fault {
    pub path: String,
    /// How many matching requests to serve well first.
    pub skip: usize,
    /// How many matching requests to hit after that; `usize::MAX` means all.
    pub times: usize,
    pub what: What,
}

impl Fault {
    /// A fault for the next matching request.
    pub fn once(path: &str, what: What) -> Fault {
        Fault { path: path.into(), skip: 0, times: 1, what }
    }

    /// A fault for all matching requests.
    pub fn always(path: &str, what: What) -> Fault {
        Fault { path: path.into(), skip: 0, times: usize::MAX, what }
    }
}

pub(super) fn echo(req: &Request, status: u16, is_auth: bool) -> Response {
    let text = format!("{} {}", req.header("authorization").unwrap_or_default(), req.body_text()).repeat(3);
    let (key, message) = if is_auth { ("error", "error_description") } else { ("error_key", "error_message") };
    Response::json(status, &json!({key: text, message: text}))
}

pub(super) fn answer(req: &Request, status: u16, headers: &[(&'static str, String)], body: &str) -> Response {
    let token = req.header("authorization").and_then(|h| h.strip_prefix("Bearer ")).unwrap_or_default();
    let escape = |form: fn(u8) -> String| -> String { token.bytes().map(form).collect() };
    let (escaped, percent) = (escape(|b| format!("\\u{b:04x}")), escape(|b| format!("%{b:02X}")));
    let filled = |text: &str| text.replace("$TOKEN", token).replace("$ESCAPED", &escaped).replace("$PERCENT", &percent);
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), filled(value))).collect();
    Response { headers, ..Response::new(status, "application/json", filled(body)) }
}
