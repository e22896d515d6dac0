//! What an answer means: pure functions over its status and body.

use serde_json::Value;

use super::Bearer;
use super::rows::Envelope;
use super::text::shown;

/// What an answer means. The texts say what happened.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// A 200 whose body looks like JSON.
    Good,
    /// Another attempt may succeed.
    Retry(String),
    /// 429: too many calls in a second.
    Throttled,
    /// 429: the day's calls are used up.
    QuotaExceeded,
    /// The access token is not accepted.
    Unauthorized(String),
    /// The scope, the privilege or the application: the three causes share one answer.
    Forbidden(String),
    NotFound(String),
    /// The gateway refused the call before it reached the API, as it does for an address outside it.
    OutsideApi(String),
    /// A parameter is wrong.
    Refused(String),
    /// Another attempt would be answered the same.
    Final(String),
}

/// Judges an answer. The service sends errors as an object, an array, HTML or nothing; `error_type` is the gateway's
/// `x-amzn-errortype` header. No text shows a secret.
pub(super) fn judge(status: u16, error_type: Option<&str>, body: &[u8], token: &Bearer) -> Verdict {
    if status == 200 && looks_like_json(body) {
        return Verdict::Good;
    }
    let error = ServiceError::read(body);
    let text = || error.describe(status, body, token);
    match status {
        // 202: the answer is still being computed. An empty or HTML 200 comes from a proxy or gateway.
        200..=299 => Verdict::Retry(format!("{status} response that is not the service's JSON")),
        // Only the body, or the gateway's header, tells the daily quota from the limit per second.
        429 if error.is_quota() || error_type.is_some_and(|name| name.starts_with("LimitExceeded")) => {
            Verdict::QuotaExceeded
        }
        429 => Verdict::Throttled,
        401 => Verdict::Unauthorized(text()),
        403 if is_html(body) => Verdict::Retry(
            "403 with a web page: a filter in front of the service refused the call, not the service itself. If it \
             lasts, ask your network's administrator, or try from another network"
                .into(),
        ),
        403 if error.key.is_none() && error.message.as_deref() == Some("Forbidden") => Verdict::OutsideApi(text()),
        403 => Verdict::Forbidden(text()),
        404 => Verdict::NotFound(text()),
        408 | 425 | 500..=599 => Verdict::Retry(text()),
        300..=399 => Verdict::Final(format!(
            "{status} response, a redirect; the token is not sent to another place (check api_url)"
        )),
        400..=499 => Verdict::Refused(text()),
        _ => Verdict::Final(text()),
    }
}

/// Whether a 200 without its rows means that there are none, provided that a second answer is the same.
///
/// The vendor's contract allows to leave them out. Only a first page without anything else in it is believed: an empty
/// answer in the middle of a listing, or beside a count, must never pass for the end of the listing.
pub(super) fn lack_means_none(envelope: &Envelope, is_first: bool) -> bool {
    is_first && !envelope.has_others && envelope.next.is_none() && envelope.count.unwrap_or(0) == 0
}

/// Whether a 200 that is not a listing holds what was asked for: an empty object, an error or a list would pass for an
/// object without any of its optional fields.
pub(super) fn is_object_with_data(body: &Value) -> bool {
    body.as_object().is_some_and(|members| !members.is_empty() && !members.contains_key("error_key"))
}

fn looks_like_json(body: &[u8]) -> bool {
    matches!(body.trim_ascii_start().first(), Some(b'{' | b'['))
}

fn is_html(body: &[u8]) -> bool {
    body.trim_ascii_start().first() == Some(&b'<')
}

/// The first error of a body.
#[derive(Default)]
struct ServiceError {
    key: Option<String>,
    message: Option<String>,
}

impl ServiceError {
    fn read(body: &[u8]) -> ServiceError {
        let error = match serde_json::from_slice(body) {
            Ok(Value::Array(errors)) => errors.into_iter().next().unwrap_or_default(),
            other => other.unwrap_or_default(),
        };
        let text = |name: &str| error.get(name).and_then(Value::as_str).map(str::to_owned);
        ServiceError { key: text("error_key"), message: text("error_message").or_else(|| text("message")) }
    }

    fn is_quota(&self) -> bool {
        self.key.as_deref() == Some("quota_exceeded")
            || (self.key.is_none() && self.message.as_deref() == Some("Limit Exceeded"))
    }

    fn describe(&self, status: u16, body: &[u8], token: &Bearer) -> String {
        match (&self.key, &self.message) {
            (Some(key), Some(message)) => format!("{status} {}: {}", shown(key, token), shown(message, token)),
            (Some(one), None) | (None, Some(one)) => format!("{status} {}", shown(one, token)),
            (None, None) if body.is_empty() => format!("{status} with an empty body"),
            (None, None) => format!("{status} with a body that is not the service's JSON"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn judged(status: u16, body: &str) -> Verdict {
        judge(status, None, body.as_bytes(), &Bearer::of("t0ken"))
    }

    #[test]
    fn a_429_is_throttled_or_the_daily_quota() {
        for (body, expected) in [
            (r#"{"error_key":"quota_exceeded","error_message":"Limit Exceeded"}"#, Verdict::QuotaExceeded),
            (r#"[{"error_key":"quota_exceeded"}]"#, Verdict::QuotaExceeded),
            (r#"{"message":"Limit Exceeded"}"#, Verdict::QuotaExceeded),
            ("{\"error_key\":\"throttled\",\"error_message\":\"Too Many Requests\"}\n", Verdict::Throttled),
            (r#"{"message":"Too Many Requests"}"#, Verdict::Throttled),
            ("<html>", Verdict::Throttled),
            ("", Verdict::Throttled),
        ] {
            assert_eq!(judged(429, body), expected, "{body}");
        }
        let by_header = |name| judge(429, Some(name), b"", &Bearer::of(""));
        assert_eq!(by_header("LimitExceededException"), Verdict::QuotaExceeded);
        assert_eq!(by_header("TooManyRequestsException"), Verdict::Throttled);
    }

    #[test]
    fn a_403_is_the_services_the_gateways_or_a_filters() {
        let forbidden = r#"{"error_key":"forbidden","error_message":"No"}"#;
        assert_eq!(judged(403, forbidden), Verdict::Forbidden("403 forbidden: No".into()));
        assert_eq!(judged(403, r#"{"message":"Forbidden"}"#), Verdict::OutsideApi("403 Forbidden".into()));
        assert!(matches!(judged(403, "\n<!DOCTYPE html>"), Verdict::Retry(_)));
        assert!(matches!(judged(403, ""), Verdict::Forbidden(_)));
    }

    #[test]
    fn an_error_is_read_in_every_shape() {
        let refused = |text: &str| Verdict::Refused(text.into());
        assert_eq!(judged(400, r#"[{"error_key":"a.b","error_message":"no"},{}]"#), refused("400 a.b: no"));
        assert_eq!(judged(400, r#"{"error_key":"a.b"}"#), refused("400 a.b"));
        assert_eq!(judged(400, r#"{"error_key":7,"message":"no"}"#), refused("400 no"));
        assert_eq!(judged(400, "[]"), refused("400 with a body that is not the service's JSON"));
        assert_eq!(judged(401, r#"{"error_key":"u","error_message":"U"}"#), Verdict::Unauthorized("401 u: U".into()));
        assert_eq!(judged(404, r#"[{"error_key":"not_found"}]"#), Verdict::NotFound("404 not_found".into()));
        assert_eq!(judged(410, ""), refused("410 with an empty body"));
    }

    #[test]
    fn what_may_pass_is_retried_and_nothing_else() {
        for status in [408, 425, 500, 502, 503, 504, 599] {
            assert!(matches!(judged(status, "<html>x</html>"), Verdict::Retry(_)), "{status}");
        }
        for body in ["", "<html>", "null"] {
            assert!(matches!(judged(200, body), Verdict::Retry(_)), "{body}");
        }
        assert!(matches!(judged(202, r#"{"contacts":[]}"#), Verdict::Retry(_)));
        assert_eq!(judged(200, " {}"), Verdict::Good);
        assert_eq!(judged(200, "["), Verdict::Good);
        for status in [100, 301, 302, 399, 600] {
            assert!(matches!(judged(status, ""), Verdict::Final(_)), "{status}");
        }
    }

    #[test]
    fn only_a_first_page_with_nothing_in_it_may_lack_its_rows() {
        let empty = Envelope::default;
        assert!(lack_means_none(&empty(), true));
        assert!(lack_means_none(&Envelope { count: Some(0), ..empty() }, true));
        assert!(lack_means_none(&Envelope { contact_id: Some("a".into()), ..empty() }, true));
        assert!(!lack_means_none(&empty(), false));
        assert!(!lack_means_none(&Envelope { count: Some(1), ..empty() }, true));
        assert!(!lack_means_none(&Envelope { next: Some("/a".into()), ..empty() }, true));
        assert!(!lack_means_none(&Envelope { has_others: true, ..empty() }, true));
    }

    #[test]
    fn an_object_without_data_is_no_answer() {
        use serde_json::json;
        assert!(is_object_with_data(&json!({"campaign_id": "a"})));
        for body in [json!({}), json!([]), json!([{"a": 1}]), json!({"error_key": "throttled"}), json!("a")] {
            assert!(!is_object_with_data(&body), "{body}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        /// Whatever the body holds, the words are short, on one line, and do not show the token.
        #[test]
        fn any_answer_is_described_safely(status in 100u16..600, bytes: Vec<u8>, value in "(?s).{0,400}", repeat in 0usize..9) {
            let value = value.repeat(repeat) + "t0ken";
            let error = serde_json::json!({"error_key": value, "error_message": value});
            for body in [bytes, error.to_string().into_bytes(), format!("[{error}]").into_bytes(), value.into_bytes()] {
                let words = match judge(status, None, &body, &Bearer::of("t0ken")) {
                    Verdict::Good | Verdict::Throttled | Verdict::QuotaExceeded => continue,
                    Verdict::Retry(why)
                    | Verdict::Unauthorized(why)
                    | Verdict::Forbidden(why)
                    | Verdict::NotFound(why)
                    | Verdict::OutsideApi(why)
                    | Verdict::Refused(why)
                    | Verdict::Final(why) => why,
                };
                prop_assert!(words.chars().count() < 500 && !words.contains(char::is_control), "{words:?}");
                prop_assert!(!words.contains("t0ken"), "{words:?}");
            }
        }
    }
}
