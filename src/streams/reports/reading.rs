//! One report that is being read: its window, and where an interrupted read continues.

use chrono::{DateTime, TimeDelta, Utc};

use super::due_campaigns::Demand;
use super::{DETAILS, SUMMARY};
use crate::config::{Config, Route};
use crate::error::Result;
use crate::id::Id;
use crate::run::Run;
use crate::state::{Resume, Start};
use crate::stream::Stream;
use crate::timestamp::stamp;

/// Rows can appear this long after the time that they carry: opens and clicks may be attributed hours late.
fn overlap(stream: &Stream) -> TimeDelta {
    if stream.name == DETAILS.stream.name { TimeDelta::days(1) } else { TimeDelta::minutes(5) }
}

/// One report that is being read, for the window from `since` (inclusive) to `until` (exclusive; without a window from the
/// settings, later rows of the details are written too).
pub(super) struct Reading {
    pub(super) stream: &'static Stream,
    /// `None` reads all rows up to `until`.
    pub(super) since: Option<DateTime<Utc>>,
    pub(super) until: DateTime<Utc>,
    /// Whether `report_*` settings set the window. Then rows outside are not written, and the bookmark does not change.
    pub(super) is_bounded: bool,
    /// Whether it begins at a bookmark, so that old campaigns can be skipped.
    pub(super) is_incremental: bool,
    /// The interrupted read that this one continues.
    pub(super) resume: Option<Resume>,
    /// The route of the other report's read, if this one begins its part of that round.
    pub(super) round_route: Option<Route>,
    /// The last contact or campaign activity whose rows are all written.
    after: Option<Id>,
    /// Whether some contacts or campaigns may be missing from their listing. Then neither bookmark nor resume point may
    /// move past them.
    may_lack_rows: bool,
}

impl Reading {
    /// Continues the interrupted read, or begins a new one.
    pub(super) fn begin(run: &Run, stream: &'static Stream) -> Result<Reading> {
        Reading::from(run, stream, run.interrupted(stream))
    }

    fn from(run: &Run, stream: &'static Stream, resume: Option<Resume>) -> Result<Reading> {
        let is_bounded = run.has_own_window(stream);
        let is_incremental = !is_bounded && run.bookmark(stream).is_some();
        let after = resume.as_ref().and_then(|resume| resume.after.as_deref()).map(Id::from);
        let round = if resume.is_none() { round_of_other(run, stream) } else { None };
        let (since, until) = match (&resume, &round) {
            (Some(resume), _) => (resume.since.0, resume.until),
            // Both have the same window from the settings.
            (None, Some(round)) if is_bounded => (round.since.0, round.until),
            (None, Some(round)) => window(run, stream, round.until),
            (None, None) => window(run, stream, run.client.run_start()?),
        };
        let round_route = round.and_then(|round| round.route);
        Ok(Reading {
            stream,
            since,
            until,
            is_bounded,
            is_incremental,
            resume,
            round_route,
            after,
            may_lack_rows: false,
        })
    }

    pub(super) fn is_summary(&self) -> bool {
        self.stream.name == SUMMARY.stream.name
    }

    /// Which campaigns it needs.
    pub(super) fn demand(&self, config: &Config) -> Demand {
        let lookback = TimeDelta::days(i64::from(config.activity_lookback_days));
        // With a window from the settings, all rows count, however late, unless the user has set a lookback.
        let lookback = (!self.is_bounded || config.is_lookback_set).then_some(lookback);
        Demand::new(self.is_summary(), self.since, self.is_bounded.then_some(self.until), lookback)
    }

    /// The route of earlier runs, if this one should keep it. A read from the start is free to leave the contact route,
    /// but leaving the campaign route clears columns in rows that are written again.
    pub(super) fn previous_route(&self, run: &Run) -> Option<Route> {
        let route = run.state.bookmark(self.stream).route()?;
        (route == Route::Campaigns || run.bookmark(self.stream).is_some()).then_some(route)
    }

    /// Prepares the read on a route. A resume point of the other route is useless there, so the read starts over.
    pub(super) fn on_route(self, run: &Run, route: Route) -> Result<Reading> {
        let name = self.stream.name;
        if let Some(why) = run.why_not_resumable(self.stream) {
            log::warn!(
                "{name}: {why}. If this run is interrupted, it cannot be resumed; for that, finish the other read first, or \
                 give this run a state file of its own"
            );
        }
        let reading = if self.resume.as_ref().is_some_and(|resume| resume.route != Some(route)) {
            log::warn!("{name}: it was interrupted on the other route, so it starts over");
            Reading::from(run, self.stream, None)?
        } else {
            self
        };
        if let Some(resume) = &reading.resume {
            log::info!("{name}: continuing the read that ends at {}", stamp(resume.until));
        } else if reading.is_incremental {
            let has_late_rows = reading.stream.name == DETAILS.stream.name && route == Route::Campaigns;
            run.warn_of_unread(reading.stream, reading.since, route, has_late_rows);
        }
        Ok(reading)
    }

    /// Whether a contact or campaign activity still has to be read.
    pub(super) fn is_unread(&self, id: &Id) -> bool {
        self.after.as_ref().is_none_or(|after| id > after)
    }

    /// Whether to write a row of the details. Without a window from the settings, rows after its end are written too.
    pub(super) fn includes(&self, at: DateTime<Utc>) -> bool {
        self.since.is_none_or(|since| at >= since) && !(self.is_bounded && at >= self.until)
    }

    /// Records that everything up to and including this id is written.
    pub(super) fn note_progress(&mut self, run: &mut Run, route: Route, id: &Id) {
        if run.odd_rows.is_too_odd(self.stream) {
            self.withdraw_progress(run);
        } else if self.is_unread(id) && !self.may_lack_rows {
            run.note_progress(self.stream, Resume { after: Some(id.to_string()), ..self.resume_point(route) });
            self.after = Some(id.clone());
        }
    }

    /// Takes back the progress of this run, because too many rows were unusable.
    pub(super) fn withdraw_progress(&self, run: &mut Run) {
        run.withdraw_progress(self.stream, self.resume.clone());
    }

    fn resume_point(&self, route: Route) -> Resume {
        Resume { since: Start(self.since), until: self.until, route: Some(route), ..Resume::default() }
    }

    /// Records whether a listing surely had all contacts or campaigns whose rows belong to the report.
    pub(super) fn note_listing(&mut self, are_all: bool) {
        self.may_lack_rows |= !are_all;
    }

    /// Records that the whole window is written, and moves the bookmark.
    pub(super) fn finish(self, run: &mut Run, route: Route) -> Result<()> {
        run.odd_rows.check(self.stream)?;
        if !self.is_bounded && !self.may_lack_rows {
            run.advance(self.stream, Start(self.since), self.until - overlap(self.stream), Some(route));
        }
        let began_earlier = self.resume.is_some() || self.round_route.is_some();
        if self.is_bounded && began_earlier {
            self.warn_of_newer_days(run)?;
        }
        run.note_progress(self.stream, Resume { is_complete: true, ..self.resume_point(route) });
        run.finish(self.stream);
        Ok(())
    }

    /// Warns that a read of several runs keeps the days of its first run, so newer days are not read.
    fn warn_of_newer_days(&self, run: &Run) -> Result<()> {
        let (_, until) = window(run, self.stream, run.client.run_start()?);
        if until > self.until {
            log::warn!(
                "{}: the read that an earlier run began is complete, up to {}; run again to read newer days",
                self.stream.name,
                stamp(self.until)
            );
        }
        Ok(())
    }
}

/// Whether a finished report waits for the other one, which still has to read up to the same moment: both are one round,
/// maybe of several runs. Otherwise each would begin anew whenever the other is finished, and no run would end with both.
pub(super) fn waits_for_other(run: &Run, stream: &Stream) -> bool {
    let Some(complete) = run.resume(stream).filter(|resume| resume.is_complete) else { return false };
    let other = other_than(stream);
    run.selects(other)
        && match run.interrupted(other) {
            Some(resume) => resume.until <= complete.until,
            None => round_of_other(run, other).is_some(),
        }
}

/// The other report's read, interrupted or complete, if this report has not begun its part of that round.
fn round_of_other(run: &Run, stream: &Stream) -> Option<Resume> {
    let round = Some(other_than(stream)).filter(|other| run.selects(other)).and_then(|other| run.resume(other))?;
    let is_read_less_far = run.bookmark(stream).is_none_or(|at| at + overlap(stream) < round.until);
    // A complete part may be left from an earlier round.
    let has_not_begun = run.resume(stream).is_none_or(|own| own.is_complete && own.until < round.until);
    (has_not_begun && (run.has_own_window(stream) || is_read_less_far)).then_some(round)
}

fn other_than(stream: &Stream) -> &'static Stream {
    if stream.name == SUMMARY.stream.name { &DETAILS.stream } else { &SUMMARY.stream }
}

/// The window of a read that begins now.
fn window(run: &Run, stream: &Stream, now: DateTime<Utc>) -> (Option<DateTime<Utc>>, DateTime<Utc>) {
    if let Some(report) = run.config.report.as_ref().filter(|_| run.has_own_window(stream)) {
        let window = report.resolve(now, run.config.timezone);
        return (Some(window.start), window.end);
    }
    // The counts of a sent campaign keep growing, so campaigns sent in the days before the bookmark are read again.
    let growing = TimeDelta::days(i64::from(run.config.activity_lookback_days));
    let back = if stream.name == SUMMARY.stream.name { growing } else { TimeDelta::zero() };
    (run.since_less(stream, now, back).map(|since| since.min(now)), now)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::run::tests::{at, with_run};

    static BOTH: [&Stream; 2] = [&SUMMARY.stream, &DETAILS.stream];

    fn run<T>(settings: &Value, bookmarks: &Value, test: impl FnOnce(&mut Run) -> T) -> T {
        with_run(&BOTH, settings, bookmarks, &[], test)
    }

    /// The bookmarks of both reports, with these members.
    fn bookmarks(of_summary: &Value, of_details: &Value) -> Value {
        let marked = |key: &str, more: &Value| {
            let mut bookmark = json!({key: "2026-11-10"});
            bookmark.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            bookmark
        };
        json!({
            SUMMARY.stream.name: marked("start_on", of_summary),
            DETAILS.stream.name: marked("created_time", of_details),
        })
    }

    fn at_rest() -> Value {
        bookmarks(&json!({}), &json!({}))
    }

    fn interrupted(is_complete: bool, until: &str) -> Value {
        json!({"resume_since": "2026-10-01", "resume_until": until, "resume_route": "contacts", "resume_after": "b",
            "resume_complete": is_complete})
    }

    /// A read that begins now, without a call for the time.
    fn begun(run: &Run, stream: &'static Stream, after: Option<&str>) -> Reading {
        let (since, until) = window(run, stream, at("2026-11-23"));
        let is_bounded = run.has_own_window(stream);
        let is_incremental = !is_bounded && run.bookmark(stream).is_some();
        let after = after.map(Id::from);
        Reading {
            stream,
            since,
            until,
            is_bounded,
            is_incremental,
            resume: None,
            round_route: None,
            after,
            may_lack_rows: false,
        }
    }

    #[test]
    fn the_summary_reads_the_watched_days_again_and_the_details_do_not() {
        let windows = |settings: Value, bookmarks: Value| {
            run(&settings, &bookmarks, |run| BOTH.map(|stream| window(run, stream, at("2026-11-23")).0))
        };
        let days = |summary: &str, details: &str| [Some(at(summary)), Some(at(details))];
        assert_eq!(windows(json!({}), at_rest()), days("2026-10-11", "2026-11-10"));
        assert_eq!(windows(json!({"activity_lookback_days": 3}), at_rest()), days("2026-11-07", "2026-11-10"));
        assert_eq!(windows(json!({"updated_days_back": 20}), at_rest()), days("2026-10-11", "2026-11-03"));
        assert_eq!(windows(json!({"start_date": "2026-01-01"}), json!({})), days("2026-01-01", "2026-01-01"));
        assert_eq!(windows(json!({}), json!({})), [None, None]);
        // A window from the settings ignores the bookmark.
        assert_eq!(windows(json!({"report_date": "2026-11-02"}), at_rest()), days("2026-11-02", "2026-11-02"));
    }

    #[test]
    fn campaigns_are_watched_as_long_as_the_setting_says_and_at_least_while_they_are_sent() {
        let sent_from = |settings: Value| {
            run(&settings, &at_rest(), |run| begun(run, &DETAILS.stream, None).demand(run.config).sent_from)
        };
        assert_eq!(sent_from(json!({})), Some(at("2026-10-11")));
        assert_eq!(sent_from(json!({"activity_lookback_days": 0})), Some(at("2026-11-08")));
        // All campaigns may have rows in a window from the settings, unless the user says for how long.
        assert_eq!(sent_from(json!({"report_date": "2026-11-02"})), None);
        let set = json!({"report_date": "2026-11-02", "activity_lookback_days": 5});
        assert_eq!(sent_from(set), Some(at("2026-10-28")));
    }

    #[test]
    fn a_window_from_the_settings_ends_and_one_from_the_bookmark_takes_later_rows_too() {
        let holds = |settings: Value| {
            run(&settings, &at_rest(), |run| {
                let reading = begun(run, &DETAILS.stream, None);
                let times =
                    ["2026-11-01T23:59:59Z", "2026-11-10T00:00:00Z", "2026-11-10T23:59:59Z", "2026-11-24T00:00:00Z"];
                times.map(|time| reading.includes(at(time)))
            })
        };
        assert_eq!(holds(json!({})), [false, true, true, true]);
        assert_eq!(holds(json!({"report_date": "2026-11-10"})), [false, true, true, false]);
        assert_eq!(holds(json!({"report_date": "2026-11-09"})), [false, false, false, false]);
    }

    #[test]
    fn an_interrupted_read_goes_on_in_its_own_window_after_the_last_id() {
        let resume = interrupted(false, "2026-11-20");
        run(&json!({}), &bookmarks(&json!({}), &resume), |run| {
            let reading = Reading::begin(run, &DETAILS.stream).unwrap();
            assert_eq!((reading.since, reading.until), (Some(at("2026-10-01")), at("2026-11-20")));
            assert!(!reading.is_unread(&Id::from("b")) && reading.is_unread(&Id::from("c")));
        });
    }

    #[test]
    fn progress_is_noted_only_forward_and_not_past_missing_contacts() {
        run(&json!({}), &at_rest(), |run| {
            let stream = &DETAILS.stream;
            let mut reading = begun(run, stream, Some("c"));
            let noted = |run: &Run| run.resume(stream).and_then(|resume| resume.after);
            reading.note_progress(run, Route::Contacts, &Id::from("b"));
            assert_eq!(noted(run), None);
            reading.note_progress(run, Route::Contacts, &Id::from("d"));
            assert_eq!(noted(run).as_deref(), Some("d"));
            reading.note_listing(false);
            reading.note_progress(run, Route::Contacts, &Id::from("e"));
            assert_eq!(noted(run).as_deref(), Some("d"));
        });
    }

    #[test]
    fn a_finished_report_moves_its_bookmark_by_the_overlap_less() {
        let finished = |settings: Value, stream: &'static Stream, are_all: bool| {
            run(&settings, &at_rest(), |run| {
                let mut reading = begun(run, stream, None);
                reading.note_listing(are_all);
                reading.finish(run, Route::Contacts).unwrap();
                assert!(run.is_finished(stream));
                run.state.bookmark(stream).value.unwrap()
            })
        };
        assert_eq!(finished(json!({}), &DETAILS.stream, true), at("2026-11-22"));
        assert_eq!(finished(json!({}), &SUMMARY.stream, true), at("2026-11-22T23:55:00Z"));
        assert_eq!(finished(json!({}), &DETAILS.stream, false), at("2026-11-10"));
        assert_eq!(finished(json!({"report_date": "2026-11-02"}), &DETAILS.stream, true), at("2026-11-10"));
    }

    #[test]
    fn a_report_waits_for_the_other_one_of_its_round() {
        let waits = |summary: Value, details: Value| {
            let bookmarks = bookmarks(&summary, &details);
            run(&json!({}), &bookmarks, |run| waits_for_other(run, &SUMMARY.stream))
        };
        let complete = interrupted(true, "2026-11-20");
        assert!(waits(complete.clone(), interrupted(false, "2026-11-20")));
        assert!(waits(complete.clone(), interrupted(false, "2026-11-19")));
        // The details have their turn next, since they have read no more than up to the bookmark and a day.
        assert!(waits(complete.clone(), json!({})));
        assert!(!waits(complete.clone(), json!({"created_time": "2026-11-19"})));
        // Of another round, or finished as well.
        assert!(!waits(complete.clone(), interrupted(false, "2026-11-21")));
        assert!(!waits(complete.clone(), complete.clone()));
        assert!(waits(complete, interrupted(true, "2026-11-15")));
        assert!(!waits(interrupted(false, "2026-11-20"), interrupted(false, "2026-11-20")));
    }
}
