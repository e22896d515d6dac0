//! The state of a sync: bookmarks, resume points, and the rules for both. Pure; `run` decides when a STATE is written.
//!
//! Runners merge states: if a later STATE omits a key, the value of an earlier one comes back. So every STATE has all keys
//! of every selected stream, with scalar values: `""`, `false` or 0 means "nothing".

use std::borrow::Cow;
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

/// The settings that the bookmark of a stream depends on.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Terms {
    pub(crate) extent: Extent,
    pub(crate) route: Option<Route>,
    pub(crate) lookback_days: u32,
    pub(crate) read_from: Start,
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

    /// Reads a state file; the error says what is wrong with it. `present` gives the current settings, which are assumed
    /// where a bookmark does not say any; `now` is this machine's time. Harmless oddities go to `warnings`.
    pub(crate) fn parse(
        text: &str,
        streams: &[&'static Stream],
        selected: &[&'static Stream],
        present: &dyn Fn(&Stream) -> Terms,
        now: DateTime<Utc>,
        warnings: &mut Vec<String>,
    ) -> Result<State, String> {
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
            let bookmark = Bookmark::parse(bookmark, stream, present(stream), now)?;
            if let Some((_, place)) = bookmarks.get_mut(stream.name) {
                *place = bookmark;
            }
        }
        Ok(State { account, given, bookmarks, currently_syncing, other: root })
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
        if lists.is_empty() {
            return Ok(());
        }
        let is_known = |list: &KnownList| self.account.split(',').any(|hash| hash == short_hash(list.id));
        if self.names_account() && !lists.iter().any(is_known) {
            return Err(Error::Usage(
                "the state was made for another Constant Contact account: none of the lists that it remembers is in \
                 this one. Use another state file for this account, or remove \"account\" from this one if the account \
                 is the right one"
                    .into(),
            ));
        }
        // Lists that do not say when they were created come last.
        lists.sort_unstable_by_key(|list| (list.created_at.is_none(), list.created_at, list.id));
        let oldest: Vec<String> = lists.iter().take(5).map(|list| short_hash(list.id)).collect();
        self.account = oldest.join(",");
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
    /// The route of the runs that made the bookmark.
    pub(crate) fn route(&self) -> Option<Route> {
        self.value.and(self.terms.route)
    }

    /// Why the bookmark does not cover a read, in words; `None` if the read can start at the bookmark.
    pub(crate) fn growth(&self, extent: &Extent) -> Option<String> {
        self.value.and_then(|_| extent.growth(&self.terms.extent))
    }

    /// Since when rows were read, if that is later than `start`.
    pub(crate) fn start_after(&self, start: Start) -> Option<DateTime<Utc>> {
        self.value.and(self.terms.read_from.0).filter(|from| start < Start(Some(*from)))
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
        let continued = self.value.filter(|_| self.growth(&terms.extent).is_none());
        if self.full_refresh == FullRefresh::Unknown {
            // Someone wrote the bookmark by hand, and so has the contacts up to there.
            self.full_refresh = continued.map_or(FullRefresh::Unknown, FullRefresh::At);
        }
        self.value = Some(continued.map_or(to, |old| old.max(to)));
        let read_from = continued.map_or(since, |_| self.terms.read_from.min(since));
        self.terms = Terms { read_from, ..terms };
    }

    /// Which older rows a read from `since` does not read, although the settings `terms` now include them, in words.
    /// `has_late_rows` says whether the read skips campaigns that were sent too long ago, and so their late rows.
    pub(crate) fn unread(&self, since: Start, terms: &Terms, has_late_rows: bool) -> Vec<String> {
        let Some(bookmark) = self.value else { return Vec::new() };
        let mut unread = Vec::new();
        let (then, now) = (self.terms.lookback_days, terms.lookback_days);
        if has_late_rows && self.terms.route != Some(Route::Contacts) && then < now {
            unread.push(format!(
                "activity_lookback_days was {then} and is now {now}: rows before {} of campaigns that were sent more than \
                 {then} days earlier stay unread",
                stamp(bookmark)
            ));
        }
        let read_from = self.terms.read_from.min(since);
        if let Start(Some(from)) = read_from
            && terms.read_from < read_from
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
        let counts = self.value.is_some();
        let mut keys = Keys {
            counts,
            value: self.value,
            full_refresh: self.full_refresh,
            terms: if counts { self.terms.clone() } else { Terms::default() },
            until: self.resume.as_ref().map(|resume| resume.until),
            resume: self.resume.clone().unwrap_or_default(),
        };
        if self.resume.is_some() && !stream.has_routes() {
            // These resume points have no `resume_deselected`, so their fields are stored with those of the bookmark.
            keys.terms.extent.deselected.clone_from(&keys.resume.deselected);
        }
        let own = keys.of(stream).map(|(key, place)| (key.to_owned(), place.write()));
        own.chain(self.other.clone()).collect::<Map<_, _>>().into()
    }

    /// Reads a bookmark; the error says what is wrong with it.
    fn parse(bookmark: &Value, stream: &Stream, present: Terms, now: DateTime<Utc>) -> Result<Bookmark, String> {
        let name = stream.name;
        let mut other = match bookmark {
            Value::Null => Map::new(),
            Value::Object(members) => members.clone(),
            _ => return Err(format!("bookmarks.{name} is not a JSON object")),
        };
        if let Some(key) = stream.replication_key
            && !other.contains_key(VALUE)
            && let Some(value) = other.shift_remove(key)
        {
            other.insert(VALUE.into(), value);
        }
        let given = other.len();
        let mut keys = Keys { counts: true, terms: present, ..Keys::default() };
        for (key, place) in keys.of(stream) {
            if let Some(value) = other.shift_remove(key).filter(|value| !value.is_null()) {
                let wrong = |allowed| format!("bookmarks.{name}.{key} is {value}; allowed: {allowed}");
                place.read(&value, now).map_err(wrong)?;
            }
        }
        let Keys { counts, value, full_refresh, terms, until, mut resume } = keys;
        // Ignoring an unknown part of a resume point would start the read over without a word.
        if let Some(key) = other.keys().find(|key| key.starts_with("resume")) {
            return Err(format!("bookmarks.{name}.{key} is not known to this version"));
        }
        // A bookmark without a known key would be a full read without a word.
        if !other.is_empty() && other.len() == given && stream.replication_key.is_some() {
            return Err(format!("bookmarks.{name} has no {VALUE}, only {}", some_keys(&other)));
        }
        if !stream.has_routes() {
            resume.deselected.clone_from(&terms.extent.deselected);
        }
        let says_more =
            resume.since.0.is_some() || resume.route.is_some() || resume.after.is_some() || resume.is_complete;
        let wrong = match until {
            None if says_more => Some("resume_until is missing"),
            Some(until) if resume.since > Start(Some(until)) => Some("resume_until is before resume_since"),
            Some(_) if resume.route.is_none() && stream.has_routes() => Some("resume_route is missing"),
            _ => None,
        };
        if let Some(wrong) = wrong {
            return Err(format!("bookmarks.{name}.{wrong}"));
        }
        let resume = until.map(|until| Resume { until, ..resume });
        Ok(Bookmark { value: value.filter(|_| counts), full_refresh, terms, resume, other })
    }
}

/// The key of the value. In singer-io's plain form it is the replication key: `{"updated_at": "…"}`.
const VALUE: &str = "replication_key_value";

/// What the keys of a bookmark say.
#[derive(Default)]
struct Keys {
    /// Whether the value counts. It is not enough that the value is null: a runner may drop a null, and so bring back the
    /// value of an earlier STATE.
    counts: bool,
    value: Option<DateTime<Utc>>,
    full_refresh: FullRefresh,
    terms: Terms,
    /// `None` if there is no resume point.
    until: Option<DateTime<Utc>>,
    resume: Resume,
}

impl Keys {
    /// The keys of a stream's bookmarks, in the order in which they are written.
    fn of(&mut self, stream: &Stream) -> impl Iterator<Item = (&'static str, Place<'_>)> {
        let (terms, resume) = (&mut self.terms, &mut self.resume);
        let all = [
            ("replication_key", Place::Key(&mut self.counts, stream.replication_key.unwrap_or_default())),
            (VALUE, Place::Value(&mut self.value)),
            ("full_refresh_at", Place::FullRefresh(&mut self.full_refresh)),
            ("filter", Place::Filter(&mut terms.extent.filter)),
            ("deselected", Place::Fields(&mut terms.extent.deselected)),
            ("route", Place::Route(&mut terms.route)),
            ("lookback_days", Place::Number(&mut terms.lookback_days)),
            ("read_from", Place::Start(&mut terms.read_from)),
            ("resume_since", Place::Start(&mut resume.since)),
            ("resume_until", Place::End(&mut self.until)),
            ("resume_route", Place::Route(&mut resume.route)),
            ("resume_after", Place::Id(&mut resume.after)),
            ("resume_complete", Place::Flag(&mut resume.is_complete)),
            ("resume_filter", Place::Text(&mut resume.filter)),
            ("resume_deselected", Place::Fields(&mut resume.deselected)),
        ];
        let is_own = |key: &str| key.starts_with("replication_key") || stream.bookmark_keys.contains(&key);
        all.into_iter().filter(move |(key, _)| is_own(key))
    }
}

/// Where the value of a key belongs, by the form of the value.
enum Place<'a> {
    /// The replication key, or "" if the value does not count.
    Key(&'a mut bool, &'static str),
    Text(&'a mut String),
    Id(&'a mut Option<String>),
    Flag(&'a mut bool),
    Number(&'a mut u32),
    Route(&'a mut Option<Route>),
    Filter(&'a mut Filter),
    Fields(&'a mut Fields),
    Start(&'a mut Start),
    /// Unlike all others, it can be null.
    Value(&'a mut Option<DateTime<Utc>>),
    End(&'a mut Option<DateTime<Utc>>),
    FullRefresh(&'a mut FullRefresh),
}

impl Place<'_> {
    /// Reads a value that is not null; the error says what is allowed.
    fn read(self, value: &Value, now: DateTime<Utc>) -> Result<(), Cow<'static, str>> {
        let text = value.as_str().ok_or("a string");
        match self {
            Place::Key(_, key) if text != Ok("") && text? != key && !key.is_empty() => return Err(key.into()),
            Place::Key(counts, _) => *counts = !text?.is_empty(),
            Place::Text(place) => text?.clone_into(place),
            Place::Id(place) => *place = Some(text?.to_owned()).filter(|id| !id.is_empty()),
            Place::Flag(place) => *place = value.as_bool().ok_or("true or false")?,
            Place::Number(place) => {
                *place = value.as_u64().and_then(|n| n.try_into().ok()).ok_or("an integer from 0")?;
            }
            // An empty string means unknown, so the present setting stays.
            Place::Route(_) | Place::Filter(_) if text == Ok("") => {}
            Place::Route(place) => {
                let word = |route: &&Route| Ok(route.as_str()) == text;
                *place = Some(*Route::ALL.iter().find(word).ok_or_else(|| words(Route::ALL).replace(',', " or "))?);
            }
            Place::Filter(place) => *place = Filter::parse(text?).ok_or("words such as status=all")?,
            Place::Fields(place) => *place = Fields::parse(text?),
            Place::Start(place) => *place = Start(moment(value)?),
            Place::Value(place) | Place::End(place) => *place = past_moment(value, now)?,
            Place::FullRefresh(place) => {
                *place = past_moment(value, now)?.map_or(FullRefresh::Missing, FullRefresh::At);
            }
        }
        Ok(())
    }

    fn write(self) -> Value {
        let text = |at: Option<DateTime<Utc>>| at.map(stamp).unwrap_or_default().into();
        match self {
            Place::Key(counts, key) => Value::from(if *counts { key } else { "" }),
            Place::Text(text) => text.as_str().into(),
            Place::Id(id) => id.as_deref().unwrap_or_default().into(),
            Place::Flag(flag) => (*flag).into(),
            Place::Number(number) => (*number).into(),
            Place::Route(route) => route.map(Route::as_str).unwrap_or_default().into(),
            Place::Filter(filter) => filter.as_str().into(),
            Place::Fields(fields) => fields.to_string().into(),
            Place::Start(start) => text(start.0),
            Place::Value(at) => at.map(stamp).into(),
            Place::End(at) => text(*at),
            Place::FullRefresh(FullRefresh::At(at)) => text(Some(*at)),
            Place::FullRefresh(FullRefresh::Unknown | FullRefresh::Missing) => text(None),
        }
    }
}

/// An instant in any clear form: bookmarks are also written by hand, and by other taps.
fn moment(value: &Value) -> Result<Option<DateTime<Utc>>, &'static str> {
    match value.as_str().map(str::trim) {
        Some("") => Ok(None),
        text => text.and_then(instant).map(Some).ok_or("a date or a date-time such as 2026-01-31T00:00:00Z"),
    }
}

/// Like [`moment`], but refuses the future, since nothing would be read until then.
fn past_moment(value: &Value, now: DateTime<Utc>) -> Result<Option<DateTime<Utc>>, &'static str> {
    match moment(value)? {
        Some(at) if at.signed_duration_since(now) > CLOCKS_DIFFER => Err("a time that is not in the future"),
        at => Ok(at),
    }
}

fn some_keys(map: &Map<String, Value>) -> String {
    map.keys().map(String::as_str).take(5).collect::<Vec<_>>().join(", ")
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

    fn parse(text: &str) -> Result<State, String> {
        State::parse(text, &STREAMS, &STREAMS, &|_| Terms::default(), END, &mut Vec::new())
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
            assert!(parse(text).is_err(), "{text}");
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
            State::parse(&text, &STREAMS, &STREAMS, &|_| Terms::default(), now, &mut Vec::new())
                .map(|state| state.bookmark(&CONTACTS).value.unwrap().to_string())
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
        let state =
            State::parse(&given.to_string(), &STREAMS, &[&CAMPAIGNS], &|_| Terms::default(), END, &mut warnings)
                .unwrap();
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
            extent: Extent { filter: Filter::parse(filter).unwrap(), deselected: Fields::parse(deselected) },
            route: Some(Route::Campaigns),
            lookback_days: 30,
            read_from: Start(None),
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
        assert_eq!(bookmark.terms.extent.filter.as_str(), "status=active");
        assert_eq!(bookmark.terms.extent.deselected.to_string(), "notes");
        assert_eq!(bookmark.terms.read_from, Start(None), "older rows are still read");
        // The clock was set back.
        bookmark.advance(at("2026-01-15"), Start(Some(at("2026-01-20"))), terms("status=active", "notes"));
        assert_eq!(bookmark.value, Some(at("2026-01-20")));
    }

    #[test]
    fn a_read_of_more_starts_the_bookmark_over() {
        let mut bookmark = made_under("status=active", "notes");
        for (filter, deselected) in [("status=all", "notes"), ("status=active", "")] {
            assert!(bookmark.growth(&terms(filter, deselected).extent).is_some());
        }
        let from = Start(Some(at("2025-06-01")));
        bookmark.advance(at("2026-01-05"), from, terms("status=all", ""));
        assert_eq!(bookmark.value, Some(at("2026-01-05")), "the later value spoke for fewer rows");
        assert_eq!(bookmark.terms.read_from, from);
    }

    #[test]
    fn what_a_bookmark_does_not_say_is_as_at_present() {
        let said = |more: &str| {
            let text =
                format!(r#"{{"bookmarks":{{"contact_activity_details":{{"created_time":"2026-01-10"{more}}}}}}}"#);
            let present =
                |_: &Stream| Terms { read_from: Start(Some(at("2025-01-01"))), ..terms("status=active", "url_id") };
            let state = State::parse(&text, &STREAMS, &STREAMS, &present, END, &mut Vec::new()).unwrap();
            let terms = &state.bookmark(&DETAILS).terms;
            (
                terms.extent.deselected.to_string(),
                terms.read_from.0,
                state.to_value()["bookmarks"][DETAILS.name].clone(),
            )
        };
        let (deselected, read_from, value) = said("");
        assert_eq!((deselected.as_str(), read_from), ("url_id", Some(at("2025-01-01"))));
        assert_eq!(
            (&value["filter"], &value["route"], &value["lookback_days"]),
            (&json!("status=active"), &json!("campaigns"), &json!(30))
        );
        let (_, _, of_nulls) =
            said(r#","filter":null,"deselected":null,"route":null,"lookback_days":null,"read_from":null"#);
        assert_eq!(of_nulls, value);
        // An empty list of fields and an empty start say something.
        let (deselected, read_from, empty) = said(r#","filter":"","deselected":"","route":"","read_from":"""#);
        assert_eq!((deselected.as_str(), read_from), ("", None));
        assert_eq!((&empty["filter"], &empty["route"]), (&value["filter"], &value["route"]));
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
        assert!(unread(&|now| now.lookback_days = 60, true).contains("was 30 and is now 60"));
        assert_eq!(unread(&|now| now.lookback_days = 60, false), "");
        assert_eq!(unread(&|now| now.lookback_days = 7, true), "");
        assert!(unread(&|now| now.route = Some(Route::Contacts), true).contains("was campaigns and is now contacts"));
        let mut bookmark = Bookmark::default();
        bookmark.advance(at("2026-01-10"), Start(Some(at("2025-06-01"))), terms("", ""));
        let earlier = |from: Option<&str>, since: &str| {
            let now = Terms { read_from: Start(from.map(at)), ..terms("", "") };
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
            let mut state = parse(&given.to_string()).unwrap().to_value();
            state["bookmarks"].as_object_mut().unwrap().remove("email_campaigns");
            // In the order of the keys too.
            prop_assert_eq!(state.to_string(), given.to_string());
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
