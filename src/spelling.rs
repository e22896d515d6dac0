//! Finds the known word that a misspelt one was meant to be.

/// The known word that is spelt most like this one, if any is alike.
pub(crate) fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let word = folded(word);
    // Jaro-Winkler ranks words that begin alike first, which edit distance does not.
    let rated = known.into_iter().map(|known| (strsim::jaro_winkler(&folded(known), &word), known));
    rated.filter(|(likeness, _)| *likeness > 0.75).max_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, known)| known)
}

/// The known words that end as this whole one does: `page_size` for `size`.
pub(crate) fn longer<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Vec<&'k str> {
    let word = format!("_{}", word.to_lowercase());
    known.into_iter().filter(|known| known.ends_with(&word)).collect()
}

/// The known word that this one is a slip of: an edit or two away, or different in case and separators only.
pub(crate) fn slip<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let word = folded(word);
    // The lengths alone rule most words out, and files may have thousands.
    let alike = known.into_iter().map(|known| (folded(known), known));
    let length = word.chars().count();
    let alike = alike.filter(|(folded, _)| folded.chars().count().abs_diff(length) <= 2);
    let rated = alike.map(|(folded, known)| (strsim::osa_distance(&folded, &word), known));
    let (distance, known) = rated.min_by_key(|(distance, _)| *distance)?;
    // Two edits make almost any short word out of another.
    (distance <= 2 && distance * 3 <= length).then_some(known)
}

/// `; did you mean "known"?`, or nothing where no known word is alike.
pub(crate) fn did_you_mean<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> String {
    nearest(word, known).map(|known| format!("; did you mean {known:?}?")).unwrap_or_default()
}

/// A word without what people get wrong without noticing: case, hyphens for underscores, `pageSize`. The beginning is
/// enough to compare, and a word from a file can be megabytes long.
fn folded(word: &str) -> String {
    word.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 4] = ["page_size", "report_date", "contact_status", "on_quota"];

    #[test]
    fn a_slip_is_an_edit_or_two_away() {
        for (word, expected) in [
            ("page_sise", Some("page_size")),
            ("page_szie", Some("page_size")),
            ("page_siz", Some("page_size")),
            ("pageSize", Some("page_size")),
            ("PAGE-SIZE", Some("page_size")),
            ("conctact_status", Some("contact_status")),
            ("onquote", Some("on_quota")),
            ("page_count", None),
            ("report", None),
            ("loader", None),
            ("", None),
        ] {
            assert_eq!(slip(word, KNOWN), expected, "{word}");
        }
    }

    #[test]
    fn the_nearest_begins_alike() {
        assert_eq!(nearest("report", KNOWN), Some("report_date"));
        assert_eq!(nearest("zzz", KNOWN), None);
        assert_eq!(longer("size", KNOWN), ["page_size"]);
        assert_eq!(longer("ize", KNOWN), [""; 0]);
        assert_eq!(did_you_mean("actve", ["all", "active"]), "; did you mean \"active\"?");
        assert_eq!(did_you_mean("xyz", ["all", "active"]), "");
    }
}
