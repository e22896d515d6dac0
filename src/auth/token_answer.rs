//! Reads a token answer that does not keep to the protocol. Its tokens may be the only ones that work, since asking for
//! them has used up the refresh token.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value, json};

/// The answer in the strict form that the `oauth2` crate reads, or `None` when there are no tokens in it.
///
/// An access token and a refresh token are enough, whatever else is odd: the status, the kinds of the other members,
/// an end that is missing. An access token alone must come with a good status and without an error.
pub(super) fn strict(status: u16, body: &[u8]) -> Option<Vec<u8>> {
    let members = members(body);
    let text = |key: &str| members.get(key).and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty());
    let access_token = text("access_token")?;
    let refresh_token = text("refresh_token");
    let is_good = (200..300).contains(&status) && text("error").is_none();
    if refresh_token.is_none() && !is_good {
        return None;
    }
    let mut answer = json!({"access_token": access_token, "token_type": "bearer"});
    if let Some(token) = refresh_token {
        answer["refresh_token"] = token.into();
    }
    if let Some(seconds) = members.get("expires_in").and_then(seconds) {
        answer["expires_in"] = seconds.into();
    }
    if let Some(scopes) = members.get("scope").and_then(scopes) {
        answer["scope"] = scopes.into();
    }
    Some(answer.to_string().into_bytes())
}

/// The members of an object that came whole, even if the object did not.
pub(super) fn members(body: &[u8]) -> Map<String, Value> {
    let text = String::from_utf8_lossy(body);
    let text = text.trim_start_matches('\u{feff}');
    let mut members = Map::new();
    // An error says that something is missing at the end.
    let _ = Members(&mut members).deserialize(&mut serde_json::Deserializer::from_str(text));
    members
}

struct Members<'a>(&'a mut Map<String, Value>);

impl<'de> DeserializeSeed<'de> for Members<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Members<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some((key, value)) = map.next_entry()? {
            self.0.insert(key, value);
        }
        Ok(())
    }
}

/// A lifetime in whole seconds; `None` for one that says nothing.
fn seconds(value: &Value) -> Option<u64> {
    let seconds = value.as_f64().or_else(|| value.as_str()?.trim().parse().ok())?;
    // Whole seconds are exact far beyond any lifetime.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    (seconds >= 1.0).then_some(seconds as u64)
}

/// Scopes as one string, from a string or a list.
fn scopes(value: &Value) -> Option<String> {
    let text = match value {
        Value::Array(list) => list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "),
        other => other.as_str()?.to_owned(),
    };
    // They are shown to people.
    let words = text.split_whitespace().map(|scope| scope.chars().filter(|c| !c.is_control()).take(200).collect());
    let words: Vec<String> = words.collect();
    (!words.is_empty()).then(|| words.join(" "))
}

#[cfg(test)]
mod tests {
    use oauth2::TokenResponse;
    use oauth2::basic::BasicTokenResponse;

    use super::*;

    fn parsed(status: u16, body: &[u8]) -> Option<BasicTokenResponse> {
        strict(status, body).map(|answer| serde_json::from_slice(&answer).expect("the crate reads it"))
    }

    #[test]
    fn both_tokens_are_found_in_any_odd_answer() {
        let pair = r#""access_token":"a","refresh_token":"r""#;
        for (more, lifetime) in [
            (r#","token_type":"Bearer","expires_in":86400"#, Some(86400)),
            (r#","expires_in":"86400""#, Some(86400)),
            (r#","expires_in":86400.0"#, Some(86400)),
            (r#","expires_in":" 3600.5 ""#, Some(3600)),
            (r#","expires_in":-1"#, None),
            (r#","expires_in":0"#, None),
            (r#","expires_in":null"#, None),
            (r#","expires_in":"soon""#, None),
            (r#","expires_in":1e300"#, Some(u64::MAX)),
            (r#","expires_in":{"seconds":1}"#, None),
            (r#","token_type":7,"scope":{"a":1}"#, None),
            (r#","error":"odd""#, None),
            ("", None),
        ] {
            let text = format!("{{{pair}{more}}}");
            for body in
                [text.clone(), format!("\u{feff}{text}"), format!(" {text} <!-- -->"), text[..text.len() - 1].into()]
            {
                for status in [200, 201, 203, 400, 500] {
                    let answer = parsed(status, body.as_bytes()).unwrap_or_else(|| panic!("{status} {body}"));
                    assert_eq!(answer.access_token().secret(), "a", "{body}");
                    assert_eq!(answer.refresh_token().unwrap().secret(), "r", "{body}");
                    assert_eq!(answer.expires_in().map(|d| d.as_secs()), lifetime, "{body}");
                }
            }
        }
    }

    #[test]
    fn an_answer_that_was_cut_off_keeps_what_came_whole() {
        let body = br#"{"access_token":"a","refresh_token":"r","scope":"contact_data offl"#;
        let answer = parsed(200, body).unwrap();
        assert_eq!(answer.refresh_token().unwrap().secret(), "r");
        assert!(answer.scopes().is_none());
        // Half a token is no token.
        assert!(parsed(200, br#"{"access_token":"a"#).is_none());
        assert!(parsed(200, br#"{"access_token":"a","refresh_token":"r"#).unwrap().refresh_token().is_none());
        assert!(parsed(200, b"{\"access_token\":\"a\",\"refresh_token\":\"r\",\"x\":\"\xff\"}").is_some());
    }

    #[test]
    fn an_access_token_alone_needs_a_good_answer() {
        let alone = br#"{"access_token":"a","refresh_token":""}"#;
        assert!(parsed(200, alone).unwrap().refresh_token().is_none());
        for status in [302, 400, 500] {
            assert!(parsed(status, alone).is_none());
        }
        for body in
            [&br#"{"access_token":"a","error":"no"}"#[..], br#"{"access_token":" "}"#, b"[]", b"{", b"", b"null"]
        {
            assert!(parsed(200, body).is_none());
        }
    }

    #[test]
    fn scopes_are_read_from_a_list_too() {
        for scope in [r#""b a""#, r#"["b","a"]"#, r#"["b a", 7, ""]"#, r#""b\u001b a\u0007""#] {
            let answer = parsed(200, format!(r#"{{"access_token":"a","scope":{scope}}}"#).as_bytes()).unwrap();
            let scopes: Vec<&str> = answer.scopes().unwrap().iter().map(|scope| scope.as_str()).collect();
            assert_eq!(scopes, ["b", "a"], "{scope}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read(status in 100u16..600, bytes: Vec<u8>, text: String) {
            parsed(status, &bytes);
            parsed(status, format!("{{\"access_token\":\"a\",{text}").as_bytes());
        }
    }
}
