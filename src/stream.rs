//! The facts of a stream, from which discovery, SCHEMA messages, bookmarks and error texts are derived. Pure.

use std::fmt;
use std::sync::LazyLock;

use serde_json::Value;

use crate::config::Config;
use crate::extent::Filter;

/// The facts of a stream that do not depend on the account.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) name: &'static str,
    pub(crate) keys: &'static [&'static str],
    /// `None` for a stream that every run reads in full.
    pub(crate) replication_key: Option<&'static str>,
    pub(crate) schema: LazyLock<Value>,
    pub(crate) needs: Needs,
    /// Which rows the settings select.
    pub(crate) narrowed_by: fn(&Config) -> Filter,
    /// The keys of its bookmark, besides `replication_key` and `replication_key_value`.
    pub(crate) bookmark_keys: &'static [&'static str],
    /// Fields that are null on the contact route.
    pub(crate) only_by_campaign: &'static [&'static str],
    /// Fields that need more than the stream: they are null where that is refused.
    pub(crate) field_needs: &'static [FieldNeeds],
}

/// The bookmark keys of a stream that has two routes.
pub(crate) const KEYS_WITH_ROUTES: &[&str] = &[
    "filter",
    "deselected",
    "route",
    "lookback_days",
    "read_from",
    "resume_since",
    "resume_until",
    "resume_route",
    "resume_after",
    "resume_complete",
    "resume_filter",
    "resume_deselected",
];

impl Stream {
    /// As catalogs name it.
    pub(crate) fn replication_method(&self) -> &'static str {
        if self.replication_key.is_some() { "INCREMENTAL" } else { "FULL_TABLE" }
    }

    /// Whether a field is written whatever is selected.
    pub(crate) fn is_automatic(&self, field: &str) -> bool {
        self.keys.contains(&field) || self.replication_key == Some(field)
    }

    /// Whether it is a contact report, which has two routes: by contact and by campaign. The resume point of such a
    /// stream also holds the settings of the interrupted read.
    pub(crate) fn has_routes(&self) -> bool {
        self.bookmark_keys.contains(&"resume_route")
    }
}

/// What fields need beside the needs of their stream.
#[derive(Debug)]
pub(crate) struct FieldNeeds {
    pub(crate) fields: &'static [&'static str],
    pub(crate) needs: &'static Needs,
}

/// The scopes and the user privileges without which the service answers 403.
#[derive(Debug, PartialEq)]
pub(crate) struct Needs {
    pub(crate) scopes: &'static [&'static str],
    pub(crate) privileges: &'static [&'static str],
}

impl fmt::Display for Needs {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let list = |f: &mut fmt::Formatter, what, names: &[&str]| {
            write!(f, "the {what}{} {}", if names.len() > 1 { "s" } else { "" }, names.join(" and "))
        };
        list(f, "scope", self.scopes)?;
        f.write_str(" and ")?;
        list(f, "user privilege", self.privileges)
    }
}
