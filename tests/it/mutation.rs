//! Damages JSON text as programs, proxies and people do.

use fastrand::Rng;
use serde_json::{Map, Value, json};

/// Text that no [`Value`] can represent; [`raw`] inserts it.
const RAW: [&str; 8] = [
    "1e400",
    "-1e999999999",
    "123456789012345678901234567890",
    "-0.0",
    "0.1e-400",
    r#""\ud800""#,
    r#""half \udc00\u0000 of a pair""#,
    "",
];

const NAMES: [&str; 10] =
    ["id", "next", "type", "__proto__", "", "a\u{1b}[31mb", "line\nbreak", "ключ", "$ref", "contact_id "];

const TEXTS: [&str; 16] = [
    "",
    " ",
    "null",
    "2026-02-30T25:61:00Z",
    "0001-01-01T00:00:00Z",
    "+262143-12-31T23:59:59Z",
    "2016-12-31T23:59:60Z",
    "NaN",
    "-1",
    "\u{1b}[2J\u{7}\u{8}",
    "CRITICAL\r\n{\"type\": \"STATE\"}",
    "../../etc/passwd",
    "https://example.com/v3/contacts?cursor=x",
    "/v3/contacts?cursor=nowhere",
    "{\"a\":[1,{\"b\":null}]}",
    "\u{feff}\u{202e}\u{2028}😀",
];

/// Changes a JSON text in up to three places. `words` are inserted unchanged.
pub fn mutate(random: &mut Rng, text: &[u8], words: &[String]) -> Vec<u8> {
    let Ok(mut value) = serde_json::from_slice::<Value>(text) else { return damage(random, text.to_vec()) };
    for _ in 0..random.usize(1..=3) {
        change(random, &mut value, words);
    }
    let bytes = written(&value).into_bytes();
    if random.u32(..8) == 0 { damage(random, bytes) } else { bytes }
}

/// Changes random bytes.
fn damage(random: &mut Rng, mut bytes: Vec<u8>) -> Vec<u8> {
    let at = random.usize(..=bytes.len());
    match random.u32(..9) {
        0 => bytes.truncate(at),
        1 => bytes.clear(),
        2 => drop(bytes.splice(at..at, [0xff, 0xfe, 0xc0, 0x80])),
        3 => drop(bytes.splice(..0, *b"\xef\xbb\xbf")),
        4 => bytes.extend_from_slice(b"{}\n[1"),
        5 => drop(bytes.splice(at..at, [random.u8(..)])),
        6 => drop(bytes.splice(at.., std::iter::repeat_n(b'[', 100_000))),
        7 => bytes = b"<!DOCTYPE html><html><body>One moment\x1b[5m</body></html>".to_vec(),
        _ => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << random.u32(..8)),
    }
    bytes
}

/// Changes one value at any depth, or its members.
fn change(random: &mut Rng, value: &mut Value, words: &[String]) {
    let mut pointers = Vec::new();
    collect(value, &mut String::new(), &mut pointers);
    let node = value.pointer_mut(&pointers[random.usize(..pointers.len())]).unwrap();
    match node {
        Value::Object(members) if random.u32(..4) != 0 => change_members(random, members, words),
        Value::Array(items) if random.u32(..4) != 0 => match random.u32(..4) {
            0 => items.clear(),
            1 => items.push(odd(random, words)),
            2 => items.reverse(),
            _ => {
                let (first, times) = (items.first().cloned(), random.usize(1..300));
                items.extend(std::iter::repeat_n(first.unwrap_or_default(), times));
            }
        },
        Value::String(text) if random.bool() => match random.u32(..4) {
            0 => *text = text.repeat(random.usize(2..2000)),
            1 => text.push_str(TEXTS[random.usize(..TEXTS.len())]),
            2 => *text = text.chars().rev().collect(),
            _ => *text += &any_word(random, words),
        },
        _ => *node = odd(random, words),
    }
}

fn change_members(random: &mut Rng, members: &mut Map<String, Value>, words: &[String]) {
    let names: Vec<String> = members.keys().cloned().collect();
    let name = if names.is_empty() { String::new() } else { names[random.usize(..names.len())].clone() };
    let other = match random.u32(..3) {
        0 => any_word(random, words),
        1 => format!("{name}s"),
        _ => NAMES[random.usize(..NAMES.len())].to_owned(),
    };
    match random.u32(..6) {
        0 => drop(members.remove(&name)),
        1 => {
            let value = members.remove(&name).unwrap_or_default();
            members.insert(other, value);
        }
        2 => drop(members.insert(format!("@again:{name}"), odd(random, words))),
        3 => drop(members.insert(other, odd(random, words))),
        4 => members.extend((0..3000).map(|n| (format!("unknown \u{1b}{n}"), json!(n)))),
        _ => members.clear(),
    }
}

/// A value of an unexpected kind or size.
fn odd(random: &mut Rng, words: &[String]) -> Value {
    match random.u32(..12) {
        0 => Value::Null,
        1 => json!(random.bool()),
        2 => json!([0, -1, i64::MIN, i64::MAX][random.usize(..4)]),
        3 => json!(u64::MAX),
        4 => json!(random.f64() * 1e300),
        5 => json!({}),
        6 => json!([]),
        7 => json!([{"a": [null, {"b": any_word(random, words)}]}]),
        8 => json!(TEXTS[random.usize(..TEXTS.len())]),
        9 => json!("x".repeat(random.usize(1000..100_000))),
        10 => (0..random.usize(2..400)).fold(json!(1), |inner, _| json!([inner])),
        _ => json!(format!("@raw:{}", random.usize(..RAW.len()))),
    }
}

fn any_word(random: &mut Rng, words: &[String]) -> String {
    if words.is_empty() { "word".into() } else { words[random.usize(..words.len())].clone() }
}

/// The JSON pointers of a value and of everything in it.
fn collect(value: &Value, at: &mut String, pointers: &mut Vec<String>) {
    pointers.push(at.clone());
    let length = at.len();
    let mut within = |name: &str, value: &Value| {
        at.push('/');
        at.push_str(&name.replace('~', "~0").replace('/', "~1"));
        collect(value, at, pointers);
        at.truncate(length);
    };
    match value {
        Value::Object(members) => members.iter().for_each(|(name, value)| within(name, value)),
        Value::Array(items) => items.iter().enumerate().for_each(|(n, value)| within(&n.to_string(), value)),
        _ => {}
    }
}

/// JSON text with repeated members, and with [`RAW`] in place of its names.
fn written(value: &Value) -> String {
    let text = value.to_string().replace("\"@again:", "\"");
    RAW.iter().enumerate().fold(text, |text, (n, raw)| text.replace(&format!("\"@raw:{n}\""), raw))
}
