//! The text of an answer, made fit for every target before it is parsed.

use std::borrow::Cow;
use std::sync::{Mutex, PoisonError};

/// A buffer larger than this is an exception, and not kept.
const LARGEST_KEPT: usize = 4 << 20;

/// The buffers of pages that are done with, for those that come.
///
/// Pages are read by some threads and dropped by another, by the hundred and of every size: left to an allocator, they
/// make holes that take several times the memory of the pages.
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

/// Bytes to text that parses: U+0000 escapes are dropped, unpaired surrogate escapes and bytes that are not
/// UTF-8 become U+FFFD. Postgres stores none of them, and a JSON parser dies of the surrogates.
pub(crate) fn clean(bytes: Vec<u8>) -> String {
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(e) => String::from_utf8_lossy(e.as_bytes()).into_owned(),
    };
    match repair(&text) {
        Cow::Borrowed(_) => text,
        Cow::Owned(repaired) => repaired,
    }
}

fn repair(text: &str) -> Cow<'_, str> {
    let mut out = String::new();
    // `done`: what has been copied to `out`; `at`: where the search goes on.
    let (mut done, mut at) = (0, 0);
    while let Some(found) = text[at..].find('\\') {
        let start = at + found;
        let Some(unit) = unit(text, start) else {
            // Any other escape: two characters, the second of which may itself be a backslash.
            at = start + 1 + text[start + 1..].chars().next().map_or(0, char::len_utf8);
            continue;
        };
        at = start + 6;
        let replacement = match unit {
            0 => "",
            0xD800..=0xDBFF if self::unit(text, at).is_some_and(|low| (0xDC00..=0xDFFF).contains(&low)) => {
                at += 6;
                continue;
            }
            0xD800..=0xDFFF => "\u{FFFD}",
            _ => continue,
        };
        out.push_str(&text[done..start]);
        out.push_str(replacement);
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
    use super::*;

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
            (r#""\"\n\u00e9""#, "\"\né"),
        ] {
            let cleaned = clean(raw.as_bytes().to_vec());
            assert_eq!(serde_json::from_str::<String>(&cleaned).unwrap(), expected, "{raw}");
        }
        assert_eq!(clean(b"\"a\xffb\"".to_vec()), "\"a\u{FFFD}b\"");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>) {
            clean(bytes);
        }
    }
}
