//! Ids of the service, kept small: an account has hundreds of thousands of them.

use std::cmp::Ordering;
use std::fmt;

use uuid::Uuid;

/// An id; ordered like its text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Id {
    /// The usual form: a UUID in lower case with hyphens, as 16 bytes.
    Uuid(Bytes),
    /// The service documents no form: any other text is as good.
    Other(Box<str>),
}

/// The bytes of a UUID, without an alignment that would cost eight more.
type Bytes = [u8; 16];

impl From<&str> for Id {
    fn from(text: &str) -> Id {
        let mut buffer = Uuid::encode_buffer();
        match Uuid::try_parse(text) {
            Ok(uuid) if uuid.hyphenated().encode_lower(&mut buffer) == text => Id::Uuid(uuid.into_bytes()),
            _ => Id::Other(text.into()),
        }
    }
}

impl Id {
    /// As a segment of a URL's path: whatever the service sends as an id, it leads to no other path.
    pub(crate) fn in_path(&self) -> String {
        let text = self.to_string();
        // In a path, a plus is a plus.
        url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
    }

    /// Whether a text names the same thing; the case of a UUID does not matter.
    pub(crate) fn is(&self, text: &str) -> bool {
        self.to_string().eq_ignore_ascii_case(text)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Id::Uuid(bytes) => Uuid::from_bytes(*bytes).hyphenated().fmt(f),
            Id::Other(text) => f.write_str(text),
        }
    }
}

impl Ord for Id {
    fn cmp(&self, other: &Id) -> Ordering {
        match (self, other) {
            (Id::Uuid(a), Id::Uuid(b)) => a.cmp(b),
            (Id::Other(a), Id::Other(b)) => a.cmp(b),
            _ => self.to_string().cmp(&other.to_string()),
        }
    }
}

impl PartialOrd for Id {
    fn partial_cmp(&self, other: &Id) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ids_go_and_come_back_and_sort_like_their_text(
            a in "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9A-Fa-f-]{0,40}|\\PC*",
            b in "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9A-Fa-f-]{0,40}",
        ) {
            prop_assert_eq!(Id::from(&*a).to_string(), a.clone());
            prop_assert_eq!(Id::from(&*a).cmp(&Id::from(&*b)), a.cmp(&b));
        }
    }

    #[test]
    fn an_id_is_one_segment_of_a_path() {
        assert_eq!(Id::from("a/../b?c#d e%+é").in_path(), "a%2F..%2Fb%3Fc%23d%20e%25%2B%C3%A9");
        let usual = "71600990-908b-11e6-907f-00166bff2500";
        assert_eq!(Id::from(usual).in_path(), usual);
        assert!(Id::from(usual).is(&usual.to_uppercase()) && !Id::from(usual).is("x"));
    }

    #[test]
    fn a_usual_id_is_small() {
        assert!(matches!(Id::from("71600990-908b-11e6-907f-00166bff2500"), Id::Uuid(_)));
        assert!(size_of::<Id>() <= 24);
    }
}
