//! What a bookmark covers: which rows of a stream were read, and which of their fields were not. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Which rows are read, in words: `status=all;types=em_opens,em_clicks`. A missing part means no restriction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filter(String);

impl Filter {
    /// Joins the parts, each a name and its values.
    pub(crate) fn of(parts: &[(&str, String)]) -> Filter {
        Filter(parts.iter().map(|(name, values)| format!("{name}={values}")).collect::<Vec<_>>().join(";"))
    }

    /// Reads what [`Filter::of`] wrote; `None` for any other text.
    pub(crate) fn parse(text: &str) -> Option<Filter> {
        let is_part = |part: &str| part.split_once('=').is_some_and(|(name, _)| !name.is_empty());
        (text.is_empty() || text.split(';').all(is_part)).then(|| Filter(text.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    fn parts(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let parts = self.0.split(';').filter_map(|part| part.split_once('='));
        parts.map(|(name, values)| (name, values.split(',').filter(|value| !value.is_empty()).collect())).collect()
    }

    /// The first part in which this filter allows more rows than an earlier one: its name, the earlier values, and the
    /// values now (`None` if there is no restriction any more).
    pub(crate) fn wider_part<'a>(&'a self, earlier: &'a Filter) -> Option<(&'a str, String, Option<String>)> {
        let now = self.parts();
        earlier.parts().into_iter().filter(|(_, then)| !then.contains("all")).find_map(|(name, then)| {
            let now = now.get(name);
            let is_wider = now.is_none_or(|now| !now.is_subset(&then));
            is_wider.then(|| (name, join(&then), now.map(join)))
        })
    }
}

fn join(values: &BTreeSet<&str>) -> String {
    values.iter().copied().collect::<Vec<_>>().join(",")
}

/// Fields by their dotted paths. A path includes everything below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fields(BTreeSet<String>);

impl Fields {
    /// Reads a comma-separated list.
    pub(crate) fn parse(text: &str) -> Fields {
        text.split(',').map(str::trim).filter(|path| !path.is_empty()).map(str::to_owned).collect()
    }

    fn covers(&self, path: &str) -> bool {
        let parents = path.char_indices().filter(|(_, c)| *c == '.').map(|(at, _)| &path[..at]);
        parents.chain([path]).any(|path| self.0.contains(path))
    }

    /// The fields of this list that another list does not contain, or only in part.
    pub(crate) fn without<'a>(&'a self, other: &Fields) -> Vec<&'a str> {
        self.0.iter().map(String::as_str).filter(|path| !other.covers(path)).collect()
    }

    /// The fields of either list.
    pub(crate) fn union(&self, other: &Fields) -> Fields {
        self.0.iter().chain(&other.0).filter(|path| !is_below_another(path, self, other)).cloned().collect()
    }
}

/// Whether one of the lists has a parent of this path, and so the path too.
fn is_below_another(path: &str, one: &Fields, other: &Fields) -> bool {
    path.rsplit_once('.').is_some_and(|(parent, _)| one.covers(parent) || other.covers(parent))
}

impl FromIterator<String> for Fields {
    fn from_iter<I: IntoIterator<Item = String>>(paths: I) -> Fields {
        Fields(paths.into_iter().collect())
    }
}

impl fmt::Display for Fields {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0.iter().map(String::as_str).collect::<Vec<_>>().join(","))
    }
}

/// The rows and fields of a read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) filter: Filter,
    /// The fields that are not read.
    pub(crate) deselected: Fields,
}

impl Extent {
    /// Why this read covers more than an earlier one, in words; `None` if the earlier one covered it all.
    pub(crate) fn growth(&self, earlier: &Extent) -> Option<String> {
        if let Some((part, then, now)) = self.filter.wider_part(&earlier.filter) {
            let setting = match part {
                "status" => "contact_status",
                "include" => "include_subresources",
                "types" => "tracking_activity_types",
                "ids" => return Some("contact_ids have changed".into()),
                other => other,
            };
            let then = if then.is_empty() { "empty" } else { &then };
            return Some(format!("{setting} was {then} and is now {}", now.as_deref().unwrap_or("not set")));
        }
        match earlier.deselected.without(&self.deselected).as_slice() {
            [] => None,
            [field] => Some(format!("{field} was not selected before")),
            fields => Some(format!("{} were not selected before", fields.join(", "))),
        }
    }
}

/// A short hash of a text: the same in every version and on every machine (FNV-1a).
pub(crate) fn short_hash(text: &str) -> String {
    let hash = text.bytes().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    format!("{hash:08x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(filter: &str, deselected: &str) -> Extent {
        Extent { filter: Filter::parse(filter).unwrap(), deselected: Fields::parse(deselected) }
    }

    #[test]
    fn a_read_grows_by_rows_and_by_fields() {
        for (earlier, now, grows) in [
            (("status=all", ""), ("status=all", ""), false),
            (("status=all", ""), ("status=active", ""), false),
            (("status=active", ""), ("status=all", ""), true),
            (("status=active,deleted", ""), ("status=deleted", ""), false),
            (("status=active", ""), ("status=deleted", ""), true),
            (("status=all;types=em_opens", ""), ("status=all;types=em_opens,em_clicks", ""), true),
            (("status=all;types=em_opens,em_clicks", ""), ("status=active;types=em_clicks", ""), false),
            (("status=all;include=", ""), ("status=all;include=notes", ""), true),
            (("status=all;include=notes", ""), ("status=all;include=", ""), false),
            // Contacts that are named may have any status.
            (("status=all", ""), ("ids=1234abcd", ""), false),
            (("status=active", ""), ("ids=1234abcd", ""), true),
            (("ids=1234abcd", ""), ("status=all", ""), true),
            (("ids=1234abcd", ""), ("ids=5678abcd", ""), true),
            (("ids=1234abcd", ""), ("ids=1234abcd", ""), false),
            (("", "notes"), ("", ""), true),
            (("", ""), ("", "notes"), false),
            (("", "notes"), ("", "notes,email"), false),
            (("", "email.address"), ("", "email"), false),
            (("", "email"), ("", "email.address"), true),
            (("", "email"), ("", "email_address"), true),
        ] {
            let (earlier, now) = (extent(earlier.0, earlier.1), extent(now.0, now.1));
            assert_eq!(now.growth(&earlier).is_some(), grows, "{earlier:?} {now:?}");
        }
    }

    #[test]
    fn growth_is_explained_by_the_names_of_the_settings() {
        let growth = |earlier, now| extent(now, "").growth(&extent(earlier, "")).unwrap();
        assert_eq!(growth("status=active", "status=all"), "contact_status was active and is now all");
        assert_eq!(growth("include=", "include=notes"), "include_subresources was empty and is now notes");
        assert_eq!(growth("ids=1", "ids=2"), "contact_ids have changed");
        assert_eq!(extent("", "").growth(&extent("", "a,b")).unwrap(), "a, b were not selected before");
    }

    #[test]
    fn a_union_of_fields_names_each_once() {
        let union = |a, b| Fields::parse(a).union(&Fields::parse(b)).to_string();
        assert_eq!(union("b,a", "a"), "a,b");
        assert_eq!(union("email.address", "email"), "email");
        assert_eq!(union("", ""), "");
    }

    #[test]
    fn only_words_are_a_filter() {
        for text in ["18b66e28", "status", "=all", "status=all;;types=em_opens", "status=all;types"] {
            assert_eq!(Filter::parse(text), None, "{text}");
        }
        for text in ["", "status=all", "status=all;include="] {
            assert!(Filter::parse(text).is_some(), "{text}");
        }
    }
}
