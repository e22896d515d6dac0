//! The state of a sync: bookmarks, resume points, and the rules for both. Pure; `run` decides when a STATE is written.
//!
//! Runners merge states: if a later STATE omits a key, the value of an earlier one comes back. So every STATE has all keys
//! of every selected stream, with scalar values: `""`, `false` or 0 means "nothing".

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value, json};

use crate::config::{Route, Word, words};
use crate::error::{Error, Result};
use crate::extent::{Extent, Fields, Filter, short_hash};
use crate::stream::Stream;
use crate::timestamp::{instant, stamp};

/// What a `--state` file holds and a STATE message says.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    /// Short hashes of the account's oldest lists; empty if they are unknown.
    account: String,
    /// The bookmarks as they were given. Those of streams that are not selected are written unchanged.
    given: Map<String, Value>,
    bookmarks: BTreeMap<&'static str, (&'static Stream, Bookmark)>,
    pub(crate) currently_syncing: Option<String>,
    /// Other keys of the state, which are written unchanged.
    other: Map<String, Value>,
}

/// A list of contacts, by which the account is recognized.
pub(crate) struct KnownList<'a> {
    pub(crate) created_at: Option<DateTime<Utc>>,
    pub(crate) id: &'a str,
}

/// How far one stream was read.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Bookmark {
    /// Everything up to this instant is on stdout before the STATE with it.
    pub(crate) value: Option<DateTime<Utc>>,
    full_refresh: FullRefresh,
    /// The settings of the runs that made it.
    terms: Terms,
    /// Where an interrupted read continues.
    pub(crate) resume: Option<Resume>,
    /// Keys that this version does not know.
    other: Map<String, Value>,
}

/// When the contacts were last read completely.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
enum FullRefresh {
    /// The bookmark does not say, as one written by hand.
    #[default]
    Unknown,
    /// Some contacts may have been missed since.
    Missing,
    At(DateTime<Utc>),
}

/// The settings that the bookmark of a stream depends on. In a bookmark, `None` means unknown, and the current setting is
/// assumed.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Terms {
    pub(crate) filter: Option<Filter>,
    pub(crate) deselected: Option<Fields>,
    pub(crate) route: Option<Route>,
    pub(crate) lookback_days: Option<u32>,
    pub(crate) read_from: Option<Start>,
}

/// Where a read begins; `None` is the beginning of the account, and sorts before every instant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Start(pub(crate) Option<DateTime<Utc>>);

/// An interrupted read, or one of a round that is not over: its whole window, and how much of it is written.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Resume {
    pub(crate) since: Start,
    pub(crate) until: DateTime<Utc>,
    pub(crate) route: Option<Route>,
    /// The last contact, campaign or campaign activity that is written, in the order of their ids.
    pub(crate) after: Option<String>,
    /// Whether all of it is written. It is kept until a run gets through its last stream.
    pub(crate) is_complete: bool,
    /// The settings that select its rows; empty means the current ones.
    pub(crate) filter: String,
    /// The fields that at least one of its runs did not read.
    pub(crate) deselected: Fields,
}

/// What an interrupted read must match so that this run can continue it.
pub(crate) struct Wanted {
    /// The settings that select the rows of this run.
    pub(crate) filter: String,
    /// Whether `report_*` settings set the window, instead of the bookmark.
    pub(crate) has_own_window: bool,
    /// The route, if a setting fixes it.
    pub(crate) route: Option<Route>,
    /// Where this run begins, if it ignores the bookmark.
    pub(crate) from: Option<Start>,
}

/// How far a bookmark may be ahead of this machine's clock, since it comes from the service's clock.
const CLOCKS_DIFFER: TimeDelta = TimeDelta::days(1);

/// A complete read is due this much before its day is over, so that a nightly run that starts a little earlier than the
/// night before does it every night.
const EARLY: TimeDelta = TimeDelta::hours(1);

impl State {
    /// The state of a first run.
    pub(crate) fn new(selected: &[&'static Stream]) -> State {
        let bookmarks = selected.iter().map(|stream| (stream.name, (*stream, Bookmark::default()))).collect();
        State { bookmarks, ..State::default() }
    }

    /// Reads a state file. `now` is this machine's time. Harmless oddities go to `warnings`.
    ///
    /// # Errors
    /// `Usage` if the text is not a state: to continue would be a full read without a word.
    pub(crate) fn parse(
        text: &str,
        streams: &[&'static Stream],
        selected: &[&'static Stream],
        now: DateTime<Utc>,
        warnings: &mut Vec<String>,
    ) -> Result<State> {
        read(text, streams, selected, now, warnings).map_err(|why| {
            Error::Usage(format!(
                "{why}. Pass the value of the last STATE message of an earlier run, or leave --state out to read everything"
            ))
        })
    }

    /// The selected streams.
    pub(crate) fn streams(&self) -> Vec<&'static Stream> {
        self.bookmarks.values().map(|(stream, _)| *stream).collect()
    }

    /// The bookmark of a selected stream.
    pub(crate) fn bookmark(&self, stream: &Stream) -> &Bookmark {
        &self.bookmarks[stream.name].1
    }

    pub(crate) fn bookmark_mut(&mut self, stream: &Stream) -> &mut Bookmark {
        &mut self.bookmarks.get_mut(stream.name).expect("only selected streams are read").1
    }

    /// Ends a round, so that the next run reads finished reports again.
    pub(crate) fn end_round(&mut self) {
        for (_, bookmark) in self.bookmarks.values_mut() {
            bookmark.resume.take_if(|resume| resume.is_complete);
        }
    }

    /// Whether a later run must continue the read of a selected stream.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.bookmarks.values().any(|(_, bookmark)| bookmark.resume.is_some())
    }

    /// Checks, by the lists, that the account is that of earlier runs, and remembers it.
    ///
    /// # Errors
    /// `Usage` when the state was made for another account.
    pub(crate) fn check_account(&mut self, mut lists: Vec<KnownList>) -> Result<()> {
        let known: Vec<&str> = self.account.split(',').filter(|hash| !hash.is_empty()).collect();
        let is_known = |id: &str| known.contains(&short_hash(id).as_str());
        if !known.is_empty() && !lists.is_empty() && !lists.iter().any(|list| is_known(list.id)) {
            return Err(Error::Usage(
                "the state was made for another Constant Contact account: none of the lists that it remembers is in \
                 this one. Use another state file for this account, or remove \"account\" from this one if the account \
                 is the right one"
                    .into(),
            ));
        }
        if !lists.is_empty() {
            // Lists that do not say when they were created come last.
            lists.sort_unstable_by_key(|list| (list.created_at.is_none(), list.created_at, list.id));
            let oldest: Vec<String> = lists.iter().take(5).map(|list| short_hash(list.id)).collect();
            self.account = oldest.join(",");
        }
        Ok(())
    }

    /// Whether it says which account it was made for.
    pub(crate) fn names_account(&self) -> bool {
        !self.account.is_empty()
    }

    pub(crate) fn to_value(&self) -> Value {
        let mut bookmarks = self.given.clone();
        for (name, (stream, bookmark)) in &self.bookmarks {
            // A stream that is read whole every time has nothing to say.
            if stream.replication_key.is_some() {
                bookmarks.insert((*name).to_owned(), bookmark.to_value(stream));
            }
        }
        let mut state = json!({
            "account": self.account, "bookmarks": bookmarks, "currently_syncing": self.currently_syncing,
        });
        state.as_object_mut().expect("it is an object").extend(self.other.clone());
        state
    }
}

impl Bookmark {
    /// Fills in the current settings where the bookmark does not say.
    pub(crate) fn assume(&mut self, present: Terms) {
        let terms = &mut self.terms;
        terms.filter.get_or_insert(present.filter.unwrap_or_default());
        terms.deselected.get_or_insert(present.deselected.unwrap_or_default());
        terms.route = terms.route.or(present.route);
        terms.lookback_days = terms.lookback_days.or(present.lookback_days);
        terms.read_from = terms.read_from.or(present.read_from);
    }

    /// The route of the runs that made the bookmark.
    pub(crate) fn route(&self) -> Option<Route> {
        self.value.and(self.terms.route)
    }

    /// Why the bookmark does not cover a read, in words; `None` if the read can start at the bookmark.
    pub(crate) fn growth(&self, extent: &Extent) -> Option<String> {
        self.value?;
        extent.growth(&Extent {
            filter: self.terms.filter.clone().unwrap_or_else(|| extent.filter.clone()),
            deselected: self.terms.deselected.clone().unwrap_or_else(|| extent.deselected.clone()),
        })
    }

    /// Since when rows were read, if that is later than `start`.
    pub(crate) fn start_after(&self, start: Start) -> Option<DateTime<Utc>> {
        self.value?;
        self.terms.read_from.filter(|from| start < *from).and_then(|Start(from)| from)
    }

    /// Whether the contacts are to be read completely again, `days` after they last were; 0 means never.
    pub(crate) fn is_full_refresh_due(&self, now: DateTime<Utc>, days: u32) -> bool {
        let after = TimeDelta::days(i64::from(days)) - EARLY;
        match self.full_refresh {
            _ if self.value.is_none() => true,
            FullRefresh::Missing => true,
            FullRefresh::Unknown => days > 0,
            FullRefresh::At(at) => days > 0 && now - at >= after,
        }
    }

    /// Records that all contacts were read up to the bookmark.
    pub(crate) fn note_full_refresh(&mut self) {
        self.full_refresh = self.value.map_or(FullRefresh::Missing, FullRefresh::At);
    }

    /// Records that some contacts may have been missed, so that the next run reads all of them again.
    pub(crate) fn note_missed_contacts(&mut self) {
        self.full_refresh = FullRefresh::Missing;
    }

    /// Moves the bookmark to `to`, after everything from `since` up to there was written with the settings `terms`. It only
    /// moves back if it covered less than was read now.
    pub(crate) fn advance(&mut self, to: DateTime<Utc>, since: Start, terms: Terms) {
        let extent = Extent {
            filter: terms.filter.clone().unwrap_or_default(),
            deselected: terms.deselected.clone().unwrap_or_default(),
        };
        let continued = self.value.filter(|_| self.growth(&extent).is_none());
        let before = self.terms.read_from.or(terms.read_from).filter(|_| continued.is_some());
        if self.full_refresh == FullRefresh::Unknown {
            // Someone wrote the bookmark by hand, and so has the contacts up to there.
            self.full_refresh = continued.map_or(FullRefresh::Unknown, FullRefresh::At);
        }
        self.value = Some(continued.map_or(to, |old| old.max(to)));
        self.terms = Terms { read_from: Some(before.map_or(since, |before| before.min(since))), ..terms };
    }

    /// Which older rows a read from `since` does not read, although the settings `terms` now include them, in words.
    /// `has_late_rows` says whether the read skips campaigns that were sent too long ago, and so their late rows.
    pub(crate) fn unread(&self, since: Start, terms: &Terms, has_late_rows: bool) -> Vec<String> {
        let Some(bookmark) = self.value else { return Vec::new() };
        let mut unread = Vec::new();
        if let (Some(then), Some(now)) = (self.terms.lookback_days, terms.lookback_days)
            && has_late_rows
            && self.terms.route != Some(Route::Contacts)
            && then < now
        {
            unread.push(format!(
                "activity_lookback_days was {then} and is now {now}: rows before {} of campaigns that were sent more than \
                 {then} days earlier stay unread",
                stamp(bookmark)
            ));
        }
        if let (Some(then), Some(now)) = (self.terms.read_from, terms.read_from)
            && let Start(Some(from)) = then.min(since)
            && now < Start(Some(from))
        {
            unread.push(format!("the start is now earlier: rows before {} stay unread", stamp(from)));
        }
        if let (Some(then), Some(now)) = (self.terms.route, terms.route)
            && then != now
        {
            unread.push(format!(
                "the route was {} and is now {}: rows before {} that only this one finds stay unread",
                then.as_str(),
                now.as_str(),
                stamp(bookmark)
            ));
        }
        unread
    }

    /// Whether a run can continue the interrupted read.
    pub(crate) fn can_resume(&self, run: &Wanted) -> bool {
        self.resume.as_ref().is_some_and(|resume| {
            let same_rows = resume.filter == run.filter || (resume.filter.is_empty() && !run.has_own_window);
            let same_route = resume.route.is_none() || run.route.is_none() || resume.route == run.route;
            same_rows && same_route && run.from.is_none_or(|from| resume.since <= from)
        })
    }

    fn to_value(&self, stream: &Stream) -> Value {
        let mut members = Map::new();
        // A runner may drop a null value, and so bring back the value of an earlier STATE. An empty `replication_key` shows
        // that the value does not count.
        let key = stream.replication_key.filter(|_| self.value.is_some()).unwrap_or_default();
        members.insert("replication_key".into(), key.into());
        members.insert("replication_key_value".into(), self.value.map(stamp).into());
        for key in stream.bookmark_keys {
            members.insert((*key).to_owned(), self.member(key, stream));
        }
        members.extend(self.other.clone());
        members.into()
    }

    fn member(&self, key: &str, stream: &Stream) -> Value {
        let terms = Some(&self.terms).filter(|_| self.value.is_some());
        let start = |start: Option<Start>| start.and_then(|start| start.0).map(stamp).unwrap_or_default().into();
        let route = |route: Option<Route>| route.map(Route::as_str).unwrap_or_default().into();
        let resume = self.resume.as_ref();
        match key {
            "full_refresh_at" => match self.full_refresh {
                FullRefresh::At(at) => stamp(at).into(),
                FullRefresh::Unknown | FullRefresh::Missing => "".into(),
            },
            "filter" => terms.and_then(|terms| terms.filter.as_ref()).map(Filter::as_str).unwrap_or_default().into(),
            "deselected" => {
                // These resume points have no `resume_deselected`, so their fields are stored here.
                let of_resume = resume.filter(|_| !stream.has_routes()).map(|resume| &resume.deselected);
                let of_bookmark = terms.and_then(|terms| terms.deselected.as_ref());
                of_resume.or(of_bookmark).map(Fields::to_string).unwrap_or_default().into()
            }
            "route" => route(terms.and_then(|terms| terms.route)),
            "lookback_days" => terms.and_then(|terms| terms.lookback_days).unwrap_or_default().into(),
            "read_from" => start(terms.and_then(|terms| terms.read_from)),
            "resume_since" => start(resume.map(|resume| resume.since)),
            "resume_until" => resume.map(|resume| stamp(resume.until)).unwrap_or_default().into(),
            "resume_route" => route(resume.and_then(|resume| resume.route)),
            "resume_after" => resume.and_then(|resume| resume.after.clone()).unwrap_or_default().into(),
            "resume_complete" => resume.is_some_and(|resume| resume.is_complete).into(),
            "resume_filter" => resume.map(|resume| resume.filter.clone()).unwrap_or_default().into(),
            "resume_deselected" => resume.map(|resume| resume.deselected.to_string()).unwrap_or_default().into(),
            other => unreachable!("no bookmark has {other}"),
        }
    }
}

/// Reads a state file; the error says what is wrong with it.
fn read(
    text: &str,
    streams: &[&'static Stream],
    selected: &[&'static Stream],
    now: DateTime<Utc>,
    warnings: &mut Vec<String>,
) -> std::result::Result<State, String> {
    if text.trim().is_empty() {
        return Err("the file is empty".into());
    }
    let mut value: Value = serde_json::from_str(text).map_err(|e| format!("not valid JSON ({e})"))?;
    // A common mistake: the whole STATE line of an output file instead of its value.
    if value["type"] == "STATE" && value["value"].is_object() {
        value = value["value"].take();
    }
    let Value::Object(mut root) = value else { return Err("not a JSON object".into()) };
    let given = match root.shift_remove("bookmarks") {
        None if root.is_empty() => Map::new(),
        None => return Err(format!("it has no \"bookmarks\", only {}", some_keys(&root))),
        Some(Value::Object(bookmarks)) => bookmarks,
        Some(_) => return Err("\"bookmarks\" is not a JSON object".into()),
    };
    let foreign: Vec<&str> =
        given.keys().map(String::as_str).filter(|name| streams.iter().all(|stream| stream.name != *name)).collect();
    if !given.is_empty() && foreign.len() == given.len() {
        return Err(format!("it has bookmarks of other streams only ({})", some_keys(&given)));
    }
    if !foreign.is_empty() {
        warnings.push(format!("state: no stream of this tap: {}; kept as it is", foreign.join(", ")));
    }
    let text_of = |root: &mut Map<String, Value>, key: &str| match root.shift_remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(format!("{key} is {other}; allowed: a string")),
    };
    let account = text_of(&mut root, "account")?.unwrap_or_default();
    let currently_syncing = text_of(&mut root, "currently_syncing")?;
    let mut bookmarks = State::new(selected).bookmarks;
    // Those of streams that are not selected are read as well: a mistake in them is found now, not in a month.
    for stream in streams {
        let Some(bookmark) = given.get(stream.name) else { continue };
        let bookmark = Members::of(stream, bookmark)?.bookmark(now)?;
        if let Some((_, place)) = bookmarks.get_mut(stream.name) {
            *place = bookmark;
        }
    }
    Ok(State { account, given, bookmarks, currently_syncing, other: root })
}

fn some_keys(map: &Map<String, Value>) -> String {
    map.keys().map(String::as_str).take(5).collect::<Vec<_>>().join(", ")
}

/// The keys of a bookmark that are not parsed yet.
struct Members {
    stream: &'static Stream,
    left: Map<String, Value>,
}

impl Members {
    fn of(stream: &'static Stream, bookmark: &Value) -> std::result::Result<Members, String> {
        let name = stream.name;
        let mut left = match bookmark {
            Value::Null => Map::new(),
            Value::Object(members) => members.clone(),
            _ => return Err(format!("bookmarks.{name} is not a JSON object")),
        };
        // singer-io's plain form: {"updated_at": "…"}.
        if let Some(key) = stream.replication_key
            && !left.contains_key("replication_key_value")
            && let Some(value) = left.shift_remove(key)
        {
            left.insert("replication_key_value".into(), value);
        }
        let is_known = |key: &str| {
            ["replication_key", "replication_key_value"].contains(&key) || stream.bookmark_keys.contains(&key)
        };
        // Ignoring an unknown part of a resume point would start the read over without a word.
        if let Some(key) = left.keys().find(|key| key.starts_with("resume") && !is_known(key)) {
            return Err(format!("bookmarks.{name}.{key} is not known to this version"));
        }
        // A bookmark without a known key would be a full read without a word.
        if !left.is_empty() && !left.keys().any(|key| is_known(key)) && stream.replication_key.is_some() {
            return Err(format!("bookmarks.{name} has no replication_key_value, only {}", some_keys(&left)));
        }
        Ok(Members { stream, left })
    }

    fn bookmark(mut self, now: DateTime<Utc>) -> std::result::Result<Bookmark, String> {
        let key = self.text("replication_key")?;
        if let (Some(found), Some(allowed)) =
            (key.as_deref().filter(|key| !key.is_empty()), self.stream.replication_key)
            && found != allowed
        {
            return Err(self.wrong("replication_key", found, allowed));
        }
        let value = self.past_moment("replication_key_value", now)?.filter(|_| key.as_deref() != Some(""));
        let has_full_refresh = self.left.get("full_refresh_at").is_some_and(Value::is_string);
        let full_refresh = match self.past_moment("full_refresh_at", now)? {
            Some(at) => FullRefresh::At(at),
            None if has_full_refresh => FullRefresh::Missing,
            None => FullRefresh::Unknown,
        };
        let filter = match self.text("filter")?.filter(|text| !text.is_empty()) {
            Some(text) => match Filter::parse(&text) {
                Some(filter) => Some(filter),
                None => return Err(self.wrong("filter", &text, "words such as status=all")),
            },
            None => None,
        };
        let deselected = self.text("deselected")?.map(|text| Fields::parse(&text));
        let has_read_from = self.has("read_from");
        let read_from = self.moment("read_from")?;
        let read_from = has_read_from.then_some(Start(read_from));
        let (route, lookback_days) = (self.route("route")?, self.number("lookback_days")?);
        let resume = self.resume(now, deselected.as_ref())?;
        let terms = if value.is_some() {
            Terms { filter, deselected, route, lookback_days, read_from }
        } else {
            Terms::default()
        };
        Ok(Bookmark { value, full_refresh, terms, resume, other: self.left })
    }

    fn resume(
        &mut self,
        now: DateTime<Utc>,
        deselected: Option<&Fields>,
    ) -> std::result::Result<Option<Resume>, String> {
        let since = Start(self.moment("resume_since")?);
        let until = self.past_moment("resume_until", now)?;
        let route = self.route("resume_route")?;
        let after = self.text("resume_after")?.filter(|after| !after.is_empty());
        let is_complete = self.flag("resume_complete")?;
        let filter = self.text("resume_filter")?.unwrap_or_default();
        let own = Fields::parse(&self.text("resume_deselected")?.unwrap_or_default());
        let deselected = if self.stream.has_routes() { own } else { deselected.cloned().unwrap_or_default() };
        let name = self.stream.name;
        let Some(until) = until else {
            return if since.0.is_some() || route.is_some() || after.is_some() || is_complete {
                Err(format!("bookmarks.{name}.resume_until is missing"))
            } else {
                Ok(None)
            };
        };
        if since > Start(Some(until)) {
            return Err(format!("bookmarks.{name}.resume_until is before resume_since"));
        }
        if route.is_none() && self.stream.has_routes() {
            return Err(format!("bookmarks.{name}.resume_route is missing"));
        }
        Ok(Some(Resume { since, until, route, after, is_complete, filter, deselected }))
    }

    fn wrong(&self, key: &str, found: impl std::fmt::Display, allowed: &str) -> String {
        format!("bookmarks.{}.{key} is {found}; allowed: {allowed}", self.stream.name)
    }

    /// Whether a key exists and is not null.
    fn has(&self, key: &str) -> bool {
        self.left.get(key).is_some_and(|value| !value.is_null())
    }

    /// Takes a value out; `None` if it is null, or if this stream has no such key.
    fn take(&mut self, key: &str) -> Option<Value> {
        let is_own = key.starts_with("replication_key") || self.stream.bookmark_keys.contains(&key);
        if !is_own {
            return None;
        }
        self.left.shift_remove(key).filter(|value| !value.is_null())
    }

    fn text(&mut self, key: &str) -> std::result::Result<Option<String>, String> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(key, other, "a string")),
        }
    }

    fn flag(&mut self, key: &str) -> std::result::Result<bool, String> {
        match self.take(key) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(other) => Err(self.wrong(key, other, "true or false")),
        }
    }

    fn number(&mut self, key: &str) -> std::result::Result<Option<u32>, String> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
        number.map(Some).ok_or_else(|| self.wrong(key, value, "an integer from 0"))
    }

    fn route(&mut self, key: &str) -> std::result::Result<Option<Route>, String> {
        let Some(text) = self.text(key)?.filter(|text| !text.is_empty()) else { return Ok(None) };
        match Route::ALL.iter().find(|route| route.as_str() == text) {
            Some(route) => Ok(Some(*route)),
            None => Err(self.wrong(key, text, &words(Route::ALL).replace(',', " or "))),
        }
    }

    /// An instant in any clear form: bookmarks are also written by hand, and by other taps.
    fn moment(&mut self, key: &str) -> std::result::Result<Option<DateTime<Utc>>, String> {
        const ALLOWED: &str = "a date or a date-time such as 2026-01-31T00:00:00Z";
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) if text.trim().is_empty() => Ok(None),
            Some(value) => match value.as_str().and_then(|text| instant(text.trim())) {
                Some(at) => Ok(Some(at)),
                None => Err(self.wrong(key, value, ALLOWED)),
            },
        }
    }

    /// Like [`Members::moment`], but refuses the future, since nothing would be read until then.
    fn past_moment(&mut self, key: &str, now: DateTime<Utc>) -> std::result::Result<Option<DateTime<Utc>>, String> {
        let at = self.moment(key)?;
        match at.filter(|at| at.signed_duration_since(now) > CLOCKS_DIFFER) {
            Some(at) => Err(format!("bookmarks.{}.{key} is {}, which is in the future", self.stream.name, stamp(at))),
            None => Ok(at),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use std::sync::LazyLock;

    use super::*;
    use crate::config::Config;
    use crate::stream::{KEYS_WITH_ROUTES, Needs};

    const fn stream(
        name: &'static str,
        replication_key: Option<&'static str>,
        bookmark_keys: &'static [&'static str],
    ) -> Stream {
        Stream {
            name,
            keys: &[],
            replication_key,
            schema: LazyLock::new(|| Value::Null),
            needs: Needs { scopes: &[], privileges: &[] },
            narrowed_by: |_: &Config| Filter::default(),
            bookmark_keys,
            only_by_campaign: &[],
            field_needs: &[],
        }
    }

    static LISTS: Stream = stream("contact_lists", None, &[]);
    static CONTACTS: Stream = stream("contacts", Some("updated_at"), &["full_refresh_at", "filter", "deselected"]);
    static CAMPAIGNS: Stream =
        stream("email_campaigns", Some("updated_at"), &["deselected", "resume_since", "resume_until", "resume_after"]);
    static DETAILS: Stream = stream("contact_activity_details", Some("created_time"), KEYS_WITH_ROUTES);
    static STREAMS: [&Stream; 4] = [&LISTS, &CONTACTS, &CAMPAIGNS, &DETAILS];

    const END: DateTime<Utc> = DateTime::<Utc>::MAX_UTC;

    fn parse(text: &str) -> Result<State> {
        State::parse(text, &STREAMS, &STREAMS, END, &mut Vec::new())
    }

    fn at(text: &str) -> DateTime<Utc> {
        instant(text).unwrap()
    }

    #[test]
    fn both_forms_of_a_bookmark_are_read_and_unknown_keys_kept() {
        let plain = parse(r#"{"bookmarks":{"contacts":{"updated_at":"2026-01-02T03:04:05-05:00"}},"mine":1}"#).unwrap();
        let ours = parse(
            r#"{"bookmarks":{"contacts":{"replication_key":"updated_at","replication_key_value":"2026-01-02T08:04:05Z"}},"mine":1}"#,
        )
        .unwrap();
        assert_eq!(plain.bookmark(&CONTACTS), ours.bookmark(&CONTACTS));
        assert_eq!(plain.to_value()["mine"], 1);
        assert_eq!(plain.to_value()["bookmarks"]["contacts"]["replication_key_value"], "2026-01-02T08:04:05Z");
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for text in [
            "",
            "[]",
            "{",
            r#"{"contacts":1}"#,
            r#"{"bookmarks":[]}"#,
            r#"{"bookmarks":{"contacts":7}}"#,
            r#"{"bookmarks":{"contacts":{"replication_key_value":"soon"}}}"#,
            r#"{"bookmarks":{"contacts":{"replication_key_vlaue":"2026-01-01"}}}"#,
            r#"{"bookmarks":{"contacts":{"updated_at":5}}}"#,
            r#"{"bookmarks":{"contacts":{"updated_at":"2026-01-01","filter":"18b66e28"}}}"#,
            r#"{"bookmarks":{"contacts":{"updated_at":"2026-01-01","resume_until":"2026-01-01"}}}"#,
            r#"{"bookmarks":{"contact_activity_details":{"resume":{"until":"2026-01-01T00:00:00Z"}}}}"#,
            r#"{"bookmarks":{"contact_activity_details":{"resume_after":"a"}}}"#,
            r#"{"bookmarks":{"contact_activity_details":{"resume_until":"2026-01-01"}}}"#,
            r#"{"bookmarks":{"contact_activity_details":{"resume_until":"2026-01-01","resume_route":"sideways"}}}"#,
            r#"{"bookmarks":{"contact_activity_details":{"resume_until":"2026-01-01","resume_route":"contacts","resume_complete":1}}}"#,
            r#"{"bookmarks":{"contact_activity_details":{"resume_since":"2026-01-02","resume_until":"2026-01-01","resume_route":"contacts"}}}"#,
            r#"{"bookmarks":{"contact_activity_details":{"created_time":"2026-01-01","lookback_days":"many"}}}"#,
            r#"{"bookmarks":{"issues":{"updated_at":"2026-01-01"}}}"#,
            r#"{"bookmarks":{},"currently_syncing":5}"#,
            r#"{"bookmarks":{},"account":5}"#,
        ] {
            assert!(matches!(parse(text), Err(Error::Usage(_))), "{text}");
        }
        for text in ["{}", r#"{"bookmarks":{}}"#, r#"{"bookmarks":{"contacts":null},"currently_syncing":null}"#] {
            assert!(parse(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn a_bookmark_in_any_plain_form_is_read_but_none_that_is_yet_to_come() {
        let now = at("2026-11-24T12:00:00Z");
        let read = |at: &str| {
            let text = format!(r#"{{"bookmarks":{{"contacts":{{"updated_at":"{at}"}}}}}}"#);
            State::parse(&text, &STREAMS, &STREAMS, now, &mut Vec::new())
                .map(|state| state.bookmark(&CONTACTS).value.unwrap().to_string())
                .map_err(|e| e.to_string())
        };
        for at in ["2026-01-02", "2026-01-02T00:00:00", "2026-01-02 00:00:00.000000", "2026-01-01T19:00:00-0500"] {
            assert_eq!(read(at).unwrap(), "2026-01-02 00:00:00 UTC", "{at}");
        }
        assert!(read("2026-11-25T11:00:00Z").is_ok());
        assert!(read("2026-11-26").unwrap_err().contains("in the future"));
        let error = read("soon").unwrap_err();
        assert!(error.contains("bookmarks.contacts.replication_key_value is \"soon\""), "{error}");
    }

    #[test]
    fn a_whole_state_message_is_taken_for_its_value() {
        let text = r#"{"type":"STATE","value":{"bookmarks":{"contacts":{"updated_at":"2026-01-02T03:04:05Z"}}}}"#;
        assert!(parse(text).unwrap().bookmark(&CONTACTS).value.is_some());
    }

    #[test]
    fn what_is_not_selected_goes_out_as_it_came_in() {
        let given = json!({
            "bookmarks": {
                "contacts": {"updated_at": "2026-01-02T03:04:05-05:00"},
                "contact_activity_details": {"replication_key_value": "2026-01-02", "resume_until": ""},
                "elsewhere": [1, {"a": null}],
            },
            "currently_syncing": null,
        });
        let mut warnings = Vec::new();
        let state = State::parse(&given.to_string(), &STREAMS, &[&CAMPAIGNS], END, &mut warnings).unwrap();
        let mut out = state.to_value();
        assert_eq!(
            out["bookmarks"]["email_campaigns"],
            json!({
                "replication_key": "", "replication_key_value": null, "deselected": "",
                "resume_since": "", "resume_until": "", "resume_after": "",
            })
        );
        out["bookmarks"].as_object_mut().unwrap().remove("email_campaigns");
        assert_eq!(out["bookmarks"], given["bookmarks"]);
        assert_eq!(warnings, ["state: no stream of this tap: elsewhere; kept as it is"]);
    }

    /// What a runner keeps of a null that it dropped is the value of an earlier STATE.
    #[test]
    fn a_bookmark_that_says_nothing_takes_no_value_from_an_earlier_state() {
        let text = r#"{"bookmarks":{"contacts":{"replication_key":"","replication_key_value":"2026-01-02"}}}"#;
        assert_eq!(parse(text).unwrap().bookmark(&CONTACTS).value, None);
    }

    fn terms(filter: &str, deselected: &str) -> Terms {
        Terms {
            filter: Filter::parse(filter),
            deselected: Some(Fields::parse(deselected)),
            route: Some(Route::Campaigns),
            lookback_days: Some(30),
            read_from: Some(Start(None)),
        }
    }

    fn made_under(filter: &str, deselected: &str) -> Bookmark {
        let mut bookmark = Bookmark::default();
        bookmark.advance(at("2026-01-10"), Start(None), terms(filter, deselected));
        bookmark
    }

    #[test]
    fn a_bookmark_moves_on_and_takes_the_narrower_value() {
        let mut bookmark = made_under("status=all", "");
        bookmark.advance(at("2026-01-20"), Start(Some(at("2026-01-10"))), terms("status=active", "notes"));
        assert_eq!(bookmark.value, Some(at("2026-01-20")));
        assert_eq!(bookmark.terms.filter.as_ref().unwrap().as_str(), "status=active");
        assert_eq!(bookmark.terms.deselected.as_ref().unwrap().to_string(), "notes");
        assert_eq!(bookmark.terms.read_from, Some(Start(None)), "older rows are still read");
        // The clock was set back.
        bookmark.advance(at("2026-01-15"), Start(Some(at("2026-01-20"))), terms("status=active", "notes"));
        assert_eq!(bookmark.value, Some(at("2026-01-20")));
    }

    #[test]
    fn a_read_of_more_starts_the_bookmark_over() {
        let mut bookmark = made_under("status=active", "notes");
        for (filter, deselected) in [("status=all", "notes"), ("status=active", "")] {
            let wider = terms(filter, deselected);
            let extent =
                Extent { filter: wider.filter.clone().unwrap(), deselected: wider.deselected.clone().unwrap() };
            assert!(bookmark.growth(&extent).is_some());
        }
        let from = Start(Some(at("2025-06-01")));
        bookmark.advance(at("2026-01-05"), from, terms("status=all", ""));
        assert_eq!(bookmark.value, Some(at("2026-01-05")), "the later value spoke for fewer rows");
        assert_eq!(bookmark.terms.read_from, Some(from));
    }

    #[test]
    fn what_a_bookmark_does_not_say_is_as_at_present() {
        let mut bookmark = Bookmark { value: Some(at("2026-01-10")), ..Bookmark::default() };
        let extent = |filter: &str| Extent { filter: Filter::parse(filter).unwrap(), deselected: Fields::default() };
        assert_eq!(bookmark.growth(&extent("status=all")), None);
        bookmark.assume(terms("status=active", ""));
        assert!(bookmark.growth(&extent("status=all")).is_some());
    }

    #[test]
    fn a_complete_read_is_due_an_hour_early() {
        let mut bookmark = Bookmark::default();
        let now = at("2026-01-10");
        assert!(bookmark.is_full_refresh_due(now, 0), "there is no bookmark");
        bookmark.advance(now, Start(None), Terms::default());
        bookmark.note_full_refresh();
        for (hours, days, is_due) in
            [(22, 1, false), (23, 1, true), (24, 1, true), (47, 2, true), (46, 2, false), (10_000, 0, false)]
        {
            assert_eq!(bookmark.is_full_refresh_due(now + TimeDelta::hours(hours), days), is_due, "{hours} {days}");
        }
        bookmark.note_missed_contacts();
        assert!(bookmark.is_full_refresh_due(now, 0), "some contacts may have been missed");
        // A bookmark written by hand counts as a complete read.
        let mut bookmark = Bookmark { value: Some(now), ..Bookmark::default() };
        assert!(bookmark.is_full_refresh_due(now, 1) && !bookmark.is_full_refresh_due(now, 0));
        bookmark.advance(now + TimeDelta::days(1), Start(Some(now)), Terms::default());
        assert!(!bookmark.is_full_refresh_due(now + TimeDelta::days(2), 0));
    }

    #[test]
    fn older_rows_that_stay_unread_are_told() {
        let bookmark = made_under("status=all", "");
        let since = Start(Some(at("2026-01-10")));
        let unread = |change: &dyn Fn(&mut Terms), late| {
            let mut now = terms("status=all", "");
            change(&mut now);
            bookmark.unread(since, &now, late).join("; ")
        };
        assert_eq!(unread(&|_| {}, true), "");
        assert!(unread(&|now| now.lookback_days = Some(60), true).contains("was 30 and is now 60"));
        assert_eq!(unread(&|now| now.lookback_days = Some(60), false), "");
        assert_eq!(unread(&|now| now.lookback_days = Some(7), true), "");
        assert!(unread(&|now| now.route = Some(Route::Contacts), true).contains("was campaigns and is now contacts"));
        let mut bookmark = Bookmark::default();
        bookmark.advance(at("2026-01-10"), Start(Some(at("2025-06-01"))), terms("", ""));
        let earlier = |from: Option<&str>, since: &str| {
            let now = Terms { read_from: Some(Start(from.map(at))), ..terms("", "") };
            bookmark.unread(Start(Some(at(since))), &now, true).join("; ")
        };
        assert!(earlier(Some("2025-01-01"), "2026-01-10").contains("rows before 2025-06-01T00:00:00Z stay unread"));
        assert!(earlier(None, "2026-01-10").contains("rows before 2025-06-01"));
        assert_eq!(earlier(Some("2025-07-01"), "2026-01-10"), "");
        // The days back of this run reach as far.
        assert_eq!(earlier(Some("2025-01-01"), "2025-01-01"), "");
    }

    #[test]
    fn an_unfinished_read_goes_on_under_its_own_settings_only() {
        let resume = Resume {
            since: Start(Some(at("2026-01-01"))),
            until: at("2026-01-10"),
            route: Some(Route::Contacts),
            filter: "status=all".into(),
            ..Resume::default()
        };
        let bookmark = Bookmark { resume: Some(resume), ..Bookmark::default() };
        let wanted = || Wanted { filter: "status=all".into(), has_own_window: false, route: None, from: None };
        assert!(bookmark.can_resume(&wanted()));
        assert!(bookmark.can_resume(&Wanted { route: Some(Route::Contacts), ..wanted() }));
        assert!(bookmark.can_resume(&Wanted { from: Some(Start(Some(at("2026-01-02")))), ..wanted() }));
        for other in [
            Wanted { route: Some(Route::Campaigns), ..wanted() },
            Wanted { filter: "status=active".into(), ..wanted() },
            Wanted { filter: "status=all;report=7 days back".into(), has_own_window: true, ..wanted() },
            Wanted { from: Some(Start(None)), ..wanted() },
        ] {
            assert!(!bookmark.can_resume(&other));
        }
        let mut unnamed = bookmark;
        unnamed.resume.as_mut().unwrap().filter.clear();
        assert!(unnamed.can_resume(&wanted()));
        assert!(!unnamed.can_resume(&Wanted { has_own_window: true, ..wanted() }));
    }

    #[test]
    fn the_fields_of_a_round_are_kept_where_the_resume_point_has_no_place_for_them() {
        let text = r#"{"bookmarks":{"email_campaigns":{"replication_key":"updated_at","replication_key_value":"2026-01-01",
            "deselected":"subject","resume_until":"2026-01-02","resume_after":"c"}}}"#;
        let mut state = parse(text).unwrap();
        assert_eq!(state.bookmark(&CAMPAIGNS).resume.as_ref().unwrap().deselected.to_string(), "subject");
        state.bookmark_mut(&CAMPAIGNS).resume.as_mut().unwrap().deselected = Fields::parse("preheader,subject");
        assert_eq!(state.to_value()["bookmarks"]["email_campaigns"]["deselected"], "preheader,subject");
    }

    #[test]
    fn an_account_is_known_by_its_oldest_lists() {
        let list = |id: &'static &'static str| {
            let created_at = Some(at(&format!("2026-01-0{}", &id[..1])));
            KnownList { created_at, id }
        };
        let lists = |ids: &'static [&'static str]| ids.iter().rev().map(list).collect::<Vec<_>>();
        let mut state = State::new(&STREAMS);
        state.check_account(Vec::new()).unwrap();
        assert_eq!(state.to_value()["account"], "");
        state.check_account(lists(&["1a", "2b", "3c", "4d", "5e", "6f"])).unwrap();
        let five = ["1a", "2b", "3c", "4d", "5e"].map(short_hash).join(",");
        assert_eq!(state.to_value()["account"], five.as_str());
        // No list to compare.
        state.check_account(Vec::new()).unwrap();
        assert_eq!(state.to_value()["account"], five.as_str());
        let error = state.check_account(lists(&["1x", "2y"])).unwrap_err();
        assert!(matches!(&error, Error::Usage(why) if why.contains("\"account\"")), "{error}");
        assert_eq!(state.to_value()["account"], five.as_str());
        // The oldest were deleted for good.
        state.check_account(lists(&["5e", "6f", "7g"])).unwrap();
        assert_eq!(state.to_value()["account"], ["5e", "6f", "7g"].map(short_hash).join(",").as_str());
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".*".prop_map(Value::from)
        ];
        leaf.prop_recursive(3, 12, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-z]{1,8}", inner, 0..4)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    fn moment() -> impl Strategy<Value = String> {
        (0i64..4_000_000_000).prop_map(|s| stamp(DateTime::from_timestamp(s, 0).unwrap()))
    }

    fn either(one: &'static str, other: &'static str) -> impl Strategy<Value = &'static str> {
        any::<bool>().prop_map(move |first| if first { one } else { other })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        /// What a state says, and what others keep in it, is there again after any number of runs.
        #[test]
        fn a_state_comes_back_as_it_went_out(
            value in moment(), since in moment(), long in 0i64..1_000_000, after in "[0-9a-f-]{0,36}", complete: bool,
            route in either("contacts", "campaigns"), deselected in either("", "link_url,url_id"), days in 0u32..999,
            beside in any_json(), within in any_json(), foreign in prop::collection::btree_map("x_[a-z]{1,8}", any_json(), 0..3),
        ) {
            let until = stamp(at(&since) + TimeDelta::seconds(long));
            let mut given = json!({
                "account": "9f2c1a77,03be55d0",
                "bookmarks": {
                    "contacts": {
                        "replication_key": "updated_at", "replication_key_value": value, "full_refresh_at": since,
                        "filter": "status=all;include=notes", "deselected": deselected, "theirs": within,
                    },
                    "contact_lists": {},
                    "contact_activity_details": {
                        "replication_key": "created_time", "replication_key_value": value, "filter": "status=all",
                        "deselected": "", "route": route, "lookback_days": days, "read_from": "",
                        "resume_since": since, "resume_until": until, "resume_route": route, "resume_after": after,
                        "resume_complete": complete, "resume_filter": "status=all", "resume_deselected": deselected,
                    },
                },
                "currently_syncing": "contacts",
                "theirs": beside,
            });
            for (stream, bookmark) in foreign {
                given["bookmarks"][stream] = json!({"kept": bookmark});
            }
            let mut state = State::parse(&given.to_string(), &STREAMS, &STREAMS, END, &mut Vec::new()).unwrap().to_value();
            state["bookmarks"].as_object_mut().unwrap().remove("email_campaigns");
            prop_assert_eq!(state, given);
        }

        /// Whatever a file holds, it is a state or an error.
        #[test]
        fn any_text_is_survived(text: String, value in any_json()) {
            let _ = parse(&text);
            let _ = parse(&value.to_string());
            let _ = parse(&json!({"bookmarks": {"contact_activity_details": value}}).to_string());
        }
    }
}
