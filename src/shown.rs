//! Makes text from outside safe to print: the service, the config, the catalog and the state may contain anything.

use std::fmt::Display;

/// The most characters of a piece of outside text in a message.
const LONGEST: usize = 200;

/// A name, value or message from outside, for quoting in a message: one line, no control characters, at most 200
/// characters. Longer text is cut and ends in `…`.
pub(crate) fn shown(text: impl Display) -> String {
    one_line(&text.to_string(), LONGEST)
}

/// Like [`shown`], with another limit on the number of characters.
pub(crate) fn one_line(text: &str, longest: usize) -> String {
    let mut rest = text.chars();
    let mut line: String = rest.by_ref().take(longest).map(printable).collect();
    if rest.next().is_some() {
        line.pop();
        line.push('…');
    }
    line
}

/// A number of things: `1 call`, `2 calls`.
pub(crate) fn plural(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Replaces control characters, which move the cursor, ring, change colours or fake a log line, and bidirectional ones,
/// which reorder the text around them.
fn printable(c: char) -> char {
    match c {
        '\n' | '\r' | '\t' | '\u{2028}' | '\u{2029}' => ' ',
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
            char::REPLACEMENT_CHARACTER
        }
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_is_no_plural() {
        assert_eq!([0, 1, 2].map(|count| plural(count, "call")), ["0 calls", "1 call", "2 calls"]);
    }

    #[test]
    fn plain_text_is_shown_as_it_is() {
        for text in ["", "contacts", "Zoë's list – 日本", &"x".repeat(200)] {
            assert_eq!(shown(text), text);
        }
    }

    #[test]
    fn what_a_terminal_would_act_on_is_replaced() {
        assert_eq!(shown("a\r\nb\tc"), "a  b c");
        assert_eq!(shown("\u{1b}[31mred\u{7}\u{9b}2J"), "\u{fffd}[31mred\u{fffd}\u{fffd}2J");
        assert_eq!(shown("txt.\u{202e}exe"), "txt.\u{fffd}exe");
    }

    #[test]
    fn long_text_is_cut_and_says_so() {
        let cut = shown("é".repeat(201));
        assert_eq!(cut, format!("{}…", "é".repeat(199)));
        assert_eq!(one_line("abc", 2), "a…");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn any_text_is_short_and_without_controls(text in "(?s).{0,500}") {
            let shown = shown(&text);
            prop_assert!(shown.chars().count() <= LONGEST);
            prop_assert!(!shown.contains(char::is_control));
        }
    }
}
