//! Text from outside, made safe to print: the service, the config, the catalog and the state may hold anything.

use std::fmt::Display;

/// The most characters of one piece of outside text that a message shows.
const LONGEST: usize = 200;

/// A name, value or message from outside, as our own messages quote it: one line, no control characters, at most 200
/// characters. Text that was cut ends in `…`.
pub(crate) fn shown(text: impl Display) -> String {
    one_line(&text.to_string(), LONGEST)
}

/// The same for text of any other length: at most `longest` characters.
pub(crate) fn one_line(text: &str, longest: usize) -> String {
    let mut rest = text.chars();
    let mut line: String = rest.by_ref().take(longest).map(printable).collect();
    if rest.next().is_some() {
        line.pop();
        line.push('…');
    }
    line
}

/// Control characters move the cursor, ring, recolour, or start a new line that looks like ours; the bidirectional
/// ones reorder what stands beside them.
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
