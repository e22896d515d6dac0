//! What an answer means: one pure function over its status and body.

use serde_json::Value;

use super::rows::Envelope;

/// What to do with an answer.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// Rows; the body is one JSON object.
    Good,
    /// Passes by itself: worth another try. The text says what happened.
    Retry(String),
    /// 429 `throttled`: too fast for a second.
    Throttled,
    /// 429 `quota_exceeded`: the day's calls are used up.
    QuotaExceeded,
    /// The access token is not accepted.
    Unauthorized(String),
    /// Scope, privilege or application: the three causes share one answer.
    Forbidden(String),
    NotFound(String),
    /// A parameter is wrong.
    Refused(String),
    /// Nothing that another try would change.
    Final(String),
}

/// Judges an answer by status and body alone; the service sends errors as an object, an array, HTML or nothing.
pub(super) fn judge(status: u16, body: &[u8]) -> Verdict {
    let what = || describe(status, body);
    match status {
        200 if looks_like_object(body) => Verdict::Good,
        // 202: the answer is still being computed. An empty or HTML 200 comes from what stands before the service.
        200..=299 => Verdict::Retry(format!("{status} response that is not the service's JSON")),
        // Only the body tells the second's limit from the day's.
        429 if error_key(body).as_deref() == Some("quota_exceeded") => Verdict::QuotaExceeded,
        429 => Verdict::Throttled,
        401 => Verdict::Unauthorized(what()),
        403 => Verdict::Forbidden(what()),
        404 => Verdict::NotFound(what()),
        408 | 425 | 500..=599 => Verdict::Retry(what()),
        300..=399 => Verdict::Final(format!(
            "answered {status}, a redirect; the token is not sent to another place (check api_url)"
        )),
        400..=499 => Verdict::Refused(what()),
        _ => Verdict::Final(what()),
    }
}

/// Whether a 200 without its rows says that there are none, which the vendor's contract allows.
///
/// Only a first page may, only when asked `lacked` times before with the same answer, and only with nothing else in it:
/// `{}` in the middle of a listing, or beside a count, must never end the listing as complete.
pub(super) fn lack_means_none(envelope: &Envelope, is_first: bool, lacked: u32) -> bool {
    is_first && lacked > 0 && !envelope.has_others && envelope.next.is_none() && envelope.count.unwrap_or(0) == 0
}

fn looks_like_object(body: &[u8]) -> bool {
    body.iter().find(|b| !b.is_ascii_whitespace()).is_some_and(|b| matches!(b, b'{' | b'['))
}

/// The first error of a body in either shape.
fn first_error(body: &[u8]) -> Option<Value> {
    match serde_json::from_slice(body).ok()? {
        Value::Array(errors) => errors.into_iter().next(),
        other => Some(other),
    }
}

fn error_key(body: &[u8]) -> Option<String> {
    Some(first_error(body)?.get("error_key")?.as_str()?.to_owned())
}

/// Status, key and message, cut short: a message can echo what was sent.
fn describe(status: u16, body: &[u8]) -> String {
    let error = first_error(body).unwrap_or_default();
    let text = |name: &str| error.get(name).and_then(Value::as_str).map(cut);
    match (text("error_key"), text("error_message").or_else(|| text("message"))) {
        (Some(key), Some(message)) => format!("{status} {key}: {message}"),
        (Some(one), None) | (None, Some(one)) => format!("{status} {one}"),
        (None, None) if body.is_empty() => format!("{status} with an empty body"),
        (None, None) => format!("{status} with a body that is not the service's JSON"),
    }
}

fn cut(text: &str) -> String {
    let mut short: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_429_is_told_by_its_body() {
        let quota = br#"{"error_key":"quota_exceeded","error_message":"Limit Exceeded"}"#;
        assert_eq!(judge(429, quota), Verdict::QuotaExceeded);
        assert_eq!(judge(429, br#"[{"error_key":"quota_exceeded"}]"#), Verdict::QuotaExceeded);
        assert_eq!(judge(429, br#"{"error_key":"throttled"}"#), Verdict::Throttled);
        assert_eq!(judge(429, b"<html>"), Verdict::Throttled);
        assert_eq!(judge(429, b""), Verdict::Throttled);
    }

    #[test]
    fn errors_are_read_in_every_shape() {
        let text = |v| match v {
            Verdict::Refused(t) | Verdict::Unauthorized(t) | Verdict::Retry(t) | Verdict::Forbidden(t) => t,
            other => panic!("{other:?}"),
        };
        assert_eq!(text(judge(400, br#"[{"error_key":"a.b","error_message":"no"}]"#)), "400 a.b: no");
        assert_eq!(text(judge(401, br#"{"error_key":"unauthorized","error_message":"U"}"#)), "401 unauthorized: U");
        assert_eq!(text(judge(403, br#"{"message":"Forbidden"}"#)), "403 Forbidden");
        assert_eq!(text(judge(503, b"")), "503 with an empty body");
        assert!(text(judge(502, b"<html>x</html>")).starts_with("502 with a body"));
    }

    #[test]
    fn a_good_status_without_json_is_worth_another_try() {
        for body in [&b""[..], b"<html>", b"null"] {
            assert!(matches!(judge(200, body), Verdict::Retry(_)));
        }
        assert!(matches!(judge(202, b"{\"contacts\":[]}"), Verdict::Retry(_)));
        assert_eq!(judge(200, b" {}"), Verdict::Good);
        assert!(matches!(judge(302, b""), Verdict::Final(_)));
    }

    proptest::proptest! {
        /// Bytes of any kind are a verdict, whose words are short and on one line.
        #[test]
        fn any_answer_is_judged(status in 100u16..600, bytes: Vec<u8>, value in ".{0,40}") {
            for body in [bytes, format!("[{{\"error_key\":{value:?}}}]").into_bytes(), value.into_bytes()] {
                let shown = match judge(status, &body) {
                    Verdict::Good | Verdict::Throttled | Verdict::QuotaExceeded => continue,
                    Verdict::Retry(why)
                    | Verdict::Unauthorized(why)
                    | Verdict::Forbidden(why)
                    | Verdict::NotFound(why)
                    | Verdict::Refused(why)
                    | Verdict::Final(why) => why,
                };
                proptest::prop_assert!(shown.len() < 1000 && !shown.contains('\n'), "{shown}");
            }
        }
    }
}
