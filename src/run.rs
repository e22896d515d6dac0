//! What a stream works with: it writes records, and reads and moves bookmarks. Knows no stream.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use serde_json::json;

use crate::catalog::{Catalog, Mask};
use crate::client::Client;
use crate::config::{Config, Route};
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::logger::{counter, warn_once};
use crate::messages::Messages;
use crate::odd_rows::OddRows;
use crate::progress::{Line, Progress};
use crate::state::{Resume, Start, State, Terms, Wanted};
use crate::stream::Stream;
use crate::timestamp::stamp;
use crate::window::lower_bound;

/// The current run.
pub(crate) struct Run<'a> {
    pub(crate) config: &'a Config,
    pub(crate) client: &'a Arc<Client>,
    pub(crate) progress: &'a Progress,
    catalog: &'a Catalog,
    messages: &'a Messages,
    pub(crate) state: State,
    /// The streams whose SCHEMA is written, each with the progress line that counts its records.
    begun: BTreeMap<&'static str, Arc<Line>>,
    pub(crate) odd_rows: OddRows,
    /// Streams that are finished before their turn, because another stream's read included them, or because they wait for it.
    finished: BTreeSet<&'static str>,
    last_state: Instant,
}

/// Whether to write a STATE in the middle of a stream, this long and this many lines after the last one.
fn is_state_due(since_last: Duration, lines_since: u64) -> bool {
    since_last >= Duration::from_secs(60) || lines_since >= 10_000
}

/// The settings that the bookmark of a stream depends on. `route` is for a contact report.
pub(crate) fn terms(config: &Config, catalog: &Catalog, stream: &Stream, route: Option<Route>) -> Terms {
    let by_contact = route == Some(Route::Contacts);
    let is_filled = |path: &String| !(by_contact && stream.only_by_campaign.contains(&path.as_str()));
    let left_out = mask(catalog, stream).left_out(&stream.schema);
    let deselected = left_out.into_iter().filter(is_filled).collect();
    Terms {
        extent: Extent { filter: (stream.narrowed_by)(config), deselected },
        route,
        lookback_days: config.activity_lookback_days,
        read_from: Start(config.start_date),
    }
}

fn mask<'c>(catalog: &'c Catalog, stream: &Stream) -> &'c Mask {
    catalog.get(stream.name).map_or(&Mask::All, |selected| &selected.mask)
}

impl<'a> Run<'a> {
    pub(crate) fn new(
        config: &'a Config,
        client: &'a Arc<Client>,
        catalog: &'a Catalog,
        messages: &'a Messages,
        progress: &'a Progress,
        state: State,
    ) -> Run<'a> {
        messages.checkpoint(state.to_value());
        Run {
            config,
            client,
            progress,
            catalog,
            messages,
            state,
            begun: BTreeMap::new(),
            odd_rows: OddRows::default(),
            finished: BTreeSet::new(),
            last_state: Instant::now(),
        }
    }

    // Selection.

    /// Whether the catalog selects a stream.
    pub(crate) fn selects(&self, stream: &Stream) -> bool {
        self.catalog.get(stream.name).is_some()
    }

    /// Whether a field of a stream is selected.
    pub(crate) fn wants(&self, stream: &Stream, path: &[&str]) -> bool {
        self.mask(stream).wants(path)
    }

    fn mask(&self, stream: &Stream) -> &Mask {
        mask(self.catalog, stream)
    }

    fn is_full_table(&self, stream: &Stream) -> bool {
        self.catalog.get(stream.name).is_some_and(|s| s.full_table)
    }

    // Records.

    /// Writes the stream's SCHEMA, before the first of its records; later calls change nothing.
    pub(crate) fn begin(&mut self, stream: &Stream) -> Result<()> {
        if self.begun.contains_key(stream.name) {
            return Ok(());
        }
        log::info!("{}: reading", stream.name);
        self.begun.insert(stream.name, self.progress.line(stream.name));
        let mut schema = stream.schema.clone();
        self.mask(stream).prune_schema(&mut schema);
        self.messages.schema(stream.name, &schema, stream.keys, stream.replication_key)
    }

    /// Writes one record; `extracted` is when its page was read.
    pub(crate) fn emit<R: Serialize>(&mut self, stream: &Stream, record: &R, extracted: &str) -> Result<()> {
        if let Some(line) = self.begun.get(stream.name) {
            line.count();
        }
        match self.mask(stream) {
            Mask::All => self.messages.record(stream.name, record, extracted),
            mask @ Mask::Some(_) => {
                let mut record = serde_json::to_value(record).map_err(|e| Error::Failed(e.to_string()))?;
                mask.prune_record(&mut record);
                self.messages.record(stream.name, &record, extracted)
            }
        }
    }

    /// The number of records of a stream and the time they took; also logs the metrics.
    pub(crate) fn count_records(&self, stream: &Stream) -> (u64, Duration) {
        let line = &self.begun[stream.name];
        counter("record_count", line.records(), &json!({"stream": stream.name}));
        counter("http_request_count", self.progress.calls_of(stream.name), &json!({"stream": stream.name}));
        (line.records(), line.elapsed())
    }

    // STATE lines.

    /// Makes the start of a stream the checkpoint.
    pub(crate) fn checkpoint_start(&mut self, syncing: &Stream) {
        self.state.currently_syncing = Some(syncing.name.into());
        self.messages.checkpoint(self.state.to_value());
    }

    /// Makes the current state the checkpoint, and writes a STATE if the last one is long ago.
    pub(crate) fn checkpoint(&mut self) -> Result<()> {
        self.messages.checkpoint(self.state.to_value());
        if is_state_due(self.last_state.elapsed(), self.messages.lines_since_state()) {
            self.write_state()?;
        }
        self.messages.flush()
    }

    /// Writes a STATE after a stream; `next` is the one that follows.
    pub(crate) fn end_of_stream(&mut self, next: Option<&Stream>) -> Result<()> {
        self.state.currently_syncing = next.map(|next| next.name.to_owned());
        if next.is_none() {
            self.state.end_round();
        }
        self.messages.checkpoint(self.state.to_value());
        self.write_state()
    }

    /// Writes the checkpoint as a STATE.
    pub(crate) fn write_state(&mut self) -> Result<()> {
        self.last_state = Instant::now();
        self.messages.state()
    }

    /// Marks a stream as finished for this run.
    pub(crate) fn finish(&mut self, stream: &'static Stream) {
        self.finished.insert(stream.name);
    }

    /// Whether a stream was already read together with another one, or is finished in this round.
    pub(crate) fn is_finished(&self, stream: &Stream) -> bool {
        self.finished.contains(stream.name)
    }

    // Bookmarks.

    fn terms(&self, stream: &Stream, route: Option<Route>) -> Terms {
        terms(self.config, self.catalog, stream, route)
    }

    /// Like [`Run::terms`], with the fields that earlier runs of an interrupted read did not read.
    fn terms_of_all_runs(&self, stream: &Stream, route: Option<Route>) -> Terms {
        let mut terms = self.terms(stream, route);
        if let Some(resume) = self.interrupted(stream) {
            terms.extent.deselected = terms.extent.deselected.union(&resume.deselected);
        }
        terms
    }

    /// Why the bookmark of a stream does not cover what this run reads, in words; `None` if it does.
    fn growth(&self, stream: &Stream) -> Option<String> {
        let bookmark = self.state.bookmark(stream);
        let route = self.config.activity_route.fixed().or(bookmark.route());
        let later = self.earlier_start(stream).and_then(|start| bookmark.start_after(start));
        let is_earlier = || later.map(|then| format!("the start is now earlier than {}", stamp(then)));
        bookmark.growth(&self.terms(stream, route).extent).or_else(is_earlier)
    }

    /// The start that the rows of a stream must reach back to. A report only warns of what lies before: to read it again
    /// is dear. `updated_days_back` alone is the start of a first run only.
    fn earlier_start(&self, stream: &Stream) -> Option<Start> {
        let start = self.config.start_date;
        let is_bound = !stream.has_routes() && (start.is_some() || self.config.updated_days_back.is_none());
        is_bound.then_some(Start(start))
    }

    /// Why a stream with a bookmark is read from the start, in words.
    pub(crate) fn why_it_starts_over(&self, stream: &Stream) -> Option<String> {
        let is_expected = self.is_full_table(stream) || self.has_own_window(stream);
        if is_expected || self.resume(stream).is_some() { None } else { self.growth(stream) }
    }

    /// The bookmark from which an incremental read starts.
    pub(crate) fn bookmark(&self, stream: &Stream) -> Option<DateTime<Utc>> {
        let value = self.state.bookmark(stream).value?;
        (!self.is_full_table(stream) && self.growth(stream).is_none()).then_some(value)
    }

    /// The lower bound of an incremental read, or none.
    pub(crate) fn since(&self, stream: &Stream, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.since_less(stream, now, TimeDelta::zero())
    }

    /// Like [`Run::since`], with the bookmark moved back by `back`.
    pub(crate) fn since_less(&self, stream: &Stream, now: DateTime<Utc>, back: TimeDelta) -> Option<DateTime<Utc>> {
        let Some(bookmark) = self.bookmark(stream) else { return self.beginning(stream, now) };
        let bookmark = bookmark.checked_sub_signed(back).unwrap_or(bookmark);
        lower_bound(Some(bookmark), self.config.updated_days_back, now, self.config.timezone)
    }

    /// The lower bound of a full read: `start_date`, or else `updated_days_back` in a first run.
    ///
    /// It is never later than the bookmark, so that a full read never reads less than an incremental one.
    pub(crate) fn beginning(&self, stream: &Stream, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let is_first = self.state.bookmark(stream).value.is_none() && !self.is_full_table(stream);
        if self.config.start_date.is_none() && !is_first {
            return None;
        }
        let start = lower_bound(self.config.start_date, self.config.updated_days_back, now, self.config.timezone);
        start.into_iter().chain(self.bookmark(stream)).min()
    }

    /// Moves the stream's bookmark: everything up to `until` less the overlap has been written.
    pub(crate) fn advance_bookmark(&mut self, stream: &Stream, until: DateTime<Utc>, overlap: TimeDelta) {
        let since = Start(self.since(stream, until));
        self.advance(stream, since, until - overlap, None);
    }

    /// Moves the bookmark to `to`, after everything from `since` up to there was written, and removes the resume point if it
    /// is of this read.
    pub(crate) fn advance(&mut self, stream: &Stream, since: Start, to: DateTime<Utc>, route: Option<Route>) {
        let terms = self.terms_of_all_runs(stream, route);
        let is_own = self.why_not_resumable(stream).is_none();
        let bookmark = self.state.bookmark_mut(stream);
        bookmark.advance(to, since, terms);
        if is_own {
            bookmark.resume = None;
        }
    }

    /// Warns about older rows that this run does not read, although the settings now include them.
    pub(crate) fn warn_of_unread(
        &self,
        stream: &Stream,
        since: Option<DateTime<Utc>>,
        route: Route,
        has_late_rows: bool,
    ) {
        if self.bookmark(stream).is_none() {
            return;
        }
        let unread = self.state.bookmark(stream).unread(Start(since), &self.terms(stream, Some(route)), has_late_rows);
        if !unread.is_empty() {
            let name = stream.name;
            warn_once(format!("{name}: {}. To read them once, run with --full-table {name}", unread.join("; ")));
        }
    }

    // Interrupted reads.

    /// Whether `report_*` settings set the window of a stream. Then the bookmark is neither used nor moved.
    pub(crate) fn has_own_window(&self, stream: &Stream) -> bool {
        self.config.report.is_some() && stream.has_routes()
    }

    /// What an interrupted read must have in common with this run to be continued.
    fn wanted(&self, stream: &Stream) -> Wanted {
        let (bookmark, has_own_window) = (self.state.bookmark(stream), self.has_own_window(stream));
        let mut filter = String::new();
        if stream.has_routes() {
            (stream.narrowed_by)(self.config).as_str().clone_into(&mut filter);
            if let Some(report) = &self.config.report {
                filter = format!("{filter};report={report};timezone={}", self.config.timezone);
            }
        }
        let ignores_bookmark = self.is_full_table(stream) && !has_own_window;
        let ignored = ignores_bookmark.then_some(Start(self.config.start_date));
        let from =
            ignored.or_else(|| self.earlier_start(stream).filter(|start| bookmark.start_after(*start).is_some()));
        Wanted { filter, has_own_window, route: self.config.activity_route.fixed(), from }
    }

    /// The interrupted read of a stream, if the current settings can continue it.
    pub(crate) fn interrupted(&self, stream: &Stream) -> Option<Resume> {
        self.resume(stream).filter(|resume| !resume.is_complete)
    }

    /// Like [`Run::interrupted`], or a complete read of a round that is not over.
    pub(crate) fn resume(&self, stream: &Stream) -> Option<Resume> {
        let bookmark = self.state.bookmark(stream);
        bookmark.resume.clone().filter(|_| bookmark.can_resume(&self.wanted(stream)))
    }

    /// Why this run must not replace the resume point of a stream, in words. It then cannot be resumed itself.
    pub(crate) fn why_not_resumable(&self, stream: &Stream) -> Option<&'static str> {
        let bookmark = self.state.bookmark(stream);
        // Other streams do not store settings in the resume point, so any later read may replace it.
        if !stream.has_routes() || bookmark.can_resume(&self.wanted(stream)) {
            None
        } else if bookmark.resume.as_ref().is_some_and(|resume| !resume.is_complete) {
            Some("the state holds an interrupted read with other settings, which stays as it is")
        } else if self.has_own_window(stream) && bookmark.value.is_some() {
            Some("the bookmark in this state is of runs without a report window, and stays as it is")
        } else {
            None
        }
    }

    /// Takes back the progress of this run: `began_at` is the resume point that it began with.
    pub(crate) fn withdraw_progress(&mut self, stream: &Stream, began_at: Option<Resume>) {
        if self.why_not_resumable(stream).is_none() {
            self.state.bookmark_mut(stream).resume = began_at;
        }
    }

    /// Stores the resume point of a stream, with the settings of this run filled in.
    pub(crate) fn note_progress(&mut self, stream: &Stream, reached: Resume) {
        if self.why_not_resumable(stream).is_some() || self.odd_rows.is_too_odd(stream) {
            return;
        }
        let deselected = self.terms_of_all_runs(stream, reached.route).extent.deselected;
        let filter = self.wanted(stream).filter;
        self.state.bookmark_mut(stream).resume = Some(Resume { filter, deselected, ..reached });
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::LazyLock;

    use serde_json::Value;

    use super::*;
    use crate::config::{Source, words};
    use crate::extent::Filter;
    use crate::messages::Output;
    use crate::stream::{KEYS_WITH_ROUTES, Needs};

    pub(crate) fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap_or_else(|_| format!("{text}T00:00:00Z").parse().unwrap())
    }

    /// Runs `test` with the run that these settings, this state and this selection make. It makes no call.
    pub(crate) fn with_run<T>(
        streams: &[&'static Stream],
        settings: &Value,
        bookmarks: &Value,
        full_table: &[&str],
        test: impl FnOnce(&mut Run) -> T,
    ) -> T {
        let now = at("2026-11-23");
        let mut config = json!({"access_token": "a"});
        config.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        let source = Source::of_file("config.json", &config.to_string());
        let config = Config::parse(&[source], now, &mut Vec::new()).unwrap();
        let client = Arc::new(Client::new(&config, None).unwrap());
        let mut catalog = Catalog::all(streams);
        let full_table: Vec<String> = full_table.iter().map(|name| (*name).to_owned()).collect();
        catalog.read_full_table(&full_table, streams).unwrap();
        let state = json!({"bookmarks": bookmarks}).to_string();
        let present = |stream: &Stream| terms(&config, &catalog, stream, config.activity_route.fixed());
        let state = State::parse(&state, streams, streams, &present, now, &mut Vec::new()).unwrap();
        let progress = Progress::hidden(client.call_count(), 4.0);
        let messages = Messages::new(Output::Other(Box::new(std::io::sink())));
        test(&mut Run::new(&config, &client, &catalog, &messages, &progress, state))
    }

    const fn stream(name: &'static str, bookmark_keys: &'static [&'static str]) -> Stream {
        Stream {
            name,
            keys: &["id"],
            replication_key: Some("updated_at"),
            schema: LazyLock::new(|| json!({"type": "object", "properties": {"id": {}, "updated_at": {}, "name": {}}})),
            needs: Needs { scopes: &[], privileges: &[] },
            narrowed_by: |config| Filter::of(&[("status", words(&config.contact_status))]),
            bookmark_keys,
            only_by_campaign: &[],
            field_needs: &[],
        }
    }

    static THINGS: Stream = stream("things", &["filter", "deselected"]);
    static REPORT: Stream = stream("report", KEYS_WITH_ROUTES);

    /// A run of one stream, with these members of its bookmark.
    fn run<T>(stream: &'static Stream, settings: &Value, bookmark: &Value, test: impl FnOnce(&mut Run) -> T) -> T {
        with_run(&[stream], settings, &json!({stream.name: bookmark}), &[], test)
    }

    const NOW: &str = "2026-11-23";

    #[test]
    fn a_read_starts_at_the_bookmark_or_at_the_start_or_earlier_by_the_days_back() {
        let marked = json!({"updated_at": "2026-11-10", "filter": "status=all"});
        for (settings, bookmark, expected) in [
            (json!({}), json!({}), None),
            (json!({"start_date": "2026-01-01"}), json!({}), Some("2026-01-01")),
            (json!({"updated_days_back": 3}), json!({}), Some("2026-11-20")),
            (json!({"start_date": "2026-01-01"}), marked.clone(), Some("2026-11-10")),
            (json!({"updated_days_back": 3}), marked.clone(), Some("2026-11-10")),
            (json!({"updated_days_back": 20}), marked.clone(), Some("2026-11-03")),
            // The bookmark covers less than what is read now.
            (json!({}), json!({"updated_at": "2026-11-10", "filter": "status=active"}), None),
            (json!({"contact_status": "active"}), marked, Some("2026-11-10")),
        ] {
            let since = run(&THINGS, &settings, &bookmark, |run| run.since(&THINGS, at(NOW)));
            assert_eq!(since, expected.map(at), "{settings} {bookmark}");
        }
    }

    #[test]
    fn a_full_table_read_ignores_the_bookmark_but_not_the_start() {
        let bookmarks = json!({"things": {"updated_at": "2026-11-10"}});
        let since = |settings: Value| {
            with_run(&[&THINGS], &settings, &bookmarks, &["things"], |run| {
                assert_eq!((run.bookmark(&THINGS), run.why_it_starts_over(&THINGS)), (None, None));
                run.since(&THINGS, at(NOW))
            })
        };
        assert_eq!(since(json!({})), None);
        assert_eq!(since(json!({"updated_days_back": 3})), None);
        assert_eq!(since(json!({"start_date": "2026-01-01"})), Some(at("2026-01-01")));
    }

    #[test]
    fn a_complete_read_begins_no_later_than_the_bookmark() {
        let beginning = |settings: Value, bookmark: Value| {
            run(&THINGS, &settings, &bookmark, |run| run.beginning(&THINGS, at(NOW)))
        };
        let marked = json!({"updated_at": "2026-11-10"});
        assert_eq!(beginning(json!({}), marked.clone()), None);
        assert_eq!(beginning(json!({"updated_days_back": 3}), marked.clone()), None);
        assert_eq!(beginning(json!({"start_date": "2026-01-01"}), marked.clone()), Some(at("2026-01-01")));
        assert_eq!(beginning(json!({"start_date": "2026-11-20"}), marked), Some(at("2026-11-10")));
    }

    #[test]
    fn a_stream_starts_over_where_its_bookmark_covers_too_little() {
        let why = |bookmark: Value| run(&THINGS, &json!({}), &bookmark, |run| run.why_it_starts_over(&THINGS));
        assert_eq!(why(json!({"updated_at": "2026-11-10", "deselected": ""})), None);
        assert_eq!(
            why(json!({"updated_at": "2026-11-10", "deselected": "name"})).unwrap(),
            "name was not selected before"
        );
        assert_eq!(why(json!({})), None);
    }

    #[test]
    fn a_bookmark_moves_forward_only_and_by_the_overlap_less() {
        let moved = |from: &str| {
            run(&THINGS, &json!({}), &json!({"updated_at": from}), |run| {
                run.advance_bookmark(&THINGS, at("2026-11-20"), TimeDelta::days(1));
                run.state.bookmark(&THINGS).value
            })
        };
        assert_eq!(moved("2026-11-10"), Some(at("2026-11-19")));
        assert_eq!(moved("2026-11-21"), Some(at("2026-11-21")));
    }

    /// A bookmark with a read that was interrupted under these settings.
    fn interrupted(filter: &str, is_complete: bool) -> Value {
        json!({
            "updated_at": "2026-11-10", "route": "contacts", "resume_since": "2026-11-10", "resume_until": "2026-11-20",
            "resume_route": "contacts", "resume_after": "b", "resume_filter": filter, "resume_complete": is_complete,
        })
    }

    #[test]
    fn an_interrupted_read_of_the_same_settings_is_continued_and_no_other_replaced() {
        let read = |settings: Value, bookmark: Value| {
            run(&REPORT, &settings, &bookmark, |run| {
                let is_resumed = run.resume(&REPORT).is_some();
                let reached = Resume { after: Some("c".into()), until: at("2026-11-21"), ..Resume::default() };
                run.note_progress(&REPORT, reached);
                let after = run.state.bookmark(&REPORT).resume.as_ref().and_then(|resume| resume.after.clone());
                run.advance(&REPORT, Start(None), at(NOW), Some(Route::Contacts));
                (is_resumed, after.unwrap(), run.state.bookmark(&REPORT).resume.is_some())
            })
        };
        let active = json!({"contact_status": "active"});
        // Whether it is continued, how far it got, whether a resume point is left at its end.
        assert_eq!(read(json!({}), interrupted("status=all", false)), (true, "c".into(), false));
        assert_eq!(read(active.clone(), interrupted("status=all", false)), (false, "b".into(), true));
        // A finished one is in nobody's way.
        assert_eq!(read(active, interrupted("status=all", true)), (false, "c".into(), false));
        assert_eq!(
            read(json!({"activity_route": "campaigns"}), interrupted("status=all", false)),
            (false, "b".into(), true)
        );
    }

    #[test]
    fn a_state_is_due_every_minute_and_every_10_000_records() {
        for (seconds, lines, is_due) in
            [(0, 0, false), (59, 9_999, false), (60, 0, true), (3600, 5, true), (0, 10_000, true)]
        {
            assert_eq!(is_state_due(Duration::from_secs(seconds), lines), is_due, "{seconds} s, {lines} lines");
        }
    }
}
