//! What Singer and a person are told of a stream. Pure.

use std::fmt;

use serde_json::Value;

use crate::config::Config;
use crate::extent::Filter;

/// The facts of a stream that do not depend on the account.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) name: &'static str,
    pub(crate) keys: &'static [&'static str],
    /// `None` for a stream that is read whole every time.
    pub(crate) replication_key: Option<&'static str>,
    pub(crate) schema: fn() -> Value,
    pub(crate) needs: Needs,
    /// Which rows the settings choose.
    pub(crate) narrowed_by: fn(&Config) -> Filter,
    /// What its bookmark holds beside the replication key and its value.
    pub(crate) bookmark_keys: &'static [&'static str],
    /// Fields that the contact route leaves null.
    pub(crate) only_by_campaign: &'static [&'static str],
}

impl Stream {
    /// Whether its rows come by either of two routes, and its resume point says under which settings it was made.
    pub(crate) fn has_routes(&self) -> bool {
        self.bookmark_keys.contains(&"resume_route")
    }
}

/// The scopes and the user privileges without which the service answers 403.
#[derive(Debug)]
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
