//! Secrets, and hiding them in text that comes from outside.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

/// A token or a password. It has no `Display`, so that no message can show it by accident.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(transparent)]
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Secret {
        Secret(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("***")
    }
}

impl JsonSchema for Secret {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "secret": true, "writeOnly": true})
    }
}

/// How secrets are written into the files that store them: as plain strings, where `""` means none. A field opts in
/// with `#[serde(default, with = "stored")]`.
pub(crate) mod stored {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Secret;

    #[expect(clippy::ref_option, reason = "serde passes the field like this")]
    pub(crate) fn serialize<S: Serializer>(secret: &Option<Secret>, to: S) -> Result<S::Ok, S::Error> {
        secret.as_ref().map(Secret::expose).serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Secret>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        Ok(text.filter(|text| !text.is_empty()).map(Secret))
    }
}

/// The text with `***` in place of each secret, whether it stands there as it is, percent-encoded or with JSON escapes,
/// or any of these several times over.
pub(crate) fn mask<'a>(text: &str, secrets: impl IntoIterator<Item = &'a str>) -> String {
    let secrets: Vec<Vec<char>> = secrets.into_iter().map(|secret| secret.chars().collect()).collect();
    let mut places: Vec<Range<usize>> = Vec::new();
    let mut chars: Vec<Char> = text.char_indices().map(|(at, c)| Char { c, source: at..at + c.len_utf8() }).collect();
    // Decoded layer by layer. A hostile text could have a layer for every few bytes.
    for _ in 0..8 {
        find(&chars, &secrets, &mut places);
        let unescaped = decode(&chars, percent_encoded);
        find(&unescaped, &secrets, &mut places);
        let unescaped = decode(&unescaped, json_escaped);
        if unescaped.len() == chars.len() {
            break;
        }
        chars = unescaped;
    }
    places.sort_by_key(|place| place.start);
    let (mut masked, mut shown) = (String::with_capacity(text.len()), 0);
    for place in places {
        if place.start >= shown {
            masked.push_str(&text[shown..place.start]);
            masked.push_str("***");
        }
        shown = shown.max(place.end);
    }
    masked + &text[shown..]
}

/// A decoded character, and the bytes of the original text that it was decoded from.
#[derive(Clone)]
struct Char {
    c: char,
    source: Range<usize>,
}

/// Adds the places in the original text at which one of the secrets stands.
fn find(text: &[Char], secrets: &[Vec<char>], places: &mut Vec<Range<usize>>) {
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        let mut at = 0;
        while let Some(window) = text.get(at..at + secret.len()) {
            // Forms write a space as a plus sign.
            if window.iter().zip(secret).all(|(found, c)| found.c == *c || (found.c == '+' && *c == ' ')) {
                places.push(window[0].source.start..window[secret.len() - 1].source.end);
                at += secret.len();
            } else {
                at += 1;
            }
        }
    }
}

/// Decodes what `encoding` recognizes: given the text from one character on, it returns the character that is encoded
/// there and how many characters it takes.
fn decode(text: &[Char], encoding: fn(&[Char]) -> Option<(char, usize)>) -> Vec<Char> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let (c, length) = encoding(&text[at..]).unwrap_or((text[at].c, 1));
        decoded.push(Char { c, source: text[at].source.start..text[at + length - 1].source.end });
        at += length;
    }
    decoded
}

/// `%2F`, or several of them where UTF-8 takes several bytes.
fn percent_encoded(text: &[Char]) -> Option<(char, usize)> {
    let mut bytes = Vec::new();
    for triple in text.chunks_exact(3).take(4) {
        if triple[0].c != '%' {
            return None;
        }
        bytes.push(u8::try_from(hex(&triple[1..])?).ok()?);
        if let Ok(decoded) = str::from_utf8(&bytes) {
            return decoded.chars().next().map(|c| (c, bytes.len() * 3));
        }
    }
    None
}

/// `\/` or `\u002f`, or two of the latter where UTF-16 takes two units.
fn json_escaped(text: &[Char]) -> Option<(char, usize)> {
    let unit = |at: usize| {
        let escape = text.get(at..at + 6)?;
        (escape[0].c == '\\' && escape[1].c == 'u').then(|| hex(&escape[2..])).flatten()
    };
    if text[0].c != '\\' {
        return None;
    }
    match text.get(1)?.c {
        c @ ('"' | '\\' | '/') => Some((c, 2)),
        'b' => Some(('\u{8}', 2)),
        'f' => Some(('\u{c}', 2)),
        'n' => Some(('\n', 2)),
        'r' => Some(('\r', 2)),
        't' => Some(('\t', 2)),
        _ => {
            let units: Vec<u16> = [unit(0), unit(6)].into_iter().map_while(|unit| unit).collect();
            let c = char::decode_utf16(units).next()?.ok()?;
            Some((c, c.len_utf16() * 6))
        }
    }
}

fn hex(digits: &[Char]) -> Option<u16> {
    digits.iter().try_fold(0, |number, digit| Some(number * 16 + u16::try_from(digit.c.to_digit(16)?).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn percent(text: &str) -> String {
        url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
    }

    fn percent_all(text: &str) -> String {
        text.bytes().map(|b| format!("%{b:02x}")).collect::<Vec<_>>().concat()
    }

    fn json(text: &str) -> String {
        let quoted = serde_json::to_string(text).unwrap();
        quoted[1..quoted.len() - 1].to_owned()
    }

    fn json_all(text: &str) -> String {
        text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect::<Vec<_>>().concat()
    }

    #[test]
    fn every_form_of_a_secret_is_masked() {
        for secret in ["0a.Bc-d_1", "p\"ss/w\\rd", "a b+c=d%e", "tökén🔑", "line\nbreak"] {
            for encode in [percent, percent_all, json, json_all, |text: &str| text.to_owned()] {
                for again in [percent, percent_all, json, json_all, |text: &str| text.to_owned()] {
                    let form = again(&encode(secret));
                    let text = format!("<{form}{form}, {}>", &form[..1]);
                    let expected = format!("<******, {}>", &form[..1]);
                    assert_eq!(mask(&text, [secret]), expected, "{secret:?}");
                }
            }
        }
        assert_eq!(mask("a\\/b", ["a/b"]), "***");
    }

    #[test]
    fn other_text_stays_as_it_is() {
        for text in ["", "%", "%2", "%25", "\\", "\\u", "\\u00", "%zz", "ü%C3", "toke", "to ken", "%74oke"] {
            assert_eq!(mask(text, ["token", ""]), text);
        }
        assert_eq!(mask("ab abc abcd", ["ab", "abcd"]), "*** ***c ***");
    }

    #[test]
    fn no_debug_output_shows_a_secret() {
        assert_eq!(format!("{:?}", Some(Secret::from("token".to_owned()))), "Some(***)");
    }

    proptest::proptest! {
        #[test]
        fn any_text_can_be_masked(text: String, secret in ".{0,3}") {
            let masked = mask(&text, [secret.as_str()]);
            proptest::prop_assert!(secret.is_empty() || secret.contains('*') || !masked.contains(&secret));
        }
    }
}
