//! The selection by patterns of `--select`. They are typed for this version of the tap, so a stream or field that they do not
//! match is an error.

use super::mask::{mask, paths};
use super::{Catalog, Selected, nearest_or_all};
use crate::error::{Error, Result};
use crate::shown::shown;
use crate::spelling::nearest;
use crate::stream::Stream;

impl Catalog {
    /// The selection by patterns such as `STREAM.FIELD` or `!*.FIELD`. An exclusion wins over any inclusion. If there
    /// are only exclusions, everything else is selected.
    ///
    /// # Errors
    /// `Usage` for a pattern that matches nothing, and when nothing is left to read.
    pub(crate) fn select(patterns: &[String], streams: &[&'static Stream]) -> Result<Catalog> {
        // A comma at the end is no pattern.
        let are_all_empty = patterns.iter().all(|text| text.trim().is_empty());
        let patterns = patterns.iter().filter(|text| are_all_empty || !text.trim().is_empty());
        let patterns: Vec<Pattern> = patterns.map(|text| Pattern::parse(text)).collect();
        patterns.iter().try_for_each(|pattern| pattern.check(streams))?;
        let (exclusions, mut inclusions): (Vec<_>, Vec<_>) = patterns.into_iter().partition(|p| p.is_exclusion);
        if inclusions.is_empty() {
            inclusions.push(Pattern::parse("*.*"));
        }
        let mut catalog = Catalog::default();
        for stream in streams {
            let (included, excluded) = (of_stream(&inclusions, stream), of_stream(&exclusions, stream));
            let is_included = included.iter().any(|pattern| pattern.matches_a_field_of(stream));
            if !is_included || excluded.iter().any(|pattern| pattern.is_of_whole_stream()) {
                continue;
            }
            let mask = mask(stream, &|path, is_leaf| {
                let is_in = |patterns: &[&Pattern]| patterns.iter().any(|pattern| pattern.covers(path));
                !is_in(&excluded) && (!is_leaf || is_in(&included))
            });
            catalog.streams.insert(stream.name, Selected { mask, full_table: false });
        }
        if catalog.streams.is_empty() {
            return Err(Error::Usage("--select leaves no stream to read: each is excluded".into()));
        }
        Ok(catalog)
    }
}

/// A pattern of `--select`: globs for a stream and for the path of a field in it.
struct Pattern {
    text: String,
    is_exclusion: bool,
    stream: Vec<char>,
    field: Vec<char>,
}

impl Pattern {
    /// Splits at the first dot, since names of streams have none. Without a dot, the pattern means the whole stream.
    fn parse(text: &str) -> Pattern {
        let text = text.trim();
        let (is_exclusion, rest) = text.strip_prefix('!').map_or((false, text), |rest| (true, rest));
        let (stream, field) = rest.split_once('.').unwrap_or((rest, "*"));
        Pattern {
            text: text.to_owned(),
            is_exclusion,
            stream: stream.chars().collect(),
            field: field.chars().collect(),
        }
    }

    fn check(&self, streams: &[&'static Stream]) -> Result<()> {
        let matching: Vec<_> = streams.iter().filter(|stream| self.matches_stream(stream)).collect();
        if matching.iter().any(|stream| self.matches_a_field_of(stream)) {
            let field: String = self.field.iter().collect();
            if self.is_exclusion && matching.iter().any(|stream| stream.is_automatic(&field)) {
                let text = shown(&self.text);
                return Err(Error::Usage(format!("--select \"{text}\": {field} is a key, and is always written")));
            }
            return Ok(());
        }
        let wanted = self.text.trim_start_matches('!');
        let mark = if self.is_exclusion { "!" } else { "" };
        let (stream, field) = wanted.split_once('.').unwrap_or((wanted, ""));
        let why = if matching.is_empty() {
            format!("matches no stream; {}", nearest_or_all(stream, mark, streams))
        } else {
            let known: Vec<String> = matching.iter().flat_map(|stream| paths(stream)).collect();
            match nearest(field, known.iter().map(String::as_str)) {
                Some(nearest) => format!("matches no field; the nearest is \"{mark}{}.{nearest}\"", shown(stream)),
                None => "matches no field; --discover names all fields".into(),
            }
        };
        Err(Error::Usage(format!("--select \"{}\" {why}", shown(&self.text))))
    }

    fn matches_stream(&self, stream: &Stream) -> bool {
        glob(&self.stream, stream.name)
    }

    fn matches_a_field_of(&self, stream: &Stream) -> bool {
        paths(stream).any(|path| glob(&self.field, &path))
    }

    fn is_of_whole_stream(&self) -> bool {
        self.field.iter().all(|c| *c == '*')
    }

    /// Whether it matches the field at this path or one that holds it.
    fn covers(&self, path: &[&str]) -> bool {
        (1..=path.len()).any(|depth| glob(&self.field, &path[..depth].join(".")))
    }
}

fn of_stream<'p>(patterns: &'p [Pattern], stream: &Stream) -> Vec<&'p Pattern> {
    patterns.iter().filter(|pattern| pattern.matches_stream(stream)).collect()
}

/// Matches as Python's `fnmatch` does: `*` is any text, `?` any character, `[abc]` one of these, `[!abc]` none of them.
fn glob(pattern: &[char], text: &str) -> bool {
    match pattern {
        [] => text.is_empty(),
        ['*', rest @ ..] => text.char_indices().map(|(at, _)| at).chain([text.len()]).any(|at| glob(rest, &text[at..])),
        [first, rest @ ..] => {
            let mut chars = text.chars();
            let Some(c) = chars.next() else { return false };
            // A bracket that is never closed is itself.
            let close = rest.iter().skip(2).position(|c| *c == ']').map(|at| at + 2);
            let close = close.or_else(|| (rest.get(1) == Some(&']')).then_some(1));
            let (is_match, rest) = match (first, close) {
                ('[', Some(close)) => {
                    let (is_not, set) = match &rest[..close] {
                        ['!', set @ ..] => (true, set),
                        set => (false, set),
                    };
                    (is_in_set(set, c) != is_not, &rest[close + 1..])
                }
                ('?', _) => (true, rest),
                (first, _) => (*first == c, rest),
            };
            is_match && glob(rest, chars.as_str())
        }
    }
}

/// `a-z` in a set is a range.
fn is_in_set(set: &[char], c: char) -> bool {
    match set {
        [] => false,
        [from, '-', to, rest @ ..] => (*from..=*to).contains(&c) || is_in_set(rest, c),
        [one, rest @ ..] => *one == c || is_in_set(rest, c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::tests::STREAMS;

    /// The fields that patterns choose, by stream.
    fn selected(patterns: &[&str]) -> Vec<String> {
        let patterns: Vec<String> = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        let catalog = Catalog::select(&patterns, STREAMS).unwrap();
        let mut out = Vec::new();
        for stream in STREAMS {
            if let Some(selected) = catalog.get(stream.name) {
                let wanted = paths(stream).filter(|path| selected.mask.wants(&path.split('.').collect::<Vec<_>>()));
                out.extend(wanted.map(|path| format!("{}.{path}", stream.name)));
            }
        }
        out
    }

    #[test]
    fn patterns_choose_streams_and_fields() {
        let all_of = |stream: &str| {
            let all = selected(&["*.*"]).into_iter();
            all.filter(|path| path.starts_with(&format!("{stream}."))).collect::<Vec<_>>()
        };
        let keys = ["contacts.id", "contacts.updated_at"];
        let with_keys = |fields: &[&'static str]| [&keys[..], fields].concat();
        assert_eq!(selected(&["*.*"]).len(), 12);
        assert_eq!(selected(&["*"]), selected(&["*.*"]));
        assert_eq!(selected(&["contacts"]), all_of("contacts"));
        assert_eq!(selected(&[" contacts.* "]), all_of("contacts"));
        assert_eq!(selected(&["contacts.name"]), with_keys(&["contacts.name"]));
        // Into objects and lists, and a star goes over dots.
        assert_eq!(selected(&["contacts.email.reason"]), with_keys(&["contacts.email.reason", "contacts.email"]));
        assert_eq!(selected(&["contacts.*kind"]), with_keys(&["contacts.phones.kind", "contacts.phones"]));
        assert_eq!(
            selected(&["contacts.email"]),
            with_keys(&["contacts.email.address", "contacts.email.reason", "contacts.email"])
        );
        // A stream without such a field is not read for it.
        assert_eq!(selected(&["*.tags"]), with_keys(&["contacts.tags"]));
        assert_eq!(selected(&["*.nam[a-e]"]).len(), 5);
        assert_eq!(selected(&["c?ntacts.nam?"]), with_keys(&["contacts.name"]));
    }

    #[test]
    fn an_exclusion_wins_in_any_order() {
        let without_name = |list: Vec<String>| list.into_iter().filter(|p| p != "contacts.name").collect::<Vec<_>>();
        assert_eq!(selected(&["contacts", "!contacts.name"]), without_name(selected(&["contacts"])));
        assert_eq!(selected(&["!contacts.name", "contacts", "contacts.name"]), without_name(selected(&["contacts"])));
        // Alone, it means everything else.
        assert_eq!(selected(&["!contacts.name"]), without_name(selected(&["*"])));
        assert_eq!(selected(&["!contacts"]), selected(&["lists"]));
        assert_eq!(selected(&["!contacts.*"]), selected(&["lists"]));
        assert_eq!(selected(&["*", "!contacts.email", "contacts.email.reason"]).len(), 9);
        assert_eq!(selected(&["lists", "!*.name"]), ["lists.id"]);
        // A key stays.
        assert_eq!(selected(&["lists", "!lists.i*"]), ["lists.id", "lists.name"]);
        assert_eq!(selected(&["contacts", "!contacts.email.*", "!contacts.phones*"]).len(), 4);
    }

    #[test]
    fn a_pattern_that_matches_nothing_is_an_error() {
        let refused = |patterns: &[&str]| {
            let patterns: Vec<String> = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
            Catalog::select(&patterns, STREAMS).unwrap_err().to_string()
        };
        for (pattern, expected) in [
            ("contcts", "matches no stream; the nearest is \"contacts\""),
            ("Lists.*", "matches no stream; the nearest is \"lists\""),
            ("!contcts.name", "matches no stream; the nearest is \"!contacts\""),
            ("contacts.emial", "matches no field; the nearest is \"contacts.email\""),
            ("contacts.phones.items.kind", "matches no field; the nearest is \"contacts.phones.kind\""),
            ("lists.email", "matches no field; --discover names all fields"),
            ("", "matches no stream"),
            ("contacts.", "matches no field"),
        ] {
            let told = refused(&[pattern]);
            assert!(told.starts_with(&format!("--select \"{pattern}\" {expected}")), "{told}");
        }
        assert_eq!(refused(&["!*"]), "--select leaves no stream to read: each is excluded");
        assert_eq!(refused(&["lists", "!lists"]), "--select leaves no stream to read: each is excluded");
    }

    #[test]
    fn globs_are_those_of_fnmatch() {
        let is = |pattern: &str, text: &str| glob(&pattern.chars().collect::<Vec<_>>(), text);
        for (pattern, text) in [
            ("*", ""),
            ("a*c", "abbc"),
            ("*.*", "a.b.c"),
            ("a?", "aß"),
            ("[abc]x", "bx"),
            ("[!abc]x", "dx"),
            ("[a-c]", "b"),
            ("[", "["),
            ("[]]", "]"),
            ("[!]]", "a"),
            ("**", "ab"),
            ("a[]", "a[]"),
            ("[a-]", "-"),
        ] {
            assert!(is(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in
            [("a*c", "abbd"), ("?", ""), ("[abc]", "d"), ("[!abc]", "a"), ("a", "ab"), ("[]]", "a"), ("", "a")]
        {
            assert!(!is(pattern, text), "{pattern} {text}");
        }
    }
}
