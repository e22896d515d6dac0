//! The text of an answer, made fit for every target before it is parsed, and fit for a terminal before it is shown.

use std::borrow::Cow;
use std::sync::{Mutex, PoisonError};

use memchr::memmem;

use super::Bearer;
use crate::secret::mask;
use crate::shown;

/// Larger buffers are rare, and not kept.
const LARGEST_KEPT: usize = 4 << 20;
/// Longer text, in bytes, is not shown at all: finding a secret in all its forms takes many times its size in memory.
const LONGEST_SHOWN: usize = 8 << 10;

/// Text of the service as a message shows it: without secrets, on one line, and cut at 200 characters.
pub(super) fn shown(text: &str, token: &Bearer) -> String {
    if text.len() > LONGEST_SHOWN {
        return format!("(a text of {} bytes)", text.len());
    }
    shown::shown(mask(text, token.secrets()))
}

/// The buffers of pages that have been parsed, for the next ones.
///
/// The bodies of pages are of every size and are freed by other threads than their rows. Left to the allocator, they
/// fragment its memory to several times their own size.
#[derive(Default)]
pub(super) struct Buffers(Mutex<Vec<Vec<u8>>>);

impl Buffers {
    /// An empty buffer.
    pub(super) fn take(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    pub(super) fn give(&self, mut buffer: Vec<u8>) {
        if buffer.capacity() <= LARGEST_KEPT {
            buffer.clear();
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
        }
    }
}

/// Makes JSON text of a body that every target can store and that holds no secret.
///
/// Escapes of U+0000 are dropped, and unpaired surrogates and bytes that are not UTF-8 become U+FFFD: Postgres stores
/// none of them, and JSON parsers reject the surrogates. An echo of a secret becomes `***`.
pub(super) fn clean(bytes: Vec<u8>, token: &Bearer) -> String {
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(e) => String::from_utf8_lossy(e.as_bytes()).into_owned(),
    };
    let mut text = match repair(&text) {
        Cow::Borrowed(_) => text,
        Cow::Owned(repaired) => repaired,
    };
    let mut hide = |echo: &str| {
        if !echo.is_empty() && memmem::find(text.as_bytes(), echo.as_bytes()).is_some() {
            text = text.replace(echo, "***");
        }
    };
    for secret in token.secrets_in_data() {
        hide(secret);
        let percent = secret.bytes().fold(String::new(), |text, byte| text + &format!("%{byte:02X}"));
        let form: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
        for echo in [&form, &percent, &percent.to_lowercase()] {
            if echo != secret {
                hide(echo);
            }
        }
    }
    text
}

fn repair(text: &str) -> Cow<'_, str> {
    let mut out = String::new();
    // `done`: what has been copied to `out`; `at`: where the search goes on.
    let (mut done, mut at) = (0, 0);
    while let Some(found) = text[at..].find('\\') {
        let start = at + found;
        let (length, replacement) = match unit(text, start) {
            Some(0) => (6, None),
            Some(0xD800..=0xDBFF) if unit(text, start + 6).is_some_and(|low| (0xDC00..=0xDFFF).contains(&low)) => {
                at = start + 12;
                continue;
            }
            Some(0xD800..=0xDFFF) => (6, Some('\u{FFFD}')),
            // An escape that is not needed could hide the token.
            Some(unit @ 0x20..=0x7E) if !matches!(unit, 0x22 | 0x5C) => (6, char::from_u32(unit.into())),
            Some(_) => {
                at = start + 6;
                continue;
            }
            None if text[start..].starts_with("\\/") => (2, Some('/')),
            None => {
                // Two characters, the second of which may itself be a backslash.
                at = start + 1 + text[start + 1..].chars().next().map_or(0, char::len_utf8);
                continue;
            }
        };
        out.push_str(&text[done..start]);
        out.extend(replacement);
        at = start + length;
        done = at;
    }
    if done == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(&text[done..]);
    Cow::Owned(out)
}

/// The UTF-16 unit of a `\uXXXX` escape that starts at `at`.
fn unit(text: &str, at: usize) -> Option<u16> {
    let hex = text.get(at..at + 6)?.strip_prefix("\\u")?;
    if hex.bytes().all(|b| b.is_ascii_hexdigit()) { u16::from_str_radix(hex, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token(text: &str) -> Bearer {
        Bearer::of(text)
    }

    fn cleaned(raw: &[u8], secret: &str) -> String {
        clean(raw.to_vec(), &token(secret))
    }

    #[test]
    fn what_no_target_stores_is_taken_out_and_all_else_left() {
        for (raw, expected) in [
            (r#""plain""#, "plain"),
            (r#""a\u0000b""#, "ab"),
            (r#""\ud83d\ude00""#, "😀"),
            (r#""x\ud83dy""#, "x\u{FFFD}y"),
            (r#""\ude00""#, "\u{FFFD}"),
            (r#""\ud83d\ud83d\ude00""#, "\u{FFFD}😀"),
            (r#""\\ud83d""#, "\\ud83d"),
            (r#""\\\u0000""#, "\\"),
            (r#""\"\n\u00e9\u0022\u005c\u000a\u007f""#, "\"\né\"\\\n\u{7f}"),
            (r#""\u0041\/\u007e\\/""#, "A/~\\/"),
        ] {
            let cleaned = cleaned(raw.as_bytes(), "t0ken");
            assert_eq!(serde_json::from_str::<String>(&cleaned).unwrap(), expected, "{raw}");
        }
        assert_eq!(cleaned(b"\"a\xffb\"", "t0ken"), "\"a\u{FFFD}b\"");
    }

    #[test]
    fn an_echo_of_the_token_is_masked() {
        let long = "abcdefghijklmnopqrstuvwxyz0123456789";
        for (raw, secret, expected) in [
            (r#"{"t0ken":"xt0keny"}"#, "t0ken", r#"{"***":"x***y"}"#),
            (r#""\u0074\u0030ken a\/b""#, "t0ken a/b", r#""***""#),
            (r#""t0ken+a%2Fb %74%306b""#, "t0ken a/b", r#""*** %74%306b""#),
            (r#""%74%30%6B%65%6E%74%30%6b%65%6e""#, "t0ken", r#""******""#),
            (long, long, "***"),
            ("abcdefghijklmnop", long, "abcdefghijklmnop"),
            ("plain", "", "plain"),
        ] {
            assert_eq!(cleaned(raw.as_bytes(), secret), expected);
        }
    }

    #[test]
    fn what_is_shown_holds_no_token_and_is_short() {
        assert_eq!(shown("a\nt0ken %740ken", &token("t0ken")), "a *** ***");
        assert_eq!(shown(&"é".repeat(5 << 20), &token("t0ken")), "(a text of 10485760 bytes)");
        assert!(shown(&"é".repeat(300), &token("t0ken")).chars().count() <= 200);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>) {
            cleaned(&bytes, "t0ken");
        }

        /// The same JSON, however its text is escaped.
        #[test]
        fn no_text_is_changed_by_its_escapes(text in "(?s)[^\0]{0,40}") {
            let escaped: String = text.encode_utf16().fold(String::new(), |text, unit| text + &format!("\\u{unit:04x}"));
            let cleaned = cleaned(format!("\"{escaped}\"").as_bytes(), "t0ken");
            prop_assert_eq!(serde_json::from_str::<String>(&cleaned).unwrap(), text.replace("t0ken", "***"));
        }
    }
}
